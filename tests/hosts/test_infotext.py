import pytest

from lora_atelier.hosts import infotext

pytestmark = pytest.mark.torchfree


def test_the_text_is_the_one_that_webuis_write():
    text = infotext.build(
        "a cat, <lora:猫:0.8>",
        "blurry",
        {"Steps": 20, "Sampler": "DDIM", "CFG scale": 3.0, "Clip skip": None, "LoRA Atelier": "猫: 0123, b: 45"},
    )

    assert text == (
        "a cat, <lora:猫:0.8>\nNegative prompt: blurry\n"
        'Steps: 20, Sampler: DDIM, CFG scale: 3, LoRA Atelier: "猫: 0123, b: 45"'
    )


@pytest.mark.parametrize(
    ("prompt", "negative"),
    [("a cat", ""), ("one\ntwo, three: four", "bad\nworse"), ("", "no"), ('quotes " and \\', "日本語")],
)
def test_what_is_written_is_read_back(prompt, negative):
    values = {"Steps": 20, "Size": "128x96", "Seed": 7, "Model": 'odd, "name": x', "CFG scale": 7.5}

    read = infotext.parse(infotext.build(prompt, negative, values))

    assert read == (prompt, negative, {key: str(value) for key, value in values.items()})


def test_a_text_without_values_is_all_prompt():
    assert infotext.parse("just a prompt") == ("just a prompt", "", {})
