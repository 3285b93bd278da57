"""Make a state out of the exported base model, to go on training where only the repository is left.

    PYTHONPATH=extension:. python -m base_model.restore --state STATE --minutes MINUTES [--model FOLDER]

Writes STATE/tokenizer, STATE/vae_whitened.pt and STATE/unet.pt. The averaged weights become the weights, and the
optimiser begins anew: its moments were never exported. ``base_model.encode`` makes the latents again.
"""

from __future__ import annotations

import argparse
import shutil
from itertools import chain
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel

from base_model import export


def restore(model: Path, state: Path, minutes: float) -> None:
    """Write the state of ``model``, a folder that ``base_model.export`` wrote. An older state is replaced.

    ``minutes`` is how long the U-Net has been trained, as its model card says: the learning rate and the share of easy
    pictures go on from there.
    """
    state.mkdir(parents=True, exist_ok=True)
    shutil.copytree(model / "tokenizer", state / "tokenizer", dirs_exist_ok=True)
    parts: dict[str, nn.Module] = {
        "unet": UNet2DConditionModel.from_pretrained(model / "unet"),
        "text_encoder": CLIPTextModel.from_pretrained(model / "text_encoder"),
        "vae": AutoencoderKL.from_pretrained(model / "vae"),
    }
    for part in parts.values():
        part.float()
    torch.save(parts["vae"].state_dict(), state / "vae_whitened.pt")
    weights = [p.data.clone() for p in chain(parts["unet"].parameters(), parts["text_encoder"].parameters())]
    said = {"parameters": weights, "ema": weights, "optimizer": None, "step": 0, "elapsed_s": 60 * minutes}
    torch.save(said, state / "unet.pt")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True, help="how long its U-Net has been trained")
    parser.add_argument("--model", type=Path, default=export.OUTPUT)
    arguments = parser.parse_args()
    restore(arguments.model, arguments.state, arguments.minutes)
