import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def webui_folder():
    """Where LORA_ATELIER_WEBUI_DIR says that a webui is installed."""
    named = os.environ.get("LORA_ATELIER_WEBUI_DIR")
    if not named:
        pytest.skip("LORA_ATELIER_WEBUI_DIR names no webui")
    return Path(named).resolve()


@pytest.fixture(scope="session")
def webui(webui_folder, tmp_path_factory):
    """That webui, running on the CPU with two random base models and LoRAs of every format."""
    from tests.webui import formats, models
    from tests.webui.install import Webui

    made = Webui(webui_folder, tmp_path_factory.mktemp("webui"))
    made.install()
    made.packages_before = made.packages()
    base = models.write(made.kind, made.models, webui_folder, name="first", seed=0)
    models.write(made.kind, made.models, webui_folder, name="second", seed=1)
    places = list(models.places(base))
    formats.write_lora(made.lora_dir / "one.safetensors", places, seed=1)
    formats.write_lora(made.lora_dir / "other.safetensors", places, seed=5)
    formats.write_lora(made.lora_dir / "text.safetensors", places, seed=2, text=True)
    formats.write_words(made.lora_dir / "bundle.safetensors", made.embeddings, places, seed=1)
    for seed, name in enumerate(formats.NAMES, 10):
        formats.write_format(made.lora_dir, name, places, seed=seed)
    (made.lora_dir / "broken.safetensors").write_bytes(b"\x10" + bytes(7) + b'{"nonsense": 1}')
    made.start()
    yield made
    made.stop()


@pytest.fixture
def plain(webui):
    """The picture without any LoRA, from the first checkpoint, with our loader."""
    webui.set(atelier_loader="LoRA Atelier")
    webui.choose("first")
    return webui.draw("a cat")


@pytest.fixture
def browser():
    """Chromium, where it and playwright are installed."""
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        path = os.environ.get("LORA_ATELIER_CHROMIUM", "/usr/bin/chromium")
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()
