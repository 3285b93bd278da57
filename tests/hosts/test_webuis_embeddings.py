"""Embeddings inside of LoRA files: in each webui they are words as long as the LoRA is on."""

from pathlib import Path

import torch

from lora_atelier.adapters import file

from .layer_names import Q, changes


def bundle(fake, lora, **words):
    """Write a LoRA that brings embeddings."""
    tensors = {f"{Q}.lora_down.weight": torch.ones(2, 8), f"{Q}.lora_up.weight": torch.ones(8, 2)}
    tensors |= {f"bundle_emb.{word}.string_to_param.*": vectors for word, vectors in words.items()}
    file.write(Path(fake.lora_dir()) / f"{lora}.safetensors", tensors, {"ss_base_model_version": "sd_v1"})


def test_the_embeddings_of_a_lora_are_there_for_its_prompts_and_leave_no_trace(webui, add):
    fake, _ = webui
    vectors, other = torch.randn(3, 8), torch.randn(1, 8)
    bundle(fake, "mine", figure=vectors), bundle(fake, "other", hat=other), add("plain")
    before = fake.words()

    fake.draw("figure <lora:mine:1>")
    assert fake.words() == {"figure": vectors.tolist()}
    fake.draw("figure <lora:mine:0.5>")
    assert fake.words() == {"figure": vectors.tolist()}

    fake.draw("figure hat <lora:mine:1> <lora:other:1>")
    assert fake.words() == {"figure": vectors.tolist(), "hat": other.tolist()}
    fake.draw("hat <lora:other:1>")
    assert fake.words() == {"hat": other.tolist()}

    fake.draw("figure <lora:plain:1>")
    assert fake.words() == before == {}


def test_an_embedding_of_the_persons_own_goes_before_one_that_a_lora_brings(webui):
    fake, _ = webui
    fake.own_word("figure")
    before = fake.words()
    bundle(fake, "mine", figure=torch.ones(2, 8), hat=torch.ones(1, 8))

    _, p = fake.draw("<lora:mine:1>")

    assert "“figure” inside of a LoRA file was left out: the webui has one" in " ".join(p.comments)
    assert fake.words() == {**before, "hat": [[1.0] * 8]}
    fake.draw("a cat")
    assert fake.words() == before


def test_an_embedding_for_another_text_encoder_is_left_out_and_said(webui):
    fake, _ = webui
    bundle(fake, "mine", wide=torch.ones(2, 12))
    before, _ = fake.draw("a cat")

    after, p = fake.draw("<lora:mine:1>")

    assert "“wide” was left out: it is for another model's text encoder" in " ".join(p.comments)
    assert fake.words() == {} and changes(before, after) != []


def test_embeddings_leave_with_the_extension_and_with_the_model(webui):
    fake, host = webui
    bundle(fake, "mine", figure=torch.ones(2, 8))
    fake.draw("<lora:mine:1>")
    host.unload()
    assert fake.words() == {}

    fake.draw("<lora:mine:1>")
    first = fake.model
    fake.load("another one")
    host.model_changed()
    assert fake.words() == {}
    fake.model = first
    assert fake.words() == {}


def test_where_embeddings_can_not_be_put_the_lora_is_on_all_the_same(webui, monkeypatch):
    fake, host = webui
    bundle(fake, "mine", figure=torch.ones(2, 8))
    before, _ = fake.draw("a cat")
    monkeypatch.setattr(host, "shelf", lambda: 1 / 0)

    after, p = fake.draw("<lora:mine:1>")

    assert changes(before, after) != [] and "could not be used: division by zero" in " ".join(p.comments)
