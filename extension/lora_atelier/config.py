"""What a training run can be told: dataclasses <-> kohya's ``config_file`` and ``dataset_config`` TOML.

One field is one setting: its default, label, help and kohya's key stand in one place, and the form, the files,
the checks and the documentation are made from it. ``recipe`` gives the values that suit a goal and a model.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from .errors import ConfigError, Message, Problem, message, problem

SCHEMA = 1


def setting(default: Any, label: str, help: str, *, kohya: str = "", choices: tuple[str, ...] = ()) -> Any:
    """A dataclass field with what the form and the files need to know of it.

    ``kohya`` is sd-scripts' key; settings without one are ours and are written with the prefix ``atelier_``.
    """
    metadata = {"label": label, "help": help, "kohya": kohya, "choices": choices}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The base model that the adapter is trained on."""

    base_model: str = setting(
        "",
        "Base model",
        "A .safetensors checkpoint or a diffusers folder.",
        kohya="pretrained_model_name_or_path",
    )
    v2: bool = setting(False, "Stable Diffusion 2", "The base model is SD 2.x.", kohya="v2")
    v_parameterization: bool = setting(
        False, "v-prediction", "The base model predicts velocity instead of noise.", kohya="v_parameterization"
    )

    def problems(self) -> Iterator[Problem]:
        if not self.base_model:
            yield problem("model.base_model", "No base model is chosen. Choose the model to train on.")


@dataclass(frozen=True, kw_only=True)
class OutputConfig:
    """Where the adapter goes, what it is called, and how often it is kept."""

    folder: str = setting("", "Folder", "The folder that the finished LoRA is written to.", kohya="output_dir")
    name: str = setting("lora", "Name", "The file's name, and the name in <lora:name:0.8>.", kohya="output_name")
    precision: str = setting(
        "fp16",
        "Precision of the file",
        "fp16 halves the file; float keeps every digit.",
        kohya="save_precision",
        choices=("float", "fp16", "bf16"),
    )
    save_every_n_steps: int = setting(
        0, "Checkpoint every", "Steps between checkpoints; 0 chooses ten over the run.", kohya="save_every_n_steps"
    )
    keep_states: int = setting(2, "Checkpoints to resume from", "How many complete states are kept on disk.")
    comment: str = setting("", "Comment", "A sentence kept in the file.", kohya="training_comment")

    def problems(self) -> Iterator[Problem]:
        if not self.name:
            yield problem("output.name", "The LoRA has no name. Give it one.")
        yield from _at_least("output.save_every_n_steps", self.save_every_n_steps, 0)
        yield from _at_least("output.keep_states", self.keep_states, 1)
        yield from _one_of("output.precision", self.precision, ("float", "fp16", "bf16"))


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Size of the adapter to train and which parts of the model it covers."""

    rank: int = setting(16, "Rank", "Inner size of each low-rank pair.", kohya="network_dim")
    alpha: float = setting(8.0, "Alpha", "The change is scaled by alpha / rank.", kohya="network_alpha")
    conv_rank: int = setting(0, "Convolution rank", "Rank of the 3×3 convolutions' pairs; 0 leaves them alone.")
    conv_alpha: float = setting(1.0, "Convolution alpha", "The convolutions' change is scaled by alpha / rank.")
    train_te: bool = setting(False, "Train the text encoder", "Usually off: the U-Net alone learns pictures well.")
    dropout: float = setting(0.0, "Dropout", "Share of inner values set to zero in a step.", kohya="network_dropout")

    def problems(self) -> Iterator[Problem]:
        if self.rank < 1:
            yield problem("network.rank", "Rank is {rank}; it must be 1 or more (4 to 128 is usual).", rank=self.rank)
        if self.alpha <= 0:
            yield problem(
                "network.alpha", "Alpha is {alpha}; it must be more than 0 (half the rank is usual).", alpha=self.alpha
            )
        yield from _at_least("network.conv_rank", self.conv_rank, 0)
        yield from _between("network.dropout", self.dropout, 0.0, 0.99)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How the adapter's weights are moved."""

    learning_rate: float = setting(1e-4, "Learning rate", "Size of a step of the U-Net's adapter.", kohya="unet_lr")
    te_learning_rate: float = setting(
        5e-5, "Learning rate of the text encoder", "Used when the text encoder is trained.", kohya="text_encoder_lr"
    )
    optimizer: str = setting(
        "AdamW", "Optimizer", "AdamW suits nearly everything.", kohya="optimizer_type", choices=("AdamW",)
    )
    beta1: float = setting(0.9, "Beta 1", "Memory of the mean gradient.")
    beta2: float = setting(0.99, "Beta 2", "Memory of the squared gradient.")
    weight_decay: float = setting(0.01, "Weight decay", "Pull of the adapter towards nothing.")
    max_grad_norm: float = setting(
        1.0, "Gradient limit", "Larger gradients are scaled down; 0 is off.", kohya="max_grad_norm"
    )

    def problems(self) -> Iterator[Problem]:
        for name in ("learning_rate", "te_learning_rate"):
            if not 0 < getattr(self, name) < 10:
                yield problem(
                    f"optimizer.{name}",
                    "The learning rate is {value}; it must lie between 0 and 10 (0.0001 is usual).",
                    value=getattr(self, name),
                )
        yield from _one_of("optimizer.optimizer", self.optimizer, ("AdamW",))
        yield from _between("optimizer.beta1", self.beta1, 0.0, 0.9999)
        yield from _between("optimizer.beta2", self.beta2, 0.0, 0.99999)
        yield from _at_least("optimizer.weight_decay", self.weight_decay, 0)
        yield from _at_least("optimizer.max_grad_norm", self.max_grad_norm, 0)


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How long, how fast over time, in which precision, from which seed."""

    steps: int = setting(1000, "Steps", "Optimizer steps of the whole run.", kohya="max_train_steps")
    scheduler: str = setting(
        "cosine",
        "Learning rate over time",
        "cosine falls smoothly to the floor, constant stays.",
        kohya="lr_scheduler",
        choices=("cosine", "cosine_with_min_lr", "constant", "constant_with_warmup", "linear"),
    )
    warmup: float = setting(
        0.05, "Warm-up", "Steps of rising learning rate; below 1 a share of all.", kohya="lr_warmup_steps"
    )
    floor: float = setting(
        0.0, "Floor", "The learning rate ends at this share of its peak.", kohya="lr_scheduler_min_lr_ratio"
    )
    accumulation: int = setting(1, "Accumulation", "Batches per optimizer step.", kohya="gradient_accumulation_steps")
    mixed_precision: str = setting(
        "no",
        "Precision of the computation",
        "bf16 on recent cards; no means float32.",
        kohya="mixed_precision",
        choices=("no", "fp16", "bf16"),
    )
    gradient_checkpointing: bool = setting(
        False, "Gradient checkpointing", "Less memory, a third more time.", kohya="gradient_checkpointing"
    )
    seed: int = setting(1, "Seed", "The same seed and pictures give the same LoRA.", kohya="seed")

    def problems(self) -> Iterator[Problem]:
        yield from _at_least("schedule.steps", self.steps, 1)
        yield from _at_least("schedule.accumulation", self.accumulation, 1)
        yield from _at_least("schedule.warmup", self.warmup, 0)
        yield from _between("schedule.floor", self.floor, 0.0, 1.0)
        yield from _one_of("schedule.mixed_precision", self.mixed_precision, ("no", "fp16", "bf16"))
        yield from _one_of(
            "schedule.scheduler",
            self.scheduler,
            ("cosine", "cosine_with_min_lr", "constant", "constant_with_warmup", "linear"),
        )
        if not 0 <= self.seed < 2**63:
            yield problem("schedule.seed", "The seed is {seed}; it must be a whole number from 0.", seed=self.seed)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """How a prediction's error is weighted."""

    min_snr_gamma: float = setting(
        0.0, "Min-SNR", "Limits the weight of nearly clean steps; 5 is usual, 0 is off.", kohya="min_snr_gamma"
    )
    prior_weight: float = setting(
        1.0, "Weight of regularisation pictures", "Their loss counts this much.", kohya="prior_loss_weight"
    )
    noise_offset: float = setting(
        0.0, "Noise offset", "Helps very dark or bright pictures; 0 is off.", kohya="noise_offset"
    )

    def problems(self) -> Iterator[Problem]:
        yield from _at_least("loss.min_snr_gamma", self.min_snr_gamma, 0)
        yield from _at_least("loss.prior_weight", self.prior_weight, 0)
        yield from _between("loss.noise_offset", self.noise_offset, 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """Pictures made during training."""

    every_n_steps: int = setting(
        0, "Sample every", "Steps between samples; 0 makes five over the run.", kohya="sample_every_n_steps"
    )
    sampler: str = setting(
        "ddim", "Sampler of the samples", "As in the prompt files of sd-scripts.", kohya="sample_sampler"
    )
    # Lines of sd-scripts' prompt file: "text --n negative --w 512 --h 512 --d seed --s steps --l cfg".
    prompts: tuple[str, ...] = setting((), "Sample prompts", "One prompt a line; empty makes none.")

    def problems(self) -> Iterator[Problem]:
        yield from _at_least("sampling.every_n_steps", self.every_n_steps, 0)


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """Loss on pictures that are not trained on."""

    split: float = setting(
        0.1, "Held-out share", "Share of the pictures kept for measuring only.", kohya="validation_split"
    )
    seed: int = setting(1, "Held-out seed", "Chooses those pictures and their noise.", kohya="validation_seed")
    every_n_steps: int = setting(
        0, "Measure every", "Steps between measurements; 0 makes ten over the run.", kohya="validate_every_n_steps"
    )

    def problems(self) -> Iterator[Problem]:
        yield from _between("validation.split", self.split, 0.0, 0.9)
        yield from _at_least("validation.every_n_steps", self.every_n_steps, 0)


@dataclass(frozen=True, kw_only=True)
class SubsetConfig:
    """One folder of pictures."""

    image_dir: str = setting("", "Folder", "The folder that holds the pictures.", kohya="image_dir")
    num_repeats: int = setting(1, "Repeats", "How often each picture is seen in an epoch.", kohya="num_repeats")
    class_tokens: str = setting(
        "", "Caption for pictures without one", "For example: momo figure.", kohya="class_tokens"
    )
    caption_extension: str = setting(".txt", "Caption files", "Ending of the caption files.", kohya="caption_extension")
    is_reg: bool = setting(False, "Regularisation", "Pictures that keep what the model already knows.", kohya="is_reg")
    flip_aug: bool = setting(
        False, "Mirror", "Every second time mirrored; not for asymmetric figures.", kohya="flip_aug"
    )
    caption_dropout_rate: float = setting(
        0.0, "Caption dropout", "Share of steps without caption.", kohya="caption_dropout_rate"
    )

    def problems(self, where: str = "data") -> Iterator[Problem]:
        if not self.image_dir:
            yield problem(f"{where}.image_dir", "No pictures are chosen. Drop some pictures or choose a folder.")
        yield from _at_least(f"{where}.num_repeats", self.num_repeats, 1)
        yield from _between(f"{where}.caption_dropout_rate", self.caption_dropout_rate, 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """Folders that are trained at one resolution, and how pictures of other shapes are fitted."""

    subsets: tuple[SubsetConfig, ...] = ()
    resolution: tuple[int, int] = setting((512, 512), "Resolution", "Width and height in pixels.", kohya="resolution")
    batch_size: int = setting(1, "Batch size", "Pictures per step.", kohya="batch_size")
    enable_bucket: bool = setting(True, "Buckets", "Keep the pictures' aspect ratios.", kohya="enable_bucket")
    min_bucket_reso: int = setting(256, "Shortest side", "Of a bucket, in pixels.", kohya="min_bucket_reso")
    max_bucket_reso: int = setting(1024, "Longest side", "Of a bucket, in pixels.", kohya="max_bucket_reso")
    bucket_reso_steps: int = setting(64, "Bucket steps", "Sides are multiples of this.", kohya="bucket_reso_steps")
    bucket_no_upscale: bool = setting(
        False, "Never enlarge", "Small pictures stay as they are.", kohya="bucket_no_upscale"
    )

    def problems(self, where: str = "data") -> Iterator[Problem]:
        yield from _at_least(f"{where}.batch_size", self.batch_size, 1)
        if self.bucket_reso_steps < 8 or self.bucket_reso_steps % 8:
            yield problem(
                f"{where}.bucket_reso_steps",
                "Bucket steps are {steps}; they must be a multiple of 8.",
                steps=self.bucket_reso_steps,
            )
        if min(self.resolution) < 64:
            yield problem(
                f"{where}.resolution", "The resolution is {size}; it must be 64 or more.", size=min(self.resolution)
            )
        if self.min_bucket_reso > self.max_bucket_reso:
            yield problem(f"{where}.min_bucket_reso", "The shortest side is longer than the longest side.")
        for index, subset in enumerate(self.subsets):
            yield from subset.problems(f"{where}.subsets.{index}")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """All pictures of a run."""

    datasets: tuple[DatasetConfig, ...] = ()

    def problems(self) -> Iterator[Problem]:
        if not any(dataset.subsets for dataset in self.datasets):
            yield problem("data", "No pictures are chosen. Drop some pictures or choose a folder.")
        for index, dataset in enumerate(self.datasets):
            yield from dataset.problems(f"data.datasets.{index}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything a training run is told; ``problems`` yields all that is wrong with it, not only the first."""

    model: ModelConfig = ModelConfig()
    output: OutputConfig = OutputConfig()
    network: NetworkConfig = NetworkConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    loss: LossConfig = LossConfig()
    sampling: SamplingConfig = SamplingConfig()
    validation: ValidationConfig = ValidationConfig()
    data: DataConfig = DataConfig()

    def problems(self) -> Iterator[Problem]:
        for group in fields(self):
            yield from getattr(self, group.name).problems()


def _at_least(where: str, value: float, least: float) -> Iterator[Problem]:
    if not value >= least:
        yield problem(where, "This is {value}; it must be {least} or more.", value=value, least=least)


def _between(where: str, value: float, low: float, high: float) -> Iterator[Problem]:
    if not low <= value <= high:
        yield problem(where, "This is {value}; it must lie between {low} and {high}.", value=value, low=low, high=high)


def _one_of(where: str, value: str, choices: tuple[str, ...]) -> Iterator[Problem]:
    if value not in choices:
        yield problem(where, "This is “{value}”; it must be one of {choices}.", value=value, choices=", ".join(choices))


# ------------------------------------------------------------------------------------------- kohya's names

# Settings of ours that kohya says in another shape than one key of one value.
_NETWORK_ARGS = {"conv_dim": ("network", "conv_rank", int), "conv_alpha": ("network", "conv_alpha", float)}
_OPTIMIZER_ARGS = {"weight_decay": ("optimizer", "weight_decay", float)}
# Where 0 means "choose for me" or "off", kohya says it by leaving the key out.
_LEFT_OUT_AT_ZERO = {
    "save_every_n_steps",
    "sample_every_n_steps",
    "validate_every_n_steps",
    "min_snr_gamma",
    "noise_offset",
    "network_dropout",
    "lr_scheduler_min_lr_ratio",
}
# Keys that say how a file is used, not what is trained; read without effect.
_WITHOUT_EFFECT = {
    "network_module",
    "cache_latents",
    "cache_latents_to_disk",
    "save_state",
    "sample_prompts",
    "dataset_config",
    "save_model_as",
    "sdpa",
    "xformers",
    "max_data_loader_n_workers",
}
_GROUPS = tuple(f.name for f in fields(TrainConfig) if f.name != "data")


def _group_class(group: str) -> type[Any]:
    return type(getattr(TrainConfig(), group))


def _by_key() -> dict[str, tuple[str, dataclasses.Field[Any]]]:
    """Every plain key of config.toml -> (group, field)."""
    return {
        f.metadata["kohya"] or f"atelier_{f.name}": (group, f)
        for group in _GROUPS
        for f in fields(_group_class(group))
        if f.name not in {"conv_rank", "conv_alpha", "train_te", "beta1", "beta2", "weight_decay", "prompts"}
    }


def to_kohya(config: TrainConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """The contents of ``config.toml`` (sectioned by our groups, which sd-scripts ignores) and ``dataset.toml``."""
    main: dict[str, Any] = {group: {} for group in _GROUPS}
    for key, (group, f) in _by_key().items():
        value = getattr(getattr(config, group), f.name)
        if value != 0 or key not in _LEFT_OUT_AT_ZERO:
            main[group][key] = value
    network, optimizer = config.network, config.optimizer
    main["network"]["network_module"] = "networks.lora"
    main["network"]["network_train_unet_only"] = not network.train_te
    if network.conv_rank:
        main["network"]["network_args"] = [f"conv_dim={network.conv_rank}", f"conv_alpha={network.conv_alpha}"]
    main["optimizer"]["learning_rate"] = optimizer.learning_rate
    main["optimizer"]["text_encoder_lr"] = [optimizer.te_learning_rate]
    main["optimizer"]["optimizer_args"] = [
        f"weight_decay={optimizer.weight_decay}",
        f"betas={optimizer.beta1},{optimizer.beta2}",
    ]
    main["schedule"]["cache_latents"] = True
    datasets = []
    for dataset in config.data.datasets:
        entry = _plain(dataset)
        entry["resolution"] = list(dataset.resolution)
        entry["subsets"] = [_plain(subset) for subset in dataset.subsets]
        datasets.append(entry)
    return main, {"datasets": datasets}


def _plain(config: DatasetConfig | SubsetConfig) -> dict[str, Any]:
    return {f.metadata["kohya"]: getattr(config, f.name) for f in fields(config) if f.metadata.get("kohya")}


def from_kohya(main: Mapping[str, Any], dataset: Mapping[str, Any]) -> TrainConfig:
    """The configuration that two of kohya's files describe; options they leave out have our defaults.

    Raises ConfigError with every problem at once: unknown keys (naming the nearest), values of another type.
    """
    reader = _Reader()
    config = TrainConfig(data=reader.data(dataset))
    config = reader.main(config, _flatten(main))
    if reader.problems:
        raise ConfigError.from_problems(tuple(reader.problems))
    return config


def _flatten(main: Mapping[str, Any]) -> dict[str, Any]:
    # sd-scripts drops one level of sections, whatever they are called.
    flat: dict[str, Any] = {}
    for key, value in main.items():
        flat.update(value if isinstance(value, Mapping) else {key: value})
    return flat


class _Reader:
    """Reads kohya's keys and collects what is wrong with them."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def main(self, config: TrainConfig, flat: dict[str, Any]) -> TrainConfig:
        keys = _by_key()
        found: dict[str, dict[str, Any]] = {group: {} for group in _GROUPS}
        if "learning_rate" in flat:
            # kohya's learning_rate is what unet_lr and text_encoder_lr fall back to.
            rate = self.value("learning_rate", flat.pop("learning_rate"), 1e-4)
            found["optimizer"].update(learning_rate=rate, te_learning_rate=rate)
        if isinstance(flat.get("text_encoder_lr"), list) and flat["text_encoder_lr"]:
            flat["text_encoder_lr"] = flat["text_encoder_lr"][0]
        if "network_train_unet_only" in flat:
            found["network"]["train_te"] = not self.value(
                "network_train_unet_only", flat.pop("network_train_unet_only"), True
            )
        self.arguments("network_args", flat.pop("network_args", None), _NETWORK_ARGS, found)
        self.arguments("optimizer_args", flat.pop("optimizer_args", None), _OPTIMIZER_ARGS, found)
        for key, value in flat.items():
            if key in keys:
                group, f = keys[key]
                found[group][f.name] = self.value(key, value, f.default)
            elif key not in _WITHOUT_EFFECT:
                self.unknown(key, [*keys, *_WITHOUT_EFFECT, "learning_rate", "network_args", "optimizer_args"])
        groups = {g: dataclasses.replace(getattr(config, g), **values) for g, values in found.items()}
        return dataclasses.replace(config, **groups)

    def arguments(
        self,
        key: str,
        given: Any,
        known: Mapping[str, tuple[str, str, type[Any]]],
        found: dict[str, dict[str, Any]],
    ) -> None:
        """``["name=value", …]`` as kohya's network_args and optimizer_args are."""
        if given is None:
            return
        if not isinstance(given, list):
            self.problems.append(problem(key, 'This must be a list like ["name=value"].'))
            return
        for argument in given:
            name, _, value = str(argument).partition("=")
            try:
                if key == "optimizer_args" and name == "betas":
                    beta1, beta2 = (float(part) for part in value.strip("() ").split(","))
                    found["optimizer"].update(beta1=beta1, beta2=beta2)
                elif name in known:
                    group, field_name, kind = known[name]
                    found[group][field_name] = kind(value)
                else:
                    self.unknown(f"{key}.{name}", [f"{key}.{k}" for k in (*known, "betas")])
            except ValueError:
                self.problems.append(problem(key, "“{argument}” can't be read as a number.", argument=str(argument)))

    def data(self, given: Mapping[str, Any]) -> DataConfig:
        general = dict(given.get("general", {}))
        for key in given.keys() - {"general", "datasets"}:
            self.unknown(key, ["general", "datasets"])
        datasets = tuple(self.dataset({**general, **entry}) for entry in given.get("datasets", []))
        return DataConfig(datasets=datasets)

    def dataset(self, given: dict[str, Any]) -> DatasetConfig:
        subset_keys = {f.metadata["kohya"]: f for f in fields(SubsetConfig)}
        dataset_keys = {f.metadata["kohya"]: f for f in fields(DatasetConfig) if f.metadata.get("kohya")}
        own: dict[str, Any] = {}
        inherited: dict[str, Any] = {}
        for key, value in given.items():
            if key == "resolution":
                own["resolution"] = self.resolution(value)
            elif key in dataset_keys:
                own[dataset_keys[key].name] = self.value(key, value, dataset_keys[key].default)
            elif key in subset_keys:
                inherited[key] = value
            elif key not in {"subsets", "validation_split", "validation_seed"}:
                self.unknown(key, [*dataset_keys, *subset_keys])
        subsets = []
        for entry in given.get("subsets", []):
            values = {}
            for key, value in {**inherited, **entry}.items():
                if key in subset_keys:
                    values[subset_keys[key].name] = self.value(key, value, subset_keys[key].default)
                else:
                    self.unknown(key, list(subset_keys))
            subsets.append(SubsetConfig(**values))
        return DatasetConfig(subsets=tuple(subsets), **own)

    def resolution(self, value: Any) -> tuple[int, int]:
        pair = [value, value] if isinstance(value, int) else value
        if isinstance(pair, list) and len(pair) == 2 and all(type(side) is int for side in pair):
            return pair[0], pair[1]
        self.problems.append(problem("resolution", "This must be a whole number or [width, height]."))
        return 512, 512

    def value(self, key: str, value: Any, default: Any) -> Any:
        """``value`` in the type of ``default``; a value of another type becomes a problem and the default."""
        if isinstance(default, float) and type(value) in (int, float) and math.isfinite(value):
            return float(value)
        if type(value) is type(default):
            return value
        kinds: dict[type[Any], Message] = {
            bool: message("true or false"),
            int: message("a whole number"),
            float: message("a number"),
            str: message("a text"),
        }
        self.problems.append(
            problem(
                key,
                "This is {value}; it must be {kind}.",
                value=repr(value),
                kind=str(kinds.get(type(default), message("a text"))),
            )
        )
        return default

    def unknown(self, key: str, known: list[str]) -> None:
        near = difflib.get_close_matches(key, known, n=1)
        if near:
            self.problems.append(
                problem(key, "“{key}” is no option that we know; did you mean “{near}”?", key=key, near=near[0])
            )
        else:
            self.problems.append(problem(key, "“{key}” is no option that we know; remove it.", key=key))


# ------------------------------------------------------------------------------------------------- recipes

GOALS = ("character", "style", "object")
QUALITIES = {"draft": 0.4, "good": 1.0, "best": 1.8}


@dataclass(frozen=True)
class _Recipe:
    """What suits one goal on one family; ``views`` are pictures seen in all: base + per_image · N, at most cap."""

    rank: int
    learning_rate: float
    views: tuple[int, int, int]
    batch_size: int
    resolution: int
    conv_rank: int = 0


# Image-views, ranks and rates for SD 1.x and SDXL: the first, still unswept version of the project's reference
# on other trainers' defaults. "toy" is the embedded base model: measured by `install.py demo --headless`.
_RECIPES: dict[tuple[str, str], _Recipe] = {
    ("toy", "character"): _Recipe(16, 2e-3, (5120, 0, 5120), 8, 128, 8),
    ("toy", "style"): _Recipe(16, 1e-3, (3200, 0, 3200), 8, 128, 8),
    ("toy", "object"): _Recipe(16, 1e-3, (3200, 0, 3200), 8, 128),
    ("sd1", "character"): _Recipe(16, 2e-4, (2000, 20, 6000), 2, 512),
    ("sd1", "style"): _Recipe(32, 1.5e-4, (3000, 20, 10000), 4, 512, 8),
    ("sd1", "object"): _Recipe(16, 2e-4, (1500, 20, 4000), 2, 512),
    ("sd2", "character"): _Recipe(16, 2e-4, (2000, 20, 6000), 2, 768),
    ("sd2", "style"): _Recipe(32, 1.5e-4, (3000, 20, 10000), 4, 768, 8),
    ("sd2", "object"): _Recipe(16, 2e-4, (1500, 20, 4000), 2, 768),
    ("sdxl", "character"): _Recipe(16, 1e-4, (2000, 25, 6000), 2, 1024),
    ("sdxl", "style"): _Recipe(32, 1e-4, (4000, 25, 12000), 4, 1024, 16),
    ("sdxl", "object"): _Recipe(16, 1e-4, (1500, 20, 4000), 2, 1024),
}


def recipe(*, goal: str, family: str, num_images: int, quality: str = "good") -> TrainConfig:
    """The settings that suit ``goal`` on a model of ``family``, without pictures, model or name.

    Counted in image-views (steps × batch), so that the number of pictures changes the length only as said.
    Raises KeyError for a goal, family or quality that is not in the tables (the form offers no other).
    """
    values = _RECIPES[family, goal]
    base, per_image, cap = values.views
    views = min(base + per_image * num_images, cap) * QUALITIES[quality]
    toy = family == "toy"
    return TrainConfig(
        model=ModelConfig(v2=family == "sd2"),
        output=OutputConfig(precision="float" if toy else "fp16"),
        network=NetworkConfig(
            rank=values.rank,
            alpha=values.rank / 2,
            conv_rank=values.conv_rank,
            conv_alpha=max(values.conv_rank / 2, 1.0),
        ),
        optimizer=OptimizerConfig(learning_rate=values.learning_rate),
        schedule=ScheduleConfig(
            steps=max(1, math.ceil(views / values.batch_size)), scheduler="cosine_with_min_lr", floor=0.1
        ),
        loss=LossConfig(min_snr_gamma=0.0 if toy else 5.0),
        data=DataConfig(
            datasets=(
                DatasetConfig(
                    resolution=(values.resolution, values.resolution),
                    batch_size=values.batch_size,
                    min_bucket_reso=values.resolution // 2,
                    max_bucket_reso=values.resolution * 2,
                    bucket_reso_steps=32 if toy else 64,
                ),
            )
        ),
    )
