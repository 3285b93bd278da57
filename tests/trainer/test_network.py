"""The branches beside a frozen layer, and what is left out of them in a step."""

import pytest
import torch
from torch import nn

from lora_atelier.adapters.families import match
from lora_atelier.config import NetworkConfig, OptimizerConfig, TrainConfig
from lora_atelier.trainer.groups import parameter_groups
from lora_atelier.trainer.network import LoraNetwork

LAYERS = {
    "lora_unet_linear": lambda: nn.Linear(6, 5),
    "lora_unet_conv": lambda: nn.Conv2d(3, 4, 3, padding=1),
    "lora_te_other": lambda: nn.Linear(4, 4),
}
INPUTS = {"lora_unet_linear": (2, 7, 6), "lora_unet_conv": (2, 3, 8, 8), "lora_te_other": (2, 4)}


def trained(**options):
    """Layers, and a network beside them whose second matrices are no longer zero."""
    torch.manual_seed(3)
    layers = {name: make().requires_grad_(False) for name, make in LAYERS.items()}
    network = LoraNetwork(layers, NetworkConfig(**{"rank": 4, "alpha": 2.0, "conv_rank": 2, **options}), seed=1)
    for branch in network.branches.values():
        nn.init.normal_(branch.up)
    network.train()
    return layers, network


def left_out(network):
    return {name for name, branch in network.branches.items() if branch.left_out}


@pytest.mark.parametrize("name", LAYERS)
def test_an_attached_layer_adds_its_scaled_low_rank_product(name):
    layers, network = trained()
    x, layer, branch = torch.randn(INPUTS[name]), layers[name], network.branches[name]
    alone = layer(x)

    network.attach()

    rank = branch.down.shape[0]
    delta = (branch.up.flatten(1) @ branch.down.flatten(1)).view_as(layer.weight) * branch.alpha / rank
    wanted = nn.functional.conv2d(x, delta, padding=1) if x.dim() == 4 else nn.functional.linear(x, delta)
    assert torch.allclose(layer(x), alone + wanted, atol=1e-5)
    network.detach()
    assert torch.equal(layer(x), alone)


def test_a_layer_that_is_left_out_answers_alone_while_training_only():
    layers, network = trained(module_dropout=0.5)
    network.attach()
    seen = set()
    for number in range(20):
        network.begin(number)
        for name in left_out(network):
            x = torch.randn(INPUTS[name])
            network.detach()
            alone = layers[name](x)
            network.attach()
            assert torch.equal(layers[name](x), alone)
            network.eval()
            assert not torch.allclose(layers[name](x), alone)
            network.train()
            seen.add(name)

    assert seen == set(LAYERS)


def test_what_is_left_out_is_a_function_of_seed_batch_and_layer():
    def drawn(numbers):
        _, network = trained(module_dropout=0.4)
        found = {}
        for number in numbers:
            torch.rand(number + 1)  # the global state has no part in it
            network.begin(number)
            found[number] = left_out(network)
        return found

    assert drawn(range(50)) == drawn(reversed(range(50)))


def test_layers_are_left_out_as_often_as_asked_and_never_all_of_them():
    _, network = trained(module_dropout=0.3)
    count = 0
    for number in range(1000):
        network.begin(number)
        count += len(left_out(network))
    assert abs(count / 3000 - 0.3) < 0.05

    _, network = trained(module_dropout=0.99)
    for number in range(50):
        network.begin(number)
        assert len(left_out(network)) < len(LAYERS)


@pytest.mark.parametrize("name", LAYERS)
def test_rank_dropout_leaves_whole_inner_places_of_a_picture_out_and_keeps_the_mean(name):
    layers, network = trained(rank_dropout=0.25)
    network.attach()
    x = torch.randn(INPUTS[name])[:1].expand(4000, *INPUTS[name][1:])
    network.eval()
    whole = layers[name](x[:1]).detach()
    network.train()

    answers = layers[name](x)

    # Each of 2^rank choices gives another answer; there are no more.
    assert len({tuple(row.flatten()[:3].mul(1e4).round().tolist()) for row in answers}) <= 2**4
    assert torch.allclose(answers.mean(0), whole[0], atol=0.15 * float(whole.std()) + 0.1)


def test_a_change_that_is_too_large_is_scaled_down_and_no_other():
    _, network = trained()
    first = network.branches["lora_unet_linear"]
    with torch.no_grad():
        first.up.mul_(100)
    deltas = {name: norm_of(branch) for name, branch in network.branches.items()}
    most = max(norm for name, norm in deltas.items() if name != "lora_unet_linear") * 1.01
    kept = {name: branch.up.detach().clone() for name, branch in network.branches.items()}

    network.limit_norms(most)

    assert norm_of(first) == pytest.approx(most, rel=1e-4)
    assert all(torch.equal(network.branches[n].up, kept[n]) for n in LAYERS if n != "lora_unet_linear")


def norm_of(branch):
    down, up = branch.down.detach().flatten(1).double(), branch.up.detach().flatten(1).double()
    return float((up @ down).norm() * branch.scale)


def rates(network, **options):
    config = TrainConfig(
        network=NetworkConfig(**options),
        optimizer=OptimizerConfig(learning_rate=1e-3, te_learning_rate=1e-4, te2_learning_rate=2e-4),
    )
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    groups = parameter_groups(network, config)
    return {names[id(p)].removeprefix("branches."): g["lr"] for g in groups for p in g["params"]}, len(groups)


def test_parts_of_the_model_have_their_own_learning_rates():
    layers = {f"lora_{part}_x": nn.Linear(2, 2) for part in ("unet", "te1", "te2")}
    found, count = rates(LoraNetwork(layers, NetworkConfig(rank=1), seed=1))

    assert found["lora_unet_x.up"] == 1e-3 and found["lora_te1_x.down"] == 1e-4 and found["lora_te2_x.up"] == 2e-4
    assert count == 3


def test_lora_plus_lets_the_second_matrix_learn_faster():
    _, network = trained()
    both, count = rates(network, loraplus_lr_ratio=16.0, loraplus_unet_lr_ratio=4.0)
    one, _ = rates(network, loraplus_text_encoder_lr_ratio=2.0)

    assert both["lora_unet_linear.down"] == 1e-3 and both["lora_unet_linear.up"] == 4e-3
    assert both["lora_te_other.up"] == pytest.approx(16e-4) and count == 4
    assert one["lora_unet_linear.up"] == 1e-3 and one["lora_te_other.up"] == pytest.approx(2e-4)


@pytest.mark.parametrize("name", LAYERS)
def test_a_dora_changes_nothing_at_first_and_then_what_its_file_says(name):
    layers, network = trained(algorithm="dora")
    x, layer, branch = torch.randn(INPUTS[name]), layers[name], network.branches[name]
    alone = layer(x)
    network.attach()
    with torch.no_grad():
        up = branch.up.clone()
        branch.up.zero_()
        assert torch.allclose(layer(x), alone, atol=1e-5)
        branch.up.copy_(up)
        branch.magnitude.mul_(torch.rand_like(branch.magnitude) + 0.5)

    stored = {key.split(".", 1)[1]: value for key, value in network.tensors(torch.float32).items() if name in key}
    delta = match(stored)["weight"].delta(layer.weight)

    conv = x.dim() == 4
    wanted = nn.functional.conv2d(x, delta, padding=1) if conv else nn.functional.linear(x, delta)
    assert torch.allclose(layer(x), alone + wanted, atol=1e-4)
    assert stored["dora_scale"].shape == (layer.weight.shape[0], *[1] * (layer.weight.dim() - 1))


def test_a_dora_learns_its_lengths_without_decay():
    layers, network = trained(algorithm="dora")
    network.attach()
    layers["lora_unet_linear"](torch.randn(2, 6)).square().sum().backward()
    branch = network.branches["lora_unet_linear"]

    groups = parameter_groups(network, TrainConfig())

    assert all(p.grad.abs().max() > 0 for p in (branch.down, branch.up, branch.magnitude))
    (group,) = [g for g in groups if any(p is branch.magnitude for p in g["params"])]
    assert group["weight_decay"] == 0.0 and not any(p is branch.up for p in group["params"])
