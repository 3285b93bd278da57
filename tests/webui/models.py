"""Random models and LoRAs under Stable Diffusion's original names, made on the spot."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lora_atelier.models import layers, ldm, ldm_layers

_ATTENTION = re.compile(
    r"model\.diffusion_model\.(.*(?:to_[qkv]|to_out\.0|proj_in|proj_out|ff\.net\.0\.proj|ff\.net\.2))\.weight$"
)
_TEXT = re.compile(r"cond_stage_model\.transformer\.(text_model\.encoder\..*(?:_proj|fc[12]))\.weight$")


def write_checkpoint(path: Path, *, small: bool, seed: int = 0) -> None:
    """SD 1.5's modules with random weights; ``small`` has a fifth of its channels, with the configuration that
    AUTOMATIC1111's webui reads beside a checkpoint. The other webuis know models by their real sizes."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    wide, deep = (64, 32) if small else (320, 128)
    unet = UNet2DConditionModel(
        sample_size=64, block_out_channels=(wide, 2 * wide, 4 * wide, 4 * wide), cross_attention_dim=768
    )
    vae = AutoencoderKL(
        block_out_channels=(deep, 2 * deep, 4 * deep, 4 * deep),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
    )
    sizes = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12}
    text = CLIPTextModel(CLIPTextConfig(vocab_size=49408, projection_dim=768, **sizes))
    tensors = {
        f"model.diffusion_model.{ldm.unet_path(key, *layers.ldm_layout(unet))}": value
        for key, value in unet.state_dict().items()
    }
    for key, value in vae.state_dict().items():
        name = ldm.vae_path(key, 4)
        is_matrix = "mid.attn_1" in name and value.ndim == 2  # 1x1 convolutions in the original
        tensors[f"first_stage_model.{name}"] = value[:, :, None, None] if is_matrix else value
    for key, value in text.state_dict().items():
        tensors[f"cond_stage_model.transformer.{layers.te_path(key)}"] = value
    dtype = torch.float32 if small else torch.float16
    save_file({key: value.to(dtype).contiguous() for key, value in tensors.items()}, path)


def write_config(path: Path, webui: Path) -> None:
    """The webui's own configuration of SD 1.x with the sizes of a small checkpoint."""
    text = (webui / "configs" / "v1-inference.yaml").read_text(encoding="utf-8")
    text = text.replace("model_channels: 320", "model_channels: 64").replace("ch: 128", "ch: 32")
    path.write_text(text, encoding="utf-8")


def write_lora(
    path: Path, checkpoint: Path, *, rank: int = 4, seed: int = 0, text: bool = False, kind: str = ""
) -> None:
    """A random LoRA for a checkpoint's attention layers; ``kind`` "peft" has PEFT's names, "dora" DoRA's scales."""
    rank = 4
    generator, tensors = torch.Generator().manual_seed(seed), {}
    with safe_open(checkpoint, "pt") as stored:
        for key in sorted(stored.keys()):
            unet, te = _ATTENTION.match(key), _TEXT.match(key) if text else None
            if unet:
                path_of = ldm_layers.diffusers_path(unet[1], 2)
                name, peft = f"lora_unet_{path_of.replace('.', '_')}", f"unet.{path_of}"
            elif te:
                name, peft = f"lora_te_{te[1].replace('.', '_')}", f"text_encoder.{te[1]}"
            else:
                continue
            shape = stored.get_slice(key).get_shape()
            down = torch.randn([rank, *shape[1:]], generator=generator) * 0.3
            up = torch.randn([shape[0], rank, *[1] * (len(shape) - 2)], generator=generator) * 0.05
            if kind == "peft":
                tensors |= {f"{peft}.lora_A.weight": down, f"{peft}.lora_B.weight": up}
                continue
            tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
            tensors[f"{name}.alpha"] = torch.tensor(float(rank))
            if kind == "dora":
                norm = stored.get_tensor(key).float().reshape(shape[0], -1).norm(dim=1)
                tensors[f"{name}.dora_scale"] = 1.05 * norm.reshape(-1, *[1] * (len(shape) - 1))
    half = {key: value.half().contiguous() for key, value in tensors.items()}
    save_file(half, path, {"ss_base_model_version": "sd_v1", "ss_output_name": path.stem, "ss_network_dim": str(rank)})
