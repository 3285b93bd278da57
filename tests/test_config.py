import dataclasses

import pytest

from lora_atelier import config
from lora_atelier.config import (
    GOALS,
    DataConfig,
    DatasetConfig,
    NetworkConfig,
    SubsetConfig,
    TrainConfig,
    from_kohya,
    recipe,
    to_kohya,
)
from lora_atelier.config.network import ALGORITHMS
from lora_atelier.errors import ConfigError

pytestmark = pytest.mark.torchfree


def another(f):
    """A value of this setting that is not its default."""
    if f.name == "optimizer_args":
        return ("d_coef=2.0", "decouple=True")
    if f.name == "network_args":
        return ("block_size=8", "train_norm=True")
    if f.metadata["choices"]:
        return next(choice for choice in reversed(f.metadata["choices"]) if choice != f.default)
    if f.name == "optimizer":
        return "Prodigy"
    by_type = {
        "bool": lambda: not f.default,
        "int": lambda: f.default + 3,
        "float": lambda: f.default / 2 + 0.4375,
        "str": lambda: f"x{f.default}",
        "tuple[str, ...]": lambda: ("a=1", "b=(2, 3)"),
        "tuple[int, ...]": lambda: (4, 8),
        "tuple[float, ...]": lambda: (0.5, 2.0),
        "tuple[int, int]": lambda: (640, 448),
    }
    return by_type[f.type]()


def unusual(cls, **given):
    """A group of settings in which none has its default, so that a lost one shows."""
    own = [f for f in dataclasses.fields(cls) if f.metadata]
    return cls(**{f.name: another(f) for f in own} | given)


GROUPS = [f.name for f in dataclasses.fields(TrainConfig) if f.name != "data"]
SETTINGS = [(group, f) for group in GROUPS for f in dataclasses.fields(type(getattr(TrainConfig(), group)))]


def with_subset(subset, **dataset):
    return TrainConfig(data=DataConfig(datasets=(DatasetConfig(subsets=(subset,), **dataset),)))


def back(config):
    """The configuration after its way through kohya's files; the sample prompts have a file of their own."""
    read = from_kohya(*to_kohya(config))
    return dataclasses.replace(read, sampling=dataclasses.replace(read.sampling, prompts=config.sampling.prompts))


def test_every_setting_survives_the_way_through_kohyas_files():
    groups = {group: unusual(type(getattr(TrainConfig(), group))) for group in GROUPS}
    groups["network"] = dataclasses.replace(groups["network"], algorithm="loha")
    subset = unusual(SubsetConfig, image_dir='D:\\絵 "1"', metadata_file="")
    dataset = unusual(DatasetConfig, subsets=(subset, SubsetConfig(metadata_file="m.json", keep_tokens=2)))
    config = TrainConfig(**groups, data=DataConfig(datasets=(dataset,)))

    assert back(config) == config
    assert back(TrainConfig()) == TrainConfig()


@pytest.mark.parametrize(("group", "f"), SETTINGS, ids=lambda value: getattr(value, "name", value))
def test_every_setting_survives_alone(group, f):
    config = TrainConfig()
    config = dataclasses.replace(config, **{group: dataclasses.replace(getattr(config, group), **{f.name: another(f)})})
    if f.name == "network_args":  # lora takes none
        config = dataclasses.replace(config, network=dataclasses.replace(config.network, algorithm="loha"))

    assert back(config) == config


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("conv_rank", [0, 8])
def test_every_kind_of_adapter_survives(algorithm, conv_rank):
    network = NetworkConfig(algorithm=algorithm, conv_rank=conv_rank, conv_alpha=4.0)

    assert back(TrainConfig(network=network)).network == network


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
