import numpy as np
import pytest
import torch

from lora_atelier.errors import HostError
from lora_atelier.models import load
from lora_atelier.models.sample import SAMPLERS, SamplingCancelledError, Txt2Img, sample, scheduler


def request(**changes):
    values = {"prompts": ["a cat"], "steps": 3, "cfg_scale": 3.0, "width": 64, "height": 64, "seeds": (1,)}
    return Txt2Img(**{**values, **changes})


def pixels(image):
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_draws_the_same_picture_from_the_same_seed(tiny_model, sampler):
    first, second = (sample(tiny_model, request(sampler=sampler))[0] for _ in range(2))

    assert first.size == (64, 64)
    assert (pixels(first) == pixels(second)).all()
    assert pixels(first).std() > 1  # not one flat colour


@pytest.mark.parametrize("sampler", ["DDIM", "Euler a", "DPM++ 2M SDE"])
def test_a_picture_does_not_depend_on_the_batch_it_is_drawn_in(tiny_model, sampler):
    batch = sample(tiny_model, request(sampler=sampler, seeds=(5, 6, 7)))

    alone = sample(tiny_model, request(sampler=sampler, seeds=(6,)))[0]

    assert abs(pixels(batch[1]) - pixels(alone)).max() <= 1  # the order of float sums differs between batch sizes
    assert abs(pixels(batch[0]) - pixels(alone)).max() > 1


@pytest.mark.parametrize("sampler", ["DDIM", "Euler", "Euler a", "DPM++ 2M Karras"])
@pytest.mark.filterwarnings("ignore")
def test_the_picture_is_the_one_that_diffusers_own_pipeline_draws(tiny_model_folder, tiny_model, sampler):
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(tiny_model_folder, local_files_only=True)
    pipeline.scheduler = scheduler(tiny_model, sampler)
    pipeline.set_progress_bar_config(disable=True)
    generator = [torch.Generator().manual_seed(1)]
    theirs = pipeline(
        "a cat", negative_prompt="blue", num_inference_steps=3, guidance_scale=3.0, generator=generator
    ).images[0]

    ours = sample(tiny_model, request(sampler=sampler, negative_prompt="blue"))[0]

    assert (pixels(ours) == pixels(theirs)).all()


@pytest.mark.filterwarnings("ignore")
def test_sdxl_is_told_the_size_and_both_texts_as_diffusers_tells_it(tmp_path, save_model):
    from diffusers import StableDiffusionXLPipeline

    save_model(tmp_path / "xl", family="sdxl")
    pipeline = StableDiffusionXLPipeline.from_pretrained(tmp_path / "xl", local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    model = load.load(tmp_path / "xl")
    pipeline.scheduler = scheduler(model, "Euler")
    generator = [torch.Generator().manual_seed(1)]
    theirs = pipeline(
        "a cat", negative_prompt="", width=64, height=96, num_inference_steps=3, guidance_scale=3.0, generator=generator
    ).images[0]

    ours = sample(model, request(sampler="Euler", height=96))[0]

    assert model.info.family == "sdxl"
    assert abs(pixels(ours) - pixels(theirs)).max() <= 1


def test_prompts_of_one_batch_may_differ(tiny_model):
    both = sample(tiny_model, request(prompts=["a cat", "zzz 9"], seeds=(1, 1), cfg_scale=9.0))

    assert (pixels(both[0]) != pixels(both[1])).any()


def test_without_guidance_the_negative_prompt_is_not_asked(tiny_model):
    plain, negative = (
        sample(tiny_model, request(cfg_scale=1.0, negative_prompt=text))[0] for text in ("", "something else")
    )

    assert (pixels(plain) == pixels(negative)).all()


def test_a_prompt_beyond_75_tokens_is_read_to_its_end(tiny_model):
    long = "a cat " * 30

    assert tiny_model.encode([long], windows=None).context.shape[1] == 2 * 77
    same_start = sample(tiny_model, request(prompts=[long + "red"], cfg_scale=9.0))[0]
    assert (pixels(same_start) != pixels(sample(tiny_model, request(prompts=[long + "blue"], cfg_scale=9.0))[0])).any()


def test_clip_skip_takes_an_earlier_layer(tiny_model):
    last, explicit, earlier = (tiny_model.encode(["a cat"], skip).context for skip in (None, 1, 2))

    assert torch.equal(last, explicit)
    assert not torch.equal(last, earlier)


def test_sampling_leaves_torchs_own_random_numbers_alone(tiny_model):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)

    sample(tiny_model, request(sampler="Euler a"))

    assert torch.equal(torch.rand(4), expected)


def test_every_step_is_reported_and_a_callback_can_end_it(tiny_model):
    seen = []
    sample(tiny_model, request(), on_step=lambda step, steps: seen.append((step, steps)))
    assert seen == [(1, 3), (2, 3), (3, 3)]

    def stop(step, steps):
        raise SamplingCancelledError

    with pytest.raises(SamplingCancelledError):
        sample(tiny_model, request(), on_step=stop)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sampler": "Magic"}, "no sampler “Magic”"),
        ({"steps": 0}, "Steps are 0"),
        ({"width": 100}, "100×64"),
        ({"height": 8192}, "multiples of 8"),
        ({"prompts": ["a", "b"], "seeds": (1, 2, 3)}, "prompts and of seeds differ"),
    ],
)
def test_a_request_that_cannot_be_done_says_why(tiny_model, changes, said):
    with pytest.raises(HostError, match=said):
        sample(tiny_model, request(**changes))


@pytest.mark.parametrize("said", [{"rescale_betas_zero_snr": True}, {"timestep_spacing": "trailing"}], ids=str)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_model_made_to_start_in_pure_noise_is_started_there(tiny_model, sampler, said):
    tiny_model.scheduler_config |= said

    steps = scheduler(tiny_model, sampler)
    steps.set_timesteps(4)

    assert steps.timesteps[0] >= 998
    assert sample(tiny_model, request(sampler=sampler))


def test_ddim_without_a_word_from_the_model_leads_as_its_own_code_does(tiny_model):
    steps = scheduler(tiny_model, "DDIM")
    steps.set_timesteps(4)

    assert steps.timesteps.tolist() == [751, 501, 251, 1]


def test_numbers_that_overflow_are_said_and_the_picture_is_black(tiny_model):
    tiny_model.unet.conv_out.bias.fill_(float("nan"))
    said = []

    picture = sample(tiny_model, request(), on_problem=said.append)[0]

    assert pixels(picture).max() == 0
    assert "numbers overflowed in float32" in str(said[0])


@pytest.mark.parametrize("size", [(72, 64), (64, 88), (200, 104)])
def test_sizes_need_only_be_multiples_of_eight(tiny_model, size):
    assert sample(tiny_model, request(width=size[0], height=size[1]))[0].size == size
