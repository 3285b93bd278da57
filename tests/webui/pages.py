"""What a person does in a webui's page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .install import Webui

_PATIENCE_MS = 300_000
# SD.Next counts the seconds there as long as it draws.
ENDED = """() => {
    const said = document.querySelector('#html_log_txt2img')?.innerText.trim();
    return said && !/^(queue|processing|[\\d.]+s)/.test(said);
}"""


def open_page(browser: Any, webui: Webui, path: str = "/", port: int = 0, *, wait_for: str = "#atelier_root") -> Any:
    """The webui's page, as soon as its tabs can be clicked."""
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.goto(f"http://127.0.0.1:{port or webui.port}{path}", timeout=_PATIENCE_MS)
    page.wait_for_selector(wait_for, state="attached", timeout=_PATIENCE_MS)
    page.wait_for_timeout(3000)
    return page


def open_tab(page: Any) -> None:
    """Our tab; raises playwright's TimeoutError if it is not there or stays empty."""
    page.locator("button", has_text="LoRA Atelier").first.evaluate("button => button.click()")
    page.get_by_text("Drop pictures here").wait_for(timeout=60_000)


def generate(page: Any, webui: Webui, prompt: str) -> str:
    """Write a prompt, press Generate, and return what then stands below the picture."""
    press_generate(page, webui, prompt)
    page.wait_for_function(ENDED, timeout=_PATIENCE_MS)
    return str(page.locator("#html_log_txt2img").first.inner_text())


def press_generate(page: Any, webui: Webui, prompt: str) -> None:
    """Write a prompt and press Generate."""
    tab = page.locator("#tabs > div > button", has_text="txt2img")
    if not tab.count():
        tab = page.locator("button", has_text="Text" if webui.kind.restarts else "Txt2img")
    tab.first.evaluate("button => button.click()")
    page.locator("#txt2img_prompt textarea").first.fill(prompt)
    for name in ("steps", "width", "height"):
        field = page.locator(f"#txt2img_{name} input[type=number]").first
        field.fill(str(webui.kind.request[name]))
        field.press("Tab")
    page.wait_for_timeout(500)
    page.locator("#txt2img_generate").first.evaluate("button => button.click()")


def reload(page: Any, webui: Webui) -> None:
    """Press "Reload UI", close the page, and wait until the webui is there again.

    Whoever asks for anything at the wrong moment of its start ends AUTOMATIC1111 ("Cannot add middleware after an
    application has started"), and its own page does after two seconds.
    """
    starts = webui.starts()
    page.evaluate("gradioApp().querySelector('#settings_restart_gradio').click()")
    page.wait_for_timeout(1000)
    page.close()
    webui.wait(starts=starts + 1)


def keep(page: Any, webui: Webui, what: str) -> None:
    """Keep what the page looks like where LORA_ATELIER_SHOTS says."""
    if folder := os.environ.get("LORA_ATELIER_SHOTS"):
        page.screenshot(path=str(Path(folder) / f"{webui.kind.id}_{what}.png"))
