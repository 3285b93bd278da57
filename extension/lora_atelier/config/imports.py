"""Settings that other files hold, in kohya's keys: what an existing LoRA says of its own training."""

from __future__ import annotations

import ast
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import Problem, problem
from . import keys
from .optimizer import OPTIMIZERS
from .values import Values, not_of_kind, of_text


@dataclass(frozen=True)
class Imported:
    """Settings by kohya's keys, as ``read_kohya`` takes them, and what is to be said about them.

    ``base_model`` is the file name of the model that a LoRA was trained on, ``trigger`` the word that calls it;
    ``prompts`` are lines of a sample prompt file.
    """

    main: Mapping[str, Any]
    notes: tuple[Problem, ...] = ()
    problems: tuple[Problem, ...] = ()
    prompts: tuple[str, ...] = ()
    base_model: str = ""
    trigger: str = ""


# Entries of a LoRA that have another name than the option.
_METADATA_NAMES: Mapping[str, str] = {
    "ss_debiased_estimation": "debiased_estimation_loss",
    "ss_batch_size_per_device": "train_batch_size",
}
# Entries that are read in a way of their own, or that belong to the machine the LoRA was trained on.
_NOT_PLAIN = frozenset(
    ("ss_network_args", "ss_resolution", "ss_text_encoder_lr", "ss_optimizer", "ss_lowram", "ss_training_comment")
)
# What "ss_datasets" says of each dataset and its folders, under the option's name or another.
_DATASET_NAMES = ("enable_bucket", "min_bucket_reso", "max_bucket_reso", "resize_interpolation", "resolution")
_SUBSET_NAMES = (
    "color_aug", "flip_aug", "random_crop", "shuffle_caption", "keep_tokens", "keep_tokens_separator",
    "secondary_separator", "enable_wildcard", "caption_prefix", "caption_suffix", "resize_interpolation",
)  # fmt: skip
_PRECISIONS: Mapping[str, str] = {"F32": "float", "F16": "fp16", "BF16": "bf16"}
_TE_PREFIXES = ("lora_te", "text_encoder", "te1_", "te2_", "lora_prior_te")


def from_metadata(metadata: Mapping[str, str], tensors: Mapping[str, str]) -> Imported:
    """The settings that a LoRA was trained with, from its ``ss_*`` entries and its tensors: names and number formats.

    Its pictures and its base model are not among them: the file knows their names at most. A file without such
    entries is a problem.
    """
    reader = _MetadataReader()
    if "ss_network_module" not in metadata:
        reader.wrong(
            problem(
                "ss_network_module",
                "This LoRA doesn't say how it was trained: it has no entries of sd-scripts (ss_…). To go on from its "
                "weights, give it as network_weights, with dim_from_weights.",
            )
        )
        return Imported({}, problems=tuple(reader.problems))
    main = dict(reader.plain(metadata))
    main |= reader.datasets(metadata.get("ss_datasets", ""))
    main |= reader.optimizer(metadata.get("ss_optimizer", "None"))
    main |= reader.structured(metadata)
    if metadata.get("modelspec.prediction_type") == "v":
        main["v_parameterization"] = True
    main |= _of_tensors(tensors)
    vae = metadata.get("ss_vae_name", "None")
    if vae != "None":
        reader.notes.append(
            problem("vae", "This LoRA was trained with another VAE, “{name}”; name its file with --vae.", name=vae)
        )
    base_model = metadata.get("ss_sd_model_name", "None")
    return Imported(
        main,
        tuple(reader.notes),
        tuple(reader.problems),
        base_model="" if base_model == "None" else base_model,
        trigger=metadata.get("modelspec.trigger_phrase", "").strip(),
    )


class _MetadataReader(Values):
    def plain(self, metadata: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
        """Each entry that is one option's value."""
        for entry, text in metadata.items():
            key = _METADATA_NAMES.get(entry) or entry.removeprefix("ss_")
            kind = keys.kind_of(key) if entry.startswith("ss_") and entry not in _NOT_PLAIN else None
            if not kind or kind.startswith("tuple") or text == "None":
                continue
            try:
                yield key, of_text(text, kind)
            except ValueError:
                self.wrong(not_of_kind(entry, text, kind))

    def structured(self, metadata: Mapping[str, str]) -> dict[str, Any]:
        """The entries that hold several values."""
        main: dict[str, Any] = {}
        arguments = _json(metadata.get("ss_network_args", "null"))
        if isinstance(arguments, dict):
            main["network_args"] = [f"{name}={value}" for name, value in arguments.items()]
        rates = _numbers(metadata.get("ss_text_encoder_lr", ""))
        if rates:
            # Two equal ones are one: only SDXL has a second text encoder.
            main["text_encoder_lr"] = rates[:1] if len(set(rates)) == 1 else rates
        sides = [int(side) for side in _numbers(metadata.get("ss_resolution", "")) if side.is_integer()]
        if len(sides) in (1, 2):
            main["resolution"] = [sides[0], sides[-1]]
        return main

    def optimizer(self, text: str) -> dict[str, Any]:
        """``torch.optim.adamw.AdamW(weight_decay=0.1,betas=[0.9, 0.99])`` as the two options it was made from."""
        dotted, bracket, arguments = text.partition("(")
        if dotted in ("", "None"):
            return {}
        short = dotted.rpartition(".")[2]
        name = short if short in OPTIMIZERS else dotted
        if short == "SGD" and "nesterov=True" in text:
            name = "SGDNesterov"
        if not bracket:
            return {"optimizer_type": name}
        try:
            call = ast.parse(f"f({arguments}", mode="eval").body
        except SyntaxError:
            call = None
        if not isinstance(call, ast.Call) or any(each.arg is None for each in call.keywords):
            self.notes.append(
                problem("optimizer_args", "The arguments of the optimizer can't be read: {text}", text=arguments[:-1])
            )
            return {"optimizer_type": name}
        given = [f"{each.arg}={_argument(each.value)}" for each in call.keywords]
        if name == "SGDNesterov":  # it sets this one itself
            given = [each for each in given if not each.startswith("nesterov=")]
        return {"optimizer_type": name, "optimizer_args": given}

    def datasets(self, text: str) -> dict[str, Any]:
        """What "ss_datasets" says of the first dataset and its first folder; differences between them are noted."""
        listed = _json(text or "null")
        datasets = [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
        found = [_settings(each) for each in datasets]
        if not found:
            return {}
        alike = [
            _settings(dataset | {"subsets": [subset]})
            for dataset in datasets
            for subset in _subsets(dataset)
        ]  # fmt: skip
        if any(each != found[0] for each in [*found, *alike]):
            self.notes.append(
                problem(
                    "ss_datasets",
                    "The folders of pictures of this LoRA had different settings; those of the first are taken.",
                )
            )
        return found[0]


def _settings(dataset: Mapping[str, Any]) -> dict[str, Any]:
    said = {name: dataset.get(name) for name in _DATASET_NAMES}
    said["train_batch_size"] = dataset.get("batch_size_per_device")
    for subset in _subsets(dataset)[:1]:
        said |= {name: subset.get(name) for name in _SUBSET_NAMES if subset.get(name) is not None}
    return {name: value for name, value in said.items() if value is not None}


def _subsets(dataset: Mapping[str, Any]) -> list[dict[str, Any]]:
    subsets = dataset.get("subsets")
    listed = [each for each in subsets if isinstance(each, dict)] if isinstance(subsets, list) else []
    return [each for each in listed if not each.get("is_reg")]


def _of_tensors(tensors: Mapping[str, str]) -> dict[str, Any]:
    """What no entry says: the precision of the file, and whether the U-Net or the text encoders were left alone."""
    formats = Counter(_PRECISIONS[each] for each in tensors.values() if each in _PRECISIONS)
    found: dict[str, Any] = {"save_precision": formats.most_common(1)[0][0]} if formats else {}
    te = [key.startswith(_TE_PREFIXES) for key in tensors if "." in key]
    if te and all(te):
        found["network_train_text_encoder_only"] = True
    elif te and not any(te):
        found["network_train_unet_only"] = True
    return found


def _argument(value: ast.expr) -> str:
    if isinstance(value, ast.Tuple | ast.List):
        return ",".join(ast.unparse(each) for each in value.elts)
    return ast.unparse(value)


def _numbers(text: str) -> list[float]:
    """The numbers in "(512, 768)", "[1e-05, 1e-05]", "512,768" or "0.0001"; none where it is another text."""
    try:
        return [float(part) for part in text.strip("()[] ").split(",") if part.strip()]
    except ValueError:
        return []


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
