"""Presets that kohya_ss' GUI saves (JSON): its fields are turned into sd-scripts' options as it does it itself.

Names and rules are those of kohya_ss 25 and of its older presets; fields of other models' tabs are passed over unless
the preset is for such a model.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from ..errors import problem
from . import keys
from .flags import read_flags
from .imports import Imported
from .values import Values, not_of_kind, of_text

_RENAMED: Mapping[str, str] = {
    "max_resolution": "resolution",
    "optimizer": "optimizer_type",
    "lora_network_weights": "network_weights",
}
# 0 stands for "not given".
_ZERO_IS_UNSET = frozenset(
    ("max_timestep", "min_timestep", "min_snr_gamma", "v_pred_like_loss", "vae_batch_size", "clip_skip", "seed",
     "save_every_n_epochs", "save_every_n_steps", "save_last_n_steps", "save_last_n_epochs", "sample_every_n_steps",
     "sample_every_n_epochs", "ip_noise_gamma", "lr_scheduler_num_cycles")
)  # fmt: skip
# Fields that are read in a way of their own.
_OTHERWISE = frozenset(
    ("LoRA_type", "LyCORIS_preset", "additional_parameters", "adaptive_noise_scale", "epoch", "learning_rate",
     "lr_scheduler_args", "lr_scheduler_num_cycles", "lr_warmup", "lr_warmup_steps", "max_train_epochs",
     "max_train_steps", "multires_noise_discount", "multires_noise_iterations", "noise_offset",
     "noise_offset_random_strength", "noise_offset_type", "optimizer_args", "sample_prompts", "sdxl",
     "sdxl_cache_text_encoder_outputs", "sdxl_no_half_vae", "text_encoder_lr", "unet_lr", "xformers")
)  # fmt: skip
# Fields of the adapter, by the name of its argument.
_ADAPTER: Mapping[str, str] = {
    "constrain": "constraint",
    **{
        name: name
        for name in (
            "block_alphas", "block_dims", "block_lr_zero_threshold", "bypass_mode", "conv_alpha", "conv_block_alphas",
            "conv_block_dims", "conv_dim", "decompose_both", "dora_wd", "down_lr_weight", "factor",
            "loraplus_lr_ratio", "loraplus_text_encoder_lr_ratio", "loraplus_unet_lr_ratio", "mid_lr_weight",
            "module_dropout", "rank_dropout", "rank_dropout_scale", "rescaled", "train_norm", "train_on_input", "unit",
            "up_lr_weight", "use_cp", "use_scalar", "use_tucker",
        )
    },
}  # fmt: skip
_BLOCKS = ("down_lr_weight", "mid_lr_weight", "up_lr_weight", "block_lr_zero_threshold", "block_dims", "block_alphas",
           "conv_block_dims", "conv_block_alphas", "rank_dropout", "module_dropout")  # fmt: skip
_LORAPLUS = ("loraplus_lr_ratio", "loraplus_unet_lr_ratio", "loraplus_text_encoder_lr_ratio")
_CONV = ("conv_dim", "conv_alpha")
_LYCORIS = (*_CONV, "rank_dropout", "module_dropout", "rank_dropout_scale", "train_norm")
_LOCON = (*_LYCORIS, "use_tucker", "use_scalar", "bypass_mode", "dora_wd")
# LoRA_type -> network_module, LyCORIS' algo, the fields that it takes.
_TYPES: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "Standard": ("networks.lora", "", (*_BLOCKS, *_LORAPLUS)),
    "Kohya LoCon": ("networks.lora", "", (*_CONV, *_BLOCKS, *_LORAPLUS)),
    "LoRA-FA": ("networks.lora_fa", "", (*_BLOCKS, *_LORAPLUS)),
    "Kohya DyLoRA": ("networks.dylora", "", (*_CONV, *_BLOCKS, *_LORAPLUS, "unit")),
    "LoCon": ("lycoris.kohya", "locon", _LOCON),
    "LyCORIS/LoCon": ("lycoris.kohya", "locon", _LOCON),
    "LyCORIS/LoHa": ("lycoris.kohya", "loha", _LOCON),
    "LyCORIS/LoKr": ("lycoris.kohya", "lokr", (*_LOCON, "factor", "use_cp", "decompose_both")),
    "LyCORIS/iA3": ("lycoris.kohya", "ia3", (*_CONV, "train_on_input")),
    "LyCORIS/DyLoRA": ("lycoris.kohya", "dylora", (*_LYCORIS, "use_tucker", "unit")),
    "LyCORIS/GLoRA": ("lycoris.kohya", "glora", (*_LYCORIS, "use_tucker")),
    "LyCORIS/Diag-OFT": ("lycoris.kohya", "diag-oft", (*_LYCORIS, "use_tucker", "constrain", "rescaled")),
    "LyCORIS/BOFT": ("lycoris.kohya", "boft", (*_LYCORIS, "use_tucker")),
    "LyCORIS/Native Fine-Tuning": ("lycoris.kohya", "full", _LYCORIS),
}
_OTHER_MODELS = ("flux1_checkbox", "sd3_checkbox", "hunyuan_image_checkbox", "anima_checkbox", "lumina_checkbox")
_OTHER_MODELS_TYPES = frozenset(("Flux1", "Flux1 OFT", "HunyuanImage-2.1", "Anima", "Lumina"))
# Fields of the launcher, of the page itself, and of the tabs for other models: they say nothing about a LoRA for
# Stable Diffusion.
_SILENT = frozenset(
    ("apply_t5_attn_mask", "blocks_to_swap", "clip_g", "clip_g_dropout_rate", "clip_l", "cpu_offload_checkpointing",
     "conv_alphas", "conv_dims", "discrete_flow_shift", "double_blocks_to_swap", "dynamo_backend", "dynamo_mode",
     "dynamo_use_dynamic", "dynamo_use_fullgraph", "enable_all_linear", "extra_accelerate_launch_args",
     "fp8_base_unet", "ggpo_beta", "ggpo_sigma", "gpu_ids", "guidance_scale", "img_attn_dim", "img_mlp_dim",
     "img_mod_dim", "in_dims", "logit_mean", "logit_std", "main_process_port", "mem_eff_save", "mode_scale",
     "model_list", "model_prediction_type", "model_type", "num_cpu_threads_per_process", "num_machines",
     "num_processes", "pos_emb_random_crop_rate", "save_as_bool", "save_clip", "save_t5xxl", "show_timesteps",
     "show_timesteps_resolution", "single_blocks_to_swap", "single_dim", "single_mod_dim", "split_mode", "split_qkv",
     "t5xxl", "t5xxl_device", "t5xxl_dtype", "t5xxl_lr", "t5xxl_max_token_length", "timestep_sampling",
     "train_blocks", "train_double_block_indices", "train_lora_ggpo", "train_single_block_indices", "train_t5xxl",
     "txt_attn_dim", "txt_mlp_dim", "txt_mod_dim", "weighting_scheme", "ae", "headless", "print_only")
)  # fmt: skip
_SILENT_PREFIXES = ("flux1_", "sd3_", "hunyuan_", "anima_", "lumina_")


def from_gui(preset: Mapping[str, Any]) -> Imported:
    """The settings of a preset of kohya_ss' GUI, in kohya's keys; fields that mean nothing here are noted."""
    reader = _PresetReader(preset)
    main = reader.plain()
    reader.other_models()
    for more in (reader.adapter(), reader.rates(), reader.length(), reader.noise(), reader.switches(), reader.lists()):
        main.update(more)
    main.update(reader.additional())
    lines = [line.strip() for line in str(preset.get("sample_prompts") or "").splitlines()]
    return Imported(
        main,
        tuple(reader.notes),
        tuple(reader.problems),
        prompts=tuple(line for line in lines if line and not line.startswith("#")),
    )


class _PresetReader(Values):
    def __init__(self, preset: Mapping[str, Any]) -> None:
        super().__init__()
        self.preset = preset

    def plain(self) -> dict[str, Any]:
        """The fields that are an option of sd-scripts, under the same name or another; what is none is noted."""
        main: dict[str, Any] = {}
        for name, value in self.preset.items():
            if name in _OTHERWISE or name in _ADAPTER or name in _SILENT or name.startswith(_SILENT_PREFIXES):
                continue
            key = _RENAMED.get(name, name)
            kind = keys.kind_of(key)
            if kind is None:
                if value:
                    self.notes.append(problem(name, "“{name}” of the preset has no effect here.", name=name))
            elif _given(value) and not (key in _ZERO_IS_UNSET and _number(value) == 0):
                main[key] = self._read(name, value, kind)
        return {key: value for key, value in main.items() if value is not None}

    def _read(self, name: str, value: Any, kind: str) -> Any:
        """A field in the type of its option: the GUI writes "75", 75.0 and 75 for the same."""
        if kind in ("", "str") and not isinstance(value, bool):
            return str(value)
        if kind == "":
            return value
        try:
            return of_text(str(value), kind)
        except ValueError:
            self.wrong(not_of_kind(name, value, kind))
            return None

    def _float(self, name: str) -> float:
        value = self.preset.get(name)
        if not _given(value):
            return 0.0
        read = self._read(name, value, "float")
        return 0.0 if read is None else float(read)

    def other_models(self) -> None:
        """Refuse a preset for models of other kinds, once."""
        kind = self.preset.get("LoRA_type", "Standard")
        if kind in _OTHER_MODELS_TYPES or any(self.preset.get(name) is True for name in _OTHER_MODELS):
            self.wrong(
                problem(
                    "LoRA_type",
                    "This preset is for models like SD3 and FLUX, which can't be trained here; choose one for SD 1.x, "
                    "SD 2.x or SDXL.",
                )
            )
        elif kind not in _TYPES:
            self.wrong(
                problem(
                    "LoRA_type",
                    "The preset's kind of adapter, “{kind}”, can't be trained here; Standard and LyCORIS/LoHa are some "
                    "that can.",
                    kind=str(kind),
                )
            )

    def adapter(self) -> dict[str, Any]:
        module, algo, fields = _TYPES.get(str(self.preset.get("LoRA_type", "Standard")), ("networks.lora", "", ()))
        arguments: dict[str, Any] = {}
        if algo:
            arguments |= {"algo": algo, "preset": self.preset.get("LyCORIS_preset") or "full"}
        for name in fields:
            value = self.preset.get(name)
            # The GUI's own "nothing": an empty text, False, 0, and -1 for a factor.
            if _given(value) and value is not False and _number(value) != (-1 if name == "factor" else 0):
                arguments["block_size" if algo == "dylora" and name == "unit" else _ADAPTER[name]] = value
        said = [f"{name}={value}".replace(" ", "") for name, value in arguments.items()]
        return {"network_module": module, "network_args": said}

    def rates(self) -> dict[str, Any]:
        """The learning rates; 0 leaves that part of the model alone."""
        whole, unet, te = (self._float(name) for name in ("learning_rate", "unet_lr", "text_encoder_lr"))
        main: dict[str, Any] = {}
        if whole:
            main["learning_rate"] = whole
        if unet:
            main["unet_lr"] = unet
        if te:
            main["text_encoder_lr"] = [te]
        if unet and not te:
            main["network_train_unet_only"] = True
        elif te and not unet:
            main["network_train_text_encoder_only"] = True
        return main

    def length(self) -> dict[str, Any]:
        """Steps or epochs, and the warm-up, which the GUI counts in percent."""
        main: dict[str, Any] = {}
        steps, epochs, epoch = (self._float(name) for name in ("max_train_steps", "max_train_epochs", "epoch"))
        if steps:
            main["max_train_steps"] = int(steps)
        if epochs or not (steps or self.preset.get("dataset_config")):
            main["max_train_epochs"] = int(epochs or epoch or 1)
        warmup, percent = self._float("lr_warmup_steps"), self._float("lr_warmup")
        if warmup or percent:
            main["lr_warmup_steps"] = warmup or percent / 100
        cycles = self._float("lr_scheduler_num_cycles") or epoch
        if cycles and self.preset.get("lr_scheduler") == "cosine_with_restarts":
            main["lr_scheduler_num_cycles"] = int(cycles)
        return main

    def noise(self) -> dict[str, Any]:
        """The two kinds of noise offset, of which newer presets name one; a field of the other one means nothing."""
        kind = self.preset.get("noise_offset_type")
        main: dict[str, Any] = {}
        offset, adaptive = self._float("noise_offset"), self._float("adaptive_noise_scale")
        iterations, discount = self._float("multires_noise_iterations"), self._float("multires_noise_discount")
        if kind != "Multires" and offset:
            main["noise_offset"] = offset
            if adaptive:
                main["adaptive_noise_scale"] = adaptive
            if self.preset.get("noise_offset_random_strength") is True:
                main["noise_offset_random_strength"] = True
        if kind != "Original" and iterations:
            main |= {"multires_noise_iterations": int(iterations), "multires_noise_discount": discount}
        return main

    def switches(self) -> dict[str, Any]:
        attention = self.preset.get("xformers")
        main = {"xformers": True} if attention in (True, "xformers") else {}
        if attention == "sdpa":
            main["sdpa"] = True
        if self.preset.get("sdxl") is True:
            for name, key in (
                ("sdxl_no_half_vae", "no_half_vae"),
                ("sdxl_cache_text_encoder_outputs", "cache_text_encoder_outputs"),
            ):
                if self.preset.get(name) is True:
                    main[key] = True
        return main

    def lists(self) -> dict[str, Any]:
        """Arguments that the GUI keeps in one line: ``"weight_decay=0.1" "betas=0.9,0.99"``."""
        found = {
            name: str(self.preset.get(name) or "").replace('"', "").split()
            for name in ("optimizer_args", "lr_scheduler_args")
        }
        return {name: words for name, words in found.items() if words}

    def additional(self) -> dict[str, Any]:
        """Options that were typed into the GUI's line for more of them."""
        try:
            words = shlex.split(str(self.preset.get("additional_parameters") or ""))
        except ValueError:
            self.wrong(
                problem("additional_parameters", "A quotation mark in additional_parameters has no second one; add it.")
            )
            return {}
        flags = read_flags(words)
        self.problems += flags.problems
        return dict(flags.main)


def _given(value: Any) -> bool:
    return value is not None and value != ""


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
