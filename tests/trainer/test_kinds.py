"""Every kind of adapter: the trained layer answers as the file's effect says, and LyCORIS knows the same tensors."""

import pytest
import torch
from torch import nn

from lora_atelier.adapters.families import group, match
from lora_atelier.config import NetworkConfig, OptimizerConfig, TrainConfig, from_kohya, to_kohya, unsupported
from lora_atelier.trainer.groups import parameter_groups
from lora_atelier.trainer.network import LoraNetwork

LAYERS = {
    "lora_unet_linear": lambda: nn.Linear(12, 16),
    "lora_unet_conv": lambda: nn.Conv2d(12, 16, 3, padding=1, stride=2),
    "lora_unet_point": lambda: nn.Conv2d(12, 8, 1, bias=False),
}
INPUTS = {"lora_unet_linear": (2, 7, 12), "lora_unet_conv": (2, 12, 8, 8), "lora_unet_point": (2, 12, 4, 4)}
# Our settings, and what LyCORIS' modules take for the same.
KINDS = {
    "loha": ({"algorithm": "loha"}, {}),
    "loha-tucker-dora": (
        {"algorithm": "loha", "use_tucker": True, "dora_wd": True},
        {"use_tucker": True, "weight_decompose": True},
    ),
    "lokr": ({"algorithm": "lokr"}, {}),
    "lokr-factor-both": (
        {"algorithm": "lokr", "factor": 2, "rank": 1, "conv_rank": 1, "network_args": ("decompose_both=True",)},
        {"factor": 2, "lora_dim": 1, "decompose_both": True},
    ),
    "lokr-tucker": (
        {"algorithm": "lokr", "factor": 2, "rank": 2, "conv_rank": 2, "use_tucker": True},
        {"factor": 2, "lora_dim": 2, "use_tucker": True},
    ),
    "lokr-full-unbalanced-dora": (
        {
            "algorithm": "lokr",
            "dora_wd": True,
            "network_args": ("full_matrix=True", "unbalanced_factorization=True", "wd_on_output=False"),
        },
        {"full_matrix": True, "unbalanced_factorization": True, "weight_decompose": True, "wd_on_out": False},
    ),
    "oft": ({"algorithm": "oft"}, {}),
    "oft-constraint": (
        {"algorithm": "oft", "network_args": ("constraint=0.001", "rescaled=True")},
        {"constraint": 0.001, "rescaled": True},
    ),
    "boft": ({"algorithm": "boft"}, {}),
    "ia3": ({"algorithm": "ia3"}, {}),
    "ia3-input": ({"algorithm": "ia3", "network_args": ("train_on_input=True",)}, {"train_on_input": True}),
    "glora": ({"algorithm": "glora"}, {}),
    "full": ({"algorithm": "full"}, {}),
    "dylora": ({"algorithm": "dylora", "network_args": ("block_size=2",)}, {"block_size": 2}),
    "rs-lora": ({"algorithm": "loha", "network_args": ("rs_lora=True",)}, {"rs_lora": True}),
    "dora-tucker": ({"algorithm": "dora", "use_tucker": True}, {"use_tucker": True, "weight_decompose": True}),
    "dora-input": (
        {"algorithm": "dora", "network_args": ("wd_on_output=False",)},
        {"weight_decompose": True, "wd_on_out": False},
    ),
}
MODULES = {
    "loha": "LohaModule",
    "lokr": "LokrModule",
    "oft": "DiagOFTModule",
    "boft": "ButterflyOFTModule",
    "ia3": "IA3Module",
    "glora": "GLoRAModule",
    "full": "FullModule",
    "dylora": "DyLoraModule",
    "rs": "LohaModule",
    "dora": "LoConModule",
}


def config_of(kind):
    return NetworkConfig(**{"rank": 4, "alpha": 2.0, "conv_rank": 4, "conv_alpha": 2.0, **KINDS[kind][0]})


def network(kind, *, moved=True):
    """Frozen layers and a network beside them; ``moved``: its numbers are no longer those of the start."""
    torch.manual_seed(3)
    layers = {name: make().requires_grad_(False) for name, make in LAYERS.items()}
    made = LoraNetwork(layers, config_of(kind), seed=1)
    if moved:
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return layers, made.eval()


def answer(layer, x):
    return layer(x).detach()


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_changes_nothing_at_first(kind):
    layers, made = network(kind, moved=False)
    alone = {name: answer(layer, torch.ones(INPUTS[name])) for name, layer in layers.items()}

    made.attach()

    for name, layer in layers.items():
        assert torch.allclose(answer(layer, torch.ones(INPUTS[name])), alone[name], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_trained_layer_answers_as_the_loader_makes_it_of_the_file(kind):
    layers, made = network(kind)
    stored = group(made.tensors(torch.float32)).layers
    for name, layer in layers.items():
        x = torch.randn(INPUTS[name])
        changes = match(stored[name])
        assert changes is not None, (name, sorted(stored[name]))
        merged = LAYERS[name]()
        merged.load_state_dict(layer.state_dict())
        with torch.no_grad():
            merged.weight += changes["weight"].delta(layer.weight)
            if "bias" in changes:
                merged.bias += changes["bias"].delta(layer.bias)
        alone = answer(layer, x)

        made.attach()
        now = answer(layer, x)
        made.detach()

        assert torch.allclose(now, answer(merged, x), atol=1e-4)
        assert not torch.allclose(now, alone, atol=1e-2)  # else the line above would prove little


@pytest.mark.parametrize("kind", KINDS)
def test_lycoris_makes_tensors_of_the_same_names_and_sizes_and_answers_alike(kind):
    lycoris = pytest.importorskip("lycoris.modules")
    layers, made = network(kind)
    stored = group(made.tensors(torch.float32)).layers
    for name, layer in layers.items():
        options = {"lora_dim": 4, "alpha": 2.0, **KINDS[kind][1]}
        peer = getattr(lycoris, MODULES[kind.partition("-")[0]])(name, layer, **options)
        theirs = peer.state_dict()
        ours = dict(stored[name])
        if kind == "dylora":
            # It leaves the matrix flat, which other readers of LoRAs do not take for a convolution's.
            theirs["lora_up.weight"] = theirs["lora_up.weight"].reshape(ours["lora_up.weight"].shape)
        assert {key: tuple(t.shape) for key, t in ours.items()} == {key: tuple(t.shape) for key, t in theirs.items()}
        assert float(ours.get("alpha", 0)) == pytest.approx(float(theirs.get("alpha", 0)))
        if kind == "dylora":
            continue  # it multiplies by the block's size while training only: the file is weaker than what was trained
        peer.load_state_dict({key: tensor.clone() for key, tensor in ours.items()}, strict=False)
        x = torch.randn(INPUTS[name])
        theirs_now = peer.eval()(x).detach()

        made.attach()
        now = answer(layer, x)
        made.detach()

        assert torch.allclose(now, theirs_now, atol=2e-4), name


@pytest.mark.parametrize("kind", KINDS)
def test_everything_that_is_trained_gets_a_gradient_and_comes_back_from_its_file(kind):
    layers, made = network(kind)
    made.train().attach()
    for number in range(30):
        made.begin(number)
        sum(layers[name](torch.randn(INPUTS[name])).square().mean() for name in layers).backward()
    made.detach()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.abs().max() > 0 for p in made.parameters())

    _, again = network(kind, moved=False)
    again.load(made.tensors(torch.float32))

    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_the_multiplier_of_a_batch_scales_the_change_while_training_only(kind):
    layers, made = network(kind)
    made.attach()
    for name, layer in layers.items():
        x = torch.randn(INPUTS[name])
        made.detach()
        alone = answer(layer, x)
        made.attach()
        if kind == "dylora":
            made.branches[name]._chosen = 1
        made.train().begin(0, multiplier=1.0)
        made.branches[name].begin(1, 0, name)
        once = answer(layer, x)
        made.begin(0, multiplier=-0.5)
        half = answer(layer, x)
        assert torch.allclose(half - alone, -0.5 * (once - alone), atol=1e-4)
        made.eval()
        whole = answer(layer, x)
        made.train().begin(0, multiplier=1.0)
        made.eval()
        assert torch.equal(whole, answer(layer, x))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith(("oft", "boft"))])
def test_a_change_that_is_too_large_is_scaled_down(kind):
    layers, made = network(kind)
    weights = {
        name: torch.zeros_like(layer.weight) if "dora" in kind else layer.weight for name, layer in layers.items()
    }

    made.limit_norms(0.1)

    stored = group(made.tensors(torch.float32)).layers
    for name, weight in weights.items():
        inner = {key: tensor for key, tensor in stored[name].items() if key != "dora_scale"}
        assert float(match(inner)["weight"].delta(weight).norm()) <= 0.1001


def test_dylora_trains_one_block_a_step_and_leaves_the_others_as_they_are():
    layers, made = network("dylora")
    made.train().attach()
    seen = set()
    for number in range(20):
        made.zero_grad(set_to_none=True)
        made.begin(number)
        layers["lora_unet_linear"](torch.randn(2, 12)).square().sum().backward()
        with_gradient = [at for at, part in enumerate(made.branches["lora_unet_linear"].ups) if part.grad is not None]
        assert len(with_gradient) == 1
        seen.update(with_gradient)
    assert seen == {0, 1}


def test_lora_fa_trains_the_second_matrix_alone():
    made = LoraNetwork({"lora_unet_x": nn.Linear(4, 4)}, NetworkConfig(algorithm="kohya-lora-fa", rank=2), seed=1)

    (found,) = parameter_groups(made, TrainConfig())

    assert [id(p) for p in found["params"]] == [id(made.branches["lora_unet_x"].up)]


def test_norms_are_trained_where_asked_for():
    layers = {"lora_unet_norm": nn.GroupNorm(2, 8), "lora_unet_ln": nn.LayerNorm(8)}
    made = LoraNetwork(layers, NetworkConfig(algorithm="loha", network_args=("train_norm=True",)), seed=1).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()
    stored = group(made.tensors(torch.float32)).layers
    for (name, layer), shape in zip(layers.items(), [(2, 8, 4), (2, 8)], strict=True):
        x, changes = torch.randn(shape), match(stored[name])
        made.attach()
        now = answer(layer, x)
        made.detach()
        with torch.no_grad():
            layer.weight += changes["weight"].delta(layer.weight)
            layer.bias += changes["bias"].delta(layer.bias)
        assert torch.allclose(now, answer(layer, x), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_no_problem_and_survives_kohyas_file(kind):
    config = TrainConfig(network=config_of(kind), optimizer=OptimizerConfig())
    main, dataset = to_kohya(config)

    assert list(config.network.problems()) == [] and list(unsupported(config)) == []
    assert from_kohya(main, dataset).network == config.network
    assert main["network"]["network_module"] == "lycoris.kohya"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"algorithm": "loha", "network_args": ("full_matrix=maybe",)}, "full_matrix"),
        ({"algorithm": "lokr", "network_args": ("preset=mine.toml",)}, "attn-mlp"),
        ({"algorithm": "dylora", "rank": 6, "network_args": ("block_size=4",)}, "multiple"),
        ({"algorithm": "oft", "network_args": ("constraint=-1",)}, "constraint"),
        ({"algorithm": "loha", "loraplus_lr_ratio": 4.0}, "loraplus_lr_ratio"),
        ({"algorithm": "lokr", "network_weights": "a", "dim_from_weights": True}, "dim_from_weights"),
    ],
)
def test_an_option_that_a_kind_can_not_use_is_a_sentence(options, words):
    (found,) = NetworkConfig(**options).problems()

    assert words in str(found)


def test_an_adapter_in_bf16_trains_and_its_file_holds_its_very_numbers():
    layers, made = network("lokr", moved=False)
    made.to(torch.bfloat16).train().attach()
    optimizer = torch.optim.AdamW(made.parameters(), lr=0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for _ in range(3):
            optimizer.zero_grad()
            sum(layers[name](torch.randn(INPUTS[name])).float().square().mean() for name in layers).backward()
            optimizer.step()
    kept = made.tensors(torch.float32)
    _, again = network("lokr", moved=False)
    again.to(torch.bfloat16).load(kept)

    assert all(p.dtype == torch.bfloat16 for p in made.parameters())
    assert all(
        torch.equal(a, b) and a.abs().max() > 0 for a, b in zip(made.parameters(), again.parameters(), strict=True)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_beside_a_layer_in_half_precision_a_small_change_is_not_lost(kind):
    """In bf16 the weight itself has no room for it."""
    layers, made = network(kind, moved=False)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    exact = {}
    made.attach()
    for name, layer in layers.items():
        x = torch.randn(INPUTS[name], generator=torch.Generator().manual_seed(1)).bfloat16()
        made.detach()
        alone = answer(layer, x.float())
        made.attach()
        exact[name] = x, alone, answer(layer, x.float()) - alone
    for layer in layers.values():
        layer.bfloat16()

    for name, (x, alone, change) in exact.items():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            now = answer(layers[name], x)
        made.detach()
        before = answer(layers[name], x)
        made.attach()
        assert now.dtype == torch.bfloat16 and torch.allclose(now.float(), alone + change, atol=0.05)
        # Rounding of the answers aside: the change points where it does in float32.
        likeness = torch.nn.functional.cosine_similarity((now - before).float().flatten(), change.flatten(), dim=0)
        assert likeness > 0.7 or change.abs().max() < 0.02
