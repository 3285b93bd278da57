"""The U-Net of the steps through torch.compile: the same numbers, and never the end of a training."""

import pytest
import torch
from torch import nn
from torch._dynamo.backends.common import aot_autograd

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
    compiled = compiled_unet(config(), unet, network, said.append)
    for batch in (2, 1, 2):
        x = torch.randn(batch, 6)
        with torch.no_grad():
            network.branches["lora_unet_layer"].up += 0.1
        for one, other in zip(answers(compiled, network, x), answers(unet, network, x), strict=True):
            assert torch.allclose(one, other, atol=1e-6)
    assert not said


def compilers(*, forward=None, backward=None):
    """A backend of torch.compile; what is not given leaves the program as it is."""
    return aot_autograd(
        fw_compiler=forward or (lambda program, _: program), bw_compiler=backward or (lambda program, _: program)
    )


def failing(program, inputs):
    raise RuntimeError("no C++ compiler\nin any folder")


def doubling(program, inputs):
    return lambda *given: [None if each is None else each * 2 for each in program(*given)]


@pytest.mark.parametrize(
    ("backend", "sentence"),
    [
        (compilers(forward=failing), "goes on without"),
        (compilers(backward=failing), "goes on without"),
        (compilers(backward=doubling), "other gradients"),
    ],
)
def test_the_training_goes_on_with_the_unet_itself_where_it_can_not_be_compiled_and_says_so_once(backend, sentence):
    unet, network = attached(config())
    said = []
    compiled = CompiledUnet(unet, backend, list(network.parameters()), said.append)

    x = torch.randn(2, 6)
    first, second = answers(compiled, network, x), answers(compiled, network, x)

    assert all(torch.equal(one, other) for one, other in zip(first, answers(unet, network, x), strict=True))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert len(said) == 1
    assert sentence in str(said[0])


def test_a_step_draws_the_same_whether_its_shape_is_new_or_not():
    settings = config(rank_dropout=0.5)
    unet, network = attached(settings)
    compiled = compiled_unet(settings, unet, network, pytest.fail)
    x = torch.randn(2, 6)

    def drawn():
        torch.manual_seed(5)
        return answers(compiled, network, x)

    assert all(torch.equal(one, other) for one, other in zip(drawn(), drawn(), strict=True))


def test_what_the_unet_itself_raises_is_raised():
    unet, network = attached(config())
    compiled = CompiledUnet(unet, "eager", list(network.parameters()), pytest.fail)

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        compiled(torch.randn(2, 5), torch.ones(2))


@pytest.mark.parametrize("network", [{"module_dropout": 0.1}, {"algorithm": "dylora"}])
def test_where_other_layers_take_part_at_each_step_nothing_is_compiled(network):
    said = []
    unet, branches = attached(config())

    assert compiled_unet(config(**network), unet, branches, said.append) is None
    assert "not compiled" in str(said[0])


def test_nothing_is_compiled_unasked():
    assert compiled_unet(TrainConfig(), *attached(config()), pytest.fail) is None
