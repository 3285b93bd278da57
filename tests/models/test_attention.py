import pytest

from lora_atelier.models.attention import weighted_parts

pytestmark = pytest.mark.torchfree


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a cat", [("a cat", 1.0)]),
        ("", [("", 1.0)]),
        ("a (big) cat", [("a ", 1.0), ("big", 1.1), (" cat", 1.0)]),
        ("a (big:1.3) cat", [("a ", 1.0), ("big", 1.3), (" cat", 1.0)]),
        ("[a]", [("a", 1 / 1.1)]),
        ("((a) b:0.5)", [("a", 1.1 * 0.5), (" b", 0.5)]),
        (r"momo \(figure\)", [("momo (figure)", 1.0)]),
        ("(open", [("open", 1.1)]),
        ("closed)", [("closed)", 1.0)]),
        ("a: b, 1:2)", [("a: b, 1:2)", 1.0)]),
        ("(a:-1) (b:.5)", [("a", -1.0), (" ", 1.0), ("b", 0.5)]),
        ("(a:1.2.3)", [("a:1.2.3", 1.1)]),
    ],
)
def test_brackets_weigh_what_they_hold(text, parts):
    assert weighted_parts(text) == [(piece, pytest.approx(weight)) for piece, weight in parts]
