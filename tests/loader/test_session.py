import os

import pytest
import torch

from lora_atelier.errors import AdapterError
from lora_atelier.loader.catalogue import Catalogue
from lora_atelier.loader.session import LoaderSession
from lora_atelier.models import layers
from lora_atelier.prompt import parse

from .fakes import FakeHost, changed, same, use


def test_a_prompts_lora_is_on_the_model_until_the_next_prompt(host, session, add):
    add("猫 cat")
    before = host.weights()

    assert use(session, "a cat <lora:猫 cat:0.8>") == []
    touched = changed(host, before)
    assert use(session, "a cat") == []

    assert len(touched) > 40
    assert same(host, before)
    assert session.applied == ()


def test_both_multipliers_go_to_their_part(host, session, add):
    add("a")
    before = host.weights()

    use(session, "<lora:a:0:1>")
    assert all(name.startswith("lora_unet_") for name in changed(host, before))
    use(session, "<lora:a:1:0>")
    assert all(name.startswith("lora_te_") for name in changed(host, before))
    use(session, "<lora:a:0>")

    assert same(host, before)


def test_the_order_in_the_prompt_does_not_matter_to_a_single_bit(host, session, add):
    for at, name in enumerate("abc"):
        add(name, seed=at)
    results = []

    for prompt in ("<lora:a:0.5><lora:b:0.7><lora:c:-1>", "<lora:c:-1><lora:a:0.5><lora:b:0.7>"):
        session.restore()
        use(session, prompt)
        results.append(host.weights())

    assert all(torch.equal(results[0][name], weight) for name, weight in results[1].items())


def test_the_same_prompt_twice_reads_and_writes_nothing(host, session, add):
    path = add("a")
    use(session, "<lora:a:0.5>")
    versions = {name: layer.parameter("weight")._version for name, layer in host.layers().items()}
    path_content = path.read_bytes()
    stamp = path.stat().st_mtime_ns
    path.write_bytes(bytes(len(path_content)))  # the same size and time: nothing may look inside
    os.utime(path, ns=(stamp, stamp))

    notes = use(session, "<lora:a:0.5>")

    assert notes == []
    assert {name: layer.parameter("weight")._version for name, layer in host.layers().items()} == versions


def test_a_file_that_was_replaced_under_the_same_name_is_noticed(host, session, add):
    path = add("a", seed=1)
    use(session, "<lora:a:1>")
    first, first_hash = host.weights(), session.applied[0].content_hash
    add("a", seed=2)
    os.utime(path, ns=(5, 5))

    use(session, "<lora:a:1>")

    assert changed(host, first)
    assert session.applied[0].content_hash != first_hash


def test_the_other_loras_are_applied_when_one_is_not_there(host, session, add):
    add("momo_figure")
    before = host.weights()

    notes = use(session, "<lora:momo_figur:0.5> <lora:momo_figure:0.5>")

    assert notes == ["There is no LoRA called “momo_figur”; it was left out. Did you mean <lora:momo_figure:1>?"]
    assert changed(host, before)
    assert [applied.name for applied in session.applied] == ["momo_figure"]


def reshaped(tensors, layer):
    key = f"{layer}.lora_down.weight"
    return {**tensors, key: torch.zeros(4, tensors[key].shape[1] + 1)}


LAYER = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


def test_one_layer_of_another_shape_refuses_the_whole_file(host, session, add, tiny_model, random_lora):
    tensors = random_lora(layers.target_layers(tiny_model.unet))
    add("odd", reshaped(tensors, LAYER))
    add("good")
    before = host.weights()

    notes = use(session, "<lora:odd:1>")

    assert same(host, before)
    assert notes == [
        f"LoRA “odd” was not applied. 1 of 48 layers have another shape than the model, first {LAYER}: (16, 17), "
        "expected (16, 16). Load the model that it was trained for, or remove it from the prompt."
    ]
    assert use(session, "<lora:odd:1><lora:good:1>") == notes
    assert changed(host, before)


def test_a_lora_of_another_family_is_told_which_one(host, session, add):
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    add("xl", {f"{name}.lora_down.weight": torch.zeros(4, 2048), f"{name}.lora_up.weight": torch.zeros(16, 4)})

    (note,) = use(session, "<lora:xl:1>")

    assert "It was trained for Stable Diffusion XL and the model is LoRA Atelier Base" in note


@pytest.mark.parametrize(("unknown", "applied"), [(2, True), (3, False)])
def test_more_than_five_percent_unknown_layers_refuse_the_file(
    host, session, add, tiny_model, random_lora, unknown, applied
):
    tensors = random_lora(layers.target_layers(tiny_model.unet))  # 48 layers
    for at in range(unknown):
        tensors[f"lora_unet_nowhere_{at}.lora_down.weight"] = torch.zeros(4, 4)
    add("a", tensors)
    before = host.weights()

    (note,) = use(session, "<lora:a:1>")

    assert bool(changed(host, before)) == applied
    if applied:
        assert note == "LoRA “a”: 2 of 50 layers are not in the model and were left out."
    else:
        assert "3 of 51 layers are not in the model, first lora_unet_nowhere_0" in note


def test_text_encoder_layers_that_can_not_be_applied_are_counted(tiny_model, add, random_lora):
    host = FakeHost(tiny_model, with_te=False)
    session = LoaderSession(host, Catalogue([add.folder]))
    targets = layers.target_layers(tiny_model.unet) | layers.target_layers(tiny_model.text_encoders[0])
    add("a", random_lora(targets))

    notes = use(session, "<lora:a:1>")

    assert notes == ["LoRA “a”: its 12 text encoder layers were left out; they are not applied here."]
    assert session.applied


def test_the_embeddings_of_a_file_are_the_hosts_as_long_as_it_is_on(host, session, add, tiny_model, random_lora):
    vectors = torch.ones(2, 32)
    add("a", {**random_lora(layers.target_layers(tiny_model.unet)), "bundle_emb.x.string_to_param.*": vectors})

    use(session, "<lora:a:0.5>")
    assert torch.equal(host.embeddings["x"]["string_to_param.*"], vectors)
    use(session, "")

    assert host.embeddings == {}


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"x.weight": torch.zeros(2)}, "None of its 1 keys is one that can be read; the first is x.weight"),
        ({}, "None of its 0 keys"),
        ({f"{LAYER}.hada_w1_a": torch.zeros(2)}, f"kind that can't be read, first {LAYER} \\(hada_w1_a\\)"),
        (
            {
                f"{LAYER}.lora_down.weight": torch.full((4, 16), float("nan")),
                f"{LAYER}.lora_up.weight": torch.zeros(16, 4),
            },
            "not numbers",
        ),
    ],
    ids=["no adapter", "empty", "another kind", "nan"],
)
def test_a_file_that_can_not_be_used_is_left_out_with_its_reason(host, session, add, tensors, said):
    add("a", tensors)
    before = host.weights()

    with pytest.raises(AdapterError, match=said):
        raise session.use(parse("<lora:a:1>").calls)[0]

    assert same(host, before)


def test_a_broken_file_is_left_out_with_its_reason(host, session, add):
    path = add("a")
    path.write_bytes(path.read_bytes()[:-10])

    (note,) = use(session, "<lora:a:1>")

    assert note.startswith("a.safetensors can't be read as a LoRA. The file is broken or incomplete")


def test_dylora_rank_and_arguments_of_other_extensions(host, session, add):
    add("a", rank=4)
    before = host.weights()
    use(session, "<lora:a:1:1:4>")
    full = host.weights()

    (note,) = use(session, "<lora:a:1:1:2:lbw=OUTALL>")

    assert note == "“<lora:a:1:1:2:lbw=OUTALL>”: lbw can't be used yet and was ignored."
    assert changed(host, full)
    assert changed(host, before)


def test_another_model_is_patched_from_its_own_weights(tiny_model_folder, host, session, add):
    from lora_atelier.models import load

    add("a")
    use(session, "<lora:a:1>")
    other = FakeHost(load.load(tiny_model_folder))
    before = other.weights()
    host._layers, host.model = other.layers(), other.model

    use(session, "<lora:a:1>")
    assert changed(other, before)
    use(session, "")

    assert same(other, before)


def test_sdxl_files_with_diffusers_names_land_on_the_same_layers(tmp_path, save_model, add, random_lora):
    from lora_atelier.models import load

    save_model(tmp_path / "xl", family="sdxl")
    host = FakeHost(load.load(tmp_path / "xl"))
    session = LoaderSession(host, Catalogue([add.folder]))
    back = {name: alias for alias, name in host.aliases().items()}
    tensors = random_lora(layers.target_layers(host.model.unet, conv=True))
    renamed = {back[key.split(".")[0]] + "." + key.split(".", 1)[1]: tensor for key, tensor in tensors.items()}
    add("kohya", tensors)
    add("diffusers", renamed)
    before = host.weights()

    assert use(session, "<lora:kohya:1>") == []
    first = host.weights()
    assert use(session, "<lora:diffusers:1>") == []

    assert changed(host, before)
    assert same(host, first)
