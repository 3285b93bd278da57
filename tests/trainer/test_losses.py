"""Each error and each weight against its formula, written again in float64 and in plain Python."""

import math

import pytest
import torch

from lora_atelier.config import LossConfig
from lora_atelier.trainer import losses

# Nearly clean, about even, an ordinary schedule's last, and a zero terminal SNR.
ALPHAS = [0.9999, 0.99, 0.5, 0.1, 0.0046, 0.0]


def alphas():
    return torch.tensor(ALPHAS)


def snr(a):
    return a / (1 - a)


def close(found, expected):
    return torch.allclose(found.double(), torch.tensor(expected, dtype=torch.float64), rtol=2e-4, atol=1e-9)


def test_velocity_and_noise_describe_the_same_latents():
    latents, drawn = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
    shares = torch.tensor([0.9, 0.5, 0.1])
    noisy = losses.add_noise(latents, drawn, shares)
    velocity = losses.target("v_prediction", latents, drawn, shares)
    alpha = shares.view(-1, 1, 1, 1)

    assert torch.allclose(alpha.sqrt() * noisy - (1 - alpha).sqrt() * velocity, latents, atol=1e-5)
    assert losses.target("epsilon", latents, drawn, shares) is drawn


@pytest.mark.parametrize("kind", ["l2", "l1", "huber", "smooth_l1"])
def test_the_error_of_a_picture_is_its_formulas_mean(kind):
    predicted, wanted = torch.randn(2, 4, 3, 5), torch.randn(2, 4, 3, 5)
    thresholds = torch.tensor([0.1, 0.7])
    formula = {
        "l2": lambda d, c: d**2,
        "l1": lambda d, c: abs(d),
        "huber": lambda d, c: 2 * c * (math.sqrt(d**2 + c**2) - c),
        "smooth_l1": lambda d, c: 2 * (math.sqrt(d**2 + c**2) - c),
    }[kind]
    expected = [
        sum(formula(float(d), float(c)) for d in (p.double() - w.double()).flatten()) / p.numel()
        for p, w, c in zip(predicted, wanted, thresholds, strict=True)
    ]

    assert close(losses.per_picture(predicted, wanted, kind=kind, threshold=thresholds), expected)


def test_a_mask_weighs_pixels_and_the_mean_goes_over_all_of_them():
    predicted, wanted = torch.zeros(1, 2, 2, 2), torch.full((1, 2, 2, 2), 2.0)
    mask = torch.tensor([[1.0, 0.5], [0.0, 0.0]]).view(1, 1, 2, 2)

    assert float(losses.per_picture(predicted, wanted, mask=mask)) == 4 * 1.5 / 4


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_huber_thresholds_follow_their_schedules_and_their_factor_counts_in_all_three(scale):
    """sd-scripts (48d368fa) forgets huber_scale for its default schedule, "snr": 0.2169 for 1 and for 5."""
    timesteps, c = torch.tensor([0, 20, 500, 800, 999, 999]), 0.1
    schedules = {
        "constant": lambda t, a: c,
        "exponential": lambda t, a: math.exp(math.log(c) * t / 1000),
        "snr": lambda t, a: (1 - c) / (1 + math.sqrt((1 - a) / a)) ** 2 + c if a else c,
    }
    for name, formula in schedules.items():
        config = LossConfig(loss_type="huber", huber_c=c, huber_schedule=name, huber_scale=scale)
        found = losses.huber_thresholds(timesteps, alphas(), config)
        expected = [scale * formula(t, a) for t, a in zip(timesteps.tolist(), ALPHAS, strict=True)]
        assert close(found, expected), name


def test_a_huber_threshold_of_zero_has_gradients_that_are_numbers():
    predicted = torch.zeros(1, 1, 2, 2, requires_grad=True)

    losses.per_picture(predicted, torch.zeros(1, 1, 2, 2), kind="huber", threshold=torch.zeros(1)).sum().backward()

    assert predicted.grad.isfinite().all()


def test_min_snr_weighs_the_picture_by_the_limited_snr_in_both_targets():
    """‖ε error‖² = snr ‖x error‖² and ‖v error‖² = (snr + 1) ‖x error‖²; what is wanted is min(snr, γ) ‖x error‖²."""
    for gamma in (1.0, 5.0):
        wanted = [min(snr(a), gamma) for a in ALPHAS]
        noise = [w / snr(a) if a else 1.0 for w, a in zip(wanted, ALPHAS, strict=True)]
        velocity = [w / (snr(a) + 1) for w, a in zip(wanted, ALPHAS, strict=True)]
        assert close(losses.min_snr_weights("epsilon", alphas(), gamma), noise)
        assert close(losses.min_snr_weights("v_prediction", alphas(), gamma), velocity)
    assert torch.equal(losses.min_snr_weights("epsilon", alphas(), 0.0), torch.ones(len(ALPHAS)))


def test_weights_take_the_snr_of_the_schedule_in_use():
    """sd-scripts (48d368fa) takes the SNR from before zero_terminal_snr: 0.00468 at the last step, where none is."""
    assert losses.min_snr_weights("v_prediction", torch.tensor([0.0]), 5.0).item() == 0.0


def test_a_zero_terminal_schedule_ends_in_pure_noise_and_begins_as_it_did():
    """diffusers' own, which sd-scripts follows, works on betas; both come to the same shares."""
    from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    shares = (1 - betas).cumprod(0)

    found = losses.zero_terminal(shares)

    assert found[-1] == 0 and math.isclose(found[0], shares[0])
    assert torch.allclose(found, (1 - rescale_zero_terminal_snr(betas)).cumprod(0), atol=1e-9)


def bounded(a):
    return min(max(snr(a), 1e-3), 1e3)


def test_a_velocity_loss_like_a_noise_loss():
    config = LossConfig(scale_v_pred_loss_like_noise_pred=True)
    expected = [bounded(a) / (bounded(a) + 1) for a in ALPHAS]

    assert close(losses.weights("v_prediction", alphas(), config), expected)
    assert torch.equal(losses.weights("epsilon", alphas(), config), torch.ones(len(ALPHAS)))


def test_a_share_of_a_velocity_loss_is_added():
    found = losses.weights("epsilon", alphas(), LossConfig(v_pred_like_loss=0.25))

    assert close(found, [1 + 0.25 * (bounded(a) + 1) / bounded(a) for a in ALPHAS])


def test_debiased_estimation():
    config = LossConfig(debiased_estimation_loss=True)

    assert close(losses.weights("epsilon", alphas(), config), [1 / math.sqrt(bounded(a)) for a in ALPHAS])
    assert close(losses.weights("v_prediction", alphas(), config), [1 / (bounded(a) + 1) for a in ALPHAS])


def test_all_that_is_asked_for_is_multiplied():
    both = losses.weights("epsilon", alphas(), LossConfig(min_snr_gamma=5.0, debiased_estimation_loss=True))

    one, other = (
        losses.weights("epsilon", alphas(), config)
        for config in (LossConfig(min_snr_gamma=5.0), LossConfig(debiased_estimation_loss=True))
    )
    assert torch.equal(both, one * other)
    assert losses.weights("epsilon", alphas(), LossConfig()).eq(1).all()
