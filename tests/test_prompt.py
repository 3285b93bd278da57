import pytest

from lora_atelier.prompt import NetworkCall, parse

pytestmark = pytest.mark.torchfree


@pytest.mark.parametrize(
    ("tag", "call"),
    [
        ("<lora:momo>", NetworkCall("momo", 1.0, 1.0)),
        ("<lora:momo:0.8>", NetworkCall("momo", 0.8, 0.8)),
        ("<lora:momo:0.5:0.8>", NetworkCall("momo", 0.5, 0.8)),
        ("<lora:momo:1:1:8>", NetworkCall("momo", 1.0, 1.0, 8)),
        ("<lora:momo:te=0.3>", NetworkCall("momo", 0.3, 0.3)),
        ("<lora:momo:unet=0.3>", NetworkCall("momo", 1.0, 0.3)),
        ("<lora:momo:0.2:unet=0.9:dyn=4>", NetworkCall("momo", 0.2, 0.9, 4)),
        ("<lora:momo:-.5>", NetworkCall("momo", -0.5, -0.5)),
        ("<lora:桃の絵 2:1>", NetworkCall("桃の絵 2", 1.0, 1.0)),
        ("<lyco:momo:0.5:0.8>", NetworkCall("momo", 0.5, 0.8)),
        ("<lora:momo:1:lbw=1,0,1>", NetworkCall("momo", 1.0, 1.0, named={"lbw": "1,0,1"})),
    ],
)
def test_a_tag_is_read_as_a1111_reads_it(tag, call):
    parsed = parse(f"a cat {tag}")

    assert parsed.calls == (call,)
    assert parsed.text == "a cat"
    assert parsed.problems == ()


@pytest.mark.parametrize(
    "tag",
    [
        *("<lora:>", "<lora::1>", "<lora:x:abc>", "<lora:x:nan>", "<lora:x:inf>", "<lora:x:1:1:0>", "<lora:x:1:1:1:1>"),
        *(f"<lora:x:1:1:{'9' * 5000}>", "<lyco:x:abc>"),
    ],
)
def test_a_tag_that_makes_no_sense_is_reported_and_changes_nothing_else(tag):
    parsed = parse(f"a cat {tag} <lora:good:0.5>")

    assert [call.name for call in parsed.calls] == ["good"]
    assert parsed.text == "a cat"
    assert len(parsed.problems) == 1 and tag in str(parsed.problems[0])


def test_an_unclosed_tag_is_reported_and_stays_in_the_text():
    parsed = parse("a cat <lora:momo:0.8")

    assert parsed.calls == () and len(parsed.problems) == 1
    assert parsed.text == "a cat <lora:momo:0.8"


def test_text_around_tags_is_left_tidy_and_other_tags_are_not_ours():
    assert parse("a cat, <lora:x:1>, red").text == "a cat, red"
    assert parse("<lora:x:1>").text == ""
    assert parse("a <hypernet:y:1>  cat").text == "a <hypernet:y:1>  cat"


@pytest.mark.parametrize(
    "call",
    [
        NetworkCall("x", 0.8, 0.8),
        NetworkCall("x", 0.5, -1.25),
        NetworkCall("x", 1.0, 1.0, 4),
        NetworkCall("x", 1 / 3, 1e-7),
    ],
)
def test_a_call_written_as_a_tag_parses_to_itself(call):
    assert parse(str(call)).calls == (call,)


def test_a_call_remembers_what_the_person_wrote():
    assert parse("<lora:x: 0.80 >").calls[0].source == "<lora:x: 0.80 >"
