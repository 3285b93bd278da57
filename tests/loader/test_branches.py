"""Changes that run beside a layer: for weights that can't be written, and wherever merging is off."""

import pytest
import torch
from torch import nn

from lora_atelier.adapters import families
from lora_atelier.adapters.lora import LoraAdapter
from lora_atelier.errors import AdapterMismatchError
from lora_atelier.loader.patching import Patch, WeightPatcher
from lora_atelier.models.layers import Layer

MODULES = {
    "linear": (lambda: nn.Linear(12, 8), (5, 12)),
    "conv3x3": (lambda: nn.Conv2d(4, 8, 3, padding=1, stride=2), (2, 4, 9, 9)),
    "conv1x1": (lambda: nn.Conv2d(4, 8, 1), (2, 4, 6, 6)),
}


class FakeHost:
    def __init__(self, module):
        self._layers = {"layer": Layer(module)}

    def layers(self):
        return self._layers


class Quantised(nn.Linear):
    """A linear layer whose weight is stored as whole numbers of a hundredth, as quantised models keep them."""

    def __init__(self, linear):
        super().__init__(linear.in_features, linear.out_features)
        codes = (linear.weight * 100).round().clamp(-127, 127).to(torch.int8)
        self.weight = nn.Parameter(codes, requires_grad=False)
        self.bias = nn.Parameter(linear.bias.detach().clone(), requires_grad=False)

    def forward(self, given):
        return nn.functional.linear(given, self.weight.float() / 100, self.bias)


def lora(module, seed=1, rank=3):
    generator = torch.Generator().manual_seed(seed)
    out, *rest = module.weight.shape
    down = torch.randn((rank, *rest), generator=generator) * 0.2
    up = torch.randn((out, rank, *[1] * (len(rest) - 1)), generator=generator) * 0.2
    return LoraAdapter(down, up, 2.0)


@pytest.fixture(params=MODULES)
def case(request):
    torch.manual_seed(0)
    make, shape = MODULES[request.param]
    return make().requires_grad_(False), torch.randn(shape)


def test_beside_the_layer_is_the_same_as_in_its_weight(case):
    module, given = case
    plain = module(given)
    before = module.weight.clone()
    dense = families.match({"diff": torch.randn(module.weight.shape) * 0.1})["weight"]
    patches = [Patch("layer", "weight", lora(module), 0.8), Patch("layer", "weight", dense, -0.5, "b")]

    beside = WeightPatcher(FakeHost(module), merge=False)
    beside.apply(patches)
    unmerged = module(given)
    assert torch.equal(module.weight, before)
    beside.restore()
    assert torch.equal(module(given), plain)
    WeightPatcher(FakeHost(module)).apply(patches)
    merged = module(given)

    effect = torch.linalg.norm(merged - plain)
    assert effect > 0.1
    assert torch.linalg.norm(unmerged - merged) <= 1e-4 * effect


def test_a_quantised_weight_is_never_written_and_still_changed():
    torch.manual_seed(0)
    module = Quantised(nn.Linear(12, 8))
    given, codes = torch.randn(5, 12), module.weight.clone()
    plain, adapter = module(given), lora(nn.Linear(12, 8))

    patcher = WeightPatcher(FakeHost(module))
    patcher.apply([Patch("layer", "weight", adapter, 0.5)])
    changed = module(given)

    assert torch.equal(module.weight, codes)
    assert torch.allclose(changed - plain, 0.5 * given @ adapter.delta(module.weight.float()).T, atol=1e-5)
    patcher.apply([])
    assert torch.equal(module(given), plain)


def test_a_change_that_depends_on_a_quantised_weight_is_refused_if_that_can_not_be_read():
    module = Quantised(nn.Linear(12, 8))
    dora = families.match(
        {
            "lora_down.weight": torch.zeros(2, 12),
            "lora_up.weight": torch.zeros(8, 2),
            "dora_scale": torch.ones(8, 1),
        }
    )["weight"]

    with pytest.raises(AdapterMismatchError, match="quantised in a way that can't be read"):
        WeightPatcher(FakeHost(module)).apply([Patch("layer", "weight", dora, 1.0)])


def test_the_branch_follows_the_layer_to_another_precision(case):
    module, given = case
    patcher = WeightPatcher(FakeHost(module), merge=False)
    patcher.apply([Patch("layer", "weight", lora(module), 1.0)])
    single = module(given)

    module.to(torch.bfloat16)

    assert torch.allclose(module(given.bfloat16()).float(), single, atol=0.1, rtol=0.05)
