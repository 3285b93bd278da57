import importlib.util
import json

import pytest

from lora_atelier.errors import ModelError
from lora_atelier.models import tokenizer


def test_clips_word_list_gives_clips_numbers():
    """Numbers of openai/clip-vit-large-patch14's tokenizer."""
    if importlib.util.find_spec("open_clip") is None:
        pytest.skip("open_clip_torch is not installed")
    clip = tokenizer.clip(pad_with_end=True)

    assert clip.tokens("a photo of a cat") == [320, 1125, 539, 320, 2368]
    # Of words without spaces and of accents too, as CLIP's own code reads them (transformers 4.30.2 with ftfy).
    assert clip.tokens("日本語の猫") == [39121, 44353, 34002, 252, 21575, 163, 234, 360]
    assert clip.tokens("café") == [15304]
    assert clip.windows("a photo of an astronaut riding a horse")[0][:9] == [
        49406, 320, 1125, 539, 550, 18376, 6765, 320, 4558,
    ]  # fmt: skip
    assert (clip.start, clip.end, clip.pad) == (49406, 49407, 49407)
    assert tokenizer.clip(pad_with_end=False).pad == 0


def test_a_folder_with_word_list_and_merges_is_read_as_transformers_reads_it(tiny_model_folder):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.CLIPTokenizer.from_pretrained(tiny_model_folder / "tokenizer", local_files_only=True)

    if getattr(theirs, "fix_text", True) is None:
        # Until version 5; then "日本語" is three words of a sign each, whose last bytes have other numbers (98 is 354).
        pytest.skip("without ftfy this transformers reads texts by BERT's rules, which are not CLIP's")

    ours = tokenizer.from_folder(tiny_model_folder / "tokenizer")

    for text in ("a red cat, 8k", "  Spaces   and\nLINES ", "日本語の猫", "it's <|endoftext|> <weird>", ""):
        padded = theirs(text, padding="max_length", max_length=77, truncation=True).input_ids
        assert ours.windows(text)[0] == padded


def test_a_tokenizer_json_alone_is_enough(tmp_path, tiny_model_folder):
    transformers = pytest.importorskip("transformers")
    transformers.CLIPTokenizer.from_pretrained(tiny_model_folder / "tokenizer").save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").is_file()
    (tmp_path / "vocab.json").unlink(missing_ok=True)

    same = tokenizer.from_folder(tmp_path)

    assert same.windows("a red cat") == tokenizer.from_folder(tiny_model_folder / "tokenizer").windows("a red cat")


def test_long_texts_are_cut_or_continued_in_further_windows(tiny_model_folder):
    clip = tokenizer.from_folder(tiny_model_folder / "tokenizer")
    text = "abcdefghij " * 20  # 200 tokens of one character each

    one, three = clip.windows(text), clip.windows(text, None)

    assert [len(window) for window in three] == [77, 77, 77]
    assert one == three[:1]
    assert [token for window in three for token in window[1:76]][:200] == clip.tokens(text)
    assert clip.windows("", None) == [[clip.start, clip.end, *[clip.pad] * 75]]


def test_a_broken_word_list_is_said_in_a_sentence(tmp_path):
    (tmp_path / "merges.txt").write_text("")
    (tmp_path / "vocab.json").write_text(json.dumps(["no", "object"]))

    with pytest.raises(ModelError, match="tokenizer"):
        tokenizer.from_folder(tmp_path)
    assert tokenizer.from_folder(tmp_path / "nowhere") is None
