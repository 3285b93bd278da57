"""Draws are functions of their keys, spread as they say, and shaped as sd-scripts' options say."""

import pytest
import torch

from lora_atelier.config import LossConfig
from lora_atelier.trainer import noise


def test_draws_are_functions_of_their_key():
    torch.manual_seed(1)
    first = noise.gaussian((4,), 1, "noise", 7, 0)
    torch.manual_seed(2)

    assert torch.equal(first, noise.gaussian((4,), 1, "noise", 7, 0))
    assert not torch.equal(first, noise.gaussian((4,), 1, "noise", 7, 1))
    assert noise.seed_of("a", "b") != noise.seed_of("ab")


@pytest.mark.parametrize("count", [1, 2, 8, 13])
def test_timesteps_cover_the_schedule_evenly(count):
    drawn = noise.stratified_timesteps(count, 1, "t", count)

    assert drawn.min() >= 0 and drawn.max() <= 999
    assert sorted((drawn * count) // 1000) == list(range(count))


def test_a_single_timestep_is_anywhere_in_the_schedule():
    drawn = torch.cat([noise.stratified_timesteps(1, 1, "t", n) for n in range(2000)]).float()

    assert abs(drawn.mean() - 499.5) < 25 and drawn.min() < 20 and drawn.max() > 980


@pytest.mark.parametrize("how", ["stratified", "low_discrepancy", "uniform"])
def test_timesteps_stay_within_their_bounds_and_reach_both(how):
    config = LossConfig(timesteps=how, min_timestep=100, max_timestep=110)
    drawn = torch.cat([noise.timesteps(3, config, 1, number) for number in range(100)])

    assert sorted(set(drawn.tolist())) == list(range(100, 110))


def test_low_discrepancy_timesteps_of_single_pictures_cover_the_schedule_together():
    """Any 13 batches in a row leave none of 8 equal parts out; of independent draws most windows do."""
    config = LossConfig(timesteps="low_discrepancy")
    drawn = torch.cat([noise.timesteps(1, config, 3, number) for number in range(200)])

    assert all(len(set((drawn[at : at + 13] * 8 // 1000).tolist())) == 8 for at in range(180))
    again = torch.cat([noise.timesteps(1, config, 3, number) for number in reversed(range(200))])
    assert torch.equal(again.flip(0), drawn)


def test_noise_offset_moves_each_channel_by_its_own_number():
    latents = torch.zeros(4, 6, 5)
    plain = noise.training_noise(latents, LossConfig(), 1, 7, 0)
    moved = noise.training_noise(latents, LossConfig(noise_offset=0.5), 1, 7, 0)

    offsets = (moved - plain).double()
    assert torch.equal(plain, noise.gaussian((4, 6, 5), 1, "noise", 7, 0))
    assert torch.allclose(offsets, offsets[:, :1, :1].expand_as(offsets), atol=1e-6)
    assert offsets[:, 0, 0].unique().numel() == 4


def test_a_random_strength_lies_between_nothing_and_the_offset():
    latents = torch.zeros(4, 2, 2)
    random = LossConfig(noise_offset=1.0, noise_offset_random_strength=True)
    shares = []
    for number in range(50):
        plain, full, some = (
            noise.training_noise(latents, config, 1, number, 0)
            for config in (LossConfig(), LossConfig(noise_offset=1.0), random)
        )
        shares.append(float(((some - plain) / (full - plain)).mean()))

    assert min(shares) > -1e-5 and max(shares) < 1 + 1e-5 and max(shares) - min(shares) > 0.5


@pytest.mark.parametrize("scale", [0.5, -0.5])
def test_an_adaptive_offset_grows_with_the_channels_mean_and_is_never_negative(scale):
    latents = torch.tensor([0.2, -3.0]).view(2, 1, 1).expand(2, 3, 3)

    strength = noise.adapted_offset(0.1, latents, scale).double().view(-1)

    expected = torch.tensor([0.1 + scale * 0.2, 0.1 + scale * 3.0], dtype=torch.float64).clamp(min=0)
    assert torch.allclose(strength, expected, atol=1e-7)


def test_pyramid_noise_is_coarser_noise_added_at_a_standard_deviation_of_one():
    plain = noise.gaussian((4, 64, 48), 1, "noise")

    shaped = noise.pyramid_noise(plain, 6, 0.8, 1, "pyramid")

    assert abs(float(shaped.std()) - 1) < 1e-5
    blocks = torch.nn.functional.avg_pool2d(torch.stack([plain, shaped]).double(), 16)
    assert blocks[1].std() > 3 * blocks[0].std()
    assert torch.equal(shaped, noise.pyramid_noise(plain, 6, 0.8, 1, "pyramid"))


def test_pyramid_noise_follows_its_formula():
    """Independent of the code: the ratios and layers are drawn from the same keys, the sum is made in float64."""
    plain, draw = noise.gaussian((4, 9, 7), 1, "noise"), noise.rng(5, "pyramid")
    total = plain.double()
    for level in range(3):
        ratio = draw.random() * 2 + 2
        size = (max(1, int(9 / ratio**level)), max(1, int(7 / ratio**level)))
        coarse = noise.gaussian((1, 4, *size), 5, "pyramid", level).double()
        total = total + torch.nn.functional.interpolate(coarse, size=(9, 7), mode="bilinear")[0] * 0.4**level
        if min(size) == 1:
            break

    assert torch.allclose(noise.pyramid_noise(plain, 3, 0.4, 5, "pyramid").double(), total / total.std(), atol=1e-5)


def test_input_perturbation_is_seen_and_not_told():
    told = noise.gaussian((4, 16, 16), 1, "noise")

    seen = noise.seen_noise(told, LossConfig(ip_noise_gamma=0.1), 1, 7, 0)

    assert noise.seen_noise(told, LossConfig(), 1, 7, 0) is told
    assert abs(float((seen - told).std()) - 0.1) < 0.01
    random = LossConfig(ip_noise_gamma=0.1, ip_noise_gamma_random_strength=True)
    sizes = [float((noise.seen_noise(told, random, 1, n, 0) - told).std()) for n in range(20)]
    assert max(sizes) < 0.11 and min(sizes) < 0.03
