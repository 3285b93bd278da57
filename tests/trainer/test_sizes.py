"""Ranks and learning rates by block, counted as sd-scripts counts blocks."""

import pytest
from torch import nn

from lora_atelier.config import NetworkConfig, OptimizerConfig, TrainConfig
from lora_atelier.errors import ConfigError
from lora_atelier.trainer.groups import parameter_groups
from lora_atelier.trainer.network import LoraNetwork
from lora_atelier.trainer.sizes import block_of, layer_sizes

# What networks.lora.get_block_index of sd-scripts (48d368fa) says of these names.
BLOCKS = {
    "lora_unet_down_blocks_0_resnets_0_conv1": 1,
    "lora_unet_down_blocks_0_attentions_1_transformer_blocks_0_attn1_to_q": 2,
    "lora_unet_down_blocks_0_downsamplers_0_conv": 3,
    "lora_unet_down_blocks_2_attentions_0_proj_in": 7,
    "lora_unet_mid_block_attentions_0_proj_out": 12,
    "lora_unet_up_blocks_0_upsamplers_0_conv": 15,
    "lora_unet_up_blocks_1_resnets_2_conv2": 18,
    "lora_unet_up_blocks_3_attentions_2_proj_in": 24,
    "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q": 5,
    "lora_unet_middle_block_1_proj_in": 11,
    "lora_unet_output_blocks_5_1_proj_in": 18,
    "lora_te_text_model_encoder_layers_0_mlp_fc1": None,
}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_layers_block_is_sd_scripts(name):
    assert block_of(name) == BLOCKS[name]


def layers(*names):
    return {name: nn.Conv2d(2, 2, 3) if name.endswith("conv1") else nn.Linear(2, 2) for name in names}


IN, MID, TE = list(BLOCKS)[1], list(BLOCKS)[4], list(BLOCKS)[-1]
CONV = "lora_unet_down_blocks_0_resnets_0_conv1"


def test_ranks_by_block_are_the_unets_and_a_rank_of_0_has_no_adapter():
    config = NetworkConfig(
        rank=8,
        alpha=4.0,
        block_dims=tuple(range(25)),
        block_alphas=(2.0,) * 12 + (0.0,) * 13,
        conv_block_dims=(3,) * 25,
        conv_alpha=1.5,
    )

    assert layer_sizes(layers(IN, MID, TE, CONV), config) == {
        IN: (2, 2.0),
        MID: (12, 12.0),
        TE: (8, 4.0),
        CONV: (3, 2.0) if config.conv_block_alphas else (3, 1.5),
    }
    assert layer_sizes(layers(IN, MID, CONV), NetworkConfig(block_dims=(0,) * 12 + (5,) + (0,) * 12)) == {MID: (5, 8.0)}


def test_blocks_learn_by_their_factor_and_one_of_0_not_at_all():
    weights = "1,1,0.5,1,1,1,1,1,1,1,1,1"
    network = NetworkConfig(rank=1, down_lr_weight=weights, mid_lr_weight="0.1", block_lr_zero_threshold=0.2)
    config = TrainConfig(network=network, optimizer=OptimizerConfig(learning_rate=1e-3, te_learning_rate=1e-4))

    made = LoraNetwork(layers(IN, MID, TE), network, seed=1)

    assert set(made.branches) == {IN, TE}
    assert [group["lr"] for group in parameter_groups(made, config)] == [5e-4, 1e-4]


@pytest.mark.parametrize("options", [{"block_dims": (4,) * 3}, {"up_lr_weight": "1,1"}])
def test_a_wrong_count_is_a_sentence(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        layer_sizes(layers(MID), NetworkConfig(**options))
