"""The U-Net of the steps through torch.compile: the same numbers, and never the end of a training."""

import pytest
import torch
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed

from lora_atelier.config import MemoryConfig, NetworkConfig, TrainConfig
from lora_atelier.trainer.compiling import CompiledUnet, compiled_unet
from lora_atelier.trainer.network import LoraNetwork


class Unet(nn.Module):
    """A layer that a branch stands beside, called as a U-Net is."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x, timesteps, **named):
        return (self.layer(x) * timesteps[:, None],)


def config(**network):
    memory = MemoryConfig(torch_compile=True, dynamo_backend="eager")
    return TrainConfig(memory=memory, network=NetworkConfig(rank=2, alpha=1.0, **network))


def attached(settings):
    torch.manual_seed(0)
    unet = Unet().requires_grad_(False)
    network = LoraNetwork({"lora_unet_layer": unet.layer}, settings.network, seed=1)
    nn.init.normal_(network.branches["lora_unet_layer"].up)
    network.attach()
    network.train()
    return unet, network


def answers(call, network, x):
    for parameter in network.parameters():
        parameter.grad = None
    (answer,) = call(x, torch.ones(len(x)), return_dict=False)
    answer.square().mean().backward()
    return [answer.detach(), *(parameter.grad.clone() for parameter in network.parameters())]


def test_a_compiled_unet_answers_with_the_branches_as_they_are_at_each_step():
    unet, network = attached(config())
    said = []
    compiled = compiled_unet(config(), unet, said.append)
    for batch in (2, 1, 2):
        x = torch.randn(batch, 6)
        with torch.no_grad():
            network.branches["lora_unet_layer"].up += 0.1
        for one, other in zip(answers(compiled, network, x), answers(unet, network, x), strict=True):
            assert torch.allclose(one, other, atol=1e-6)
    assert not said


def test_the_training_goes_on_without_where_the_compiler_fails_and_says_so_once():
    def broken(graph, inputs):
        raise BackendCompilerFailed(broken, RuntimeError("no C++ compiler"))

    unet, network = attached(config())
    said = []
    compiled = CompiledUnet(unet, broken, said.append)

    x = torch.randn(2, 6)
    first, second = answers(compiled, network, x), answers(compiled, network, x)

    assert all(torch.equal(one, other) for one, other in zip(first, answers(unet, network, x), strict=True))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert len(said) == 1
    assert "goes on without" in str(said[0])


def test_what_the_unet_itself_raises_is_raised():
    compiled = CompiledUnet(Unet(), "eager", pytest.fail)

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        compiled(torch.randn(2, 5), torch.ones(2))


@pytest.mark.parametrize("network", [{"module_dropout": 0.1}, {"algorithm": "dylora"}])
def test_where_other_layers_take_part_at_each_step_nothing_is_compiled(network):
    said = []

    assert compiled_unet(config(**network), Unet(), said.append) is None
    assert "not compiled" in str(said[0])


def test_inductor_is_not_used_on_a_processor():
    said = []
    asked = TrainConfig(memory=MemoryConfig(torch_compile=True, dynamo_backend="inductor"))

    assert compiled_unet(asked, Unet(), said.append) is None
    assert "wrong gradients" in str(said[0])


def test_nothing_is_compiled_unasked():
    assert compiled_unet(TrainConfig(), Unet(), pytest.fail) is None
