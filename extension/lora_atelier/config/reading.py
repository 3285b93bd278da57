"""Reads kohya's keys into a configuration, and collects what is wrong with them and what they can't do here."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ..errors import Message, Problem, problem
from . import keys
from .data import DataConfig, DatasetConfig, SubsetConfig
from .network import ALGORITHMS, MORE_NETWORK_ARGS
from .optimizer import BETAS, OPTIMIZERS, OptimizerConfig
from .setting import absent
from .train import TrainConfig
from .values import TRUE, Values


class Reader(Values):
    """Reads kohya's keys and collects what is wrong with them."""

    def read(self, main: Mapping[str, Any], dataset: Mapping[str, Any]) -> TrainConfig:
        """The configuration of both files; what can't be read has its default, and a problem."""
        flat = {key: value for key, value in flatten(main).items() if value is not None}
        fallback = self._fallback(flat)
        pictures, held_out = self._data(dataset, flat, fallback)
        groups = self._main(flat)
        groups["validation"].update(held_out)
        config = TrainConfig(data=pictures)
        made = {g: dataclasses.replace(getattr(config, g), **values) for g, values in groups.items()}
        return dataclasses.replace(config, **made)

    # ------------------------------------------------------------------------------------------ config.toml

    def _main(self, flat: dict[str, Any]) -> dict[str, dict[str, Any]]:
        plain = keys.plain_keys()
        found: dict[str, dict[str, Any]] = {group: {} for group in keys.GROUPS}
        for group, f in plain.values():
            found[group][f.name] = absent(f)
        self._optimizer(flat, found["optimizer"])
        self._network(flat, found["network"])
        _untrained_parts(found["optimizer"], found["network"], flat)
        if flat.pop("save_model_as", "safetensors") != "safetensors":
            self.wrong(problem("save_model_as", "LoRAs are written as .safetensors only; remove it."))
        flat.pop("sample_prompts", None)
        for key, value in flat.items():
            if key in plain:
                group, f = plain[key]
                found[group][f.name] = self.value(key, value, f)
            else:
                self._without_setting(key, value)
        return found

    def _without_setting(self, key: str, value: Any) -> None:
        if key in keys.WITHOUT_EFFECT:
            if value and key not in keys.UNSAID:
                self.notes.append(Problem(key, Message(keys.WITHOUT_EFFECT[key].template, {"key": key})))
        elif key in keys.OTHER_MODELS:
            if value != keys.OTHER_MODELS[key]:
                self.wrong(
                    problem(
                        key, "“{key}” is for models like SD3 and FLUX, which can't be trained here; remove it.", key=key
                    )
                )
        elif key in keys.RESUMING:
            if value:
                self.wrong(
                    problem(
                        key,
                        "“{key}” goes on from a state of sd-scripts, which we can't read; remove it. Our own runs "
                        "go on with “lora-atelier resume”.",
                        key=key,
                    )
                )
        elif key == "dataset_class":
            if value:
                self.wrong(
                    problem(
                        key, "“{key}” names a program for reading pictures, which is not run here; remove it.", key=key
                    )
                )
        else:
            keys.unknown_option(self, key)

    def _optimizer(self, flat: dict[str, Any], found: dict[str, Any]) -> None:
        own = {f.name: f for f in fields(keys.group_class("optimizer"))}
        if "learning_rate" in flat:
            # kohya's learning_rate is what unet_lr and text_encoder_lr fall back to.
            rate = self.value("learning_rate", flat.pop("learning_rate"), own["learning_rate"])
            found.update(learning_rate=rate, te_learning_rate=rate)
        elif "unet_lr" not in flat:
            self.notes.append(
                problem(
                    "learning_rate",
                    "There is no learning rate; {value} is taken (sd-scripts would take 0.000002, which learns "
                    "nothing).",
                    value=OptimizerConfig.learning_rate,
                )
            )
        given = flat.pop("text_encoder_lr", None)
        rates = given if isinstance(given, list) else [] if given is None else [given]
        for te_rate, rate in zip(("te_learning_rate", "te2_learning_rate"), rates, strict=False):
            found[te_rate] = self.value("text_encoder_lr", rate, own[te_rate])
        for flag, instead in (("use_8bit_adam", "AdamW8bit"), ("use_lion_optimizer", "Lion")):
            if flat.pop(flag, False):
                flat.setdefault("optimizer_type", instead)
        name = flat.get("optimizer_type")
        if isinstance(name, str):
            # sd-scripts does not mind capitals.
            named = {each.lower(): each for each in OPTIMIZERS}
            flat["optimizer_type"] = named.get(name.lower(), name) or own["optimizer"].default
        self._optimizer_args(flat, found)

    def _optimizer_args(self, flat: dict[str, Any], found: dict[str, Any]) -> None:
        optimizer = flat.get("optimizer_type", "AdamW")
        takes = BETAS.get(optimizer) if isinstance(optimizer, str) else None
        if takes:
            found.update(beta1=takes[0], beta2=takes[1], weight_decay=takes[2])
        kept = []
        for name, value in self.arguments("optimizer_args", flat.pop("optimizer_args", None)):
            try:
                if takes and name == "betas":
                    found["beta1"], found["beta2"] = (float(part) for part in value.strip("()[] ").split(","))
                elif takes and name == "weight_decay":
                    found["weight_decay"] = float(value)
                else:
                    kept.append(f"{name}={value}")
            except ValueError:
                self.unreadable("optimizer_args", f"{name}={value}")
        found["optimizer_args"] = tuple(kept)

    def _network(self, flat: dict[str, Any], found: dict[str, Any]) -> None:
        own = {f.name: f for f in fields(keys.group_class("network"))}
        if "network_train_unet_only" in flat:
            found["train_te"] = not self.value(
                "network_train_unet_only", flat.pop("network_train_unet_only"), own["train_te"]
            )
        else:
            found["train_te"] = absent(own["train_te"])
        module = flat.pop("network_module", "networks.lora")
        arguments = dict(self.arguments("network_args", flat.pop("network_args", None)))
        if module not in MORE_NETWORK_ARGS:
            self._unknown_module(module)
            return
        if module == "lycoris.kohya":
            self._lycoris(flat, found, arguments)
        known = keys.network_fields()
        kept = []
        for name, value in arguments.items():
            f = known.get(name) or own.get(keys.OLD_NETWORK_ARGS.get(name, ""))
            if f is not None:
                found[f.name] = self.parsed(f"network_args.{name}", value, f)
            elif name in MORE_NETWORK_ARGS[module]:
                kept.append(f"{name}={value}")
            else:
                near = [*known, *keys.OLD_NETWORK_ARGS, *MORE_NETWORK_ARGS[module], "algo"]
                self.unknown(f"network_args.{name}", [f"network_args.{k}" for k in near])
        found["network_args"] = tuple(kept)
        found.setdefault("algorithm", algorithm_by_module(module))

    def _lycoris(self, flat: Mapping[str, Any], found: dict[str, Any], arguments: dict[str, str]) -> None:
        """Take what LyCORIS says otherwise out of ``arguments``: convolutions too unless a preset says no."""
        algo = arguments.pop("algo", "lora").lower()
        algorithm = keys.algorithm_of("lycoris.kohya", algo, decomposed=arguments.get("dora_wd", "").lower() in TRUE)
        if algorithm is None:
            known = sorted(name for module, name in ALGORITHMS.values() if module == "lycoris.kohya")
            self.unknown("network_args.algo", [f"network_args.{name}" for name in known])
            return
        found["algorithm"] = algorithm
        if algorithm in ("lora", "dora"):
            arguments.pop("dora_wd", None)
        preset = arguments.get("preset", "full")
        if preset in ("full", "attn-mlp"):
            arguments.pop("preset", None)
        if preset in ("full", "unet-only", "unet-convblock-only"):
            arguments.setdefault("conv_dim", str(flat.get("network_dim", 4)))
            arguments.setdefault("conv_alpha", str(flat.get("network_alpha", 1.0)))

    def _unknown_module(self, module: Any) -> None:
        if module in keys.OTHER_MODULES:
            self.wrong(
                problem(
                    "network_module",
                    "“{key}” is for models like SD3 and FLUX, which can't be trained here; remove it.",
                    key=module,
                )
            )
            return
        near = difflib.get_close_matches(str(module), MORE_NETWORK_ARGS, n=1)
        if near:
            self.wrong(
                problem(
                    "network_module",
                    "There is no kind of adapter “{module}”; did you mean “{near}”?",
                    module=str(module),
                    near=near[0],
                )
            )
        else:
            self.wrong(
                problem(
                    "network_module",
                    "The kind of adapter “{module}” can't be trained here; networks.lora is usual.",
                    module=str(module),
                )
            )

    # ---------------------------------------------------------------------------------------------- pictures

    def _fallback(self, flat: dict[str, Any]) -> dict[str, Any]:
        """What config.toml says of the pictures, taken out of it: a dataset file falls back to that."""
        given = {key: flat.pop(key) for key in (*keys.subset_keys(), *keys.dataset_keys()) if key in flat}
        if "train_batch_size" in flat:
            given["batch_size"] = flat.pop("train_batch_size")
        if "caption_extention" in flat:  # sd-scripts' own old spelling
            given["caption_extension"] = flat.pop("caption_extention")
        for key in ("resolution", "face_crop_aug_range"):
            if isinstance(given.get(key), str):
                given[key] = self.numbers(key, given[key], int if key == "resolution" else float)
        return given

    def _data(
        self, given: Mapping[str, Any], flat: dict[str, Any], fallback: Mapping[str, Any]
    ) -> tuple[DataConfig, dict[str, Any]]:
        """All datasets, and what they say of held-out pictures, which is one for all here."""
        folders: dict[str, Any] = {
            key: flat.pop(key)
            for key in ("train_data_dir", "reg_data_dir", "in_json", "dataset_repeats")
            if key in flat
        }
        for key in given.keys() - {"general", "datasets"}:
            self.unknown(key, ["general", "datasets"])
        general = {**fallback, **next(iter(self._tables("general", [given.get("general", {})])), {})}
        entries = self._tables("datasets", given.get("datasets", []))
        if entries and folders:
            self.notes.append(
                problem(
                    next(iter(folders)),
                    "“{key}” has no effect: a dataset file says where the pictures are.",
                    key=next(iter(folders)),
                )
            )
        elif folders:
            entries = [{"subsets": _subsets_of_folders(folders)}]
            if folders.get("dataset_repeats", 1) != 1 and "in_json" not in folders:
                self.notes.append(
                    problem(
                        "dataset_repeats",
                        "dataset_repeats has no effect without in_json; a folder's repeats stand in its name.",
                    )
                )
        elif fallback.get("image_dir") or fallback.get("metadata_file"):
            entries = [{"subsets": [{}]}]
        held_out: dict[str, Any] = {}
        if not entries:
            self._dataset(general | {"subsets": [{}]}, held_out)  # only for what is wrong with it
        datasets = tuple(self._dataset({**general, **entry}, held_out) for entry in entries)
        return DataConfig(datasets=datasets), held_out

    def _tables(self, key: str, given: Any) -> list[Mapping[str, Any]]:
        if isinstance(given, list) and all(isinstance(each, Mapping) for each in given):
            return given
        self.wrong(problem(key, "This must be written as tables: [general], [[datasets]] and [[datasets.subsets]]."))
        return []

    def _dataset(self, given: dict[str, Any], held_out: dict[str, Any]) -> DatasetConfig:
        subset_keys, dataset_keys = keys.subset_keys(), keys.dataset_keys()
        own = {f.name: absent(f) for f in dataset_keys.values()}
        inherited: dict[str, Any] = {}
        for key, value in given.items():
            if key in dataset_keys:
                own[dataset_keys[key].name] = self.value(key, value, dataset_keys[key])
            elif key in subset_keys or key == "custom_attributes":
                inherited[key] = value
            elif key in ("validation_split", "validation_seed"):
                self._held_out(key, value, held_out)
            elif key != "subsets":
                self.unknown(key, [*dataset_keys, *subset_keys])
        subsets = tuple(
            self._subset({**inherited, **entry}) for entry in self._tables("subsets", given.get("subsets", []))
        )
        return DatasetConfig(subsets=subsets, **own)

    def _subset(self, given: Mapping[str, Any]) -> SubsetConfig:
        known = keys.subset_keys()
        values = {f.name: absent(f) for f in known.values()}
        if "metadata_file" in given:
            values["caption_extension"] = known["caption_extension"].default
        for key, value in given.items():
            if key in known:
                values[known[key].name] = self.value(key, value, known[key])
            elif key == "custom_attributes":
                values["diff_output_preservation"] = self._attributes(value)
            else:
                self.unknown(key, list(known))
        return SubsetConfig(**values)

    def _attributes(self, given: Any) -> bool:
        if not isinstance(given, Mapping):
            self.wrong(problem("custom_attributes", "This must be a table of true and false values."))
            return False
        for name in given.keys() - {"diff_output_preservation"}:
            self.unknown(f"custom_attributes.{name}", ["custom_attributes.diff_output_preservation"])
        return bool(given.get("diff_output_preservation", False))

    def _held_out(self, key: str, value: Any, held_out: dict[str, Any]) -> None:
        name = key.removeprefix("validation_")
        f = next(f for f in fields(keys.group_class("validation")) if f.name == name)
        read = self.value(key, value, f)
        if held_out.setdefault(name, read) != read:
            self.wrong(problem(key, "The datasets hold out different shares; one for all can be used here."))


def _untrained_parts(optimizer: dict[str, Any], network: dict[str, Any], flat: dict[str, Any]) -> None:
    """A learning rate of 0 is how kohya's files leave a part of the model alone."""
    if optimizer.get("te_learning_rate") == 0:
        network["train_te"] = False
        optimizer["te_learning_rate"] = OptimizerConfig.te_learning_rate
    if flat.get("unet_lr") == 0:
        network["network_train_text_encoder_only"] = True
        flat["unet_lr"] = optimizer.get("te_learning_rate", OptimizerConfig.te_learning_rate)


def flatten(main: Mapping[str, Any]) -> dict[str, Any]:
    """config.toml without its sections: sd-scripts drops one level of them, whatever they are called."""
    flat: dict[str, Any] = {}
    for key, value in main.items():
        flat.update(value if isinstance(value, Mapping) else {key: value})
    return flat


def _subsets_of_folders(folders: Mapping[str, Any]) -> list[dict[str, Any]]:
    """kohya's folders of numbered folders as subsets; ``datasets.items`` looks into them."""
    subset: dict[str, Any] = {"image_dir": folders.get("train_data_dir", "")}
    if "in_json" in folders:
        subset |= {"metadata_file": folders["in_json"], "num_repeats": folders.get("dataset_repeats", 1)}
    subsets = [subset]
    if folders.get("reg_data_dir"):
        subsets.append({"image_dir": folders["reg_data_dir"], "is_reg": True})
    return subsets


def algorithm_by_module(module: str) -> str:
    """Our name of a module of sd-scripts itself."""
    return next(name for name, (each, _) in ALGORITHMS.items() if each == module)
