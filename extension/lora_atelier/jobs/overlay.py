"""Single settings that a person changed, laid over a whole configuration, and what two configurations differ in.

A setting's place is ``group.field``; "dataset" and "subset" stand for those of the pictures to learn from.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from ..config import DatasetConfig, SubsetConfig, TrainConfig
from ..config.keys import GROUPS, group_class
from ..config.values import Values, not_of_kind, of_text
from ..errors import Problem, problem

# The job itself says these: its name, its pictures, its model.
OF_THE_JOB = frozenset(
    (
        "model.base_model", "output.folder", "output.name", "subset.image_dir", "subset.is_reg",
        "subset.metadata_file", "subset.class_tokens", "subset.num_repeats",
    )
)  # fmt: skip
_DATASET = re.compile(r"data\.datasets\.\d+(\.subsets\.\d+)?(?=\.|$)")


def all_fields() -> Iterator[tuple[str, dataclasses.Field[Any]]]:
    """Every setting that can be changed: its place and its field."""
    for group in GROUPS:
        yield from ((f"{group}.{f.name}", f) for f in fields(group_class(group)))
    yield from ((f"dataset.{f.name}", f) for f in fields(DatasetConfig) if f.metadata)
    yield from ((f"subset.{f.name}", f) for f in fields(SubsetConfig))


def get(config: TrainConfig, place: str) -> Any:
    """The value at a place; None where there is no dataset or folder that has one."""
    group, _, name = place.partition(".")
    owner: Any = _owner(config, group)
    return None if owner is None else getattr(owner, name)


def changed(config: TrainConfig, changes: Mapping[str, Any]) -> tuple[TrainConfig, tuple[Problem, ...]]:
    """``config`` with the values of ``changes`` at their places, and what is wrong with them.

    A value may be of the setting's type, a JSON list for a tuple, or a text that says it. One that can't be read, and
    one of a place that does not exist, is left out and said.
    """
    known = dict(all_fields())
    values, groups = Values(), dict[str, dict[str, Any]]()
    for place, value in changes.items():
        f = known.get(place)
        if f is None or place in OF_THE_JOB:
            values.wrong(problem(place, "There is no setting “{place}” to change.", place=place))
            continue
        group, _, name = place.partition(".")
        before = len(values.problems)
        read = _read(values, place, value, f)
        if len(values.problems) == before:
            groups.setdefault(group, {})[name] = read
    for group, said in groups.items():
        config = _replaced(config, group, said)
    return config, tuple(values.problems)


def difference(config: TrainConfig, base: TrainConfig) -> dict[str, Any]:
    """What must be changed in ``base`` to have ``config``, as ``changed`` takes it; the job's own settings aside."""
    return {
        place: get(config, place)
        for place, _ in all_fields()
        if place not in OF_THE_JOB
        and get(config, place) is not None
        and get(base, place) is not None
        and get(config, place) != get(base, place)
    }


def place_of(field: str) -> str:
    """The place that a problem's field means: ``data.datasets.0.batch_size`` -> ``dataset.batch_size``."""
    return _DATASET.sub(lambda found: "subset" if found[1] else "dataset", field, count=1)


def _read(values: Values, place: str, value: Any, f: dataclasses.Field[Any]) -> Any:
    kind = str(f.type)
    if isinstance(value, str) and kind != "str":
        try:
            read = of_text(value, kind)
            if kind == "tuple[int, int]" and len(read) != 2:
                raise ValueError(value)
            return read
        except ValueError:
            values.wrong(not_of_kind(place, value, kind))
            return None
    return values.value(place, value, f)


def _owner(config: TrainConfig, group: str) -> Any:
    datasets = config.data.datasets
    if group == "dataset":
        return datasets[0] if datasets else None
    if group == "subset":
        own = [subset for dataset in datasets[:1] for subset in dataset.subsets if not subset.is_reg]
        return own[0] if own else None
    return getattr(config, group)


def _replaced(config: TrainConfig, group: str, values: Mapping[str, Any]) -> TrainConfig:
    if group not in ("dataset", "subset"):
        return dataclasses.replace(config, **{group: dataclasses.replace(getattr(config, group), **values)})
    datasets = tuple(
        dataclasses.replace(dataset, **values)
        if group == "dataset"
        else dataclasses.replace(
            dataset,
            subsets=tuple(s if s.is_reg else dataclasses.replace(s, **values) for s in dataset.subsets),
        )
        for dataset in config.data.datasets
    )
    return dataclasses.replace(config, data=dataclasses.replace(config.data, datasets=datasets))
