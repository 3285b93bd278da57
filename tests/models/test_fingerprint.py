import json
import shutil

import pytest

from lora_atelier.errors import ModelError
from lora_atelier.models import detect
from lora_atelier.models.fingerprint import fingerprint


@pytest.fixture
def model(tmp_path, tiny_model_folder):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder, folder)
    return folder


def flip_last_bit(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def both(folder):
    info = detect.inspect(folder)
    return [fingerprint(info, part) for part in ("vae", "te")]


def test_a_copy_elsewhere_has_the_same_fingerprints(model, tiny_model_folder):
    assert both(model) == both(tiny_model_folder)
    assert len(set(both(model))) == 2


@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("vae/diffusion_pytorch_model.safetensors", [True, False]),
        ("text_encoder/model.safetensors", [False, True]),
        ("unet/diffusion_pytorch_model.safetensors", [False, False]),
    ],
)
def test_one_bit_changes_the_fingerprint_of_its_part_alone(model, file, changed):
    before = both(model)

    flip_last_bit(model / file)

    assert [now != then for now, then in zip(both(model), before, strict=True)] == changed


@pytest.mark.parametrize(
    ("file", "changed"), [("vae/config.json", [True, False]), ("tokenizer/vocab.json", [False, True])]
)
def test_settings_and_word_lists_belong_to_their_part(model, file, changed):
    before = both(model)
    said = json.loads((model / file).read_text(encoding="utf-8"))

    (model / file).write_text(json.dumps({**said, "scaling_factor": 0.5}), encoding="utf-8")

    assert [now != then for now, then in zip(both(model), before, strict=True)] == changed


@pytest.fixture
def checkpoint(tmp_path, write_header):
    """A function that writes a file with one weight a part; what is told is the first byte of that weight."""

    def write(name, **first):
        keys = {"unet": "model.diffusion_model.a", "vae": "first_stage_model.a", "te": "cond_stage_model.a"}
        data = {key: bytes([first.get(part, 0), 0]) for part, key in keys.items()}
        path = write_header(tmp_path / name, dict.fromkeys(keys.values(), (1,)), data=data)
        return detect.ModelInfo(path, "checkpoint", "sd1", "epsilon", 512, name)

    return write


def test_of_a_checkpoint_only_the_parts_own_weights_count(checkpoint):
    plain = checkpoint("a.safetensors")

    for part in ("vae", "te"):
        assert fingerprint(checkpoint("b.safetensors", unet=1), part) == fingerprint(plain, part)
        assert fingerprint(checkpoint("c.safetensors", **{part: 1}), part) != fingerprint(plain, part)


def test_a_file_that_is_cut_short_is_said(checkpoint):
    info = checkpoint("a.safetensors")
    info.path.write_bytes(info.path.read_bytes()[:-4])

    with pytest.raises(ModelError):
        fingerprint(info, "vae")
