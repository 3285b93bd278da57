"""The extension in a webui: its tab, its routes, its settings and its loader, put in place by the webui's callbacks.

A webui runs ``scripts/lora_atelier_main.py`` again at every "Reload UI" and forgets all callbacks; this module stays.
So ``start`` may be called any number of times, and what lives (the host, its runs) is kept here.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .. import locales, locking
from ..errors import message
from ..hosts import detection, lease, network, router
from ..hosts.webui import (
    GPU_OPTION,
    LOADER_HOSTS,
    LOADER_OPTION,
    LOADER_OURS,
    ORIGINALS_OPTION,
    PARTLY_OPTION,
    WebuiHost,
)
from ..web import lazy
from . import tab

if TYPE_CHECKING:
    from ..web.services import Services

ELEMENT = "atelier_tab"
# As ``web.answers`` has it, which is not read before somebody opens the tab.
PREFIX = "/lora-atelier/v1"
SECTION = ("lora_atelier", tab.TITLE)
_log = logging.getLogger(__name__)
_state: dict[str, Any] = {}
_lock = threading.Lock()


def start() -> None:
    """Register everything with the webui that runs us; harmless where there is none that we know."""
    host = _state.get("host") or detection.make()
    if host is None:
        _log.warning("LoRA Atelier: this webui is not one that it knows; it does nothing here")
        return
    _state["host"] = host
    # From a thread of its own: AUTOMATIC1111 looks through the whole stack at each registration, and for every frame of
    # a script that it is loading through all modules there are: 0.04 seconds of its start each.
    callbacks = import_module("modules.script_callbacks")
    registering = threading.Thread(target=_register_all, args=(host, callbacks), name="atelier-register")
    registering.start()
    registering.join()
    router.install(import_module("modules.extra_networks"), host)


def script() -> type | None:
    """A script class for the webui to find: it takes the graphics card back before a picture is made, and sees it."""
    scripts = import_module("modules.scripts")

    class LoraAtelierScript(scripts.Script):  # type: ignore[name-defined, misc]
        """Draws nothing and has no settings."""

        def title(self) -> str:
            return tab.TITLE

        def show(self, is_img2img: bool) -> Any:
            return scripts.AlwaysVisible

        def ui(self, is_img2img: bool) -> Any:
            host = _state.get("host")
            return None if host is None else host.script_controls(lambda: import_module("gradio")) or None

        def before_process(self, p: Any, *args: Any) -> None:
            host = _state.get("host")
            if host is not None:
                host.wait_for_gpu()

        def postprocess_image(self, p: Any, pp: Any, *args: Any) -> None:
            host = _state.get("host")
            if host is not None:
                for note in host.pictures.made(p, pp.image):
                    network.say(p, locales.sentence(note, host.lang()))

        def postprocess(self, p: Any, processed: Any, *args: Any) -> None:
            host = _state.get("host")
            if host is not None:
                host.pictures.finished(p)
                host.show_comments(p, processed)

    return LoraAtelierScript


def _register_all(host: WebuiHost, callbacks: Any) -> None:
    _register(callbacks, "on_before_ui", lambda: _before_ui(host))
    _register(callbacks, "on_ui_settings", lambda: _settings(host))
    _register(callbacks, "on_ui_tabs", _tabs)
    _register(callbacks, "on_app_started", lambda demo, app: _app_started(host, demo, app))
    _register(callbacks, "on_model_loaded", lambda model: host.model_changed())
    _register(callbacks, "on_infotext_pasted", lambda text, params: network.find_pasted(params, host.catalogue))
    _register(callbacks, "on_before_image_saved", host.pictures.before_saved)
    _register(callbacks, "on_image_saved", host.pictures.saved)
    _register(callbacks, "on_script_unloaded", lambda: _unloaded(host))


def _register(callbacks: Any, name: str, callback: Callable[..., Any]) -> None:
    """Register a callback whose failure is written down and takes nothing else along."""
    register = getattr(callbacks, name, None)
    if register is None:
        return

    def guarded(*args: Any) -> Any:
        try:
            return callback(*args)
        except Exception:
            _log.exception("LoRA Atelier: %s", name)
            return [] if name == "on_ui_tabs" else None

    register(guarded)


def _before_ui(host: WebuiHost) -> None:
    extra_networks = import_module("modules.extra_networks")
    extra_networks.register_extra_network(network.make(extra_networks, host))


def _tabs() -> list[tuple[Any, str, str]]:
    import gradio

    with gradio.Blocks(analytics_enabled=False) as page:
        tab.build(gradio)
    return [(page, tab.TITLE, ELEMENT)]


def _settings(host: WebuiHost) -> None:
    import gradio

    shared, lang = import_module("modules.shared"), host.lang()

    def add(name: str, default: Any, label: str, *more: Any) -> None:
        shared.opts.add_option(name, shared.OptionInfo(default, label, *more, section=SECTION))

    loader = locales.sentence(message("Who applies the LoRAs of prompts (webui: its own loader)"), lang)
    partly = locales.sentence(message("Apply what fits of a LoRA that does not fit as a whole"), lang)
    gpu = locales.sentence(
        message(
            "Graphics card while a training goes on (wait: pictures wait until it ends; share: its memory is freed "
            "once and pictures are drawn beside it; keep: nothing is freed)"
        ),
        lang,
    )
    add(LOADER_OPTION, LOADER_OURS, loader, gradio.Radio, {"choices": [LOADER_OURS, LOADER_HOSTS]})
    add(PARTLY_OPTION, False, partly)
    add(GPU_OPTION, lease.WAIT, gpu, gradio.Radio, {"choices": list(lease.MODES)})
    if host.id == "a1111":  # the others keep what they need themselves, or have no file whose numbers are the model's
        originals = locales.sentence(
            message(
                "How weights that LoRAs change come back (copy: from copies; reread: from the checkpoint's file again, "
                "which takes no memory; auto: copies as long as they take no more than half of the free memory)"
            ),
            lang,
        )
        add(ORIGINALS_OPTION, "auto", originals, gradio.Radio, {"choices": ["auto", "copy", "reread"]})


def _app_started(host: WebuiHost, demo: Any, app: Any) -> None:
    if demo is None:
        return  # --nowebui: no page that would need routes, and no login that would guard them
    if isinstance(getattr(demo, "blocked_paths", None), list):
        # Webuis hand out every file of their data folder; what a training is made of is nobody's business.
        demo.blocked_paths.append(str(host.data_dir))
    lazy.add(app, PREFIX, lambda: _routes(host))
    if start := host.mounted_at():
        lazy.add_below(app, start, PREFIX)
    if _goes_on(host):
        # A training that an earlier webui started, or one that waits: it is seen to without anybody opening the tab.
        threading.Thread(target=_services, args=(host,), name="atelier-start", daemon=True).start()


def _goes_on(host: WebuiHost) -> bool:
    """Whether a training goes on or waits, told without reading what a start must not wait for."""
    runs = host.data_dir / "runs"
    return any(runs.glob("*/queued")) or any(locking.is_locked(path) for path in runs.glob("*/lock"))


def _routes(host: WebuiHost) -> Any:
    """All routes. What they stand on is read from disk now, which the webui's start did not have to wait for."""
    from ..web import routes

    return routes.router(_services(host))


def _services(host: WebuiHost) -> Services:
    from ..web.access import Access
    from ..web.services import services

    with _lock:
        if "services" not in _state:
            access = Access(remote=host.is_remote(), hides_paths=host.hides_paths())
            _state["services"] = services(host, access=access, host_device=host.device_index())
            _state["services"].start()
        known: Services = _state["services"]
        return known


def _unloaded(host: WebuiHost) -> None:
    host.unload()
    router.remove(import_module("modules.extra_networks"))
