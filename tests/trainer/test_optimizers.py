"""Optimizers by every kind of name, what they are given, and that their state comes back bit for bit."""

import io
import sys
import types

import pytest
import torch
from torch import nn

from lora_atelier.config import OptimizerConfig
from lora_atelier.errors import ConfigError
from lora_atelier.trainer import optimizers
from lora_atelier.trainer.averaging import Average, arrived, is_schedule_free


def parameters():
    torch.manual_seed(1)
    return [nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.zeros(3, 6)), nn.Parameter(torch.randn(8))]


def made(config, trained, rate=1e-2):
    groups = [{"params": trained[:1], "lr": rate}, {"params": trained[1:], "lr": rate}]
    return optimizers.make(groups, config)


def step(optimizer, trained, number):
    """One step on a loss that is another one in every step."""
    generator = torch.Generator().manual_seed(number)
    optimizer.zero_grad()
    loss = sum((p - torch.randn(p.shape, generator=generator)).square().sum() for p in trained)
    loss.backward()
    optimizer.step()


def stored(state):
    """The state as a file gives it back."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, map_location="cpu", weights_only=True)


def test_the_default_is_torchs_adamw_and_every_group_keeps_its_rate():
    trained = parameters()
    optimizer = optimizers.make(
        [{"params": trained[:1], "lr": 1e-3}, {"params": trained[1:], "lr": 1e-4}], OptimizerConfig(weight_decay=0.1)
    )

    assert type(optimizer) is torch.optim.AdamW
    assert [(g["lr"], g["peak_lr"]) for g in optimizer.param_groups] == [(1e-3, 1e-3), (1e-4, 1e-4)]
    assert all(g["betas"] == (0.9, 0.99) and g["weight_decay"] == 0.1 for g in optimizer.param_groups)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("RMSprop", torch.optim.RMSprop),
        ("torch.optim.Adamax", torch.optim.Adamax),
        ("torch.optim.radam.RAdam", torch.optim.RAdam),
    ],
)
def test_a_class_of_torch_and_a_dotted_path_are_names_too(name, expected):
    optimizer = made(OptimizerConfig(optimizer=name, optimizer_args=("eps=1e-6",)), parameters())

    assert type(optimizer) is expected and optimizer.defaults["eps"] == 1e-6


def test_nesterov_has_a_momentum_unless_another_is_given():
    for args, momentum in (((), 0.9), (("momentum=0.5",), 0.5)):
        optimizer = made(OptimizerConfig(optimizer="SGDNesterov", optimizer_args=args), parameters())
        assert optimizer.defaults["nesterov"] and optimizer.defaults["momentum"] == momentum


def test_an_installed_package_gives_its_class_what_the_settings_say(monkeypatch):
    class Prodigy(torch.optim.SGD):
        def __init__(self, params, **given):
            self.given = given
            super().__init__(params, lr=given["lr"])

    monkeypatch.setitem(sys.modules, "prodigyopt", types.SimpleNamespace(Prodigy=Prodigy))
    config = OptimizerConfig(
        optimizer="Prodigy", beta1=0.8, weight_decay=0.2, optimizer_args=("d_coef=2.0", "use_bias_correction=True")
    )

    given = made(config, parameters(), 1.0).given

    betas = {"betas": (0.8, 0.99), "weight_decay": 0.2}
    assert given == {"lr": 1.0, "d_coef": 2.0, "use_bias_correction": True, **betas}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (OptimizerConfig(optimizer="AdamW", optimizer_args=("beta=1",)), "can't be used like this"),
        (OptimizerConfig(optimizer="RMSprop", optimizer_args=("alpha=-1",)), "Invalid alpha"),
        (OptimizerConfig(optimizer="Adamw"), "has no Adamw"),
        (OptimizerConfig(optimizer="no_such_package.Best"), "package no_such_package is not installed"),
        (OptimizerConfig(optimizer="LBFGS"), "another kind of training"),
    ],
)
def test_an_optimizer_that_can_not_be_had_is_one_sentence(config, said):
    with pytest.raises(ConfigError) as caught:
        made(config, parameters())

    assert said in str(caught.value) and config.optimizer in str(caught.value)


def test_an_optimizer_whose_package_is_missing_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "lion_pytorch", None)

    with pytest.raises(ConfigError, match="lion-pytorch"):
        made(OptimizerConfig(optimizer="Lion"), parameters())


def test_an_optimizer_that_finds_its_step_size_gets_one_rate_for_all_and_says_so():
    groups = [{"params": [], "lr": 1.0}, {"params": [], "lr": 0.5}]

    same, said = optimizers.with_one_rate(groups, OptimizerConfig(optimizer="Prodigy"))
    other, nothing = optimizers.with_one_rate(groups, OptimizerConfig())

    assert [group["lr"] for group in same] == [1.0, 1.0] and "Prodigy" in str(said)
    assert other is groups and nothing is None


def test_the_file_says_which_optimizer_with_what():
    assert optimizers.described(OptimizerConfig()) == "torch.optim.adamw.AdamW(betas=(0.9, 0.99),weight_decay=0.01)"
    assert optimizers.described(OptimizerConfig(optimizer="RMSprop")) == "torch.optim.rmsprop.RMSprop"


# Those without a package in this environment are tried where it is there.
STATEFUL = {
    "AdamW": "torch",
    "SGDNesterov": "torch",
    "RMSprop": "torch",
    "Adafactor": "transformers",
    "Lion": "lion_pytorch",
    "Prodigy": "prodigyopt",
    "AdamWScheduleFree": "schedulefree",
    "RAdamScheduleFree": "schedulefree",
    "DAdaptAdam": "dadaptation",
    "DAdaptation": "dadaptation",
    "pytorch_optimizer.CAME": "pytorch_optimizer",
}


@pytest.mark.parametrize("name", STATEFUL)
def test_a_state_that_is_taken_up_goes_on_bit_for_bit(name):
    pytest.importorskip(STATEFUL[name])
    config, straight, torn = OptimizerConfig(optimizer=name), parameters(), parameters()
    one, first = made(config, straight, 0.5), made(config, torn, 0.5)
    for number in range(6):
        step(one, straight, number)
    for number in range(3):
        step(first, torn, number)

    values, state = [p.detach().clone() for p in torn], stored(first.state_dict())
    again = parameters()
    second = made(config, again, 0.5)
    with torch.no_grad():
        for parameter, value in zip(again, values, strict=True):
            parameter.copy_(value)
    optimizers.load_state(second, state)
    for number in range(3, 6):
        step(second, again, number)

    assert all(torch.equal(a, b) for a, b in zip(straight, again, strict=True))
    assert not torch.equal(straight[0], parameters()[0])


# --------------------------------------------------------------------------------------------- averaging


def test_an_average_forgets_its_start_and_then_looks_back_as_far_as_it_says():
    (parameter, *_) = trained = parameters()
    average, values = Average(trained, 0.8), [parameter.detach().double()]
    for number in range(1, 60):
        with torch.no_grad():
            parameter.copy_(torch.randn(6, 4))
        average.update(number)
        values.append(parameter.detach().double())

    mean = values[0]
    for number, value in enumerate(values[1:], 1):
        decay = min(0.8, (1 + number) / (10 + number))
        mean = decay * mean + (1 - decay) * value
    with arrived(trained, torch.optim.SGD(trained, lr=0.1), average):
        assert torch.allclose(parameter.detach().double(), mean, atol=1e-5)


def test_looking_at_the_average_changes_nothing():
    trained = parameters()
    average = Average(trained, 0.9)
    with torch.no_grad():
        trained[0].mul_(1 / 3)
    average.update(1)
    before = [p.detach().clone() for p in trained]

    with pytest.raises(RuntimeError), arrived(trained, torch.optim.SGD(trained, lr=0.1), average):
        assert not torch.equal(trained[0], before[0])
        raise RuntimeError

    assert all(torch.equal(a, b) for a, b in zip(trained, before, strict=True))


def test_an_average_comes_back_from_its_state():
    trained = parameters()
    average, other = Average(trained, 0.9), Average(trained, 0.9)
    with torch.no_grad():
        trained[0].add_(1)
    average.update(1)

    other.load_state_dict(stored(average.state_dict()))

    other.show()
    shown = trained[0].detach().clone()
    average.show()
    assert torch.equal(shown, trained[0])


def test_a_schedule_free_optimizer_shows_what_it_arrived_at_and_goes_on_as_before():
    pytest.importorskip("schedulefree")
    config, trained, looked_at = OptimizerConfig(optimizer="AdamWScheduleFree"), parameters(), parameters()
    one, other = made(config, trained), made(config, looked_at)
    assert is_schedule_free(one) and not is_schedule_free(torch.optim.SGD(trained, lr=0.1))

    for number in range(8):
        step(one, trained, number)
        step(other, looked_at, number)
        with arrived(looked_at, other, None):
            # After the first step both are the same.
            assert torch.equal(looked_at[0], trained[0]) == (number == 0)

    assert all(torch.equal(a, b) for a, b in zip(trained, looked_at, strict=True))
