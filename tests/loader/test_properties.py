"""What holds for every format, every set of LoRAs and every order: the loader's promises, with random cases."""

import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lora_atelier.adapters import families
from lora_atelier.adapters.file import AdapterFile
from lora_atelier.loader.fitting import fit_content
from lora_atelier.loader.patching import Patch, WeightPatcher
from lora_atelier.models.layers import Layer

from ..adapters.cases import CASES, make

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
MULTIPLIERS = st.one_of(st.just(0.0), st.floats(-2, 2, width=32))


class Layers:
    """One layer for each of the given cases."""

    def __init__(self, names, dtype):
        self._layers, self.adapters = {}, {}
        for at, name in enumerate(names):
            weight, tensors = make(name, seed=at)
            out, inner, *kernel = weight.shape
            module = nn.Conv2d(inner, out, tuple(kernel), bias=False) if kernel else nn.Linear(inner, out, bias=False)
            module.to(dtype).requires_grad_(False).weight.copy_(weight)
            self._layers[f"layer{at}"] = Layer(module)
            self.adapters[f"layer{at}"] = families.fitted(families.match(tensors)["weight"], weight.shape)

    def layers(self):
        return self._layers

    def bits(self):
        return [layer.view("weight").clone() for layer in self._layers.values()]

    def patches(self, multipliers, source="a"):
        pairs = zip(self.adapters.items(), multipliers, strict=True)
        return [Patch(name, "weight", adapter, m, source) for (name, adapter), m in pairs]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_multiplier_zero_changes_no_bit(name, dtype):
    host = Layers([name], dtype)
    before, version = host.bits(), host.layers()["layer0"].parameter("weight")._version

    WeightPatcher(host).apply(host.patches([0.0]))

    assert same(host.bits(), before)
    assert host.layers()["layer0"].parameter("weight")._version == version


@settings(max_examples=60, deadline=None)
@given(
    names=st.lists(st.sampled_from(list(CASES)), min_size=1, max_size=4),
    dtype=st.sampled_from(DTYPES),
    rounds=st.lists(st.lists(MULTIPLIERS, min_size=4, max_size=4), min_size=1, max_size=4),
)
def test_whatever_was_on_every_bit_comes_back(names, dtype, rounds):
    host = Layers(names, dtype)
    before, patcher = host.bits(), WeightPatcher(host)

    for multipliers in rounds:
        patcher.apply(host.patches(multipliers[: len(names)]))
    patcher.apply([])

    assert same(host.bits(), before)
    assert patcher.touched == frozenset()


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from([name for name in CASES if name.startswith("lo")]),
    dtype=st.sampled_from(DTYPES),
    calls=st.lists(st.tuples(st.sampled_from("abc"), MULTIPLIERS), min_size=2, max_size=5),
    order=st.randoms(use_true_random=False),
)
def test_the_order_of_calls_changes_no_bit(name, dtype, calls, order):
    host = Layers([name], dtype)
    patches = [patch for source, m in calls for patch in host.patches([m], source)]
    shuffled = patches.copy()
    order.shuffle(shuffled)

    WeightPatcher(host).apply(patches)
    one = host.bits()
    other_host = Layers([name], dtype)
    WeightPatcher(other_host).apply(shuffled)

    assert same(one, other_host.bits())


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(list(CASES)), multiplier=st.floats(-1.5, 1.5).filter(lambda m: abs(m) > 0.05))
def test_beside_the_layer_equals_in_the_weight_to_a_ten_thousandth_of_the_effect(name, multiplier):
    host = Layers([name], torch.float32)
    module = host.layers()["layer0"].module
    shape = (2, module.in_channels, 5, 5) if isinstance(module, nn.Conv2d) else (3, module.in_features)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    plain = module(x)

    beside = WeightPatcher(host, merge=False)
    beside.apply(host.patches([multiplier]))
    unmerged = module(x)
    beside.restore()
    WeightPatcher(host).apply(host.patches([multiplier]))
    merged = module(x)

    effect = torch.linalg.norm(merged - plain)
    assert torch.linalg.norm(unmerged - merged) <= 1e-4 * effect + 1e-6 * torch.linalg.norm(plain)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_thousand_random_changes_leave_no_trace(dtype):
    names = ["lora", "locon 3x3", "loha", "lokr, both whole", "ia3 by output", "oft", "dora by output"]
    host, rng = Layers(names, dtype), random.Random(3)
    before, patcher = host.bits(), WeightPatcher(host)

    for _ in range(1000):
        multipliers = [rng.choice([0.0, 0.0, 1.0, rng.uniform(-1, 1)]) for _ in names]
        patcher.apply(host.patches(multipliers, rng.choice("abc")))
    patcher.restore()

    assert same(host.bits(), before)


@pytest.mark.parametrize("name", ["lora", "locon 3x3", "ia3 by output"])
def test_a_model_that_the_host_converted_in_between_gets_its_own_bits_back(name):
    """Half to float and back, as hosts do with --no-half or when they move a model between devices."""
    host = Layers([name], torch.float16)
    before, patcher = host.bits(), WeightPatcher(host)
    patcher.apply(host.patches([0.8]))

    host.layers()["layer0"].module.float()
    patcher.apply([])

    assert host.layers()["layer0"].view("weight").dtype == torch.float32
    assert same(host.bits(), [weight.float() for weight in before])


class FamilyHost(Layers):
    """Four layers of a U-Net under kohya's names, and no text encoder."""

    def __init__(self):
        modules = [nn.Linear(12, 8, bias=False) for _ in range(4)]
        self._layers = {f"lora_unet_down_blocks_{at}_proj_in": Layer(module) for at, module in enumerate(modules)}

    def aliases(self):
        return {f"lora_unet_alias_{at}": name for at, name in enumerate(self._layers)}

    def family(self):
        return "sd1"


def entry_of(kind, at):
    """The tensors of one layer of a file."""
    down, up = torch.ones(2, 12), torch.ones(8, 2)
    here = f"down_blocks_{at}_proj_in"
    lora = {"lora_down.weight": down, "lora_up.weight": up}
    written, tensors = {
        "fits": (f"lora_unet_{here}", lora),
        "absent": (f"lora_unet_elsewhere_{at}", lora),
        "by another name": (f"lora_unet_alias_{at}", lora),
        "as diffusers says it": (f"unet.down_blocks.{at}.proj_in", {"lora_A.weight": down, "lora_B.weight": up}),
        "no key": (f"encoder_{at}", {"kernel": down}),
        "one key too many": (f"lora_unet_{here}", lora | {"lora_sideways.weight": down}),
        "odd": (f"lora_unet_{here}", lora | {"lora_down.weight": torch.ones(2, 13)}),
        "unread": (f"lora_unet_{here}", {"lora_down.weight": down}),
        "text": (f"lora_te_text_model_encoder_layers_{at}_mlp_fc1", lora),
    }[kind]
    return {f"{written}.{suffix}": tensor for suffix, tensor in tensors.items()}


# How often a kind of entry is counted, and beside what the count stands; a second name for a layer counts by its keys.
COUNTED = {
    **dict.fromkeys(("absent", "by another name", "no key"), ("are not in the model", 1)),
    "as diffusers says it": ("are not in the model", 2),
    **dict.fromkeys(("odd", "unread", "one key too many"), ("do not fit the model", 1)),
    "text": ("text encoder", 1),
}
SECOND_NAMES = ("by another name", "as diffusers says it")


@settings(max_examples=150, deadline=None)
@given(
    places=st.lists(st.sampled_from(["fits", "odd", "unread", "one key too many"]), min_size=4, max_size=4),
    more=st.sets(
        st.tuples(st.sampled_from(["absent", "no key", "text", *SECOND_NAMES]), st.integers(0, 3)), max_size=8
    ),
)
def test_no_key_is_dropped_without_being_counted_and_shown(places, more):
    # A name is a second one only where the first one is used.
    more = [(kind, at) for kind, at in sorted(more) if kind not in SECOND_NAMES or places[at] == "fits"]
    tensors = {}
    for at, kind in enumerate(places):
        tensors |= entry_of(kind, at)
    for kind, at in more:
        tensors |= entry_of(kind, at)
    host = FamilyHost()

    fitted = fit_content("x", AdapterFile(Path("x"), tensors, {}, ""), host, partly=True)

    used = {name for at, name in enumerate(host.layers()) if places[at] == "fits"}
    assert {layer for layer, _ in fitted.adapters} == used
    shown, expected = Counter(), Counter()
    for note in fitted.notes:
        shown[next(told for told, _ in COUNTED.values() if told in note.template)] += note.values["count"]
    for kind in [*places, *(kind for kind, _ in more)]:
        told, count = COUNTED.get(kind, ("", 0))
        expected[told] += count
    assert shown == +expected
