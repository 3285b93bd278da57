"""The architectures of Stable Diffusion 1.x, 2.x and XL as numbers, so that a checkpoint loads without a network.

Facts of the released models: CompVis/stable-diffusion v1-inference.yaml, Stability-AI/stablediffusion
v2-inference.yaml, Stability-AI/generative-models sd_xl_base.yaml; OpenAI CLIP ViT-L/14, OpenCLIP ViT-H-14 and
ViT-bigG-14. Names are those of diffusers' and transformers' configs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Config = Mapping[str, Any]

_CROSS_DOWN = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
_CROSS_UP = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3

UNETS: Mapping[str, Config] = {
    "sd1": {
        "sample_size": 64,
        "block_out_channels": (320, 640, 1280, 1280),
        "down_block_types": _CROSS_DOWN,
        "up_block_types": _CROSS_UP,
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
    },
    "sd2": {
        "sample_size": 96,
        "block_out_channels": (320, 640, 1280, 1280),
        "down_block_types": _CROSS_DOWN,
        "up_block_types": _CROSS_UP,
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
        # 2.1's attention overflows float16.
        "upcast_attention": True,
    },
    "sdxl": {
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}

_VAE: Config = {
    "sample_size": 512,
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "scaling_factor": 0.18215,
}
VAES: Mapping[str, Config] = {
    "sd1": _VAE,
    "sd2": _VAE,
    # SDXL's decoder overflows float16, hence force_upcast.
    "sdxl": {**_VAE, "sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True},
}

# CLIP marks the end of a text with the word list's last entry; transformers takes a config's legacy value 2 for "the
# largest token", which is the same place.
_CLIP: Config = {
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "layer_norm_eps": 1e-5,
}
CLIP_L: Config = {
    **_CLIP,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "quick_gelu",
    "projection_dim": 768,
    "pad_token_id": 49407,
}
# SD2 uses the last but one of 24 layers, so the last is not part of it.
OPEN_CLIP_H: Config = {
    **_CLIP,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "hidden_act": "gelu",
    "projection_dim": 1024,
    "pad_token_id": 0,
}
OPEN_CLIP_BIG_G: Config = {
    **_CLIP,
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "hidden_act": "gelu",
    "projection_dim": 1280,
    "pad_token_id": 0,
}
TEXT_ENCODERS: Mapping[str, tuple[Config, ...]] = {
    "sd1": (CLIP_L,),
    "sd2": (OPEN_CLIP_H,),
    "sdxl": (CLIP_L, OPEN_CLIP_BIG_G),
}

SCHEDULER: Config = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
}
