"""The contract of each webui, against fakes of ours: the same things must hold in all five."""

import types

import pytest
import torch

from lora_atelier.hosts import network, router

from .layer_names import OUT, TEXT, Q, changes


def test_the_webui_is_told_by_its_modules(webui):
    fake, host = webui

    assert host.id == fake.kind
    assert host.data_dir == fake.folder / "lora-atelier"
    assert host.lora_dirs() == [fake.folder / "models" / "Lora"]


def test_a_prompt_changes_the_weights_and_the_next_one_gives_them_back_to_the_bit(webui, add):
    fake, _ = webui
    delta = add("mine")[Q]
    before, _ = fake.draw("a cat")

    after, _ = fake.draw("a cat <lora:mine:0.5>")
    again, _ = fake.draw("a cat")

    (change,) = changes(before, after)
    expected = 0.5 * (delta.T if fake.kind == "sdnext" else delta)  # that one is looked at through its layer
    assert torch.allclose(change, expected, atol=1e-5)
    assert changes(before, again) == []


def test_weight_nought_is_exactly_nothing(webui, add):
    fake, _ = webui
    add("mine")
    before, _ = fake.draw("a cat")

    assert changes(before, fake.draw("a cat <lora:mine:0>")[0]) == []


def test_another_weight_replaces_the_first_one(webui, add):
    fake, _ = webui
    add("mine")
    straight, _ = fake.draw("<lora:mine:0.5>")
    fake.draw("x")

    fake.draw("<lora:mine:0.8>")

    assert changes(straight, fake.draw("<lora:mine:0.5>")[0]) == []


def test_two_loras_are_a_sum_in_any_order(webui, add):
    fake, _ = webui
    add("one", Q, OUT), add("two", Q, seed=1)

    first, _ = fake.draw("<lora:one:0.8> <lora:two:-0.3>")

    assert changes(first, fake.draw("<lora:two:-0.3> <lora:one:0.8>")[0]) == []


def test_the_builtin_loader_is_told_that_it_has_nothing_to_do(webui, add):
    fake, _ = webui
    add("mine")

    fake.draw("<lora:mine:0.8>")
    fake.draw("<lyco:mine:0.8>") if fake.kind != "sdnext" else fake.draw("<lora:mine:1>")

    assert fake.builtin.told == [[], []]


def test_text_encoders_are_changed_as_the_webui_wants_it(webui, add):
    fake, _ = webui
    add("mine", Q, TEXT)
    before, _ = fake.draw("a cat")
    expected = 1 if fake.kind == "sdnext" else 2

    assert len(changes(before, fake.draw("<lora:mine:1>")[0])) == expected
    fake.opts.lora_apply_te = True
    assert len(changes(before, fake.draw("<lora:mine:1>")[0])) == 2


def test_changed_text_encoders_let_the_prompts_be_encoded_again(webui, add):
    fake, _ = webui
    fake.opts.lora_apply_te = True
    add("mine", TEXT)
    fake.cached_c[:] = ["key", "what was encoded"]

    fake.draw("<lora:mine:1>")
    assert fake.cached_c == [None, None]

    fake.cached_c[:] = ["key", "what was encoded"]
    fake.draw("<lora:mine:1>")
    assert fake.cached_c == ["key", "what was encoded"]

    fake.draw("a cat")
    assert fake.cached_c == [None, None]


def test_a_file_of_the_same_name_and_another_content_is_seen(webui, add):
    """The webuis' own loaders and caches know a file by its name alone."""
    fake, _ = webui
    add("mine")
    first, p = fake.draw("<lora:mine:1>")

    add("mine", seed=5)
    second, q = fake.draw("<lora:mine:1>")

    assert changes(first, second) != []
    data, other = (getattr(each, "extra_network_data", None) or each.network_data for each in (p, q))
    assert data != other


def test_what_can_not_be_applied_is_said_and_the_rest_is_applied(webui, add):
    fake, _ = webui
    add("mine"), add("wide", size=12)
    only, _ = fake.draw("<lora:mine:1>")

    weights, p = fake.draw("<lora:mine:1> <lora:nobody:1> <lora:wide:1> <lora:mine:x>")

    assert changes(only, weights) == []
    said = " ".join(p.comments)
    for part in ("no LoRA called “nobody”", "“wide” was not applied", "“x” in “<lora:mine:x>” is not a number"):
        assert part in said


def test_the_hashes_are_written_as_the_webui_writes_them(webui, add):
    fake, host = webui
    add("mine")
    _, p = fake.draw("<lora:mine:1>")
    digits = host.applied[0][1][:12]

    if fake.kind == "sdnext":
        assert p.extra_generation_params == {"LoRA networks": "mine", "LoRA hashes": digits[:8]}
    else:
        assert p.extra_generation_params == {"Lora hashes": f"mine: {digits}"}


def test_a_pasted_prompt_finds_the_file_under_its_name_here(webui, add):
    fake, host = webui
    add("mine")
    _, p = fake.draw("<lora:mine:1>")
    params = {"Prompt": "a <lora:theirs:0.7>, b <lora:else:1>"}
    params |= {key: value.replace("mine", "theirs") for key, value in p.extra_generation_params.items()}
    host.catalogue.start_hashing()
    host.catalogue.list()
    host.catalogue.wait_for_hashes(20)

    network.find_pasted(params, host.catalogue)

    assert params["Prompt"] == "a <lora:mine:0.7>, b <lora:else:1>"
    host.catalogue.stop_hashing()


def test_another_model_is_drawn_with_as_clean_as_the_first(webui, add):
    fake, host = webui
    add("mine")
    clean_first, _ = fake.draw("a cat")
    first = fake.model
    fake.draw("<lora:mine:1>")

    fake.load("another one")
    host.model_changed()
    clean_second, _ = fake.draw("a cat")
    assert changes(clean_second, fake.draw("<lora:mine:1>")[0]) != []

    fake.model = fake.model_data.sd_model = fake.shared.sd_model = first  # kept by the webui, and taken out again
    assert changes(clean_first, fake.draw("a cat")[0]) == []


def test_a_model_that_comes_while_a_picture_is_made_gets_the_prompts_loras(webui, add):
    """A refiner: the webui asks nobody again."""
    fake, host = webui
    add("mine")
    fake.draw("<lora:mine:1>")

    fake.load("another one")
    clean = fake.weights()
    fake.shared.state.job = "txt2img"
    host.model_changed()
    fake.after_activate(None)

    assert changes(clean, fake.weights()) != []


@pytest.mark.parametrize("why", ["setting", "lora-block-weight", "loractl", "default LoRA"])
def test_the_builtin_gets_all_tags_where_a_person_or_an_extension_needs_it(webui, add, why):
    fake, _ = webui
    add("mine")
    before, _ = fake.draw("a cat")
    fake.draw("<lora:mine:1>")
    if why == "setting":
        fake.opts.atelier_loader = "webui"
    elif why == "default LoRA":
        fake.opts.sd_lora = "other"
    else:
        fake.extensions.extensions.append(types.SimpleNamespace(name=f"sd-webui-{why}", enabled=True))

    weights, _ = fake.draw("<lora:mine:0.8> <atelier:mine:0.5>")

    assert changes(before, weights) == []
    assert changes(before, fake.builtin.found) == []
    assert fake.builtin.told[-1] == [["mine", "0.8"], ["mine", "0.5"]]


def test_without_a_builtin_loader_every_tag_is_ours(webui, add):
    fake, _ = webui
    add("mine")
    fake.opts.atelier_loader = "webui"
    before, _ = fake.draw("a cat")
    del fake.extra_networks.extra_network_registry["lora"]

    assert changes(before, fake.draw("<lora:mine:1>")[0]) != []


def test_unloading_gives_back_weights_and_the_webuis_own_function(webui, add):
    fake, host = webui
    add("mine")
    before, _ = fake.draw("a cat")
    fake.draw("<lora:mine:1>")

    host.unload()
    router.remove(fake.extra_networks)
    fake.after_activate(None)

    assert changes(before, fake.weights()) == []
    assert not hasattr(fake.extra_networks.parse_prompts, "_lora_atelier_original")


def test_an_error_nobody_foresaw_is_said_and_the_picture_is_made_without(webui, add, monkeypatch):
    fake, host = webui
    add("mine")
    before, _ = fake.draw("a cat")
    monkeypatch.setattr(type(host), "find_layers", lambda *_: 1 / 0)
    host._model = None
    host._session.forget()

    weights, p = fake.draw("<lora:mine:1>")

    assert changes(before, weights) == []
    assert "ZeroDivisionError" in " ".join(p.comments)


def test_nothing_is_asked_of_a_webui_that_has_no_model_yet(webui, add):
    fake, host = webui
    add("mine")
    fake.model_data.sd_model = None
    fake.shared.sd_loaded = False

    assert host.use([]) == []
