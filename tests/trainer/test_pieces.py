import dataclasses
import math

import pytest
import torch

from lora_atelier.config import ScheduleConfig, TrainConfig
from lora_atelier.trainer import losses, noise
from lora_atelier.trainer.batches import BatchPlan, Sight, balanced_repeats
from lora_atelier.trainer.loop import learning_rate_factor
from lora_atelier.trainer.samples import parse

SQUARE, WIDE = (64, 64), (96, 48)


def plan(**changes):
    sights = [Sight(SQUARE, 2, 0.5, 0.5)] * 5 + [Sight(WIDE)] * 3
    return BatchPlan(**{"sights": sights, "batch_size": 4, "seed": 1, **changes})


def test_an_epoch_shows_every_picture_as_often_as_it_repeats_in_batches_of_one_bucket():
    made = plan()
    batches = [made.batch(at) for at in range(made.batches_per_epoch)]

    shown = [place.index for batch in batches for place in batch]
    assert sorted(shown) == sorted([0, 1, 2, 3, 4] * 2 + [5, 6, 7])
    for batch in batches:
        assert len({made.sights[place.index].bucket for place in batch}) == 1
        assert 1 <= len(batch) <= 4


def test_a_batch_depends_on_its_number_alone():
    forward, backward = plan(), plan()
    numbers = range(12)

    assert [forward.batch(n) for n in numbers] == [backward.batch(n) for n in reversed(numbers)][::-1]
    assert [plan(seed=2).batch(n) for n in numbers] != [forward.batch(n) for n in numbers]


def test_chances_of_mirror_and_empty_caption_are_what_they_say():
    made = plan()
    places = [place for n in range(400) for place in made.batch(n) if place.index < 5]

    assert abs(sum(p.mirrored for p in places) / len(places) - 0.5) < 0.06
    assert abs(sum(p.without_caption for p in places) / len(places) - 0.5) < 0.06
    assert not any(p.mirrored for n in range(40) for p in made.batch(n) if p.index >= 5)


def test_regularisation_pictures_are_shown_about_as_often_as_the_others():
    assert balanced_repeats([10, 10, 1, 1], [False, False, True, True]) == [10, 10, 10, 10]
    assert balanced_repeats([1, 1, 1, 1], [False, True, True, True]) == [1, 1, 1, 1]
    assert balanced_repeats([3], [False]) == [3]


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


def test_velocity_and_noise_describe_the_same_latents():
    latents, drawn = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
    alphas = torch.tensor([0.9, 0.5, 0.1])
    noisy = losses.add_noise(latents, drawn, alphas)
    velocity = losses.target("v_prediction", latents, drawn, alphas)
    alpha = alphas.view(-1, 1, 1, 1)

    assert torch.allclose(alpha.sqrt() * noisy - (1 - alpha).sqrt() * velocity, latents, atol=1e-5)
    assert losses.target("epsilon", latents, drawn, alphas) is drawn


def test_min_snr_limits_clean_steps_only():
    alphas = torch.tensor([0.99, 0.5, 0.1])  # snr 99, 1, 0.111

    assert torch.allclose(losses.min_snr_weights("epsilon", alphas, 5.0), torch.tensor([5 / 99, 1.0, 1.0]))
    assert torch.allclose(losses.min_snr_weights("v_prediction", alphas, 5.0), torch.tensor([0.05, 0.5, 0.1]))
    assert torch.equal(losses.min_snr_weights("epsilon", alphas, 0.0), torch.ones(3))


@pytest.mark.parametrize("scheduler", ["cosine", "cosine_with_min_lr", "linear", "constant", "constant_with_warmup"])
def test_the_learning_rate_rises_then_follows_its_schedule(scheduler):
    schedule = ScheduleConfig(steps=100, scheduler=scheduler, warmup=0.1, floor=0.2)
    config = dataclasses.replace(TrainConfig(), schedule=schedule)
    rates = [learning_rate_factor(step, config) for step in range(100)]

    assert rates[:10] == sorted(rates[:10]) and 0 < rates[0] < 0.2 and math.isclose(rates[10], 1.0)
    assert all(0 < rate <= 1 for rate in rates)
    constant = scheduler.startswith("constant")
    assert rates[-1] == 1.0 if constant else 0.2 <= rates[-1] < 0.25


def test_a_sample_line_is_read_as_sd_scripts_reads_it():
    prompt = parse("a 桃, --- red --n bad, worse --w 640 --h 384 --d 42 --s 12 --l 6.5 --ss euler_a")

    assert (prompt.text, prompt.negative) == ("a 桃, --- red", "bad, worse")
    assert (prompt.width, prompt.height, prompt.seed, prompt.steps, prompt.cfg_scale) == (640, 384, 42, 12, 6.5)
    assert prompt.sampler == "euler_a"
    assert parse("just text").steps == 30
    assert parse("text --s many").steps == 30
