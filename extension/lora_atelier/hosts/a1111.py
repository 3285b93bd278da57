"""AUTOMATIC1111's webui: ldm's modules, written by our patcher while the webui's own list of LoRAs is empty."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterable
from typing import Any

from torch import nn

from .. import locales
from ..errors import Message, OriginalsLostError, message
from ..loader.originals import StoredWeights
from ..loader.patching import OriginalsMode, WeightPatcher
from ..models import ldm_layers
from ..models.layers import Layer
from ..prompt import NetworkCall
from .base import Note
from .checkpoint_file import CheckpointFile, places
from .webui import ORIGINALS_OPTION, WebuiHost, hf_text_layers

_log = logging.getLogger(__name__)
_MODES: dict[str, OriginalsMode] = {"auto": "auto", "copy": "copy", "reread": "reread"}


class A1111Host(WebuiHost):
    """AUTOMATIC1111 1.6 to 1.10."""

    id = "a1111"
    _patcher: WeightPatcher | None = None
    _said_copies = 0

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

    # --- weights that are read again

    def stored_weights(self) -> StoredWeights | None:
        """The checkpoint's file; None where there is none whose numbers could be read one by one."""
        return self._stored()[0]

    def _stored(self) -> tuple[CheckpointFile | None, Message | None]:
        """The file, or why there is none."""
        info = getattr(self._model, "sd_checkpoint_info", None)
        if info is None or not isinstance(self._model, nn.Module):
            return None, message("the webui does not say which file its model was read from")
        path = self.absolute(info.filename)
        if path.suffix.lower() != ".safetensors":
            return None, message("the checkpoint is no .safetensors file")
        if not path.is_file():
            return None, message("the checkpoint's file is gone")
        return CheckpointFile(path, places(self._model, self.layers())), None

    def patcher(self) -> WeightPatcher:
        """Ours, which keeps copies or reads the checkpoint again, as it is set or as memory is free."""
        stored, why = self._stored()
        mode = self._originals_mode()
        if mode == "reread" and why is not None:
            self.warn(
                message(
                    "Weights can't be read again ({reason}); copies of them are kept while LoRAs are on.",
                    reason=locales.sentence(why, self.lang()),
                )
            )
        self._said_copies = 0
        self._patcher = WeightPatcher(self, stored, mode=mode)
        return self._patcher

    def use(self, calls: Iterable[NetworkCall]) -> list[Note]:
        """As everywhere; where the checkpoint was replaced while a LoRA was on, the webui loads it again first."""
        calls = tuple(calls)
        with self._lock:
            notes = super().use(calls)
            if any(isinstance(note, OriginalsLostError) for note in notes) and self._read_model_again():
                said = message("The checkpoint's file was changed while a LoRA was on; it was loaded again.")
                return [said, *super().use(calls)]
            return [*notes, *self._about_copies()]

    def _read_model_again(self) -> bool:
        self._session.forget()
        try:
            self.module("modules.sd_models").reload_model_weights(forced_reload=True)
        except Exception:  # older webuis can't be told to; what is wrong with the file they say themselves
            _log.exception("The checkpoint could not be loaded again")
            return False
        return True

    def _about_copies(self) -> list[Note]:
        """What to say where weights were to be read again and are not what the file holds."""
        if self._originals_mode() != "reread" or self._patcher is None or self._patcher.copies == 0:
            return []
        if self._patcher.copies == self._said_copies:
            return []
        self._said_copies = self._patcher.copies
        return [
            message(
                "Of {total} changed weights {count} are not what the checkpoint's file holds (merged, converted, or "
                "changed by an extension); copies of these are kept.",
                count=self._patcher.copies,
                total=self._patcher.changed,
            )
        ]

    def _originals_mode(self) -> OriginalsMode:
        return _MODES.get(str(self.option(ORIGINALS_OPTION, "auto")), "auto")

    def _way(self) -> tuple[Any, ...]:
        return *super()._way(), self._originals_mode()

    # --- the graphics card

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
