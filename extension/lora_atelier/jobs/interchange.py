"""Settings that come as text: kohya's TOML, presets of kohya_ss' GUI, a LoRA's own words, and our own presets.

Each becomes changes over the recipe (see ``overlay``): what is not in it is as the recipe says for our presets, and as
sd-scripts takes it for kohya's files, which leave out what is at their default.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import config_files
from ..config import Imported, TrainConfig, from_gui, from_metadata, to_kohya, try_kohya
from ..config.reading import flatten
from ..errors import ConfigError, Problem, problem
from . import overlay

PRESET = "lora-atelier-preset"
_SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Read:
    """What a text says: ``kind`` is "toml", "gui", "lora" or "preset"; ``problems`` are what could not be taken."""

    kind: str
    changes: Mapping[str, Any]
    notes: tuple[Problem, ...] = ()
    problems: tuple[Problem, ...] = ()
    trigger: str = ""
    base_model: str = ""


def to_text(config: TrainConfig) -> str:
    """The whole configuration as one TOML text in kohya's keys; ``read_text`` takes it back."""
    main, dataset = to_kohya(config)
    if config.sampling.prompts:
        main["sampling"]["sample_prompts"] = list(config.sampling.prompts)
    filled = {group: values for group, values in main.items() if values}
    return config_files.dump_toml({**filled, **dataset})


def read_text(text: str, base: TrainConfig) -> Read:
    """What a TOML or JSON text says, as changes of ``base``. Raises ConfigError if it is neither."""
    stripped = text.lstrip("\ufeff \t\r\n")
    if stripped.startswith("{"):
        try:
            table = json.loads(stripped)
        except ValueError as error:
            raise _unreadable("JSON", str(error)) from error
        return _imported("gui", from_gui(table), base)
    table = config_files.parse_toml(text.lstrip("\ufeff"), "TOML")
    if table.get("kind") == PRESET:
        return _preset(table, base)
    return _kohya(table, base)


def read_lora(metadata: Mapping[str, str], dtypes: Mapping[str, str], base: TrainConfig) -> Read:
    """What a LoRA says of its own training, from its header."""
    return _imported("lora", from_metadata(metadata, dtypes), base)


def preset_text(name: str, changes: Mapping[str, Any], *, goal: str, family: str) -> str:
    """A preset to keep or to give away: only what differs from the recipe."""
    groups: dict[str, dict[str, Any]] = {}
    for place, value in sorted(changes.items()):
        group, _, field = place.partition(".")
        if place not in overlay.OF_THE_JOB:
            groups.setdefault(group, {})[field] = list(value) if isinstance(value, tuple) else value
    head = {"kind": PRESET, "schema": _SCHEMA, "name": name, "goal": goal, "family": family}
    return config_files.dump_toml({**head, **groups})


def _preset(table: Mapping[str, Any], base: TrainConfig) -> Read:
    if int(table.get("schema", 1)) > _SCHEMA:
        raise ConfigError("This preset was made by a newer version of LoRA Atelier.", todo="Update the extension.")
    asked = {
        f"{group}.{field}": value
        for group, values in table.items()
        if isinstance(values, Mapping)
        for field, value in values.items()
    }
    wanted = {place: value for place, value in asked.items() if place not in overlay.OF_THE_JOB}
    config, problems = overlay.changed(base, wanted)
    return Read(kind="preset", changes=overlay.difference(config, base), problems=problems)


def _kohya(table: Mapping[str, Any], base: TrainConfig) -> Read:
    main = {key: value for key, value in table.items() if key not in ("datasets", "general")}
    flat = dict(flatten(main))
    dataset = {key: table[key] for key in ("datasets", "general") if key in table}
    prompts = flat.pop("sample_prompts", None)
    return _reading("toml", Imported(flat, prompts=_lines(prompts)), dataset, base)


def _lines(prompts: Any) -> tuple[str, ...]:
    # A path to a file of prompts means nothing here; a list is our own way to write them.
    return tuple(str(line) for line in prompts) if isinstance(prompts, list) else ()


def _imported(kind: str, imported: Imported, base: TrainConfig) -> Read:
    main = {key: value for key, value in imported.main.items() if key != "sample_prompts"}
    return _reading(kind, Imported(main, imported.notes, imported.problems, imported.prompts, imported.base_model,
                                   imported.trigger), {}, base)  # fmt: skip


def _reading(kind: str, imported: Imported, dataset: Mapping[str, Any], base: TrainConfig) -> Read:
    reading = try_kohya(imported.main, dataset)
    changes = overlay.difference(reading.config, base) if not imported.problems or imported.main else {}
    changes.pop("sampling.prompts", None)
    if imported.prompts and imported.prompts != base.sampling.prompts:
        changes["sampling.prompts"] = imported.prompts
    if "subset.image_dir" not in changes and not dataset:
        # Nothing is said of how captions are read: the recipe's way stays.
        changes = {place: value for place, value in changes.items() if place != "subset.caption_extension"}
    # The model itself says what it is.
    for place in ("model.v2", "model.v_parameterization"):
        changes.pop(place, None)
    notes = (*imported.notes, *reading.notes)
    if imported.base_model and Path(imported.base_model).name != Path(base.model.base_model).name:
        notes = (
            *notes,
            problem("base_model", "It was trained on “{name}”; choose that base model, if you have it.",
                    name=imported.base_model),
        )  # fmt: skip
    return Read(
        kind=kind,
        changes=changes,
        notes=notes,
        problems=(*imported.problems, *reading.problems),
        trigger=imported.trigger,
        base_model=imported.base_model,
    )


def _unreadable(kind: str, reason: str) -> ConfigError:
    return ConfigError(
        "This text is not valid {kind}.", why="{reason}.", todo="Correct that line.", kind=kind, reason=reason
    )
