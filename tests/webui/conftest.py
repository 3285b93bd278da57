import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def webui(tmp_path_factory):
    """The webui that LORA_ATELIER_WEBUI_DIR names, running on the CPU with random models and four LoRAs."""
    named = os.environ.get("LORA_ATELIER_WEBUI_DIR")
    if not named:
        pytest.skip("LORA_ATELIER_WEBUI_DIR names no webui")
    from tests.webui import models
    from tests.webui.install import Webui

    made = Webui(Path(named).resolve(), tmp_path_factory.mktemp("webui"))
    made.install()
    before = made.packages()
    small = made.kind == "a1111"
    for seed, name in enumerate(("first", "second")):
        path = made.checkpoint_dir / f"{name}.safetensors"
        models.write_checkpoint(path, small=small, seed=seed)
        if small:
            models.write_config(path.with_suffix(".yaml"), made.folder)
    checkpoint = made.checkpoint_dir / "first.safetensors"
    models.write_lora(made.lora_dir / "one.safetensors", checkpoint, seed=1)
    models.write_lora(made.lora_dir / "text.safetensors", checkpoint, seed=2, text=True)
    models.write_lora(made.lora_dir / "peft.safetensors", checkpoint, seed=3, kind="peft")
    models.write_lora(made.lora_dir / "dora.safetensors", checkpoint, seed=4, kind="dora")
    (made.lora_dir / "broken.safetensors").write_bytes(b"\x10" + bytes(7) + b'{"nonsense": 1}')
    made.start()
    made.packages_before = before
    yield made
    made.stop()


@pytest.fixture
def plain(webui):
    """The picture without any LoRA, from the first checkpoint, with our loader."""
    webui.set(atelier_loader="LoRA Atelier", sd_model_checkpoint="first.safetensors")
    return webui.draw("a cat")
