import pytest
import torch

from lora_atelier.adapters import families
from lora_atelier.adapters.lora import LoraAdapter, low_rank_delta


def weights(out=6, rank=2, inputs=(4,), alpha=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    made = {
        "lora_down.weight": torch.randn((rank, *inputs), generator=generator),
        "lora_up.weight": torch.randn((out, rank, *[1] * (len(inputs) - 1)), generator=generator),
    }
    return made if alpha is None else {**made, "alpha": torch.tensor(alpha).half()}


@pytest.mark.parametrize("inputs", [(4,), (4, 1, 1), (4, 3, 3)], ids=["linear", "conv1x1", "conv3x3"])
def test_the_delta_is_what_the_two_layers_compute_one_after_the_other(inputs):
    """The definition, on random inputs in float64: up(down(x)) · alpha / rank."""
    made = weights(inputs=inputs, alpha=1.0)
    x = torch.randn(2, *inputs[:1], *([5, 5] if len(inputs) > 1 else []), dtype=torch.float64)
    down, up = made["lora_down.weight"].double(), made["lora_up.weight"].double()
    adapter = LoraAdapter.match(made)
    delta = adapter.delta(torch.zeros(6, *inputs)).double()

    if len(inputs) == 1:
        expected, got = x @ down.T @ up.T * 0.5, x @ delta.T
    else:
        conv = torch.nn.functional.conv2d
        expected, got = conv(conv(x, down), up) * 0.5, conv(x, delta)

    assert adapter.shape == delta.shape == (6, *inputs)
    assert torch.allclose(got, expected, atol=1e-6)
    factor_up, factor_down = adapter.factors()
    assert torch.allclose((factor_up @ factor_down).reshape(delta.shape).double(), delta, atol=1e-6)


def test_without_alpha_the_scale_is_one():
    made = weights()

    assert torch.allclose(
        LoraAdapter.match(made).delta(torch.zeros(6, 4)),
        low_rank_delta(made["lora_down.weight"], made["lora_up.weight"]),
    )


def test_half_precision_files_are_multiplied_in_float32():
    made = {key: tensor.half() for key, tensor in weights(rank=64, inputs=(64,), alpha=32.0).items()}

    delta = LoraAdapter.match(made).delta(torch.zeros(6, 64).half())

    exact = made["lora_up.weight"].double() @ made["lora_down.weight"].double() * 0.5
    assert delta.dtype == torch.float32
    assert (delta.double() - exact).norm() / exact.norm() < 1e-6


def test_dylora_is_cut_to_its_first_components_at_its_full_scale():
    made = weights(rank=4, alpha=2.0)

    cut = LoraAdapter.match(made).with_rank(3).delta(torch.zeros(6, 4))

    expected = made["lora_up.weight"][:, :3] @ made["lora_down.weight"][:3] * 0.5
    assert torch.allclose(cut, expected)
    assert LoraAdapter.match(made).with_rank(9).rank == 4


@pytest.mark.parametrize("extra", ["lora_mid.weight", "hada_w1_a", "bias"])
def test_a_kind_that_only_looks_like_lora_is_not_taken_for_one(extra):
    """Dropping the key that we do not know would draw another picture than the trainer's."""
    assert families.match({**weights(), extra: torch.ones(1)}) is None


@pytest.mark.parametrize(
    "made",
    [
        {"lora_down.weight": torch.ones(2, 4)},
        {"lora_down.weight": torch.ones(2, 4), "lora_up.weight": torch.ones(6, 3)},
        {"lora_down.weight": torch.ones(0, 4), "lora_up.weight": torch.ones(6, 0)},
        {"lora_down.weight": torch.ones(()), "lora_up.weight": torch.ones(6, 3)},
        {},
    ],
)
def test_matrices_that_do_not_fit_each_other_belong_to_no_family(made):
    assert families.match(made) is None
