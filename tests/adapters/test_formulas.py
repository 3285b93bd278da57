"""Every adapter format against its float64 specification, as the patcher applies it to a layer's weight."""

import numpy as np
import pytest
import torch
from torch import nn

from lora_atelier.adapters import families
from lora_atelier.loader.patching import Patch, WeightPatcher
from lora_atelier.models.layers import Layer

from .cases import CASES, PLAIN, exact, make

STORED = [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]


class OneLayer:
    def __init__(self, weight):
        out, inner, *kernel = weight.shape
        module = nn.Conv2d(inner, out, tuple(kernel)) if kernel else nn.Linear(inner, out)
        self.module = module.to(weight.dtype).requires_grad_(False)
        self.module.weight.copy_(weight)

    def layers(self):
        return {"layer": Layer(self.module)}


def applied(weight, adapter, multiplier):
    host = OneLayer(weight)
    WeightPatcher(host).apply([Patch("layer", "weight", adapter, multiplier)])
    return host.module.weight.detach()


def adapter_of(tensors, weight):
    adapter = families.fitted(families.match(tensors)["weight"], weight.shape)
    assert adapter is not None
    return adapter


def relative(change, wanted):
    return float(torch.linalg.norm(change.double() - wanted) / torch.linalg.norm(wanted))


@pytest.mark.parametrize("stored", STORED, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_a_change_is_its_formula(name, stored):
    weight, tensors = make(name, dtype=stored)
    wanted = exact(name, weight, tensors) - weight.double()
    assert torch.linalg.norm(wanted) > 0.01 * torch.linalg.norm(weight)  # else the bound below would prove nothing

    change = adapter_of(tensors, weight).delta(weight)

    assert change.dtype == torch.float32
    assert change.shape == weight.shape
    assert relative(change, wanted) <= (1e-6 if name in PLAIN else 5e-5)


@pytest.mark.parametrize("multiplier", [1.0, 0.7, -0.5])
@pytest.mark.parametrize("name", CASES)
def test_a_multiplier_is_a_straight_line_through_the_unchanged_weight(name, multiplier):
    weight, tensors = make(name)
    wanted = multiplier * (exact(name, weight, tensors) - weight.double())

    change = applied(weight, adapter_of(tensors, weight), multiplier).double() - weight.double()

    # The weight is stored in float32, so its own rounding is part of what is seen here.
    rounding = torch.finfo(torch.float32).eps * torch.linalg.norm(weight.double())
    assert torch.linalg.norm(change - wanted) <= 5e-5 * torch.linalg.norm(wanted) + rounding


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_half_weights_are_rounded_once(name, dtype):
    """At most one unit in the last place from the float64 result rounded once, and hardly ever that."""
    full, tensors = make(name, dtype=torch.float16)
    weight = full.to(dtype)
    wanted = weight.double() + 0.8 * (exact(name, weight, tensors) - weight.double())
    rounded = _round(wanted, dtype)

    got = applied(weight, adapter_of(tensors, weight), 0.8)

    # Where a change takes a weight almost to zero, half precision has finer steps than the float32 sum before it.
    far = (_order(got) - _order(rounded)).abs() > 1
    assert bool(((got.double() - wanted).abs()[far] < 2e-7 * weight.abs().max()).all())
    assert far.sum() <= 1
    correct = float((got == rounded).float().mean())
    rms = lambda of: float((of.double() - wanted).square().mean().sqrt())  # noqa: E731
    assert rms(got) <= 1.02 * rms(rounded)
    if name in PLAIN:
        assert correct >= 0.999


def _round(exact_values, dtype):
    """float64 -> half without an intermediate rounding to float32, which torch's own conversion makes."""
    if dtype == torch.float16:
        return torch.from_numpy(exact_values.numpy().astype(np.float16))
    near = exact_values.to(dtype)
    best = near.double()
    for step in (-1, 1):
        other = _from_order(_order(near) + step, dtype)
        closer = (other.double() - exact_values).abs() < (best - exact_values).abs()
        near = torch.where(closer, other, near)
        best = near.double()
    return near


def _order(half):
    """The place of each number in the row of all numbers of its type."""
    bits = half.view(torch.int16).int()
    return torch.where(bits < 0, -(bits & 0x7FFF), bits)


def _from_order(order, dtype):
    bits = torch.where(order < 0, (-order) | 0x8000, order)
    return torch.where(bits > 0x7FFF, bits - 0x10000, bits).to(torch.int16).view(dtype)


@pytest.mark.parametrize("name", [name for name in CASES if families.match(make(name)[1])["weight"].factors()])
def test_factors_multiply_to_the_change(name):
    weight, tensors = make(name)
    adapter = adapter_of(tensors, weight)

    up, down = adapter.factors()

    assert torch.allclose((up @ down).reshape(weight.shape), adapter.delta(weight), atol=1e-7)


def test_a_dora_trained_by_peft_has_its_lengths_by_output():
    weight, tensors = make("dora by output")
    lengths = tensors.pop("dora_scale").reshape(-1)
    wanted = exact("dora by output", weight, {**tensors, "dora_scale": lengths[:, None]})

    for stored in (lengths, lengths[None, :, None, None]):
        adapter = adapter_of({**tensors, "lora_magnitude_vector": stored}, weight)
        assert relative(adapter.delta(weight), wanted - weight.double()) < 5e-5


def test_the_rank_of_a_dylora_cuts_components_and_keeps_the_scale():
    weight, tensors = make("lora")
    adapter = adapter_of(tensors, weight)
    up, down = tensors["lora_up.weight"].double(), tensors["lora_down.weight"].double()

    change = adapter.with_rank(2).delta(weight)

    assert relative(change, 0.5 * up[:, :2] @ down[:2]) < 1e-6  # alpha 2 of rank 4, not of rank 2
    assert adapter.with_rank(9) is adapter


def test_biases_and_norms_are_parameters_of_their_own():
    diff, bias = torch.randn(64, 48), torch.randn(64)

    full = families.match({"diff": diff, "diff_b": bias})
    norm = families.match({"w_norm": bias, "b_norm": bias})
    alone = families.match({"b_norm": bias})

    assert {name: adapter.shape for name, adapter in full.items()} == {"weight": (64, 48), "bias": (64,)}
    assert {name: adapter.shape for name, adapter in norm.items()} == {"weight": (64,), "bias": (64,)}
    assert set(alone) == {"bias"}
    assert torch.equal(norm["weight"].delta(torch.zeros(64)), bias)


def test_single_numbers_beside_a_lora_are_added_to_its_change():
    weight, tensors = make("lora")
    where = torch.tensor([[0, 63, 0], [0, 47, 0]])
    sparse = {
        "bias_indices": where,
        "bias_values": torch.tensor([1.0, -2.0, 0.5]),
        "bias_size": torch.tensor([64, 48]),
    }

    change = adapter_of({**tensors, **sparse}, weight).delta(weight) - adapter_of(tensors, weight).delta(weight)

    wanted = torch.zeros(64, 48)
    wanted[0, 0], wanted[63, 47] = 1.5 * 0.5, -2.0 * 0.5  # alpha 2 of rank 4
    assert torch.allclose(change, wanted, atol=1e-6)


def test_the_first_convolution_of_an_inpainting_model_keeps_its_other_channels():
    down, up = torch.randn(4, 4, 3, 3), torch.randn(32, 4, 1, 1)
    weight = torch.randn(32, 9, 3, 3)

    adapter = adapter_of({"lora_down.weight": down, "lora_up.weight": up}, weight)
    change = adapter.delta(weight)

    assert torch.allclose(change[:, :4], (up.flatten(1) @ down.flatten(1)).reshape(32, 4, 3, 3), atol=1e-6)
    assert not change[:, 4:].any()


BROKEN = {
    "a rank of zero": {"lora_down.weight": (0, 48), "lora_up.weight": (64, 0)},
    "two ranks": {"lora_down.weight": (4, 48), "lora_up.weight": (64, 5)},
    "an up without down": {"lora_up.weight": (64, 4)},
    "an unknown key beside": {"lora_down.weight": (4, 48), "lora_up.weight": (64, 4), "reshape_weight": (2,)},
    "half a Tucker LoHa": {"hada_t1": (4, 4, 3, 3)} | {f"hada_w{n}_{s}": (4, 48) for n in (1, 2) for s in "ab"},
    "a LoHa of two sizes": {"hada_w1_a": (64, 4), "hada_w1_b": (4, 48), "hada_w2_a": (64, 4), "hada_w2_b": (4, 47)},
    "half a LoKr": {"lokr_w1": (4, 6)},
    "a LoKr of two ranks": {"lokr_w1": (4, 6), "lokr_w2_a": (16, 4), "lokr_w2_b": (5, 8)},
    "OFT blocks that are not square": {"oft_blocks": (8, 8, 7)},
    "OFT with another number of scales": {"oft_blocks": (8, 8, 8), "rescale": (63, 1)},
    "BOFT with more stages than fit": {"oft_blocks": (5, 8, 8, 8)},
    "a GLoRA of two ranks": {"a1.weight": (48, 4), "a2.weight": (4, 48), "b1.weight": (64, 4), "b2.weight": (5, 48)},
    "two lengths": {"lora_down.weight": (4, 48), "lora_up.weight": (64, 4), "dora_scale": (64, 1),
                    "lora_magnitude_vector": (64,)},
    "a DoRA of nothing": {"dora_scale": (64, 1)},
    "single numbers without their places": {"diff": (64, 48), "bias_values": (3,)},
    "a tool's instruction": {"set_weight": (64, 48)},
    "nothing but alpha": {"alpha": ()},
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_no_family_claims_what_it_does_not_know_whole(name):
    assert families.match({suffix: torch.zeros(shape) for suffix, shape in BROKEN[name].items()}) is None


@pytest.mark.parametrize("name", CASES)
def test_an_adapter_for_another_width_does_not_fit(name):
    weight, tensors = make(name)
    rows, *rest = weight.shape

    adapter = families.match(tensors)["weight"]

    assert families.fitted(adapter, weight.shape) is adapter
    assert families.fitted(adapter, (rows + 1, rest[0] + 1, *rest[1:])) is None


@pytest.mark.parametrize("name", CASES)
def test_an_adapter_goes_to_a_device_with_every_tensor_that_it_has(name):
    adapter = families.match(make(name)[1])["weight"]

    tensors = list(_tensors_of(adapter.to(torch.device("meta"))))

    assert tensors
    assert all(tensor.is_meta for tensor in tensors)
    assert [tensor.dtype for tensor in tensors] == [tensor.dtype for tensor in _tensors_of(adapter)]


def _tensors_of(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, families.Adapter):
        for part in vars(value).values():
            yield from _tensors_of(part)
    elif isinstance(value, tuple):
        for part in value:
            yield from _tensors_of(part)
