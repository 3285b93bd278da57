import pytest

from lora_atelier import prompt
from lora_atelier.jobs.names import fresh_name, safe_name

pytestmark = pytest.mark.torchfree


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("momo", "momo"),
        ("ももちゃん", "ももちゃん"),
        ("か\u3099", "が"),
        ("  my  figure ", "my__figure"),
        ("a/b\\c:d=e<f>g,h@i.j{k}", "a-b-c-d-e-f-g-h-i-j-k"),
        ("../../etc/passwd", "etc-passwd"),
        ("CON", "CON-lora"),
        ("lpt1", "lpt1-lora"),
        ("momo_high", "momo-high"),
        ("momo_LOW", "momo-LOW"),
        ("x" * 80, "x" * 64),
        ("--version", "version"),
        ("हिन्दी", "हिन्दी"),
        ("🎨", ""),
        ("", ""),
    ],
)
def test_a_typed_name_becomes_one_that_every_webui_takes(typed, name):
    assert safe_name(typed) == name
    assert safe_name(name) == name


@pytest.mark.parametrize("typed", ["もも 一号", "a:b=c", "x" * 99, "𠮷" * 70, "１２３"])
def test_a_name_survives_the_prompt_and_the_file_system(typed, tmp_path):
    name = safe_name(typed)

    (tmp_path / f".{name}-s000800.safetensors.123456.tmp").touch()
    assert prompt.parse(f"<lora:{name}:0.8>").calls[0].name == name


def test_a_taken_name_gets_a_number_also_where_only_the_case_differs():
    assert fresh_name("momo", []) == "momo"
    assert fresh_name("momo", ["Momo"]) == "momo-2"
    assert fresh_name("momo", ["momo", "momo-2"]) == "momo-3"
    assert fresh_name("x" * 64, ["x" * 64]) == "x" * 62 + "-2"
