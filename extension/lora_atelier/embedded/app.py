"""The embedded host's page: txt2img in Gradio, the LoRA Atelier tab, and the server that carries both."""

from __future__ import annotations

import html
import os
import threading
import webbrowser
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio

from .. import locales
from ..errors import ExtensionError, message
from ..hosts.embedded import EmbeddedHost, GenerateRequest
from ..models.detect import ModelInfo
from ..models.sample import SAMPLERS
from ..ui import tab
from ..web.routes import router
from ..web.services import Services, services
from . import examples, world

ROOT = Path(__file__).parents[3]
ASSETS = "/lora-atelier/assets"
STYLE = "/lora-atelier/style.css"
_SCRIPTS = ROOT / "javascript"
_STYLE = ROOT / "style.css"
_LANGUAGE_COOKIE = "atelier_lang"
# Names of fonts that systems have, with Japanese ones: Gradio's own theme would ask a font server on the web.
_FONTS = (
    '-apple-system, BlinkMacSystemFont, "Segoe UI", "Noto Sans", "Hiragino Sans", "Yu Gothic UI", "Noto Sans CJK JP", '
    "system-ui, sans-serif"
)
_CSS = f"""
:root, .dark, .gradio-container {{ --font: {_FONTS} !important; }}
footer {{ display: none !important; }}
/* Pages of different widths must not move what they have in common. */
.gradio-container {{ width: 100% !important; max-width: 1280px !important; margin: 0 auto !important; }}
.gradio-container {{ padding: 0 20px 32px !important; }}
@media (max-width: 640px) {{
    .gradio-container, .gradio-container > main, .gradio-container .app {{ padding: 0 6px !important; }}
}}
"""


def serve(host: EmbeddedHost, *, port: int, open_browser: bool = True) -> int:
    """Serve the page on this machine's loopback address until Ctrl-C; prints the address first. Returns 0."""
    import uvicorn

    offered = _services(host)
    app = make_app(host, offered)
    address = f"http://127.0.0.1:{port}/"
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
    threading.Thread(target=_announce, args=(server, address, open_browser), daemon=True).start()
    host.catalogue.start_hashing()
    offered.start()
    try:
        server.run()
    finally:
        offered.end()
        host.catalogue.stop_hashing()
    return 0


def _announce(server: Any, address: str, open_browser: bool) -> None:
    """Print the address once the server answers; before that a browser would show an error."""
    pause = threading.Event()
    while not server.started:
        if server.should_exit:
            return
        pause.wait(0.1)
    said = message("LoRA Atelier is at {address} (Ctrl-C ends it).", address=address)
    print(locales.sentence(said, locales.choose(os.environ.get("LANG", "").replace("_", "-"))), flush=True)
    if open_browser:
        webbrowser.open(address)


def make_app(host: EmbeddedHost, offered: Services | None = None) -> Any:
    """The FastAPI application: our routes, our scripts, and the Gradio page at the root."""
    from fastapi import FastAPI
    from fastapi.responses import FileResponse
    from fastapi.staticfiles import StaticFiles

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(router(offered or _services(host)))
    app.mount(ASSETS, StaticFiles(directory=_SCRIPTS), name="atelier-scripts")
    app.add_api_route(STYLE, lambda: FileResponse(_STYLE, media_type="text/css"), include_in_schema=False)
    outputs = host.data_dir / "outputs"
    outputs.mkdir(parents=True, exist_ok=True)
    return gradio.mount_gradio_app(
        app,
        build(host),
        path="/",
        allowed_paths=[str(outputs.resolve())],
        footer_links=[],
        show_error=True,
        ssr_mode=False,
        theme=_theme(),
        head=_head(),
    )


def _head() -> str:
    """Our style and scripts as files: Gradio would put its own class before every rule of ``css=``, also before
    ``.dark``, which stands above that class."""
    scripts = "".join(f'<script defer src=".{ASSETS}/{path.name}"></script>' for path in sorted(_SCRIPTS.glob("*.js")))
    return f'<link rel="stylesheet" href=".{STYLE}"><style>{_CSS}</style>{scripts}'


def _services(host: EmbeddedHost) -> Services:
    def regularisation(info: ModelInfo) -> Path | None:
        # Only the embedded model knows the world that these pictures show.
        folder = examples.example_folder(examples.REGULARISATION)
        return folder if info.family == "toy" and folder.is_dir() else None

    return services(host, regularisation=regularisation)


def _theme() -> Any:
    """Gradio's plain theme in the colours of ``style.css``, whose names are said beside them."""
    red = gradio.themes.Color(
        *("#fdf4f1", "#fbeae5", "#f6d0c5", "#f0ab99", "#f07a5c", "#dc5a3a", "#c8472b", "#a83820", "#7f2c1b", "#5c2418"),
        "#3a2620",
    )
    light = {
        "body_background_fill": "#f7f5f2",  # ground
        "body_text_color": "#26221f",  # ink
        "body_text_color_subdued": "#6f6862",  # quiet
        "block_background_fill": "#ffffff",  # paper
        "block_border_color": "#e4dfd9",  # line
        "border_color_primary": "#e4dfd9",
        "input_background_fill": "#f7f5f2",
        "input_border_color": "#e4dfd9",
        "input_placeholder_color": "#7b746d",
        "block_title_background_fill": "transparent",
        "block_label_background_fill": "transparent",
        "block_title_text_color": "*body_text_color",
        "block_label_text_color": "*body_text_color",
        "block_info_text_color": "*body_text_color_subdued",
        "slider_color": "#c8472b",  # accent
        "button_primary_background_fill": "#c8472b",
        "button_primary_background_fill_hover": "#a83820",  # accent, strong
        "button_primary_text_color": "#ffffff",
        "button_primary_border_color": "transparent",
        "button_secondary_background_fill": "#ffffff",
        "button_secondary_background_fill_hover": "#f7f5f2",
        "button_secondary_border_color": "#e4dfd9",
        "button_secondary_text_color": "*body_text_color",
        "color_accent_soft": "#fbeae5",
    }
    dark = {
        **light,
        "body_background_fill": "#191716",
        "body_text_color": "#f1ece7",
        "body_text_color_subdued": "#aaa199",
        "block_background_fill": "#211f1d",
        "block_border_color": "#3a3633",
        "border_color_primary": "#3a3633",
        "input_background_fill": "#191716",
        "input_border_color": "#3a3633",
        "input_placeholder_color": "#958c84",
        "slider_color": "#f07a5c",
        "button_primary_background_fill": "#f07a5c",
        "button_primary_background_fill_hover": "#f59a82",
        "button_primary_text_color": "#1d1411",
        "button_secondary_background_fill": "#211f1d",
        "button_secondary_background_fill_hover": "#2b2826",
        "button_secondary_border_color": "#3a3633",
        "color_accent_soft": "#3a2620",
    }
    flat = {
        "block_border_width": "1px",
        "block_shadow": "none",
        "block_radius": "14px",
        "block_title_padding": "0",
        "block_title_text_weight": "600",
        "block_label_text_weight": "600",
        "input_border_width": "1px",
        "input_shadow": "none",
        "input_radius": "10px",
        "button_border_width": "1px",
        "button_large_radius": "10px",
        "button_small_radius": "10px",
        "button_primary_shadow": "none",
        "button_secondary_shadow": "none",
        "layout_gap": "16px",
        "form_gap_width": "0px",
    }
    theme = gradio.themes.Base(primary_hue=red, neutral_hue="stone", font=["sans-serif"], font_mono=["monospace"])
    return theme.set(**flat, **light, **{f"{name}_dark": value for name, value in dark.items()})


# ------------------------------------------------------------------------------------------------- the page


def build(host: EmbeddedHost) -> Any:
    """The Gradio page: a tab for pictures and a tab for training."""
    with gradio.Blocks(title="LoRA Atelier", analytics_enabled=False) as page:
        gradio.HTML(f'<div id="atelier_header" data-model="{html.escape(host.current().title, quote=True)}"></div>')
        with gradio.Tabs():
            with gradio.Tab("txt2img", id="txt2img"):
                _txt2img(host)
            with gradio.Tab(tab.TITLE, id="atelier", render_children=True):
                tab.build(gradio)
    return page


def _txt2img(host: EmbeddedHost) -> None:
    toy = host.family() == "toy"
    side = host.current().resolution
    most = 2 * side if toy else 1536
    with gradio.Row(elem_id="atelier_txt2img"):
        with gradio.Column(scale=6, min_width=340):
            prompt = gradio.Textbox(
                label=_("Prompt"),
                lines=3,
                elem_id="atelier_prompt",
                placeholder=_("Say what to draw; <lora:name:0.8> calls a LoRA"),
            )
            if toy:
                gradio.Examples(
                    [[text] for text in world.EXAMPLE_PROMPTS],
                    [prompt],
                    label=_("Examples"),
                    elem_id="atelier_examples",
                )
            gradio.HTML('<div id="atelier_cards"></div>')
            negative = gradio.Textbox(label=_("Negative prompt"), lines=1, elem_id="atelier_negative")
            with gradio.Row():
                steps = _slider(1, 100, 20, step=1, label=_("Steps"), elem_id="atelier_steps")
                cfg = _slider(1, 15, 3 if toy else 7, step=0.5, label=_("CFG scale"), elem_id="atelier_cfg")
            with gradio.Row():
                width = _slider(64, most, side, step=32, label=_("Width"), elem_id="atelier_width")
                height = _slider(64, most, side, step=32, label=_("Height"), elem_id="atelier_height")
            with gradio.Row():
                size = _slider(1, 8, 1, step=1, label=_("Batch size"), elem_id="atelier_batch_size")
                count = _slider(1, 20, 1, step=1, label=_("Batch count"), elem_id="atelier_batch_count")
            with gradio.Row():
                sampler = gradio.Dropdown(
                    list(SAMPLERS), value="DDIM", label=_("Sampler"), elem_id="atelier_sampler", scale=3, min_width=160
                )
                seed = gradio.Number(
                    -1, label=_("Seed (-1: a new one)"), precision=0, elem_id="atelier_seed", scale=3, min_width=160
                )
                with gradio.Column(scale=2, min_width=120, elem_id="atelier_seed_buttons"):
                    new = gradio.Button(_("A new seed"), size="sm", elem_id="atelier_new_seed")
                    reuse = gradio.Button(_("Use the last seed"), size="sm", elem_id="atelier_reuse")
        with gradio.Column(scale=5, min_width=320, elem_id="atelier_made"):
            with gradio.Row():
                generate = gradio.Button(_("Generate"), variant="primary", elem_id="atelier_generate", scale=3)
                stop = gradio.Button(_("Stop"), elem_id="atelier_interrupt", scale=1, min_width=90)
            gallery = gradio.Gallery(
                label=_("Pictures"),
                columns=2,
                object_fit="contain",
                height=560,
                show_label=False,
                interactive=False,
                elem_id="atelier_gallery",
                format="png",
            )
            comments = gradio.HTML("", elem_id="atelier_comments")
            infotext = gradio.Textbox(
                label=_("Generation data"), lines=4, interactive=False, elem_id="atelier_infotext", buttons=["copy"]
            )
    last = gradio.State(-1)
    inputs = [prompt, negative, steps, sampler, cfg, width, height, seed, size, count]
    outputs = [gallery, comments, infotext, last]
    gradio.on([generate.click, prompt.submit], _handler(host), inputs, outputs)
    gallery.select(_chosen_infotext, [gallery], [infotext])
    stop.click(host.cancel, None, None, queue=False)
    new.click(lambda: -1, None, [seed], queue=False)
    reuse.click(lambda value: value, [last], [seed], queue=False)


def _slider(low: float, high: float, value: float, **more: Any) -> Any:
    """A slider as wide as its label in Japanese needs; two of them stand above each other in a narrow page."""
    return gradio.Slider(low, high, value, min_width=220, **more)


def _handler(host: EmbeddedHost) -> Any:
    """What Generate does; its files, what to say about them as HTML, the first picture's infotext, its seed."""

    def generate(
        prompt: str,
        negative: str,
        steps: int,
        sampler: str,
        cfg: float,
        width: int,
        height: int,
        seed: float | None,
        size: int,
        count: int,
        request: gradio.Request,
        progress: gradio.Progress = gradio.Progress(),
    ) -> tuple[list[str], str, str, int]:
        asked = GenerateRequest(
            prompt=prompt or "",
            negative_prompt=negative or "",
            steps=int(steps),
            sampler=sampler,
            cfg_scale=float(cfg),
            width=int(width),
            height=int(height),
            seed=-1 if seed is None else int(seed),
            batch_size=int(size),
            batch_count=int(count),
        )
        lang = _language(request)
        try:
            made = host.generate(
                asked,
                on_progress=lambda step, all_steps: progress((step, all_steps)),
                on_wait=lambda said: progress(0, desc=locales.sentence(said, lang)),
            )
        except ExtensionError as error:
            return [], _comments_html([locales.sentence(error, lang)]), "", -1
        files = [str(path) for path in made.files if path is not None]
        shown = _comments_html([locales.sentence(note, lang) for note in made.comments])
        if made.compared is not None:
            alarms = any(found is not None and found.verdict != "nothing found" for found in made.findings)
            shown += _comments_html([locales.sentence(made.compared, lang)], quiet=not alarms)
        first = made.infotexts[0] if made.infotexts else ""
        return files, shown, first, made.seeds[0] if made.seeds else -1

    return generate


def _(label: str) -> str:
    """A label as it is: the page's script puts it into the reader's language, and the catalogue knows it by this."""
    return label


def _language(request: Any) -> str:
    headers: Mapping[str, str] = getattr(request, "headers", None) or {}
    cookies: Mapping[str, str] = getattr(request, "cookies", None) or {}
    return locales.choose(headers.get("accept-language", ""), cookies.get(_LANGUAGE_COOKIE, ""))


def _comments_html(sentences: list[str], *, quiet: bool = False) -> str:
    """The sentences below the pictures; ``quiet`` ones ask nothing of the reader."""
    name = "atelier-comment is-quiet" if quiet else "atelier-comment"
    return "".join(f'<p class="{name}" data-atelier-said>{html.escape(said)}</p>' for said in sentences)


def _chosen_infotext(pictures: Any, event: gradio.SelectData) -> str:
    """The infotext of the picture that was clicked, read from its file."""
    from PIL import Image

    chosen = pictures[event.index]
    path = chosen[0] if isinstance(chosen, list | tuple) else chosen
    try:
        with Image.open(path) as picture:
            return str(picture.info.get("parameters", ""))
    except OSError:
        return ""
