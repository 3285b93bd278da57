"""Which noise is added, and how a prediction's error is measured and weighted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import Problem, problem
from .setting import SAME, checked, setting


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Which noise is added, and how a prediction's error is measured and weighted."""

    loss_type: str = setting(
        "l2",
        "Error",
        "l2 squares it; l1, huber and smooth_l1 count outliers less.",
        kohya=SAME,
        choices=("l2", "l1", "huber", "smooth_l1"),
    )
    huber_c: float = setting(
        0.1, "Huber threshold", "Errors above it count linearly, for huber and smooth_l1.", kohya=SAME, least=0
    )
    huber_schedule: str = setting(
        "snr",
        "Threshold over time",
        "How the Huber threshold changes with the timestep.",
        kohya=SAME,
        choices=("snr", "exponential", "constant"),
    )
    huber_scale: float = setting(1.0, "Threshold's factor", "Multiplies the Huber threshold.", kohya=SAME, least=0)
    min_snr_gamma: float = setting(
        0.0, "Min-SNR", "Limits the weight of nearly clean steps; 5 is usual, 0 is off.", kohya=SAME, least=0
    )
    debiased_estimation_loss: bool = setting(
        False, "Debiased estimation", "Weights a step's loss by 1 / √SNR.", kohya=SAME
    )
    scale_v_pred_loss_like_noise_pred: bool = setting(
        False, "v-loss like noise loss", "v-prediction: weighs the steps as a loss on the noise would.", kohya=SAME
    )
    v_pred_like_loss: float = setting(
        0.0, "v-like loss", "Adds this share of a loss as v-prediction would weigh it; 0 is off.", kohya=SAME, least=0
    )
    prior_weight: float = setting(
        1.0, "Weight of regularisation pictures", "Their loss counts this much.", kohya="prior_loss_weight", least=0
    )
    masked_loss: bool = setting(
        False, "Masks", "Only the white parts of the masks are learned; they lie in a folder of their own.", kohya=SAME
    )
    weighted_captions: bool = setting(
        False, "Weights in captions", "“(word:1.2)” and “[word]” in captions count as in a webui's prompt.", kohya=SAME
    )
    noise_offset: float = setting(
        0.0, "Noise offset", "Helps very dark or bright pictures; 0 is off.", kohya=SAME, least=0, most=1
    )
    noise_offset_random_strength: bool = setting(
        False, "Random noise offset", "The offset is between 0 and this, anew each time.", kohya=SAME
    )
    # Added to noise_offset times the mean size of the latents; may be negative.
    adaptive_noise_scale: float = setting(
        0.0, "Adaptive noise offset", "Adds this times the picture's mean to the noise offset; 0 is off.", kohya=SAME
    )
    multires_noise_iterations: int = setting(
        0,
        "Multi-resolution noise",
        "So many coarser layers of noise are added; 0 is off, 6 is usual.",
        kohya=SAME,
        least=0,
    )
    multires_noise_discount: float = setting(
        0.3, "Its discount", "Each coarser layer is so much weaker than the one before.", kohya=SAME, least=0, most=1
    )
    ip_noise_gamma: float = setting(
        0.0,
        "Input perturbation",
        "The model sees this much more noise than it must tell; 0 is off, 0.1 is usual.",
        kohya=SAME,
        least=0,
    )
    ip_noise_gamma_random_strength: bool = setting(
        False, "Random perturbation", "It is between 0 and this, anew each time.", kohya=SAME
    )
    zero_terminal_snr: bool = setting(
        False, "Zero terminal SNR", "The last timestep is pure noise; only for models trained so.", kohya=SAME
    )
    timesteps: str = setting(
        "stratified",
        "Timesteps",
        "stratified spreads those of a batch evenly, low_discrepancy those of all batches; uniform draws each alone.",
        choices=("stratified", "low_discrepancy", "uniform"),
    )
    min_timestep: int = setting(
        0, "First timestep", "Only timesteps from this one are trained.", kohya=SAME, least=0, most=999
    )
    max_timestep: int = setting(
        1000, "Last timestep", "Only timesteps below this one are trained.", kohya=SAME, least=1, most=1000
    )

    def problems(self) -> Iterator[Problem]:
        """Yield everything that is wrong with these settings."""
        yield from checked("loss", self)
        if self.min_timestep >= self.max_timestep:
            yield problem(
                "loss.min_timestep",
                "No timestep is left: the first is {first} and they end below {last}.",
                first=self.min_timestep,
                last=self.max_timestep,
            )
        if self.adaptive_noise_scale and not self.noise_offset:
            yield problem("loss.adaptive_noise_scale", "adaptive_noise_scale changes noise_offset; set that too.")
        if self.noise_offset_random_strength and not self.noise_offset:
            yield problem(
                "loss.noise_offset_random_strength", "noise_offset_random_strength changes noise_offset; set that too."
            )
        if self.ip_noise_gamma_random_strength and not self.ip_noise_gamma:
            yield problem(
                "loss.ip_noise_gamma_random_strength",
                "ip_noise_gamma_random_strength changes ip_noise_gamma; set that too.",
            )
