"""The traps of sd-scripts (48d368fa), each set right or warned of."""

import pytest

from lora_atelier.config import DataConfig, DatasetConfig, SubsetConfig, TrainConfig, to_kohya
from lora_atelier.engines import kohya_files

pytestmark = pytest.mark.torchfree


def right(main=None, subset=None, dataset=None, **about):
    """The files set right, and what was said, from options on top of a plain job's."""
    subsets = (SubsetConfig(image_dir="pictures"), SubsetConfig(image_dir="others", is_reg=True))
    plain_main, plain_dataset = to_kohya(TrainConfig(data=DataConfig(datasets=(DatasetConfig(subsets=subsets),))))
    plain_dataset["datasets"][0].update(dataset or {})
    plain_dataset["datasets"][0]["subsets"][0].update(subset or {})
    files, said = kohya_files.set_right(
        {**kohya_files.flat(plain_main), **(main or {})}, plain_dataset, **{"family": "sd1", "pictures": 20, **about}
    )
    return files, [str(remark) for remark in said]


def test_a_plain_job_needs_no_word_and_is_given_all_that_sd_scripts_would_leave_out():
    files, said = right()

    assert said == [] and files.problems == []
    assert files.main["sdpa"] and files.main["seed"] == 1
    assert files.main["save_every_n_steps"] == 100 and files.main["validate_every_n_steps"] == 100
    assert not any(key.startswith("atelier_") for key in files.main)


def test_no_file_of_the_job_is_changed():
    main, dataset = to_kohya(TrainConfig(data=DataConfig(datasets=(DatasetConfig(subsets=(SubsetConfig(),)),))))
    before = (repr(main), repr(dataset))

    kohya_files.set_right(main, dataset, family="sdxl", device="cpu", pictures=3)

    assert (repr(main), repr(dataset)) == before


@pytest.mark.parametrize(
    ("main", "expected"),
    [
        ({"cache_latents_to_disk": True}, {"cache_latents": True, "cache_latents_to_disk": None}),
        ({"xformers": True, "sdpa": False}, {"sdpa": True, "xformers": None}),
        ({"cpu_offload_checkpointing": True}, {"gradient_checkpointing": True, "cpu_offload_checkpointing": None}),
        ({"max_token_length": 75}, {"max_token_length": None}),
        ({"max_token_length": 225}, {"max_token_length": 225}),
        ({"validation_split": 0.2, "validation_seed": None}, {"validation_seed": 1}),
        ({"train_data_dir": "x", "in_json": "y"}, {"train_data_dir": None, "in_json": None}),
        ({"resume": "x", "skip_until_initial_step": True}, {"resume": None, "skip_until_initial_step": None}),
        ({"sample_at_first": True}, {"sample_at_first": None}),
        ({"sample_prompts": "p.txt"}, {"sample_prompts": "p.txt", "sample_every_n_steps": 200}),
        ({"max_train_epochs": 20}, {"save_every_n_steps": None, "save_n_epoch_ratio": 10}),
        ({"save_every_n_steps": 0, "save_last_n_steps_state": 5}, {"save_every_n_steps": 100}),
        ({"max_data_loader_n_workers": 8}, {"max_data_loader_n_workers": 0}),
        ({"max_data_loader_n_workers": 8, "cache_latents": False}, {"max_data_loader_n_workers": 1}),
    ],
)
def test_what_can_be_set_right_is(main, expected):
    files, _ = right(main)

    assert {key: files.main.get(key) for key in expected} == expected


def test_what_is_drawn_anew_each_time_is_not_cached():
    assert "cache_latents" not in right(subset={"random_crop": True})[0].main
    assert right(subset={"flip_aug": True})[0].main["cache_latents"]
    cached = {"cache_text_encoder_outputs": True}
    assert "cache_text_encoder_outputs" not in right(cached, subset={"shuffle_caption": True})[0].main
    assert "cache_text_encoder_outputs" not in right({**cached, "network_train_unet_only": False})[0].main
    assert right(cached, family="sdxl")[0].main["cache_text_encoder_outputs"]


def test_too_few_pictures_are_not_held_out():
    assert right(pictures=7)[0].main["validation_split"] == 0.0
    assert right(pictures=8)[0].main["validation_split"] == 0.1


@pytest.mark.parametrize(
    ("main", "dataset", "about", "word"),
    [
        ({"mixed_precision": "fp16"}, {}, {"device": "cpu"}, "graphics card"),
        ({"zero_terminal_snr": True, "min_snr_gamma": 5.0}, {}, {}, "zero_terminal_snr"),
        ({"huber_scale": 2.0}, {}, {}, "huber_scale"),
        ({"cpu_offload_checkpointing": True}, {}, {}, "cpu_offload_checkpointing"),
        ({}, {"bucket_reso_steps": 32}, {}, "32 became 64"),
        ({"atelier_timesteps": "uniform"}, {}, {}, "timesteps"),
    ],
)
def test_what_can_not_be_set_right_unseen_is_said(main, dataset, about, word):
    files, said = right(main, dataset=dataset, **about)

    assert len(said) == 1 and word in said[0]
    assert files.main["mixed_precision"] == "no"


def test_sdxl_takes_buckets_in_steps_of_32():
    files, said = right(dataset={"bucket_reso_steps": 32}, family="sdxl")

    assert said == [] and files.dataset["datasets"][0]["bucket_reso_steps"] == 32


def test_masks_turn_masked_loss_on_and_must_be_everywhere_in_a_dataset():
    files, said = right(subset={"conditioning_data_dir": "masks"})

    assert files.main["masked_loss"] and "up to 5 %" in said[0]
    assert [problem.field for problem in files.problems] == ["data.datasets.0"]


def test_the_dataset_file_says_only_what_the_schema_of_sd_scripts_takes():
    files, _ = right(subset={"caption_prefix": "", "metadata_file": "", "our_own": 1}, dataset={"our_own": 1})

    (entry,) = files.dataset["datasets"]
    assert set(entry) <= kohya_files.DATASET_KEYS | {"subsets"}
    places = {"image_dir", "caption_extension", "conditioning_data_dir"}
    assert all(set(subset) <= kohya_files.SUBSET_KEYS | places for subset in entry["subsets"])
    assert "caption_prefix" not in entry["subsets"][0]


def test_a_sitting_that_goes_on_says_so_and_draws_no_first_pictures_again(tmp_path):
    files, _ = right({"sample_prompts": "p.txt", "sample_at_first": True})
    where = {"output_dir": tmp_path, "output_name": "momo", "tokenizers": tmp_path / "t"}

    first = kohya_files.with_paths(files, **where, state=None)
    second = kohya_files.with_paths(files, **where, state=tmp_path / "state")

    assert "resume" not in first and first["sample_at_first"] and first["save_state"]
    assert second["resume"] == str(tmp_path / "state") and "sample_at_first" not in second
