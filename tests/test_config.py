import dataclasses

import pytest

from lora_atelier import config
from lora_atelier.config import (
    GOALS,
    DataConfig,
    DatasetConfig,
    SubsetConfig,
    TrainConfig,
    from_kohya,
    recipe,
    to_kohya,
)
from lora_atelier.errors import ConfigError

pytestmark = pytest.mark.torchfree


def unusual():
    """A configuration in which no setting has its default, so that a lost one shows."""
    groups = {}
    for group in dataclasses.fields(TrainConfig):
        if group.name == "data":
            continue
        values = {}
        for f in dataclasses.fields(type(getattr(TrainConfig(), group.name))):
            choices = f.metadata["choices"]
            if choices:
                values[f.name] = choices[-1]
            elif f.name == "optimizer":
                values[f.name] = f.default
            elif isinstance(f.default, bool):
                values[f.name] = not f.default
            elif isinstance(f.default, int | float):
                values[f.name] = f.default / 2 + 3 if isinstance(f.default, float) else f.default + 3
            elif isinstance(f.default, str):
                values[f.name] = f"x{f.default}"
        groups[group.name] = dataclasses.replace(getattr(TrainConfig(), group.name), **values)
    subset = SubsetConfig(
        image_dir='D:\\絵 "1"',
        num_repeats=3,
        class_tokens="momo",
        caption_extension=".caption",
        is_reg=True,
        flip_aug=True,
        caption_dropout_rate=0.1,
    )
    dataset = DatasetConfig(
        subsets=(subset,),
        resolution=(640, 448),
        batch_size=3,
        enable_bucket=False,
        min_bucket_reso=320,
        max_bucket_reso=960,
        bucket_reso_steps=32,
        bucket_no_upscale=True,
    )
    return TrainConfig(**groups, data=DataConfig(datasets=(dataset,)))


def test_every_setting_survives_the_way_through_kohyas_files():
    assert from_kohya(*to_kohya(unusual())) == unusual()
    assert from_kohya(*to_kohya(TrainConfig())) == TrainConfig()


def test_sections_are_decoration_and_learning_rate_is_the_fallback():
    read = from_kohya({"anything": {"learning_rate": 1e-3}, "network_dim": 4}, {})

    assert read.optimizer.learning_rate == read.optimizer.te_learning_rate == 1e-3
    assert read.network.rank == 4


def test_the_lower_level_of_a_dataset_file_wins():
    read = from_kohya(
        {},
        {
            "general": {"num_repeats": 2, "resolution": 256, "enable_bucket": False},
            "datasets": [
                {"resolution": [512, 384], "subsets": [{"image_dir": "a"}, {"image_dir": "b", "num_repeats": 5}]}
            ],
        },
    )

    dataset = read.data.datasets[0]
    assert dataset.resolution == (512, 384) and not dataset.enable_bucket
    assert [subset.num_repeats for subset in dataset.subsets] == [2, 5]


def test_everything_that_is_wrong_is_said_at_once_with_the_nearest_name():
    with pytest.raises(ConfigError) as caught:
        from_kohya(
            {"network_dimm": 4, "unet_lr": "1e-4", "network_args": ["conv_dimm=4"]},
            {"datasets": [{"batch_sizee": 1, "resolution": "512,512", "subsets": [{"image_dirr": "x"}]}]},
        )

    said = str(caught.value)
    for part in ("network_dim”", "unet_lr", "conv_dim”", "batch_size”", "resolution", "image_dir”"):
        assert part in said
    assert len(caught.value.problems) == 6


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("family", ["toy", "sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("quality", ["draft", "good", "best"])
def test_every_recipe_is_usable_but_for_the_pictures_and_the_model(goal, family, quality):
    made = recipe(goal=goal, family=family, num_images=20, quality=quality)

    assert {p.field.split(".")[0] for p in made.problems()} <= {"model", "data"}
    assert made.network.alpha * 2 == made.network.rank


def test_a_recipe_counts_views_not_epochs():
    few, many = (recipe(goal="character", family="sd1", num_images=n).schedule.steps for n in (10, 10_000))

    assert few == 1100 and many == 3000


@pytest.mark.parametrize(
    ("group", "change"),
    [
        ("network", {"rank": 0}),
        ("network", {"alpha": 0.0}),
        ("optimizer", {"learning_rate": float("nan")}),
        ("schedule", {"steps": 0}),
        ("schedule", {"scheduler": "sideways"}),
        ("schedule", {"seed": -1}),
        ("validation", {"split": 1.5}),
        ("output", {"name": ""}),
    ],
)
def test_a_setting_out_of_range_is_a_problem_of_its_own_field(group, change):
    bad = dataclasses.replace(getattr(TrainConfig(), group), **change)

    assert [p.field for p in bad.problems()] == [f"{group}.{next(iter(change))}"]


def test_every_setting_has_a_label_and_a_help_text():
    for group in dataclasses.fields(TrainConfig):
        own = type(getattr(TrainConfig(), group.name))
        for cls in [own] if group.name != "data" else [DatasetConfig, SubsetConfig]:
            for f in dataclasses.fields(cls):
                assert f.name == "subsets" or (f.metadata["label"] and f.metadata["help"].endswith("."))
    assert config.SCHEMA == 1
