"""A training as someone gives it to the command line: kohya's files, a GUI preset, a LoRA to train again, options.

Each of them gives kohya's keys; the later in this order replaces the earlier: the LoRA, the preset, the config file,
the typed options. The dataset file says what the pictures are.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import config_files, safetensors_header
from .config import Imported, TrainConfig, from_gui, from_metadata, over_dataset, read_flags, try_kohya
from .config.reading import flatten
from .errors import AdapterFormatError, AdapterNotFoundError, ConfigError, Problem, problem

# What is said anew by a key, though it has another name.
_SAYS_ANEW = {"max_train_steps": ("max_train_epochs",), "learning_rate": ("unet_lr", "text_encoder_lr")}
# Keys of a sample prompt in a .toml or .json file -> its option in a line.
_PROMPT_OPTIONS = {
    "negative_prompt": "n", "width": "w", "height": "h", "seed": "d", "sample_steps": "s", "scale": "l",
    "sample_sampler": "ss",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where a training is described; ``words`` are the typed options."""

    config_file: Path | None = None
    dataset_config: Path | None = None
    preset: Path | None = None
    like: Path | None = None
    words: Sequence[str] = ()


@dataclass(frozen=True)
class Recipe:
    """What the sources say together. ``problems`` are what could not be read of them; ``trigger`` is that of a LoRA."""

    config: TrainConfig
    problems: tuple[Problem, ...] = ()
    notes: tuple[Problem, ...] = ()
    trigger: str = ""


@dataclass
class _Layers:
    main: dict[str, Any] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)

    def add(self, above: Mapping[str, Any]) -> None:
        """Put more keys over those there are; what they say anew under another name is left out, and said."""
        for key, others in _SAYS_ANEW.items():
            for other in others:
                if key in above and other not in above and self.main.pop(other, None) is not None:
                    self.notes.append(
                        problem(key, "“{key}” was given anew, so “{other}” is left out.", key=key, other=other)
                    )
        self.main |= above

    def add_imported(self, imported: Imported) -> None:
        self.add(imported.main)
        self.problems += imported.problems
        self.notes += imported.notes


def gather(sources: Sources) -> Recipe:
    """The training that ``sources`` describe, and everything that is wrong with how they say it.

    Raises ConfigError or AdapterError for a file that can't be read at all.
    """
    layers = _Layers()
    prompts: tuple[str, ...] = ()
    like = Imported({})
    if sources.like is not None:
        like = _lora(sources.like)
        layers.add_imported(like)
    if sources.preset is not None:
        preset = from_gui(_json(sources.preset))
        prompts = preset.prompts
        layers.add_imported(preset)
    if sources.config_file is not None:
        layers.add(flatten(config_files.load_toml(_toml(sources.config_file))))
    flags = read_flags(sources.words)
    layers.add(flags.main)
    layers.problems += flags.problems
    dataset, replaced = over_dataset(_dataset(sources, layers.main), flags.main)
    layers.notes += replaced
    prompt_file = layers.main.get("sample_prompts")
    reading = try_kohya(layers.main, dataset)
    problems = [*layers.problems, *reading.problems]
    if isinstance(prompt_file, str) and prompt_file:
        prompts = tuple(_prompts(Path(prompt_file), problems))
    sampling = dataclasses.replace(reading.config.sampling, prompts=prompts)
    config = _from_here(dataclasses.replace(reading.config, sampling=sampling))
    if like.base_model and not config.model.base_model:
        layers.notes.append(
            problem(
                "model.base_model",
                "The LoRA was trained on “{name}”; give its path with --pretrained_model_name_or_path.",
                name=like.base_model,
            )
        )
    return Recipe(config, tuple(problems), (*layers.notes, *reading.notes), like.trigger)


def _toml(path: Path) -> Path:
    """The path, or the one with .toml behind it, which sd-scripts adds by itself."""
    longer = path.with_name(path.name + ".toml")
    return longer if not path.exists() and longer.exists() else path


def _dataset(sources: Sources, main: Mapping[str, Any]) -> dict[str, Any]:
    named = main.get("dataset_config")
    path = sources.dataset_config or (Path(named) if isinstance(named, str) and named else None)
    if path is None:
        return {}
    return _json(path) if path.suffix.lower() == ".json" else config_files.load_toml(path)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "The file {file} can't be read.",
            why="{reason}.",
            todo="Check that it is there and may be read.",
            file=str(path),
            reason=getattr(error, "strerror", None) or str(error),
        ) from error


def _json(path: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(_text(path))
    except ValueError as error:
        raise ConfigError(
            "“{file}” is not valid JSON.",
            why="{reason}.",
            todo="Save it again from the program that made it, or correct that line.",
            file=path.name,
            reason=str(error),
        ) from error
    if not isinstance(loaded, dict):
        raise ConfigError("“{file}” holds no table of settings.", todo="Choose another file.", file=path.name)
    return loaded


def _lora(path: Path) -> Imported:
    try:
        header = safetensors_header.read(path)
    except FileNotFoundError as error:
        raise AdapterNotFoundError("There is no file {path}.", path=str(path)) from error
    except (OSError, safetensors_header.BrokenFileError) as error:
        raise AdapterFormatError(
            "{path} can't be read as a LoRA.",
            why="{reason}.",
            todo="Give the .safetensors file of a LoRA.",
            path=str(path),
            reason=str(error),
        ) from error
    return from_metadata(header.metadata, {key: tensor.dtype for key, tensor in header.tensors.items()})


# ------------------------------------------------------------------------------------------------ sample prompts


def _prompts(path: Path, problems: list[Problem]) -> Iterator[str]:
    """The lines of a file of sample prompts: text, or a list of tables as .toml or .json."""
    try:
        suffix = path.suffix.lower()
        if suffix == ".json":
            listed: Any = json.loads(_text(path))
        elif suffix == ".toml":
            common = config_files.load_toml(path)["prompt"]
            listed = [{**common, **each} for each in common["subset"]]
        else:
            listed = [line.strip() for line in _text(path).splitlines()]
        if not isinstance(listed, list) or not all(isinstance(each, str | Mapping) for each in listed):
            raise TypeError("no list of prompts")
        lines = [each if isinstance(each, str) else _line(each) for each in listed]
    except (ConfigError, ValueError, KeyError, TypeError) as error:
        problems.append(
            problem(
                "sample_prompts",
                "The sample prompts in {file} can't be read ({reason}); one prompt a line in a .txt file is simplest.",
                file=str(path),
                reason=str(error.why).rstrip(".") if isinstance(error, ConfigError) else str(error),
            )
        )
        return
    yield from (line for line in lines if line and not line.startswith("#"))


def _line(said: Mapping[str, Any]) -> str:
    options = [f"--{option} {said[key]}" for key, option in _PROMPT_OPTIONS.items() if said.get(key) not in (None, "")]
    return " ".join([" ".join(str(said["prompt"]).split()), *options])


# ------------------------------------------------------------------------------------------------ paths


def _from_here(config: TrainConfig) -> TrainConfig:
    """``config`` with whole paths: the trainer has another working folder. What isn't there stays as it was written."""
    datasets = tuple(
        dataclasses.replace(
            dataset,
            subsets=tuple(
                dataclasses.replace(
                    subset,
                    image_dir=_whole(subset.image_dir),
                    metadata_file=_whole(subset.metadata_file),
                    conditioning_data_dir=_whole(subset.conditioning_data_dir),
                )
                for subset in dataset.subsets
            ),
        )
        for dataset in config.data.datasets
    )
    model, network, output = config.model, config.network, config.output
    return dataclasses.replace(
        config,
        model=dataclasses.replace(
            model,
            base_model=_whole(model.base_model),
            vae=_whole(model.vae),
            base_weights=tuple(_whole(path) for path in model.base_weights),
        ),
        network=dataclasses.replace(network, network_weights=_whole(network.network_weights)),
        output=dataclasses.replace(
            output,
            folder=str(Path(output.folder).absolute()) if output.folder else "",
            metadata_thumbnail=_whole(output.metadata_thumbnail),
        ),
        data=dataclasses.replace(config.data, datasets=datasets),
    )


def _whole(path: str) -> str:
    # A data URL is longer than any path may be.
    is_path = path and not path.startswith("data:")
    return str(Path(path).absolute()) if is_path and Path(path).exists() else path
