"""Draw the README's screenshots from the page itself: ``python docs/make_screenshots.py`` (needs playwright, Chromium).

It starts the embedded host on a temporary data folder, trains on the example figure through the page, tries the
result, and writes the pictures of both READMEs (``new``, ``training-tab``, ``txt2img``, with ``.ja`` for Japanese).
``--all`` also takes every page in both languages, both themes and both widths into a folder, to be looked at; with
``--data-dir`` and a finished training in it nothing is trained. Five minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).parents[1]
IMAGES = Path(__file__).parent / "images"
FIGURE = ROOT / "examples" / "figure"
WIDTH, HEIGHT = 1280, 960
TRAINING_MS = 900_000
# A page has few colours; its photographs are small.
COLOURS = 256


def main() -> int:
    """Make both pictures; returns 0."""
    parser = argparse.ArgumentParser(description="Draw the README's screenshots.")
    parser.add_argument("--model", type=Path, help="another base model than the embedded one")
    parser.add_argument("--quality", default="good", choices=("draft", "good", "best"))
    parser.add_argument("--output", type=Path, default=IMAGES)
    parser.add_argument("--all", type=Path, metavar="DIR", help="also take all pages in all their looks")
    parser.add_argument("--data-dir", type=Path, help="a data folder that is there, with a finished training")
    asked = parser.parse_args()
    asked.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        port = free_port()
        server = start(port, asked.data_dir or Path(temporary), asked.model)
        try:
            take(f"http://127.0.0.1:{port}/", asked)
        finally:
            server.terminate()
            server.wait()
    return 0


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(port: int, data_dir: Path, model: Path | None) -> subprocess.Popen[bytes]:
    """The embedded host in a process of its own, once it answers."""
    command = [sys.executable, "-m", "lora_atelier", "demo", "--no-browser", "--port", str(port)]
    command += ["--data-dir", str(data_dir), *(["--model", str(model)] if model else [])]
    server = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT / "extension")})
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/lora-atelier/v1/session", timeout=5).close()
            return server
        except OSError:
            if server.poll() is not None:
                break
            time.sleep(0.2)
    raise SystemExit("The embedded host did not start.")


def take(url: str, asked: argparse.Namespace) -> None:
    """Walk through the main job and take its pictures, then those of all looks."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-background-networking"]
        )
        page = open_page(browser, url)
        if not asked.data_dir:
            train(page, asked.quality)
        for locale, ending in (("en-US", ""), ("ja-JP", ".ja")):
            page = open_page(browser, url, locale=locale)
            fill(page, "Momo_figure")
            save(page, asked.output / f"new{ending}.png")
            show_finished(page)
            save(page, asked.output / f"training-tab{ending}.png")
            try_it(page)
            save(page, asked.output / f"txt2img{ending}.png")
        if asked.all:
            take_all(browser, url, asked.all)
        browser.close()


def open_page(browser: Any, url: str, *, width: int = WIDTH, locale: str = "en-US", scheme: str = "light") -> Any:
    """The page in one look."""
    page = browser.new_page(viewport={"width": width, "height": HEIGHT}, locale=locale, color_scheme=scheme)
    page.set_default_timeout(120_000)
    page.goto(url)
    page.wait_for_selector("#atelier_prompt textarea")
    return page


def take_all(browser: Any, url: str, folder: Path) -> None:
    """Every page of the tab in both languages, themes and widths."""
    folder.mkdir(parents=True, exist_ok=True)
    for locale in ("en-US", "ja-JP"):
        for scheme in ("light", "dark"):
            for width in (WIDTH, 400):
                page = open_page(browser, url, width=width, locale=locale, scheme=scheme)
                look = f"{locale[:2]}-{scheme}-{width}"
                save(page, folder / f"txt2img-{look}.png")
                fill(page)
                save(page, folder / f"new-{look}.png", whole=True)
                page.click("#atelier_page_expert")
                page.wait_for_selector(".atelier-setting")
                save(page, folder / f"expert-{look}.png")
                page.click("#atelier_page_queue")
                page.wait_for_selector("[data-run]")
                save(page, folder / f"queue-{look}.png")
                show_finished(page)
                save(page, folder / f"run-{look}.png", whole=True)
                page.context.close()


def fill(page: Any, name: str = "Momo") -> None:
    """Drop the figure's pictures and answer."""
    page.get_by_role("tab", name="LoRA Atelier").click()
    page.click("#atelier_page_new")
    page.wait_for_selector("#atelier_train")
    page.set_input_files("#atelier_files", sorted(FIGURE.iterdir()))
    page.wait_for_function("document.querySelectorAll('.atelier-tile').length === 16")
    page.fill("#atelier_name", name)
    page.fill("#atelier_trigger", "momo figure")
    page.select_option("#atelier_whose", "mine")
    page.wait_for_function("/16/.test(document.querySelector('#atelier_plan').textContent)")


def train(page: Any, quality: str) -> None:
    """Train to the end."""
    fill(page)
    page.select_option("#atelier_quality", quality)
    page.wait_for_timeout(1000)
    page.click("#atelier_train")
    page.wait_for_selector("#atelier_try", timeout=TRAINING_MS)


def show_finished(page: Any) -> None:
    """The page of the last training that finished."""
    page.click("#atelier_page_queue")
    page.locator("#atelier_runs li:has(.is-finished) [data-run]").last.click()
    page.wait_for_selector("#atelier_try")
    page.wait_for_selector("#atelier_samples img")
    page.wait_for_function("!document.querySelector('#atelier_loads').textContent.endsWith('…')")


def try_it(page: Any) -> None:
    """Let the page try the result, then draw four with a background."""
    tag = page.inner_text("#atelier_result .atelier-tag")
    page.click("#atelier_try")
    page.wait_for_selector("#atelier_gallery img")
    page.fill("#atelier_prompt textarea", f"momo figure on a blue background, {tag}")
    page.fill("#atelier_batch_size input[type=number]", "4")
    page.click("#atelier_generate")
    page.wait_for_function("document.querySelector('#atelier_infotext textarea').value.includes('blue background')")
    page.wait_for_function("document.querySelectorAll('#atelier_gallery .thumbnail-item img').length === 4")


def save(page: Any, path: Path, *, whole: bool = False) -> None:
    """Write what the window shows, or the whole page, with at most ``COLOURS`` colours."""
    page.mouse.move(0, 0)
    page.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
    page.wait_for_timeout(1500)
    page.screenshot(path=path, full_page=whole)
    with Image.open(path) as shot:
        few = shot.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    few.save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    sys.exit(main())
