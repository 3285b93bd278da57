"""What holds for every format, every set of LoRAs and every order: the loader's promises, with random cases."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lora_atelier.adapters import families
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
