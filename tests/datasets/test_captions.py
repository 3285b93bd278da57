import codecs
import random

import pytest

from lora_atelier.datasets.captions import decode_named, find_caption, read_caption
from lora_atelier.datasets.processing import CaptionRules, process

pytestmark = pytest.mark.torchfree

TEXT = "桃の絵, 青い空"


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        (TEXT.encode(), "utf-8"),
        (codecs.BOM_UTF8 + TEXT.encode(), "utf-8"),
        (TEXT.encode("cp932"), "cp932"),
        (codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"), "utf-16"),
        (codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"), "utf-16"),
    ],
)
def test_a_caption_is_read_whatever_program_saved_it(data, encoding):
    assert decode_named(data) == (TEXT, encoding)


def test_bytes_of_no_known_encoding_are_still_text():
    text, encoding = decode_named("café, d'été".encode("cp1252"))

    assert (text, encoding) == ("café, d'été", "cp1252")


def test_the_asked_for_ending_comes_first_and_the_usual_ones_help_out(tmp_path):
    picture = tmp_path / "a.png"
    (tmp_path / "a.txt").write_text("usual", encoding="utf-8")
    assert read_caption(picture, ".tags") == "usual"

    (tmp_path / "a.tags").write_text("asked for", encoding="utf-8")
    assert read_caption(picture, ".tags") == "asked for"


def test_empty_lines_do_not_count_and_further_lines_are_for_those_who_ask(tmp_path):
    (tmp_path / "a.txt").write_text("\n  first  \r\n\r\nsecond\n", encoding="utf-8")

    found = find_caption(tmp_path / "a.png", ".txt")

    assert found.text(multiline=False) == "first" and found.text(multiline=True) == "first\nsecond"


def test_a_picture_cut_out_of_another_by_face_detection_has_its_caption(tmp_path):
    (tmp_path / "momo.txt").write_text("momo", encoding="utf-8")

    assert read_caption(tmp_path / "momo_120_80_64_64.png", ".txt") == "momo"
    assert read_caption(tmp_path / "momo_a_b_c_d.png", ".txt") is None


def rules(**changes):
    return CaptionRules(**changes)


def said(caption, seed=0, step=0, steps=10, **changes):
    return process(caption, rules(**changes), random.Random(seed), step=step, steps=steps)


def test_without_options_a_caption_is_left_as_it_is():
    assert said("a,b ,  c {d|e} |||") == "a,b ,  c {d|e} |||"
    assert not rules().varies


# Made by sd-scripts 48d368fa, BaseDataset.process_caption after random.seed(7); 20 steps in all.
FROM_SD_SCRIPTS = [
    ("a, b, c, d, e", {"shuffle_caption": True}, 0, "e, a, d, b, c"),
    ("a, b, c, d, e", {"shuffle_caption": True, "keep_tokens": 2}, 0, "a, b, e, c, d"),
    ("a, b ||| c, d, e ||| f", {"shuffle_caption": True, "keep_tokens_separator": "|||"}, 0, "a, b, e, c, d, f"),
    ("a, b, c, d, e", {"caption_tag_dropout_rate": 0.5}, 0, "c, e"),
    ("a, b, c, d, e", {"token_warmup_min": 2, "token_warmup_step": 10}, 4, "a, b, c"),
    ("a, b, c, d, e", {"token_warmup_min": 1, "token_warmup_step": 0.5, "shuffle_caption": True}, 7, "c, a, b"),
    ("a cat, b;;;c, d", {"secondary_separator": ";;;", "shuffle_caption": True}, 0, "d, a cat, b,c"),
    ("a {red|green|blue} {{cat}}", {"enable_wildcard": True}, 0, "a green {cat}"),
    ("one\ntwo\nthree {a|b}", {"enable_wildcard": True}, 0, "two"),
    ("a; b; c", {"shuffle_caption": True, "caption_separator": ";"}, 0, "c, a, b"),
    ("cat", {"caption_prefix": "photo of", "caption_suffix": "outside"}, 0, "photo of cat outside"),
]


@pytest.mark.parametrize(("caption", "options", "step", "expected"), FROM_SD_SCRIPTS)
def test_captions_are_processed_as_sd_scripts_does(caption, options, step, expected):
    assert said(caption, seed=7, step=step, steps=20, **options) == expected


def test_the_draw_alone_decides():
    options = {"shuffle_caption": True, "caption_tag_dropout_rate": 0.3, "enable_wildcard": True}
    made = [said("a, b, {c|d}, e, f", seed=seed, **options) for seed in range(50)]

    assert made == [said("a, b, {c|d}, e, f", seed=seed, **options) for seed in range(50)]
    assert len(set(made)) > 30


def test_every_line_gets_prefix_and_suffix():
    """In sd-scripts the first line alone gets the prefix and the last alone the suffix."""
    options = {"enable_wildcard": True, "caption_prefix": "momo,", "caption_suffix": "end"}

    assert {said("a\nb\nc", seed=seed, **options) for seed in range(40)} == {f"momo, {x} end" for x in "abc"}


def test_the_mark_between_kept_and_moving_tags_is_never_said():
    """sd-scripts leaves it in the caption unless tags are shuffled, dropped or warmed up."""
    assert said("a ||| b, c", keep_tokens_separator="|||") == "a, b, c"


def test_a_measurement_sees_a_caption_without_chance():
    options = {
        "shuffle_caption": True,
        "caption_tag_dropout_rate": 0.9,
        "enable_wildcard": True,
        "token_warmup_step": 100,
        "caption_prefix": "momo",
    }

    assert process("a {b|c}, d\nother", rules(**options), None, steps=1000) == "momo a b, d"
