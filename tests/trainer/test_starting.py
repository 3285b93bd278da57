"""Going on from an existing LoRA: its change is the first step's, whatever its alpha; what does not fit is said."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lora_atelier.adapters.families import match
from lora_atelier.config import NetworkConfig
from lora_atelier.errors import ConfigError
from lora_atelier.trainer.network import LoraNetwork
from lora_atelier.trainer.sizes import stored_sizes
from lora_atelier.trainer.starting import read_start, start_from

NAMES = ("lora_unet_a", "lora_unet_b")


def network(config, sizes=None):
    return LoraNetwork({name: nn.Linear(6, 5) for name in NAMES}, config, seed=1, sizes=sizes)


@pytest.fixture
def stored(tmp_path):
    """A LoRA of the first layer alone, rank 4, alpha 2."""
    tensors = {
        f"{NAMES[0]}.alpha": torch.tensor(2.0),
        f"{NAMES[0]}.lora_down.weight": torch.randn(4, 6),
        f"{NAMES[0]}.lora_up.weight": torch.randn(5, 4),
    }
    path = tmp_path / "古い lora.safetensors"
    save_file(tensors, path)
    return path, tensors


def change(branch):
    return branch.up @ branch.down * branch.scale


@pytest.mark.parametrize("alpha", [2.0, 8.0])
def test_the_first_step_starts_from_the_files_change_whatever_the_alpha(stored, alpha):
    path, tensors = stored
    config = NetworkConfig(rank=4, alpha=alpha, network_weights=str(path))
    made, fresh = network(config), network(NetworkConfig(rank=4, alpha=alpha))

    start_from(made, read_start(config), config)

    wanted = tensors[f"{NAMES[0]}.lora_up.weight"] @ tensors[f"{NAMES[0]}.lora_down.weight"] * (2 / 4)
    assert torch.allclose(change(made.branches[NAMES[0]]), wanted, atol=1e-5)
    # A layer that the file lacks starts as usual.
    assert torch.equal(made.branches[NAMES[1]].down, fresh.branches[NAMES[1]].down)
    assert change(made.branches[NAMES[1]]).abs().max() == 0


def test_ranks_and_layers_are_the_files_where_asked_for(stored):
    path, _ = stored
    config = NetworkConfig(rank=16, network_weights=str(path), dim_from_weights=True)
    start = read_start(config)

    made = network(config, stored_sizes(start))
    start_from(made, start, config)

    (name,) = made.branches
    assert name == NAMES[0] and made.branches[name].down.shape == (4, 6) and made.branches[name].alpha == 2.0


def test_a_lora_of_another_rank_names_the_layer_and_the_way_out(stored):
    config = NetworkConfig(rank=8, network_weights=str(stored[0]))

    with pytest.raises(ConfigError, match=r"lora_unet_a.*dim_from_weights"):
        start_from(network(config), read_start(config), config)


def test_a_lora_of_another_model_or_kind_is_refused(tmp_path):
    for at, key in enumerate(("lora_unet_z.lora_down.weight", "lora_unet_a.hada_w1_a")):
        path = tmp_path / f"{at}.safetensors"
        save_file({key: torch.zeros(4, 6)}, path)
        config = NetworkConfig(rank=4, network_weights=str(path))
        with pytest.raises(ConfigError, match=("lora_unet_z", "hada_w1_a")[at]):
            start_from(network(config), read_start(config), config)


@pytest.mark.parametrize("kind", ["loha", "lokr", "glora", "oft", "full", "dylora", "ia3"])
def test_every_kind_starts_from_a_file_of_its_own_with_the_same_change(kind, tmp_path):
    options = {"algorithm": kind, "rank": 4, "network_args": ("block_size=2",) if kind == "dylora" else ()}
    before = network(NetworkConfig(alpha=2.0, **options))
    with torch.no_grad():
        for parameter in before.parameters():
            parameter.normal_()
    path = tmp_path / "before.safetensors"
    save_file(before.tensors(torch.float32), path)
    config = NetworkConfig(alpha=8.0, network_weights=str(path), **options)

    made = network(config)
    start_from(made, read_start(config), config)

    weight = torch.randn(5, 6)
    changes = [
        match({key.partition(".")[2]: t for key, t in each.tensors(torch.float32).items() if NAMES[0] in key})
        for each in (before, made)
    ]
    assert torch.allclose(*(found["weight"].delta(weight) for found in changes), atol=1e-4)
