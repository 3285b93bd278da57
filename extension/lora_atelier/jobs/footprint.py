"""How much memory a run holds at once, part by part, and how large its file gets: from the model's header alone.

Activations are what autograd keeps from the forward pass for the backward pass. They grow with the pixels of a batch;
the numbers per pixel were counted on U-Nets of these shapes with a LoRA of rank 16 on all attention layers (autograd's
saved tensors, each storage once, torch 2.13), without the matrices of attention, which no kernel keeps.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator

from .. import memory, safetensors_header
from ..config import NetworkConfig, TrainConfig
from ..errors import ExtensionError, message
from ..models.detect import ModelInfo, weights_files
from .rates import pixels_of

# What a person is told of each part.
PARTS = {
    "weights": message("the base model {gb} GB"),
    "activations": message("what a step computes {gb} GB"),
    "adapter": message("the LoRA {gb} GB"),
    "optimizer": message("its optimizer {gb} GB"),
    "caches": message("encoded pictures and captions {gb} GB"),
    "program": message("the program itself {gb} GB"),
}
# Python with torch and diffusers; on a card CUDA's own and what its libraries reserve for themselves.
_PROGRAM_BYTES = {"cpu": 250_000_000, "gpu": 600_000_000}
# Bytes that are kept of each latent's pixel, by bytes of a number.
_ACTIVATIONS = {
    "toy": {4: 107_000, 2: 65_000},
    "sd1": {4: 476_000, 2: 282_000},
    "sd2": {4: 473_000, 2: 280_000},
    "sdxl": {4: 914_000, 2: 611_000},
}
# With gradient checkpointing: what is kept between the blocks, and the block that is computed again.
_CHECKPOINTS = {4: 75_000, 2: 37_500}
_LARGEST_BLOCK = 0.25
# Gradients on their way back, and what convolutions and attention take in passing.
_IN_PASSING = 1.25
# Numbers that an optimizer keeps for each one that it trains, where they are not AdamW's two.
_MOMENTS = {"sgd": 0.0, "lion": 1.0, "adafactor": 0.1, "prodigy": 4.0, "dadapt": 4.0}
_TOKENS = 77
_WIDTHS = {"toy": 96, "sd1": 768, "sd2": 1024, "sdxl": 2048}


def memory_parts(config: TrainConfig, info: ModelInfo, *, pictures: int, device: str) -> dict[str, int]:
    """Bytes of each of ``PARTS`` while steps are made."""
    number = 2 if config.schedule.mixed_precision in ("fp16", "bf16") else 4
    counts = parameter_counts(info)
    network = config.network
    samples = bool(config.sampling.prompts)
    weights = counts["unet"] + (counts["vae"] if samples else 0)
    if samples or network.train_te:
        weights += counts["te"]
    trained = adapter_bytes(info, network, "float") // 4
    latents = max(
        (d.resolution[0] * d.resolution[1] // 64 * d.batch_size for d in config.data.datasets),
        default=pixels_of(config) // 64,
    )
    kept = _ACTIVATIONS[info.family][number]
    if config.schedule.gradient_checkpointing:
        kept = round(_CHECKPOINTS[number] + _LARGEST_BLOCK * kept)
    flips = any(subset.flip_aug for dataset in config.data.datasets for subset in dataset.subsets)
    encoded = pixels_of(config) // 64 * 4 * 2 * 4 * (2 if flips else 1)
    caption = 0 if network.train_te else _TOKENS * _WIDTHS[info.family] * 4
    average = 1 if config.optimizer.ema_decay else 0
    return {
        "program": _PROGRAM_BYTES[device],
        "weights": weights * number,
        "adapter": trained * 4 * 2,
        "optimizer": round(trained * 4 * (_moments(config.optimizer.optimizer) + average)),
        "activations": round(latents * kept * _IN_PASSING),
        "caches": pictures * (encoded + caption),
    }


def _moments(optimizer: str) -> float:
    name = optimizer.lower()
    # In 8 bits a moment takes a quarter of what it takes in 32.
    eighth = 0.25 if "8bit" in name else 1.0
    return eighth * next((count for key, count in _MOMENTS.items() if key in name), 2.0)


def parameter_counts(info: ModelInfo) -> dict[str, int]:
    """How many numbers each part of the model has: "unet", "vae", "te"; 0 where its header can't be read."""
    counts = {"unet": 0, "vae": 0, "te": 0}
    try:
        for part, shape in _shapes(info):
            counts[part] += math.prod(shape)
    except (OSError, safetensors_header.BrokenFileError, ExtensionError):
        pass
    return counts


def _shapes(info: ModelInfo) -> Iterator[tuple[str, tuple[int, ...]]]:
    if info.kind == "checkpoint":
        for key, tensor in safetensors_header.read(info.path).tensors.items():
            if key.startswith("model.diffusion_model."):
                yield "unet", tensor.shape
            elif key.startswith("first_stage_model."):
                yield "vae", tensor.shape
            elif key.startswith(("cond_stage_model.", "conditioner.")):
                yield "te", tensor.shape
        return
    for folder, part in (("unet", "unet"), ("vae", "vae"), ("text_encoder", "te"), ("text_encoder_2", "te")):
        if (info.path / folder).is_dir():
            for file in weights_files(info.path / folder):
                yield from ((part, tensor.shape) for tensor in safetensors_header.read(file).tensors.values())


def adapter_bytes(info: ModelInfo, network: NetworkConfig, precision: str) -> int:
    """The size of the LoRA file, from the shapes in the model's header; 0 if the header can't be read."""
    try:
        shapes = list(_unet_shapes(info))
    except (OSError, safetensors_header.BrokenFileError, ExtensionError):
        return 0
    numbers = 0
    for key, shape in shapes:
        attention = "transformer_blocks." in key or ".proj_in." in key or ".proj_out." in key
        kernel = math.prod(shape[2:])
        if attention and len(shape) in (2, 4) and kernel == 1:
            numbers += network.rank * (shape[0] + shape[1])
        elif network.conv_rank and len(shape) == 4 and kernel > 1:
            numbers += network.conv_rank * (shape[0] + shape[1] * kernel)
    return numbers * (2 if precision in ("fp16", "bf16") else 4)


def _unet_shapes(info: ModelInfo) -> Iterator[tuple[str, tuple[int, ...]]]:
    files = weights_files(info.path / "unet") if info.kind == "diffusers" else [info.path]
    for file in files:
        for key, tensor in safetensors_header.read(file).tensors.items():
            if key.endswith(".weight") and (info.kind == "diffusers" or key.startswith("model.diffusion_model.")):
                yield key, tensor.shape


# ------------------------------------------------------------------------------------------- what there is


def free_bytes(device: str) -> int:
    """Memory that is free on "cpu" or "gpu" once the host has given back what it holds, as it does for a training; 0
    where the system does not say. Of several cards it is the one with the most."""
    if device == "cpu":
        return memory.available_bytes() or total_memory_bytes() or 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").strip()
    try:
        said = subprocess.run(
            [
                "nvidia-smi",
                "--query-gpu=memory.free",
                "--format=csv,noheader,nounits",
                *([f"--id={visible}"] if visible else []),
            ],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout
        free = [int(line) * 1024 * 1024 for line in said.split()]
        return max([free[0] + _held_bytes(), *free[1:]])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return 0


def _held_bytes() -> int:
    """What the model of the webui whose process this is holds on its card, 0 in a process that has none."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return 0
    return int(torch.cuda.memory_reserved())


def total_memory_bytes() -> int | None:
    """The machine's memory, where the system tells it in a simple way."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
