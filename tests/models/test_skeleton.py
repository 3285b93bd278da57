"""The table of layers says what the libraries say, and is read without them."""

import subprocess
import sys
from pathlib import Path

import pytest

from lora_atelier import cli_files
from lora_atelier.adapters import file
from lora_atelier.loader.report import Outline
from lora_atelier.models import configs, detect, layers, load, skeleton

BASE_MODEL = Path(skeleton.__file__).parents[1] / "embedded" / "base_model"


def test_the_table_is_what_the_libraries_make():
    """Made anew by: python -m lora_atelier.models.skeleton"""
    assert skeleton.TABLE.read_text(encoding="utf-8") == skeleton.make()


def described(family):
    if family == "toy":
        return detect.inspect(BASE_MODEL)
    return detect.ModelInfo(Path(), "checkpoint", family, "epsilon", 0, "")


def live(family):
    if family == "toy":
        unet = detect.read_json(BASE_MODEL / "unet" / "config.json")
        encoders = [detect.read_json(BASE_MODEL / "text_encoder" / "config.json")]
    else:
        unet, encoders = configs.UNETS[family], configs.TEXT_ENCODERS[family]
    modules = [load.empty_text_encoder(each, with_projection=at == 1) for at, each in enumerate(encoders)]
    return load.Model(described(family), {}, unet=load.empty_unet(unet), text_encoders=tuple(modules))


@pytest.mark.parametrize("family", ["toy", "sd1", "sd2", "sdxl"])
def test_names_shapes_aliases_and_blocks_are_those_of_the_models_themselves(family):
    ours, theirs = cli_files._empty(described(family)), live(family)
    found, wanted = Outline(ours, family), Outline(theirs, family)

    assert not any(type(part).__name__.startswith(("UNet", "CLIP")) for part in ours.parts())
    assert list(found.layers()) == list(wanted.layers())
    assert found.aliases() == wanted.aliases()
    assert found.names().targets == wanted.names().targets
    for name, layer in wanted.layers().items():
        for parameter in ("weight", "bias"):
            assert found.layers()[name].shape(parameter) == layer.shape(parameter)
            assert (found.layers()[name].view(parameter) is None) == (layer.view(parameter) is None)
        assert found.block(name) == wanted.block(name)


def test_other_architectures_are_not_in_the_table():
    assert skeleton.build({**configs.UNETS["sd1"], "cross_attention_dim": 96}, configs.TEXT_ENCODERS["sd1"]) is None
    assert skeleton.build(configs.UNETS["sd1"], [{**configs.CLIP_L, "hidden_size": 96}]) is None


def test_inspecting_a_lora_imports_no_library_of_models(tmp_path, random_lora):
    path = tmp_path / "a.safetensors"
    found = layers.layers(cli_files._empty(described("toy")))
    targets = {name: layer.module for name, layer in found.items() if name.endswith("attn2_to_k")}
    file.write(path, random_lora(targets), {"ss_base_model_version": "lora_atelier_toy"})
    program = (
        "import sys\n"
        "from lora_atelier.__main__ import main\n"
        f"main(['inspect', {str(path)!r}])\n"
        "print([name for name in ('diffusers', 'transformers', 'accelerate', 'peft') if name in sys.modules])\n"
    )

    package = BASE_MODEL.parents[2]
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=package)

    assert done.stdout.splitlines()[-1] == "[]"
    assert "It would be applied" in done.stdout
