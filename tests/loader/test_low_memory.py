"""While memory is short, nothing of a LoRA is kept but what tells it from others: its file is read for each change."""

import gc
import os

import pytest
import torch

from lora_atelier import memory
from lora_atelier.adapters import file
from lora_atelier.adapters.base import Adapter
from lora_atelier.loader import session as session_module
from lora_atelier.loader.catalogue import Catalogue
from lora_atelier.loader.session import LoaderSession, LoaderSettings
from lora_atelier.models import load

from .fakes import FakeHost, changed, same, use


@pytest.fixture
def low(host, add):
    return LoaderSession(host, Catalogue([add.folder]), LoaderSettings(originals="reread"))


@pytest.fixture
def read(monkeypatch):
    """The names of the files that were read, in order."""
    names = []

    def fit(name, *rest, **options):
        names.append(name)
        return original(name, *rest, **options)

    original = session_module.fit
    monkeypatch.setattr(session_module, "fit", fit)
    return names


def living_adapters():
    gc.collect()
    return [each for each in gc.get_objects() if isinstance(each, Adapter)]


def versions(host):
    return {name: layer.parameter("weight")._version for name, layer in host.layers().items()}


def rewrite(path, change):
    """Change a file's up matrices and keep its metadata, its size and its time."""
    content, stamp = file.read(path), path.stat().st_mtime_ns
    header = path.read_bytes()[: -sum(t.numel() * t.element_size() for t in content.tensors.values())]
    tensors = {key: change(tensor) if "lora_up" in key else tensor for key, tensor in content.tensors.items()}
    path.write_bytes(header + b"".join(file._bytes(tensors[key]) for key in file._order(tensors)))
    os.utime(path, ns=(stamp, stamp))


def test_no_adapter_is_kept_while_a_lora_is_on(host, low, add):
    add("a")
    before = living_adapters()

    use(low, "<lora:a:0.8>")

    assert low.applied
    assert living_adapters() == before


def test_with_copies_the_adapters_are_kept_and_the_file_is_read_once(host, session, add, read):
    add("a")

    for weight in (0.8, 0.5, 0.2):
        use(session, f"<lora:a:{weight}>")

    assert read == ["a"]
    assert living_adapters()


PROMPTS = ("<lora:a:0.8>", "<lora:a:0.5>", "<lora:a:0.5><lora:b:-0.3>", "<lora:b:1:0:2>", "<lora:b:0>", "")


def test_every_change_gives_the_same_bits_as_with_copies(tiny_model_folder, add):
    add("a")
    add("b", seed=2)
    hosts = [FakeHost(load.load(tiny_model_folder)) for _ in range(2)]
    sessions = [
        LoaderSession(host, Catalogue([add.folder]), LoaderSettings(originals=mode))
        for host, mode in zip(hosts, ("reread", "copy"), strict=True)
    ]
    clean = hosts[0].weights()

    for prompt in PROMPTS:
        assert [use(each, prompt) for each in sessions] == [[], []]
        assert same(hosts[0], hosts[1].weights())

    assert same(hosts[0], clean)


def test_the_same_prompt_again_reads_no_file_and_writes_nothing(host, low, add, read):
    add("a")
    use(low, "<lora:a:0.5>")
    written = versions(host)

    assert use(low, "<lora:a:0.5>") == []

    assert versions(host) == written
    assert read == ["a"]
    assert [applied.name for applied in low.applied] == ["a"]


def test_the_rank_that_dylora_is_cut_to_belongs_to_the_change(host, low, add, read):
    add("a", rank=4)
    use(low, "<lora:a:1:1:4>")
    full = host.weights()

    use(low, "<lora:a:1:1:2>")
    assert changed(host, full)
    use(low, "<lora:a:1:1:2>")

    assert read == ["a", "a"]


def test_a_lora_is_put_on_again_where_somebody_else_wrote(host, low, add):
    add("a")
    use(low, "<lora:a:0.5>")
    on = host.weights()
    name = next(name for name in on if name.endswith("attn1_to_q"))
    host.layers()[name].view("weight").zero_()

    assert use(low, "<lora:a:0.5>") == []

    assert changed(host, on) == {name}
    assert host.layers()[name].view("weight").any()


def test_a_file_that_was_changed_under_the_same_date_is_said_and_used_as_it_is_now(host, low, add):
    path = add("a")
    use(low, "<lora:a:0.5>")
    rewrite(path, lambda tensor: -tensor)
    now = file.read(path)
    assert now.content_hash == low.applied[0].content_hash  # the metadata still has the old one

    assert use(low, "<lora:a:0.8:0.5>") == [
        "LoRA “a”: its file was changed while it was on, under the same date; it was read again."
    ]
    as_it_is_now = host.weights()
    add("b", now.tensors)
    assert use(low, "<lora:b:0.8:0.5>") == []

    assert same(host, as_it_is_now)


def test_a_file_that_became_useless_under_the_same_date_is_left_out(host, low, add):
    before = host.weights()
    path = add("a")
    use(low, "<lora:a:0.5>")
    rewrite(path, lambda tensor: torch.full_like(tensor, float("nan")))

    (note,) = use(low, "<lora:a:0.8>")

    assert "not numbers" in note
    assert same(host, before)
    assert low.applied == ()


def test_a_file_that_is_gone_when_it_is_needed_is_said_and_the_others_stay_on(host, low, add, monkeypatch):
    path = add("a")
    add("b", seed=2)
    use(low, "<lora:b:0.5>")
    only_b = host.weights()
    use(low, "<lora:a:0.5><lora:b:0.5>")
    find, content = Catalogue.find, path.read_bytes()

    def find_and_delete(catalogue, name):
        entry = find(catalogue, name)
        if name == "a":
            path.unlink()
        return entry

    with monkeypatch.context() as patch:
        patch.setattr(Catalogue, "find", find_and_delete)
        (note,) = use(low, "<lora:a:0.8><lora:b:0.5>")

    assert note.startswith("a.safetensors is no longer there.")
    assert same(host, only_b)
    path.write_bytes(content)
    assert use(low, "<lora:a:0.8><lora:b:0.5>") == []


def test_restoring_needs_the_checkpoint_alone(host, low, add):
    before = host.weights()
    path = add("a")
    use(low, "<lora:a:0.5>")

    path.unlink()
    # Its time is new as well, so that it is looked at before it is relied on.
    for weights in host.model.info.path.rglob("*.safetensors"):
        os.utime(weights, ns=(7, 7))
    low.restore()

    assert same(host, before)


@pytest.mark.parametrize("mode", ["copy", "reread"])
def test_memory_is_given_back_when_the_last_lora_goes(host, add, mode, monkeypatch):
    given_back = []
    session = LoaderSession(host, Catalogue([add.folder]), LoaderSettings(originals=mode))
    add("a")
    use(session, "<lora:a:0.5>")
    monkeypatch.setattr(memory, "give_back", lambda: given_back.append(None))

    use(session, "<lora:a:0.5>")
    assert given_back == []
    use(session, "")
    assert len(given_back) == 1
    use(session, "")
    session.restore()

    assert len(given_back) == 1
