"""Long and weighted captions: the layout is that of sd-scripts' SdTextEncodingStrategy and SdxlTextEncodingStrategy."""

import pytest
import torch

from lora_atelier.models import detect, load
from lora_atelier.models.text import Reading

LONG = "a b " * 50  # 100 tokens of the tiny tokenizer, which knows single characters only


@pytest.fixture(params=["toy", "sdxl"])
def model(request, tmp_path, save_model):
    save_model(tmp_path / "model", family=request.param)
    return load.load(tmp_path / "model", parts=("te",))


def test_a_long_text_keeps_one_start_and_one_end_mark_where_windows_are_joined(model):
    apart = model.read([LONG], Reading(windows=2)).context
    joined = model.read([LONG], Reading(windows=2, joined=True)).context

    assert apart.shape[1] == 2 * 77 and joined.shape[1] == 2 * 75 + 2
    expected = torch.cat([apart[:, :76], apart[:, 78:154]], dim=1)
    assert torch.equal(joined, expected)


def test_a_text_that_fits_reads_the_same_joined_or_not(model):
    assert torch.equal(model.read(["abc"], Reading(joined=True)).context, model.encode(["abc"]).context)


def test_windows_are_encoded_apart(model):
    """The first 75 tokens do not know what follows, so a short text's vectors are those of a long one's beginning."""
    short = model.read([LONG[: 75 * 2]], Reading()).context
    long = model.read([LONG], Reading(windows=3, joined=True)).context

    assert long.shape[1] == 227
    assert torch.allclose(long[:, :76], short[:, :76], atol=1e-6)


def test_the_pooled_vector_is_the_first_windows(tmp_path, save_model):
    save_model(tmp_path / "model", family="sdxl")
    model = load.load(tmp_path / "model", parts=("te",))

    pooled = model.read([LONG], Reading(windows=3, joined=True)).pooled

    assert torch.allclose(pooled, model.encode([LONG]).pooled, atol=1e-6)


def test_a_weight_multiplies_the_vectors_of_its_tokens_alone(model):
    plain = model.encode(["a b c d"]).context
    weighted = model.read(["a (b c:1.5) d"], Reading(weighted=True)).context

    factors = torch.ones(77)
    # The start mark stands in front.
    factors[2:4] = 1.5
    assert torch.allclose(weighted, plain * factors[:, None], atol=1e-6)


def test_weights_reach_into_the_second_window(model):
    text = LONG[: 80 * 2] + "(a b:0.5)"
    plain = model.read([text.replace("(", "").replace(":0.5)", "")], Reading(windows=2, joined=True)).context
    weighted = model.read([text], Reading(windows=2, joined=True, weighted=True)).context

    changed = [at for at in range(152) if not torch.allclose(weighted[0, at], plain[0, at])]
    assert changed == [81, 82]


def test_without_weights_asked_for_brackets_are_text(model):
    bracketed = model.read(["(ab)"], Reading()).context

    assert not torch.allclose(bracketed, model.read(["(ab)"], Reading(weighted=True)).context)
    assert torch.equal(bracketed, model.encode(["(ab)"]).context)


def test_tokenizers_are_read_without_the_weights(tmp_path, save_model):
    save_model(tmp_path / "model", family="sdxl")
    info = detect.inspect(tmp_path / "model")
    (tmp_path / "model" / "text_encoder" / "model.safetensors").unlink()

    tokenizers = load.read_tokenizers(info)

    assert [len(clip.tokens("a b c")) for clip in tokenizers] == [3, 3]
