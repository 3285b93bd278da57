"""Forge: its own backend, whose model patcher merges patches or, for quantised weights, adds them on every call."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .. import memory
from ..loader.merging import Change
from ..loader.patching import Patcher
from ..models import ldm_layers
from ..models.layers import Layer
from .embeddings import Databases, Shelf
from .patcher import KIND, ModelPatches, Parts, PatchedLayer, calculator, parameter_names
from .webui import WebuiHost, hf_text_layers

_PLAIN = (torch.float32, torch.float16, torch.bfloat16)
# Text encoders of Stable Diffusion in the order of kohya's numbers.
_ENCODERS = ("clip_l", "clip_g", "clip_h")


class ForgeFamilyHost(WebuiHost):
    """What Forge, reForge and forge-classic have in common: ``forge_objects`` with patchers for each part."""

    def sd_model(self) -> Any:
        """The model, once one is loaded: before that Forge keeps a stand-in."""
        model = self.module("modules.sd_models").model_data.sd_model
        return model if getattr(model, "forge_objects", None) is not None else None

    def patcher(self) -> Patcher:
        """Changes go through the webui's own patchers."""
        return ModelPatches(self)

    def find_layers(self, model: Any) -> tuple[dict[str, Layer], dict[str, str]]:
        """The U-Net has ldm's names, all text encoders have transformers'."""
        objects = model.forge_objects
        sdxl = bool(getattr(model, "is_sdxl", False))
        found, aliases = ldm_layers.unet_layers(objects.unet.model.diffusion_model, sdxl=sdxl)
        encoders: list[Any] = [getattr(objects.clip.cond_stage_model, name, None) for name in _ENCODERS]
        present = [each for each in encoders if isinstance(getattr(each, "transformer", None), torch.nn.Module)]
        for at, encoder in enumerate(present):
            found |= hf_text_layers(encoder.transformer, f"lora_te{at + 1}" if sdxl else "lora_te")
        layers = {name: PatchedLayer(layer.module) for name, layer in found.items()}
        return dict(layers), aliases | ldm_layers.te_aliases(layers)

    def parts(self) -> Parts:
        """What the webui takes its parts from after a prompt's LoRAs were applied."""
        objects = self._model.forge_objects_after_applying_lora
        return objects.unet, objects.clip

    def set_parts(self, parts: Parts) -> None:
        """Used for this batch, and for the webui's next copies of it."""
        applied = self._model.forge_objects_after_applying_lora.shallow_copy()
        applied.unet, applied.clip = parts
        self._model.forge_objects_after_applying_lora = applied
        self._model.forge_objects = applied.shallow_copy()

    def parameter_names(self) -> Mapping[tuple[int, str], str]:
        """Names in the U-Net's model begin with ``diffusion_model.``, those of text encoders with theirs."""
        objects = self._model.forge_objects
        return parameter_names(objects.unet.model) | parameter_names(objects.clip.cond_stage_model)

    def changed_parts(self, parts: Parts, patches: Mapping[str, Sequence[Change]], name: str) -> Parts:
        """Clones with the patches that each part has a parameter for."""
        unet, clip = parts
        of_unet = {key: value for key, value in patches.items() if key.startswith("diffusion_model.")}
        of_clip = {key: value for key, value in patches.items() if key not in of_unet}
        if of_unet:
            unet = self.patched(unet, unet.clone(), of_unet, name)
        if of_clip:
            clip = self.patched(clip.patcher, clip.clone(), of_clip, name)
        return unet, clip

    def patched(self, patcher: Any, clone: Any, patches: Mapping[str, Sequence[Change]], name: str) -> Any:
        """Add the patches to ``clone``, of which ``patcher`` is the original's."""
        raise NotImplementedError


class ForgeHost(ForgeFamilyHost):
    """Forge f2.0.1."""

    id = "forge"

    def shelf(self) -> Shelf:
        """Each text encoder has a database of its own."""
        names = ("text_processing_engine", "text_processing_engine_l", "text_processing_engine_g")
        engines: list[Any] = [getattr(self._model, name, None) for name in names]
        databases = [engine.embeddings for engine in engines if getattr(engine, "embeddings", None) is not None]
        kind = self.module("backend.text_processing.textual_inversion").Embedding
        return Databases(databases, kind, self.family(), self._model)

    def patched(self, patcher: Any, clone: Any, patches: Mapping[str, Sequence[Change]], name: str) -> Any:
        """Merged into the weights, or, where these are quantised and the person asked for it, added on every call."""
        lora = self.module("backend.patcher.lora")
        lora.extra_weight_calculators.setdefault(KIND, calculator())
        values = {key: (KIND, (changes,)) for key, changes in patches.items()}
        online = bool(self.module("backend.args").dynamic_args.get("online_lora", False))
        if getattr(patcher.model, "storage_dtype", torch.float32) in _PLAIN:
            online = False
        clone.add_patches(filename=name, patches=values, strength_patch=1.0, online_mode=online)
        return clone

    def release_gpu(self) -> None:
        """Forget the model; it is read again before the next picture, by the webui itself."""
        with self._lock:
            models = self.module("modules.sd_models")
            if self.sd_model() is None:
                return
            self._session.forget()
            self.bundled.clear()
            self._model, self._layers, self._aliases = None, {}, {}
            management = self.module("backend.memory_management")
            management.unload_all_models()
            models.model_data.sd_model = None
            models.model_data.forge_hash = ""
            # Otherwise the prompt's conditioning, made with the model that is gone, would be used again.
            self.module("modules.processing").need_global_unload = True
            management.soft_empty_cache()
            gc.collect()
            memory.give_back()
