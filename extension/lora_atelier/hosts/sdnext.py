"""SD.Next: diffusers' pipelines, whose parts move between devices and may be quantised."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from .. import locales, memory
from ..errors import HostError, Message, message
from ..loader.patching import Patcher, WeightPatcher
from ..loader.session import Embeddings
from ..models import layers as diffusers_layers
from ..models import ldm, ldm_layers
from ..models.layers import Layer
from .base import Note
from .embeddings import Shelf, Tokenizers
from .webui import WebuiHost, hf_text_layers

# Its own log, whose last lines stand below its page.
_log = logging.getLogger("sd")
_FAMILIES = {"sd": "sd1", "sd2": "sd2", "sdxl": "sdxl"}


class SdNextHost(WebuiHost):
    """SD.Next of 2026."""

    id = "sdnext"
    _said_job: str | None = None

    def pipe(self) -> Any:
        """The pipeline that is loaded, or None; asking for it by its usual name would load it."""
        shared = self.module("modules.shared")
        if not getattr(shared, "sd_loaded", False):
            return None
        pipe = shared.sd_model
        return getattr(pipe, "pipe", pipe)

    def sd_model(self) -> Any:
        """The U-Net stands for the model: the pipeline around it is made anew for each kind of task."""
        return getattr(self.pipe(), "unet", None)

    def find_layers(self, model: Any) -> tuple[dict[str, Layer], dict[str, str]]:
        """diffusers' modules; the names as in our own host."""
        pipe = self.pipe()
        found = {name: Layer(module) for name, module in diffusers_layers.unet_layers(model).items()}
        layout = diffusers_layers.ldm_layout(model)
        aliases: dict[str, str] = {}
        by_module = {id(layer.module): name for name, layer in found.items()}
        for path, module in model.named_modules():
            name = by_module.get(id(module))
            if name is not None:
                others = (f"lora_unet_{each.replace('.', '_')}" for each in (path, ldm.unet_path(path, *layout)))
                aliases |= {other: name for other in others if other != name}
        encoders = [getattr(pipe, name, None) for name in ("text_encoder", "text_encoder_2")]
        present = [each for each in encoders if each is not None]
        for prefix, encoder in zip(diffusers_layers.te_prefixes(len(present)), present):  # noqa: B905 - may be none
            found |= hf_text_layers(encoder, prefix)
        return found, aliases | ldm_layers.te_aliases(found)

    def family(self) -> str:
        """SD.Next's own word for the model's family."""
        return _FAMILIES.get(str(getattr(self.module("modules.shared"), "sd_model_type", "")), "sd1")

    def patcher(self) -> Patcher:
        """Merged where the weights stay; beside the layers where they are moved about while a picture is made."""
        return _Patcher(self)

    def script_controls(self, gradio: Callable[[], Any]) -> list[Any]:
        """One that nobody sees: SD.Next calls no script that has none."""
        control = gradio().Checkbox(value=True, label="LoRA Atelier", visible=False)
        control.do_not_save_to_config = True
        return [control]

    def show_comments(self, p: Any, processed: Any) -> None:
        """SD.Next shows the comments of what was made, and leaves those of the generation where they are."""
        said = [text for text in getattr(p, "comments", None) or () if text not in processed.comments]
        processed.comments = "\n".join([*([processed.comments] if processed.comments else []), *said])

    def mounted_at(self) -> str:
        """Its ``--subpath``, or the setting of that name."""
        path = str(self.flag("subpath") or self.option("subpath", "") or "").strip("/")
        return f"/{path}" if path else ""

    def model_title(self) -> str:
        """The pipeline knows its checkpoint."""
        info = getattr(self.pipe(), "sd_checkpoint_info", None)
        return str(getattr(info, "title", None) or super().model_title())

    def builtin_networks(self) -> ModuleType | None:
        """SD.Next's loader has a package of its own."""
        return sys.modules.get("modules.lora.lora_load")

    def checkpoint_files(self) -> list[tuple[Path, str]]:
        """Files and folders of diffusers; what is only a name on the web has no path."""
        listed = self.module("modules.sd_checkpoint").checkpoints_list
        found = [(getattr(info, "path", None) or info.filename, str(info.title)) for info in list(listed.values())]
        paths = [(self.absolute(path), title) for path, title in found if path]
        return [(path, title) for path, title in paths if path.exists()]

    def shelf(self) -> Shelf:
        """The words are the pipeline's tokenizers'."""
        return Tokenizers(self.pipe())

    def use_embeddings(self, embeddings: Embeddings) -> list[Note]:
        """As everywhere, but where the tables are elsewhere while nothing is drawn."""
        if embeddings and self.offload_mode() == "sequential":
            return [message("The embeddings inside of a LoRA file are not used with the offload mode “sequential”.")]
        return super().use_embeddings(embeddings)

    def release_gpu(self) -> None:
        """Throw the model away; SD.Next reads it again when it is next asked for."""
        models = self.module("modules.sd_models")
        with self._lock:
            self._session.forget()
            self.bundled.clear()
            self._model, self._layers, self._aliases = None, {}, {}
        for kind in ("model", "refiner"):
            models.unload_model_weights(op=kind)
        memory.give_back()

    def say_waiting(self, why: Message | None) -> None:
        """SD.Next writes the job's name on its narrow button instead of Generate; the sentence is in its log."""
        super().say_waiting(why)
        state = self.module("modules.shared").state
        if why is None:
            state.job, self._said_job = self._said_job or "", None
            return
        if self._said_job is None:
            self._said_job = str(getattr(state, "job", "") or "")
            _log.info(locales.sentence(why, self.lang()))  # below its page nothing is shown that has arguments
        values = {name: why.values.get(name, "") for name in ("step", "steps")}
        short = message("LoRA training {step} / {steps}", **values)
        state.job = locales.sentence(short, self.lang())

    def _way(self) -> tuple[Any, ...]:
        return *super()._way(), self.offload_mode()

    def offload_mode(self) -> str:
        """ "none", "model", "balanced", "group" or "sequential"."""
        return str(self.option("diffusers_offload_mode", "none"))


class _Patcher(WeightPatcher):
    """Our patcher, which asks SD.Next for its offload mode before it writes."""

    def __init__(self, host: SdNextHost) -> None:
        super().__init__(host, None, merge=host.offload_mode() == "none")
        self._sdnext = host

    def apply(self, patches: Any) -> None:
        """As the base does. Raises HostError where the weights are elsewhere while nothing is drawn."""
        patches = list(patches)
        if patches and self._sdnext.offload_mode() == "sequential":
            raise HostError(
                "LoRAs were not applied.",
                why="SD.Next's offload mode “sequential” keeps no weights that could be changed.",
                todo="Choose another offload mode, or let SD.Next's own loader apply LoRAs (Settings, LoRA Atelier).",
            )
        super().apply(patches)
