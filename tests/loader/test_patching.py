import itertools

import pytest
import torch
from torch import nn

from lora_atelier.adapters.base import Adapter
from lora_atelier.adapters.lora import LoraAdapter
from lora_atelier.errors import AdapterMismatchError
from lora_atelier.loader.patching import Patch, WeightPatcher
from lora_atelier.models.layers import Layer


class FakeHost:
    def __init__(self, **layers):
        self._layers = {name: Layer(module) for name, module in layers.items()}

    def layers(self):
        return self._layers


LAYERS = {
    "linear": lambda: nn.Linear(8, 4),
    "conv1x1": lambda: nn.Conv2d(8, 4, 1),
    "conv3x3": lambda: nn.Conv2d(8, 4, 3),
}
DTYPES = [torch.float16, torch.bfloat16, torch.float32]


def seeded(make, dtype=torch.float32):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().to(dtype).requires_grad_(False)


def lora(layer, rank=2, seed=1, alpha=1.0):
    generator = torch.Generator().manual_seed(seed)
    out, *inputs = layer.weight.shape
    down = torch.randn((rank, *inputs), generator=generator)
    up = torch.randn((out, rank, *[1] * (len(inputs) - 1)), generator=generator)
    return LoraAdapter(down, up, alpha)


def patch(layer, multiplier, seed=1, rank=2):
    return Patch("layer", "weight", lora(layer, rank, seed), multiplier, source=f"{seed:064}")


@pytest.fixture(params=LAYERS)
def make(request):
    return LAYERS[request.param]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_restore_returns_the_very_same_bits_after_any_history(make, dtype):
    """Subtracting what was added would leave rounding errors behind; copies do not."""
    layer = seeded(make, dtype)
    before = layer.weight.clone()
    patcher = WeightPatcher(FakeHost(layer=layer))

    for multipliers in ((0.8, -0.3), (0.5,), (1.0, 1.0, 1.0), (-2.0,)):
        patcher.apply([patch(layer, multiplier, seed=at) for at, multiplier in enumerate(multipliers)])
        assert not torch.equal(layer.weight, before)  # else the last line would prove nothing
    patcher.restore()

    assert torch.equal(layer.weight, before)
    assert patcher.touched == frozenset()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_several_changes_are_summed_in_float32_and_rounded_once(make, dtype):
    """Against the sum in float64, rounded to the weight's dtype: at most one unit in the last place apart."""
    layer = seeded(make, dtype)
    base = layer.weight.double()
    patches = [patch(layer, multiplier, seed=at, rank=at + 1) for at, multiplier in enumerate((0.8, -0.5, 0.3))]

    WeightPatcher(FakeHost(layer=layer)).apply(patches)

    exact = base + sum(p.multiplier * p.adapter.delta(layer.weight).double().reshape(base.shape) for p in patches)
    rounded = exact.to(dtype)
    if dtype == torch.float32:
        assert torch.allclose(layer.weight, rounded, rtol=0, atol=2e-6)
    else:
        assert (layer.weight == rounded).float().mean() > 0.99


def test_the_order_of_the_loras_does_not_matter_to_a_single_bit(make):
    results = []
    for order in itertools.permutations(range(3)):
        layer = seeded(make, torch.float16)
        patches = [patch(layer, 0.3 + at, seed=at) for at in order]
        WeightPatcher(FakeHost(layer=layer)).apply(patches)
        results.append(layer.weight.clone())

    assert all(torch.equal(result, results[0]) for result in results)


def test_removing_one_of_two_is_as_if_it_had_never_been_there(make):
    layer, other = seeded(make, torch.float16), seeded(make, torch.float16)
    patcher = WeightPatcher(FakeHost(layer=layer))

    patcher.apply([patch(layer, 0.7, seed=1)])
    patcher.apply([patch(layer, 0.7, seed=1), patch(layer, 0.4, seed=2)])
    patcher.apply([patch(layer, 0.4, seed=2)])

    WeightPatcher(FakeHost(layer=other)).apply([patch(other, 0.4, seed=2)])
    assert torch.equal(layer.weight, other.weight)


def test_multiplier_zero_is_exactly_nothing(make):
    layer = seeded(make, torch.float16)
    before = layer.weight.clone()
    patcher = WeightPatcher(FakeHost(layer=layer))

    patcher.apply([patch(layer, 0.0)])

    assert torch.equal(layer.weight, before)
    assert patcher.touched == frozenset()


def test_the_change_is_linear_in_the_multiplier(make):
    deltas = {}
    for multiplier in (1.0, 0.5, -1.0):
        layer = seeded(make)
        base = layer.weight.clone()
        WeightPatcher(FakeHost(layer=layer)).apply([patch(layer, multiplier)])
        deltas[multiplier] = layer.weight - base

    assert torch.allclose(deltas[0.5], deltas[1.0] / 2, atol=1e-6)
    assert torch.allclose(deltas[-1.0], -deltas[1.0], atol=1e-6)


def test_the_same_set_twice_writes_nothing(make):
    layer = seeded(make)
    patches = [patch(layer, 0.5)]
    patcher = WeightPatcher(FakeHost(layer=layer))
    patcher.apply(patches)
    version = layer.weight._version

    patcher.apply(list(patches))

    assert layer.weight._version == version


def test_linear_weights_fit_1x1_convolutions_and_the_other_way_round():
    linear, conv = nn.Linear(8, 4).requires_grad_(False), nn.Conv2d(8, 4, 1).requires_grad_(False)
    conv.weight.copy_(linear.weight.reshape(4, 8, 1, 1))

    WeightPatcher(FakeHost(layer=linear)).apply([Patch("layer", "weight", lora(conv), 0.5)])
    WeightPatcher(FakeHost(layer=conv)).apply([Patch("layer", "weight", lora(linear), 0.5)])

    assert torch.allclose(linear.weight.reshape(4, 8, 1, 1), conv.weight, atol=1e-6)


@pytest.mark.parametrize("wrong", [nn.Linear(8, 5), nn.Linear(7, 4), nn.Conv2d(8, 4, 3)], ids=str)
def test_a_shape_that_does_not_fit_is_refused_before_the_first_write(wrong):
    good, layer = seeded(LAYERS["linear"]), seeded(LAYERS["linear"])
    before = good.weight.clone()
    patcher = WeightPatcher(FakeHost(good=good, layer=layer))

    with pytest.raises(AdapterMismatchError, match=r"does not fit.*the model's is \(4, 8\)"):
        patcher.apply([Patch("good", "weight", lora(good), 1.0), Patch("layer", "weight", lora(wrong), 1.0)])
    with pytest.raises(AdapterMismatchError, match="no layer nowhere"):
        patcher.apply([Patch("good", "weight", lora(good), 1.0), Patch("nowhere", "weight", lora(good), 1.0)])

    assert torch.equal(good.weight, before)


class Failing(LoraAdapter):
    def factors(self):
        raise MemoryError("no room")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_error_in_the_middle_leaves_the_model_as_it_was_bit_for_bit(dtype):
    first, second = seeded(LAYERS["linear"], dtype), seeded(LAYERS["conv3x3"], dtype)
    before = first.weight.clone(), second.weight.clone()
    patcher = WeightPatcher(FakeHost(first=first, second=second))
    patcher.apply([Patch("first", "weight", lora(first), 0.5), Patch("second", "weight", lora(second), 0.5)])
    failing = Failing(lora(second).down, lora(second).up, 1.0)

    with pytest.raises(MemoryError):
        patcher.apply([Patch("first", "weight", lora(first, seed=3), 0.9), Patch("second", "weight", failing, 0.5)])

    assert torch.equal(first.weight, before[0])
    assert torch.equal(second.weight, before[1])
    assert patcher.touched == frozenset()


class Dense(Adapter):
    """A family whose change is no low-rank product, as LoKr's or a full difference."""

    def __init__(self, change):
        self.change = change

    @property
    def shape(self):
        return tuple(self.change.shape)

    def delta(self, weight):
        return self.change.float()


def test_families_without_factors_are_added_to_those_with(make):
    layer = seeded(make)
    base, low_rank = layer.weight.clone(), lora(layer)
    change = torch.randn(layer.weight.shape)

    patches = [Patch("layer", "weight", Dense(change), 0.5, "b"), Patch("layer", "weight", low_rank, 2.0, "a")]
    WeightPatcher(FakeHost(layer=layer)).apply(patches)

    assert torch.allclose(layer.weight, base + 0.5 * change + 2.0 * low_rank.delta(base), atol=1e-5)
    assert torch.equal(patches[0].adapter.change, change)  # the adapter's own numbers are not written to


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_layer_larger_than_one_block_and_in_another_memory_order_is_changed_whole(dtype):
    layer = seeded(lambda: nn.Conv2d(700, 500, 3), dtype).to(memory_format=torch.channels_last)
    assert layer.weight.numel() > 1 << 21
    before, adapter = layer.weight.clone(), lora(layer)
    patcher = WeightPatcher(FakeHost(layer=layer))

    patcher.apply([Patch("layer", "weight", adapter, 0.5)])

    expected = (before.float() + 0.5 * adapter.delta(before)).to(dtype)
    assert torch.allclose(layer.weight.float(), expected.float(), rtol=1e-2, atol=1e-4)
    patcher.restore()
    assert torch.equal(layer.weight, before)


def test_a_parameter_that_the_host_replaced_is_taken_as_new(make):
    """Moving or re-loading a model makes new parameters: the copy of the old one must not be written into them."""
    layer = seeded(make)
    patcher = WeightPatcher(FakeHost(layer=layer))
    patcher.apply([patch(layer, 0.5)])
    replaced = torch.randn(layer.weight.shape)
    layer.weight = nn.Parameter(replaced.clone(), requires_grad=False)

    patcher.apply([patch(layer, 0.7)])
    patcher.restore()

    assert torch.equal(layer.weight, replaced)
