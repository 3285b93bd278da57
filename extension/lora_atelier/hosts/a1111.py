"""AUTOMATIC1111's webui: ldm's modules, written by our patcher while the webui's own list of LoRAs is empty."""

from __future__ import annotations

import gc
from typing import Any

from torch import nn

from ..models import ldm_layers
from ..models.layers import Layer
from .webui import WebuiHost, hf_text_layers


class A1111Host(WebuiHost):
    """AUTOMATIC1111 1.6 to 1.10."""

    id = "a1111"

    def find_layers(self, model: Any) -> tuple[dict[str, Layer], dict[str, str]]:
        """SD 1.x has transformers' text encoder, SD 2.x OpenCLIP's, SDXL both."""
        sdxl = bool(getattr(model, "is_sdxl", False))
        layers, aliases = ldm_layers.unet_layers(model.model.diffusion_model, sdxl=sdxl)
        if sdxl:
            encoders = [each for each in model.conditioner.embedders if _text_module(each) is not None]
        else:
            encoders = [model.cond_stage_model]
        for at, each in enumerate(encoders):
            text = _text_module(each)
            if text is not None:
                layers |= _text_layers(text, f"lora_te{at + 1}" if sdxl else "lora_te")
        return layers, aliases | ldm_layers.te_aliases(layers)

    def prepare(self) -> None:
        """Let the builtin loader put its own changes back, now rather than at each layer's next call.

        It keeps copies of what it found at a layer's first call. Where it changes nothing they are dropped: they would
        be copies of our changes, and come back as the originals when the person lets the builtin load LoRAs again.
        """
        networks = self.builtin_networks()
        if networks is None:
            return
        if networks.loaded_networks:
            networks.load_networks([])
        for module in {id(layer.module): layer.module for layer in self.layers().values()}.values():
            if getattr(module, "network_current_names", ()) != ():
                networks.network_apply_weights(module)
            for kept in ("network_weights_backup", "network_bias_backup"):
                if getattr(module, kept, None) is not None:
                    setattr(module, kept, None)

    def release_gpu(self) -> None:
        """Move the model to the processor's memory."""
        model = self.sd_model()
        if model is not None and not self._released:
            self._released = True
            self.module("modules.sd_models").send_model_to_cpu(model)
            gc.collect()
            self.module("modules.devices").torch_gc()

    def return_gpu(self) -> None:
        """Move it back: ``reload_model_weights`` would not, it looks at the file's name alone."""
        model = self.sd_model()
        if self._released and model is not None:
            self.module("modules.sd_models").send_model_to_device(model)
        self._released = False


def _text_module(encoder: Any) -> nn.Module | None:
    """The text model inside of what the webui wraps around it; None for an embedder of sizes."""
    inner = getattr(encoder, "wrapped", encoder)
    for name in ("transformer", "model"):
        found = getattr(inner, name, None)
        if isinstance(found, nn.Module):
            return found
    return None


def _text_layers(text: Any, prefix: str) -> dict[str, Layer]:
    if isinstance(getattr(getattr(text, "transformer", None), "resblocks", None), nn.Module):
        return ldm_layers.open_clip_layers(text, prefix)
    return hf_text_layers(text, prefix)
