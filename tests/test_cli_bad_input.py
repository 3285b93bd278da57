"""What is wrong with pictures, captions, model and files: one sentence with file and fix, before anything is made.

The rows are those of the project's notes on how other trainers fail; what can be told from headers alone is told here,
the rest by the trainer before it reads the model (``tests/trainer``).
"""

import json
import struct

import pytest
from tests.test_cli_train import surroundings, train  # noqa: F401 - fixtures

pytestmark = pytest.mark.torchfree


def write(name, content):
    def change(folder):
        path = folder / "pictures" / "10_momo" / name
        path.write_bytes(content(path.read_bytes()) if callable(content) else content)

    return change


def every_picture(content):
    def change(folder):
        for path in (folder / "pictures" / "10_momo").glob("*.png"):
            path.write_bytes(content)

    return change


def without_captions(folder):
    for path in (folder / "pictures" / "10_momo").glob("*.txt"):
        path.unlink()


def all_but_three(folder):
    for path in sorted((folder / "pictures" / "10_momo").glob("*.png"))[3:]:
        path.unlink()


def without_number(folder):
    (folder / "pictures" / "10_momo").rename(folder / "pictures" / "momo")


def model_file(name, key, missing=0):
    def change(folder):
        header = json.dumps({key: {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
        (folder / name).write_bytes(struct.pack("<Q", len(header)) + header + bytes(16 - missing))

    return change


# What is wrong -> how it is made, typed options, what is said. A note lets the training start, a refusal does not.
NOTED = {
    "truncated": (write("1.png", lambda whole: whole[:40]), (), ("“1.png” can't be read", "left out", "again")),
    "empty file": (write("1.png", b""), (), ("“1.png” can't be read", "left out", "again")),
    "empty caption": (write("1.txt", b""), (), ("“1.png”", "no caption", "“momo” is used")),
    "cp932": (write("1.txt", "桃".encode("cp932")), (), ("not UTF-8", "“1.txt” was read as cp932: 桃")),
    "no captions": (without_captions, ("--trigger", "momo"), ("6 of 6", "no caption", "“momo”")),
    "common trigger": (lambda folder: None, ("--trigger", "cat"), ("“cat”", "knows", "Take one that means nothing")),
    "three pictures": (all_but_three, (), ("only 3 pictures", "10 to 30")),
    "long caption": (write("1.txt", b"a red hat, " * 80), (), ("75 tokens", "320 or more", "“1.png”", "shorten")),
}
REFUSED = {
    "all broken": (every_picture(b"x"), (), ("no picture to train on", "0.png, 1.png", "Save them again")),
    "no number": (without_number, (), ("no picture to train on", "momo", "rename it to 1_momo")),
    "no folder": (lambda folder: None, ("--train_data_dir", "nowhere"), ("nowhere", "can't be read", "is there")),
    "text as number": (lambda folder: None, ("--unet_lr", "1e-4x"), ("unet_lr", "must be a number")),
    "no masked_loss": (
        lambda folder: (folder / "masks").mkdir(),
        ("--conditioning_data_dir", "masks"),
        ("conditioning_data_dir", "set masked_loss = true"),
    ),
    "pickle": (
        lambda folder: (folder / "m.ckpt").write_bytes(b"\x80"),
        ("--pretrained_model_name_or_path", "m.ckpt"),
        ("m.ckpt", "pickles", ".safetensors version"),
    ),
    "another family": (
        model_file("flux.safetensors", "double_blocks.0.img_attn.qkv.weight"),
        ("--pretrained_model_name_or_path", "flux.safetensors"),
        ("flux.safetensors", "Flux", "Choose another"),
    ),
    "truncated model": (
        model_file("m.safetensors", "model.diffusion_model.time_embed.0.weight", missing=4),
        ("--pretrained_model_name_or_path", "m.safetensors"),
        ("m.safetensors", "4 bytes or more too short", "again"),
    ),
    "a LoRA": (
        model_file("l.safetensors", "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"),
        ("--pretrained_model_name_or_path", "l.safetensors"),
        ("l.safetensors", "adapter", "Choose another"),
    ),
    "output is a file": (
        lambda folder: (folder / "out").write_text("a file"),
        ("--output_dir", "out"),
        ("out", "can't be written to", "choose another folder"),
    ),
}


@pytest.mark.parametrize("name", NOTED)
def test_what_a_training_can_do_without_is_noted_in_one_line(train, tmp_path, name):  # noqa: F811
    change, options, words = NOTED[name]
    change(tmp_path)

    code, _, err = train("--check", *options)

    (line,) = [line for line in err.splitlines() if words[0] in line]
    assert code == 0 and line.startswith("Note: ")
    assert [word for word in words if word not in line] == []


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_training_can_not_do_without_is_refused_in_one_line(train, tmp_path, name):  # noqa: F811
    change, options, words = REFUSED[name]
    change(tmp_path)

    code, _, err = train("--check", *options)

    assert code == 1
    assert [line for line in err.splitlines() if line.startswith("- ") and all(word in line for word in words)]
    assert not (tmp_path / "data").exists()


def test_a_marked_caption_is_read_without_its_mark(train, tmp_path):  # noqa: F811
    write("1.txt", b"\xef\xbb\xbfmomo")(tmp_path)

    assert train("--check")[2] == ""


def test_values_that_are_in_no_table_are_said_and_break_nothing(train):  # noqa: F811
    code, _, err = train("--check", "--mixed_precision", "bf16x", "--save_precision", "fp17")

    assert code == 1 and "“bf16x”; it must be one of" in err and "“fp17”; it must be one of" in err
