"""Random base models in the shape that a webui reads, made on the spot, and where their weights are."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from lora_atelier.models import layers, ldm, ldm_layers

from .kinds import Kind

EMBEDDED = Path(__file__).parents[2] / "extension" / "lora_atelier" / "embedded" / "base_model"
_UNET, _TEXT = "model.diffusion_model.", "cond_stage_model.transformer."
# Stable Diffusion 1's U-Net has two resnets a block and attention in all but the deepest one.
_LAYOUT = (2, {0: False, 1: True, 2: True, 3: True})


@dataclass(frozen=True)
class Place:
    """A matrix or convolution of the model: kohya's name, its path as diffusers and ldm have it, and its weight."""

    name: str
    path: str
    ldm_path: str
    weight: Tensor

    @property
    def is_text(self) -> bool:
        """Whether it is the text encoder's."""
        return self.name.startswith("lora_te")


def write(kind: Kind, folder: Path, webui: Path, *, name: str, seed: int, full: bool = False) -> Path:
    """Write a base model called ``name`` where a webui of this kind looks for it below ``folder``.

    ``full`` has SD 1.5's size.
    """
    if kind.widths is None:
        return _write_folder(folder / "Diffusers" / name, seed)
    path = folder / "Stable-diffusion" / f"{name}.safetensors"
    wide, deep, grows = (320, 128, True) if full else kind.widths
    dtype = torch.float32 if kind.reads_config and not full else torch.float16
    _write_checkpoint(path, wide, deep, grows=grows, dtype=dtype, seed=seed)
    if kind.reads_config and not full:
        text = (webui / "configs" / "v1-inference.yaml").read_text(encoding="utf-8")
        text = text.replace("model_channels: 320", f"model_channels: {wide}").replace("ch: 128", f"ch: {deep}")
        path.with_suffix(".yaml").write_text(text, encoding="utf-8")
    return path


def _write_folder(path: Path, seed: int) -> Path:
    """The embedded base model, with a U-Net of its own for each ``seed`` but nought."""
    shutil.copytree(EMBEDDED, path, ignore=shutil.ignore_patterns("__pycache__"))
    if seed:
        file = next((path / "unet").glob("*.safetensors"))
        generator = torch.Generator().manual_seed(seed)
        tensors = load_file(file)
        for value in tensors.values():
            if value.ndim > 1:
                value += torch.randn(value.shape, generator=generator).to(value.dtype) * 0.02
        save_file(tensors, file)
    return path


def _write_checkpoint(path: Path, wide: int, deep: int, *, grows: bool, dtype: torch.dtype, seed: int) -> None:
    """SD 1.5's modules with random weights; fewer channels where the webui lets a checkpoint have them."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    channels = (wide, 2 * wide, 4 * wide, 4 * wide) if grows else (wide,) * 4
    unet = UNet2DConditionModel(sample_size=64, block_out_channels=channels, cross_attention_dim=768)
    vae = AutoencoderKL(
        block_out_channels=(deep, 2 * deep, 4 * deep, 4 * deep),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
    )
    sizes = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12}
    text = CLIPTextModel(CLIPTextConfig(vocab_size=49408, projection_dim=768, **sizes))
    # Webuis divide by the mean of what the encoder says, which is nought where its last norm is as it was made.
    last_norm = next(module for name, module in text.named_modules() if name.endswith("final_layer_norm"))
    torch.nn.init.constant_(last_norm.bias, 0.1)
    layout = layers.ldm_layout(unet)
    tensors = {f"{_UNET}{ldm.unet_path(key, *layout)}": value for key, value in unet.state_dict().items()}
    for key, value in vae.state_dict().items():
        name = ldm.vae_path(key, 4)
        is_matrix = "mid.attn_1" in name and value.ndim == 2  # 1x1 convolutions in the original
        tensors[f"first_stage_model.{name}"] = value[:, :, None, None] if is_matrix else value
    for key, value in text.state_dict().items():
        tensors[f"{_TEXT}{layers.te_path(key)}"] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.to(dtype).contiguous() for key, value in tensors.items()}, path)


def places(base: Path) -> Iterator[Place]:
    """The layers of a base model that ``write`` wrote, in the order of their names."""
    return _places_of_folder(base) if base.is_dir() else _places_of_checkpoint(base)


def _places_of_checkpoint(path: Path) -> Iterator[Place]:
    with safe_open(path, "pt") as stored:
        for key in sorted(stored.keys()):
            own = key.removesuffix(".weight")
            if own == key or len(stored.get_slice(key).get_shape()) < 2:
                continue
            if key.startswith(_UNET):
                ldm_path = own.removeprefix(_UNET)
                found = ldm_layers.diffusers_path(ldm_path, 2)
                yield Place(_flat("lora_unet", found), found, ldm_path, stored.get_tensor(key).float())
            elif key.startswith(_TEXT) and ".encoder." in key:
                found = own.removeprefix(_TEXT)
                yield Place(_flat("lora_te", found), found, found, stored.get_tensor(key).float())


def _places_of_folder(path: Path) -> Iterator[Place]:
    from lora_atelier.models import load

    model = load.load(path)
    layout = layers.ldm_layout(model.unet)
    for found, module in sorted(model.unet.named_modules()):
        if isinstance(getattr(module, "weight", None), Tensor) and module.weight.ndim > 1:
            weight = module.weight.detach().float()
            yield Place(_flat("lora_unet", found), found, ldm.unet_path(found, *layout), weight)
    for found, module in sorted(model.text_encoders[0].named_modules()):
        if "encoder" in found and isinstance(getattr(module, "weight", None), Tensor) and module.weight.ndim > 1:
            named = f"text_model.{found.removeprefix('text_model.')}"
            yield Place(_flat("lora_te", named), named, named, module.weight.detach().float())


def _flat(prefix: str, path: str) -> str:
    return f"{prefix}_{path.replace('.', '_')}"
