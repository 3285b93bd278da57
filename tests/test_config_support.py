import ast
import dataclasses
from pathlib import Path

import pytest

import lora_atelier
from lora_atelier.config import (
    DataConfig,
    DatasetConfig,
    LossConfig,
    MemoryConfig,
    NetworkConfig,
    ScheduleConfig,
    SubsetConfig,
    TrainConfig,
    notes,
    support,
    unsupported,
)

pytestmark = pytest.mark.torchfree

PACKAGE = Path(lora_atelier.__file__).parent
# They say how another setting, which is refused as long as it is not known, is to be done.
PART_OF_ANOTHER = {
    "model.base_weights_multiplier": "model.base_weights",
    "network.factor": "network.algorithm",
    "optimizer.beta1": "optimizer.optimizer",
    "optimizer.beta2": "optimizer.optimizer",
    "optimizer.weight_decay": "optimizer.optimizer",
    "optimizer.optimizer_args": "optimizer.optimizer",
    "memory.dynamo_backend": "memory.torch_compile",
    "subset.token_warmup_min": "subset.token_warmup_step",
}
# What the model's own header says is used instead.
TOLD_BY_THE_MODEL = {"model.v2", "model.v_parameterization"}


def all_settings():
    for group in dataclasses.fields(TrainConfig):
        if group.name != "data":
            yield from ((group.name, f.name) for f in dataclasses.fields(type(getattr(TrainConfig(), group.name))))
    yield from (("dataset", f.name) for f in dataclasses.fields(DatasetConfig) if f.metadata)
    yield from (("subset", f.name) for f in dataclasses.fields(SubsetConfig))


def names_that_are_read():
    """Every attribute that the trainer, or what it reads pictures with, asks anything for."""
    # Two of the configuration's modules are computed with by the trainer.
    for part in ("trainer", "datasets", "jobs", "models", "config/rhythm.py", "config/epochs.py"):
        found = PACKAGE / part
        for path in found.rglob("*.py") if found.is_dir() else [found]:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Attribute):
                    yield node.attr
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value  # getattr(config, name)


def test_no_setting_is_ignored_in_silence():
    """Each is read by the trainer, refused, said to change nothing, or part of one that is."""
    read = set(names_that_are_read())
    said = {*support.NOT_YET, *support.NOT_READ, *support.ALWAYS, *PART_OF_ANOTHER, *TOLD_BY_THE_MODEL}

    ignored = [
        f"{group}.{name}" for group, name in all_settings() if name not in read and f"{group}.{name}" not in said
    ]

    assert ignored == []


def test_every_name_in_the_tables_is_a_setting():
    names = {f"{group}.{name}" for group, name in all_settings()}
    listed = [*support.NOT_YET, *support.NOT_READ, *support.ALWAYS, *PART_OF_ANOTHER]

    assert [name for name in listed if name.partition("=")[0] not in names] == []


def test_defaults_can_be_trained():
    assert list(unsupported(TrainConfig())) == list(notes(TrainConfig())) == []


def with_one(group, name):
    """A configuration in which this setting alone is not at its default."""
    owner = {"dataset": DatasetConfig, "subset": SubsetConfig}.get(group) or type(getattr(TrainConfig(), group))
    f = next(f for f in dataclasses.fields(owner) if f.name == name.partition("=")[0])
    given = name.partition("=")[2]
    other = given or {"bool": True, "int": 7, "float": 0.25, "str": "x"}.get(f.type, (1,))
    if owner is SubsetConfig:
        dataset = DatasetConfig(subsets=(SubsetConfig(), SubsetConfig(**{f.name: other})))
        return TrainConfig(data=DataConfig(datasets=(dataset,)))
    if owner is DatasetConfig:
        return TrainConfig(data=DataConfig(datasets=(DatasetConfig(**{f.name: other}),)))
    return TrainConfig(**{group: owner(**{f.name: other})})


@pytest.mark.parametrize("name", support.NOT_YET)
def test_what_the_trainer_does_not_know_is_refused_and_named(name):
    refused = list(unsupported(with_one(*name.split(".", 1))))

    assert len(refused) == 1
    assert refused[0].field.endswith(name.partition(".")[2].partition("=")[0])
    assert "--engine sd-scripts" in str(refused[0])


def test_what_only_costs_time_is_a_note():
    config = TrainConfig(memory=MemoryConfig(xformers=True, sdpa=False, vae_batch_size=4))

    assert list(unsupported(config)) == []
    assert [note.field for note in notes(config)] == ["memory.vae_batch_size", "memory.xformers"]


def test_everything_is_refused_at_once():
    config = TrainConfig(
        network=NetworkConfig(algorithm="kohya-oft"),
        schedule=ScheduleConfig(scheduler="adafactor"),
        loss=LossConfig(loss_type="huber"),
    )
    known = [
        name
        for name in ("network.algorithm", "schedule.scheduler", "loss.loss_type")
        if name in {each.partition("=")[0] for each in support.NOT_YET}
    ]

    assert [found.field for found in unsupported(config)] == known
