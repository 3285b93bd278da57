"""What AUTOMATIC1111's webui and its descendants have in common, as one Host; each of them has its own subclass.

Everything that a webui may have changed is asked for where it is needed and may fail there: the person then reads a
sentence, and the rest goes on. Nothing here loads a model.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from PIL import Image

from .. import locales
from ..errors import AdapterError, ExtensionError, HostError, Message, ModelError, OriginalsLostError, message
from ..loader.catalogue import Catalogue
from ..loader.originals import StoredWeights
from ..loader.patching import Patcher, WeightPatcher
from ..loader.session import Applied, Embeddings, LoaderSession, LoaderSettings
from ..models import detect
from ..models.detect import ModelInfo
from ..models.layers import Layer, te_layers
from ..prompt import NetworkCall
from .base import Checkpoint, Drawing, Note
from .drawing import Drawer
from .embeddings import Bundled, Databases, Shelf
from .lease import MODES, WAIT, Lease
from .pictures import Pictures

# The settings' names in the webui's own configuration.
LOADER_OPTION = "atelier_loader"
PARTLY_OPTION = "atelier_apply_partly"
GPU_OPTION = "atelier_gpu"
ORIGINALS_OPTION = "atelier_originals"
LOADER_OURS, LOADER_HOSTS = "LoRA Atelier", "webui"
# Extensions that drive the webui's own loader from outside, by a part of their folder's name.
_DRIVES_BUILTIN = ("lora-block-weight", "loractl")
# What webuis write for "no LoRA".
_NONE = (None, "", "None")
_log = logging.getLogger(__name__)


class WebuiHost:
    """A running webui. ``use`` is called by whoever draws the picture; the others by anybody."""

    id = "webui"

    def __init__(self, data_dir: Path, lora_dirs: Sequence[Path]) -> None:
        self.data_dir = data_dir
        self._lora_dirs = list(lora_dirs)
        self.catalogue = Catalogue(self._lora_dirs, data_dir / "catalogue.sqlite")
        self._checkpoints: dict[Path, tuple[tuple[int, int], Checkpoint]] = {}
        self._lock = threading.RLock()
        self._model: Any = None
        self._layers: dict[str, Layer] = {}
        self._aliases: dict[str, str] = {}
        self._went: tuple[Any, ...] = ()
        self._session = self._new_session()
        self._calls: tuple[NetworkCall, ...] = ()
        self._warnings: list[Note] = []
        self.drawer = Drawer(self)
        self.bundled = Bundled()
        self._released = False
        self.lease = Lease(
            release=self.release_gpu,
            take_back=self.return_gpu,
            lock=lambda: self.module("modules.call_queue").queue_lock,
            mode=self._gpu_mode,
        )
        self.pictures = Pictures(self)

    # --- what differs between webuis

    def sd_model(self) -> Any:
        """The webui's model object if one is loaded, else None; never loads it."""
        data = self.module("modules.sd_models").model_data
        return data.sd_model

    def find_layers(self, model: Any) -> tuple[dict[str, Layer], dict[str, str]]:
        """Where a model's weights are, by kohya layer name, and other names in use."""
        raise NotImplementedError

    def patcher(self) -> Patcher:
        """What changes the weights of a model that was not known yet: ours writes them."""
        return WeightPatcher(self)

    def shelf(self) -> Shelf:
        """Where the webui looks up words that stand for trained vectors."""
        database = self.module("modules.sd_hijack").model_hijack.embedding_db
        kind = self.module("modules.textual_inversion.textual_inversion").Embedding
        return Databases([database], kind, self.family(), self._model)

    def release_gpu(self) -> None:
        """Give the graphics card's memory to a training; the webui's lock is held, so nothing is drawn."""

    def return_gpu(self) -> None:
        """Take back what ``release_gpu`` gave away, the lock held as there; harmless otherwise."""

    def say_waiting(self, why: Message | None) -> None:
        """Show for what a picture waits where the webui shows how far it is; None: it waits no longer."""
        self.module("modules.shared").state.textinfo = None if why is None else locales.sentence(why, self.lang())

    def prepare(self) -> None:
        """Called before our loader writes: the webui's own must have taken its changes back."""

    def script_controls(self, gradio: Callable[[], Any]) -> list[Any]:
        """The controls that our script must have to be asked at all: none."""
        return []

    def show_comments(self, p: Any, processed: Any) -> None:
        """Let the page show what was said of a generation; most webuis do that by themselves."""

    def mounted_at(self) -> str:
        """The path, such as "/sub", below which it serves its page a second time; most leave that to a proxy."""
        return ""

    def builtin_networks(self) -> ModuleType | None:
        """The module of the webui's own loader, known by its place; None where it is switched off."""
        networks = sys.modules.get("networks")
        where = getattr(networks, "__file__", None) or ""
        return networks if "extensions-builtin" in where else None

    # --- the Host protocol

    def layers(self) -> Mapping[str, Layer]:
        """Where the live model's weights are. Raises HostError if none is loaded."""
        if self._model is None:
            model = self.sd_model()
            if model is None:
                raise HostError("No model is loaded.", todo="Choose a checkpoint in the webui, then try again.")
            self._layers, self._aliases = self.find_layers(model)
            self._model = model
        return self._layers

    def aliases(self) -> Mapping[str, str]:
        """Other layer names in use."""
        self.layers()
        return self._aliases

    def family(self) -> str:
        """The live model's family."""
        model = self._model
        if getattr(model, "is_sdxl", False):
            return "sdxl"
        return "sd2" if getattr(model, "is_sd2", False) else "sd1"

    def stored_weights(self) -> StoredWeights | None:
        """Not known here: a webui may have changed what it read (other VAE, precision, merged parts)."""
        return None

    def use_embeddings(self, embeddings: Embeddings) -> list[Note]:
        """Let the prompt use the embeddings of its LoRA files; where that fails it is said, and the LoRAs are on."""
        if not embeddings:
            self.bundled.clear()
            return []
        try:
            return self.bundled.use(embeddings, self.shelf())
        except Exception as error:
            _log.exception("The embeddings of a LoRA file could not be used")
            self.bundled.clear()
            reason = str(error).rstrip(".") or type(error).__name__
            return [message("The embeddings inside of a LoRA file could not be used: {reason}.", reason=reason)]

    def current(self) -> ModelInfo:
        """The checkpoint that is chosen in the webui. Raises ModelError where that is none we can use."""
        chosen = self._chosen_path()
        checkpoints = self.checkpoints()
        for checkpoint in checkpoints:
            if checkpoint.info is not None and checkpoint.path == chosen:
                return checkpoint.info
        for checkpoint in checkpoints:
            if checkpoint.info is not None:
                return checkpoint.info
        raise ModelError(
            "There is no checkpoint that can be trained.",
            todo="Put a .safetensors checkpoint of SD 1.x, 2.x or XL there.",
        )

    def checkpoints(self) -> Sequence[Checkpoint]:
        """The webui's checkpoints; each file's header is read once per version of it."""
        with self._lock:
            found = [self._checkpoint(path, title) for path, title in self.checkpoint_files()]
            self._checkpoints = {each.path: self._checkpoints[each.path] for each in found}
            return found

    def checkpoint_files(self) -> list[tuple[Path, str]]:
        """Path and title of each checkpoint that the webui lists."""
        listed: Mapping[str, Any] = self.module("modules.sd_models").checkpoints_list
        return [(self.absolute(info.filename), str(info.title)) for info in list(listed.values())]

    def lora_dirs(self) -> Sequence[Path]:
        """The webui's LoRA folders."""
        return self._lora_dirs

    def refresh_adapters(self) -> None:
        """Let the webui's own list, its cards and its loader see new files."""
        networks = self.builtin_networks()
        if networks is not None:
            networks.list_available_networks()

    def picture(self, asked: Drawing) -> Image.Image:
        """Draw with the webui's sampler, as its own API does."""
        return self.drawer.draw(asked)

    def warn(self, note: Note) -> None:
        """Say something beside the next picture."""
        self._warnings.append(note)

    # --- settings and the person's language

    def option(self, name: str, default: Any) -> Any:
        """A setting of the webui, or ``default`` where it does not know it."""
        return getattr(self.module("modules.shared").opts, name, default)

    def flag(self, name: str, default: Any = None) -> Any:
        """A command-line option of the webui."""
        return getattr(self.module("modules.shared").cmd_opts, name, default)

    def lang(self) -> str:
        """The language that comments are written in: the webui's localization, if it is one of ours."""
        return locales.choose("", "ja" if str(self.option("localization", "")).lower().startswith("ja") else "en")

    def is_remote(self) -> bool:
        """Whether the webui can be reached from other machines, as far as its options tell."""
        names = ("webui_is_non_local", "share", "listen", "server_name", "ngrok")
        return any(bool(self.flag(name)) for name in names)

    def hides_paths(self) -> bool:
        """Whether whoever started the webui forbids naming folders in its page."""
        return bool(self.flag("hide_ui_dir_config")) or bool(self.flag("disable_extension_access"))

    # --- prompts

    def wait_for_gpu(self) -> None:
        """Called before a picture is drawn, by who holds the webui's lock: a training may have the graphics card."""
        state = self.module("modules.shared").state
        said: list[Message] = []

        def say(why: Message) -> None:
            said[:] = [why]
            self.say_waiting(why)

        try:
            # One that is interrupted while it waits ends by itself before anything is drawn.
            self.lease.wait(say, is_cancelled=lambda: bool(getattr(state, "interrupted", False)))
        finally:
            if said:
                self.say_waiting(None)

    def _gpu_mode(self) -> str:
        mode = str(self.option(GPU_OPTION, WAIT))
        return mode if mode in MODES else WAIT

    def device_index(self) -> int:
        """The number of the graphics card that the webui draws with."""
        with contextlib.suppress(TypeError, ValueError):
            return int(self.flag("device_id") or 0)
        return 0

    def takes_prompts(self) -> bool:
        """Whether our loader applies the LoRAs of prompts: unless the person or an extension needs the webui's own."""
        if not self._has_builtin():
            return True
        if self.option(LOADER_OPTION, LOADER_OURS) != LOADER_OURS or self.option("sd_lora", None) not in _NONE:
            return False
        return not self._builtin_is_driven()

    def give_back(self) -> None:
        """Take the changes of the last prompt back."""
        with self._lock:
            if self._session.applied:
                self.use([])

    def fingerprint(self, name: str) -> str:
        """Changes with the version of the file that a prompt calls ``name``."""
        with contextlib.suppress(AdapterError, OSError):
            identity = self.catalogue.find(name).identity
            return f"{identity.modified_ns:x}{identity.size_bytes:x}"
        return ""

    def use(self, calls: Iterable[NetworkCall]) -> list[Note]:
        """Put exactly these LoRAs on the webui's model; return what was left out or went otherwise, as sentences."""
        with self._lock:
            self._calls = tuple(calls)
            notes, self._warnings = self._warnings, []
            self._leave_other_model()
            if self.sd_model() is None:
                return notes
            if self._way() != self._went:
                with contextlib.suppress(ExtensionError):
                    self._session.restore()
                self._session = self._new_session()
            if self._calls:
                self.prepare()
            try:
                return [*notes, *self._session.use(self._calls)]
            except OriginalsLostError as error:
                return [*notes, error]

    @property
    def applied(self) -> list[tuple[str, str]]:
        """Name and content hash of the LoRAs that are on the model."""
        return [(each.name, each.content_hash) for each in self._session.applied]

    @property
    def on(self) -> Sequence[Applied]:
        """The LoRAs that are on the model, with their weights."""
        return self._session.applied

    def model_title(self) -> str:
        """What the webui calls the checkpoint that it draws with."""
        info = getattr(self._model, "sd_checkpoint_info", None)
        title = getattr(info, "name_for_extra", None) or getattr(info, "title", None)
        return str(title or self.option("sd_model_checkpoint", "") or "Stable Diffusion")

    def model_changed(self) -> None:
        """The webui loaded a model or other weights. A refiner is swapped in while a picture is made, without asking
        for the prompt's LoRAs again."""
        with self._lock:
            self._leave_other_model()
            if self._calls and self._is_drawing():
                for note in self.use(self._calls):
                    self.warn(note)

    def _leave_other_model(self) -> None:
        """Clean the model that was changed last if the webui has another one now: it may come back later."""
        if self._model is None or self._model is self.sd_model():
            return
        if not _is_gone(self._layers):
            with contextlib.suppress(ExtensionError):
                # Its layers are still those of ``layers``, which must not look at the new model for this.
                self._session.restore()
        self._session.forget()
        self.bundled.clear()
        self._model, self._layers, self._aliases = None, {}, {}

    def unload(self) -> None:
        """Take our changes back: the extension is being unloaded."""
        with self._lock, contextlib.suppress(ExtensionError):
            self._calls = ()
            if self._model is not None and self._model is self.sd_model():
                self._session.restore()

    # --- helpers

    def module(self, name: str) -> Any:
        """A module of the webui's."""
        return import_module(name)

    def absolute(self, path: str | Path) -> Path:
        """A path of the webui's, which may be relative to its folder."""
        return Path(self.module("modules.paths").script_path, path).absolute()

    def _way(self) -> tuple[Any, ...]:
        """The settings that say how LoRAs are applied: with other ones it is begun anew."""
        return (bool(self.option(PARTLY_OPTION, False)),)

    def _new_session(self) -> LoaderSession:
        self._went = self._way()
        settings = LoaderSettings(originals="auto", partly=self._went[0])
        return LoaderSession(self, self.catalogue, settings, self.patcher)

    def _has_builtin(self) -> bool:
        return "lora" in self.module("modules.extra_networks").extra_network_registry

    def _builtin_is_driven(self) -> bool:
        installed = getattr(self.module("modules.extensions"), "extensions", [])
        names = [str(each.name).lower() for each in installed if getattr(each, "enabled", True)]
        return any(part in name for part in _DRIVES_BUILTIN for name in names)

    def _is_drawing(self) -> bool:
        return bool(getattr(self.module("modules.shared").state, "job", ""))

    def _chosen_path(self) -> Path | None:
        with contextlib.suppress(Exception):
            model = self.sd_model()
            info = getattr(model, "sd_checkpoint_info", None)
            if info is None:
                models = self.module("modules.sd_models")
                find = getattr(models, "get_closet_checkpoint_match", None) or models.get_closest_checkpoint_match
                info = find(str(self.option("sd_model_checkpoint", "")))
            return self.absolute(info.filename) if info is not None else None
        return None

    def _checkpoint(self, path: Path, title: str) -> Checkpoint:
        try:
            stat = path.stat()
            version = stat.st_size, stat.st_mtime_ns
        except OSError:
            version = 0, 0
        known = self._checkpoints.get(path)
        if known is None or known[0] != version:
            try:
                checkpoint = Checkpoint(path, title, detect.inspect(path))
            except ModelError as error:
                checkpoint = Checkpoint(path, title, problem=error)
            known = self._checkpoints[path] = version, checkpoint
        return known[1]


def _is_gone(layers: Mapping[str, Layer]) -> bool:
    """Whether a model's weights were thrown away: webuis send them to the device that holds nothing."""
    parameter = next((found for layer in layers.values() if (found := layer.parameter("weight")) is not None), None)
    return parameter is not None and parameter.device.type == "meta"


def hf_text_layers(encoder: torch.nn.Module, prefix: str) -> dict[str, Layer]:
    """A transformers text encoder's layers, by kohya's name."""
    return {name: Layer(module) for name, module in te_layers(encoder, prefix).items()}
