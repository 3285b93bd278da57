import pytest
import torch

from lora_atelier.models.inversions import NONE, Inversions, of_parts


def plain(text):
    return [100 + len(word) for word in text.split()]


WORDS = Inversions({"cat": torch.ones(2, 8), "cat-figure": torch.full((1, 8), 2.0), "桃": torch.full((3, 8), 3.0)})


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("a dog", [101, 103]),
        ("a cat sits", [101, -1, -2, 104]),
        ("a CAT-figure", [101, -3]),
        ("concat cats", [106, 104]),
        ("桃, cat", [-4, -5, -6, 101, -1, -2]),
        ("", []),
    ],
)
def test_a_word_becomes_a_number_below_zero_for_each_of_its_vectors(text, tokens):
    assert WORDS.tokens(text, plain) == tokens


def test_without_words_a_text_is_tokenized_as_it_stands():
    assert NONE.tokens("a cat", plain) == [101, 103]


def test_the_text_encoder_reads_the_vectors_and_is_as_before_afterwards():
    class Encoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Embedding(5, 8)

        def get_input_embeddings(self):
            return self.table

    encoder, ids = Encoder(), torch.tensor([[1, -1, -3, 4]])

    with WORDS.read_by(encoder, ids) as known:
        seen = encoder.table(known)

    assert torch.equal(seen[0, 1], torch.ones(8))
    assert torch.equal(seen[0, 2], torch.full((8,), 2.0))
    assert torch.equal(seen[0, 3], encoder.table.weight[4])
    assert torch.equal(encoder.table(torch.tensor([0]))[0], encoder.table.weight[0])


@pytest.mark.parametrize(
    ("stored", "widths", "shapes"),
    [
        ({"string_to_param.*": torch.zeros(3, 8)}, [8], [(3, 8)]),
        ({"emb_params": torch.zeros(8)}, [8], [(1, 8)]),
        ({"clip_l": torch.zeros(2, 8), "clip_g": torch.zeros(2, 16)}, [8, 16], [(2, 8), (2, 16)]),
        ({"clip_l": torch.zeros(2, 8)}, [8, 16], None),
        ({"string_to_param.*": torch.zeros(3, 8)}, [12], None),
        ({"something": torch.zeros(3, 8)}, [8], None),
    ],
)
def test_vectors_are_taken_if_they_fit_every_text_encoder(stored, widths, shapes):
    vectors = of_parts(stored, widths)

    assert (vectors if shapes is None else [tuple(v.shape) for v in vectors]) == shapes
