"""A training configuration on disk: ``config.toml``, ``dataset.toml`` and ``sample_prompts.txt`` of a run."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import atomic
from .config import TrainConfig, from_kohya, to_kohya
from .errors import ConfigError

CONFIG = "config.toml"
DATASET = "dataset.toml"
SAMPLE_PROMPTS = "sample_prompts.txt"


def write(config: TrainConfig, folder: Path) -> None:
    """Write the three files into ``folder``; sd-scripts reads them as well. Raises OSError."""
    main, dataset = to_kohya(config)
    if config.sampling.prompts:
        prompts = folder / SAMPLE_PROMPTS
        atomic.write_text(prompts, "\n".join(config.sampling.prompts) + "\n")
        main["sampling"]["sample_prompts"] = str(prompts)
    else:
        # sd-scripts would look for the file of prompts before it looks whether there is one.
        main["sampling"].pop("sample_at_first", None)
    atomic.write_text(folder / DATASET, dump_toml(dataset))
    atomic.write_text(folder / CONFIG, dump_toml(main))


def read(folder: Path) -> TrainConfig:
    """The configuration that ``write`` wrote. Raises ConfigError with all problems, or when a file is missing."""
    config = from_kohya(load_toml(folder / CONFIG), load_toml(folder / DATASET))
    prompts = folder / SAMPLE_PROMPTS
    if prompts.exists():
        lines = [line.strip() for line in prompts.read_text(encoding="utf-8-sig").splitlines()]
        kept = tuple(line for line in lines if line and not line.startswith("#"))
        config = dataclasses.replace(config, sampling=dataclasses.replace(config.sampling, prompts=kept))
    return config


def load_toml(path: Path) -> dict[str, Any]:
    """The contents of a TOML file. Raises ConfigError naming the line when it is none, or when it can't be read."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "“{file}” can't be read.",
            why="{reason}.",
            todo="Check that it is there, is UTF-8 text and may be read.",
            file=path.name,
            reason=str(error),
        ) from error
    return parse_toml(text, path.name)


def parse_toml(text: str, name: str) -> dict[str, Any]:
    """The contents of a TOML text that is called ``name``. Raises ConfigError naming the line when it is none."""
    toml = _toml_reader()
    try:
        loaded: dict[str, Any] = toml.loads(text)
    except toml.TOMLDecodeError as error:
        raise ConfigError(
            "“{file}” is not valid TOML.",
            why="{reason}.",
            todo="Correct that line; write Windows paths in single quotes.",
            file=name,
            reason=str(error),
        ) from error
    return loaded


def _toml_reader() -> Any:
    try:
        import tomllib

        return tomllib
    except ModuleNotFoundError:  # Python 3.10, the oldest that hosts run on
        pass
    try:
        import tomli

        return tomli
    except ModuleNotFoundError:
        from pip._vendor import tomli as pip_tomli

        return pip_tomli


def dump_toml(data: Mapping[str, Any]) -> str:
    """``data`` as TOML: plain values first, then tables, then arrays of tables. None is left out."""
    lines: list[str] = []
    _table(lines, data, "")
    return "\n".join(lines).strip() + "\n"


def _table(lines: list[str], data: Mapping[str, Any], prefix: str) -> None:
    later: list[tuple[str, Any]] = []
    for key, value in data.items():
        if isinstance(value, Mapping) or (
            isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value)
        ):
            later.append((key, value))
        elif value is not None:
            lines.append(f"{_key(key)} = {_value(value)}")
    for key, value in later:
        name = f"{prefix}{_key(key)}"
        if isinstance(value, Mapping):
            lines += ["", f"[{name}]"]
            _table(lines, value, f"{name}.")
        else:
            for item in value:
                lines += ["", f"[[{name}]]"]
                _table(lines, item, f"{name}.")


def _key(key: str) -> str:
    plain = key.replace("-", "a").replace("_", "a")
    return key if plain.isascii() and plain.isalnum() else _value(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, str):
        # TOML's basic strings are JSON's, but for DEL, which JSON leaves as it is.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(item) for item in value)}]"
    raise TypeError(f"{type(value).__name__} has no TOML form here")
