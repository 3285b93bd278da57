"""What the U-Net should have predicted, and how its errors are measured and weighted. Pure functions.

Names and formulas are those of sd-scripts' options (``config/loss.py``). Shapes: b pictures, latents (b, c, h, w);
``alphas_cumprod`` (b,) is the share of signal at each picture's timestep, of which SNR = a / (1 - a).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import LossConfig

TIMESTEPS = 1000
# The SNR has no upper bound near timestep 0 and none below with a zero terminal SNR; weights that divide by it or by
# its root stop here. sd-scripts has the upper one; below, an ordinary schedule ends at 0.0047.
_LEAST_SNR, _MOST_SNR = 1e-3, 1e3


def add_noise(latents: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """Noisy latents at the given signal shares: (b, c, h, w), alphas_cumprod (b,).

    Source: Ho et al. 2020, Denoising Diffusion Probabilistic Models, eq. 4.
    """
    alpha = alphas_cumprod.view(-1, 1, 1, 1)
    return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise


def target(prediction_type: str, latents: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """What the U-Net is to predict: the noise, or the velocity.

    Source of the velocity: Salimans & Ho 2022, Progressive Distillation, section 2.4.
    """
    if prediction_type == "epsilon":
        return noise
    alpha = alphas_cumprod.view(-1, 1, 1, 1)
    return alpha.sqrt() * noise - (1 - alpha).sqrt() * latents


def per_picture(
    predicted: Tensor,
    wanted: Tensor,
    *,
    kind: str = "l2",
    threshold: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Mean error of each picture, in float32: (b,).

    ``kind`` is sd-scripts' ``loss_type``; "huber" and "smooth_l1" need ``threshold`` (b,). ``mask`` (b, 1, h, w)
    weighs the latents' pixels; the mean still goes over all of them, so that a small mask gives a small loss.
    """
    errors = _errors(predicted.float() - wanted.float(), kind, threshold)
    return (errors if mask is None else errors * mask).mean(dim=(1, 2, 3))


def _errors(difference: Tensor, kind: str, threshold: Tensor | None) -> Tensor:
    if kind == "l2":
        return difference.square()
    if kind == "l1":
        return difference.abs()
    assert threshold is not None
    # A threshold of 0 has no gradient where the difference is 0 as well.
    c = threshold.to(difference.device).view(-1, 1, 1, 1).clamp(min=1e-6)
    # Pseudo-Huber: Khrapov et al. 2024, Scheduled Pseudo-Huber Loss (arXiv 2403.16728), eq. 4; sd-scripts' factors.
    excess = (difference.square() + c.square()).sqrt() - c
    return 2 * c * excess if kind == "huber" else 2 * excess


def huber_thresholds(timesteps: Tensor, alphas_cumprod: Tensor, config: LossConfig) -> Tensor:
    """The threshold between squared and linear error at each timestep, (b,).

    exponential: 1 at timestep 0, ``huber_c`` at 1000; snr: (1 - c) / (1 + σ)² + c with σ = √(1 / SNR). ``huber_scale``
    multiplies all of them; sd-scripts forgets it for "snr". Source: Khrapov et al. 2024, section 3.2.
    """
    c = config.huber_c
    if config.huber_schedule == "constant":
        found = torch.full_like(alphas_cumprod, c)
    elif config.huber_schedule == "exponential":
        found = torch.tensor(c, dtype=alphas_cumprod.dtype) ** (timesteps / TIMESTEPS)
    else:
        sigmas = ((1 - alphas_cumprod) / alphas_cumprod).sqrt()
        found = (1 - c) / (1 + sigmas).square() + c
    return found * config.huber_scale


def weights(prediction_type: str, alphas_cumprod: Tensor, config: LossConfig) -> Tensor:
    """Weight of each timestep's loss, (b,): all that ``config`` asks for, multiplied; 1 if it asks for nothing."""
    total = min_snr_weights(prediction_type, alphas_cumprod, config.min_snr_gamma)
    if config.scale_v_pred_loss_like_noise_pred and prediction_type == "v_prediction":
        total = total * noise_like_weights(alphas_cumprod)
    if config.v_pred_like_loss:
        velocity_like = 1.0 if prediction_type == "v_prediction" else 1 / noise_like_weights(alphas_cumprod)
        total = total * (1 + config.v_pred_like_loss * velocity_like)
    if config.debiased_estimation_loss:
        total = total * debiased_weights(prediction_type, alphas_cumprod)
    return total


def min_snr_weights(prediction_type: str, alphas_cumprod: Tensor, gamma: float) -> Tensor:
    """Weight of each timestep's loss, (b,): min(snr, gamma) over snr, or over snr + 1 for velocity; 1 if gamma is 0.

    Both weigh the error of the predicted picture by min(snr, gamma), which is what the paper asks for. The SNR is that
    of the schedule in use; sd-scripts takes the unmodified one under ``zero_terminal_snr``.
    Source: Hang et al. 2023, Efficient Diffusion Training via Min-SNR Weighting Strategy, section 3.4.
    """
    if gamma <= 0:
        return torch.ones_like(alphas_cumprod)
    snr = _snr(alphas_cumprod)
    limited = snr.clamp(max=gamma)
    if prediction_type == "v_prediction":
        return limited / (snr + 1)
    return (limited / snr).nan_to_num(nan=1.0)  # 0 / 0 under a zero terminal SNR: the limit is 1, as below gamma


def noise_like_weights(alphas_cumprod: Tensor) -> Tensor:
    """snr / (snr + 1), (b,): turns the loss on the velocity into the loss on the noise that it implies.

    ‖ε error‖² = a ‖v error‖² at equal latents (Salimans & Ho 2022, appendix D).
    """
    snr = _bounded_snr(alphas_cumprod)
    return snr / (snr + 1)


def debiased_weights(prediction_type: str, alphas_cumprod: Tensor) -> Tensor:
    """1 / √snr for noise, (b,); for velocity 1 / (snr + 1), which is sd-scripts' choice.

    Source: Yu et al. 2024, Unmasking Bias in Diffusion Model Training (arXiv 2310.08442), eq. 13, who treat noise only.
    """
    snr = _bounded_snr(alphas_cumprod)
    return 1 / (snr + 1) if prediction_type == "v_prediction" else snr.rsqrt()


def zero_terminal(alphas_cumprod: Tensor) -> Tensor:
    """The signal shares of a whole schedule (t,), stretched so that the last timestep is pure noise.

    √a is moved to 0 at the end and scaled to what it was at the start.
    Source: Lin et al. 2024, Common Diffusion Noise Schedules and Sample Steps are Flawed, algorithm 1.
    """
    root = alphas_cumprod.sqrt()
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])).square()


def _snr(alphas_cumprod: Tensor) -> Tensor:
    return alphas_cumprod / (1 - alphas_cumprod)


def _bounded_snr(alphas_cumprod: Tensor) -> Tensor:
    return _snr(alphas_cumprod).clamp(_LEAST_SNR, _MOST_SNR)
