"""Train the base model's VAE on drawn pictures; the last fifth trains the decoder alone, then latents are whitened.

    PYTHONPATH=extension:. python -m base_model.train_vae --state STATE [--minutes 30]

Writes STATE/vae.pt (to go on from) and, when the time is over, STATE/vae_whitened.pt.
"""

from __future__ import annotations

import random

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor

from base_model import sitting
from base_model.architecture import SCALING_FACTOR, make_vae
from base_model.sitting import Plan, Sitting
from lora_atelier.embedded import world

BATCH_SIZE = 12
DECODER_ALONE_FROM = 0.8
KL_WEIGHT = 2e-4


def pixels(scenes: list[world.Scene]) -> Tensor:
    """Draw scenes: (b, 3, 128, 128) in -1..1."""
    return to_tensor([np.asarray(world.draw(scene)) for scene in scenes])


def to_tensor(pictures: list[np.ndarray]) -> Tensor:
    """(h, w, 3) bytes -> (b, 3, h, w) in -1..1."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def draw_batch(rng: random.Random, *, strange: float = 0.0) -> Tensor:
    """Random pictures of the world (b, 3, 128, 128), in -1..1, a few of them with a piece of another on top.

    A share ``strange`` of them has colours that the world does not have, as what a LoRA teaches may.
    """
    pictures = []
    for _ in range(BATCH_SIZE):
        picture = world.draw(world.random_scene(rng))
        if rng.random() < 0.12:  # a piece of another picture on it: more than the world itself, as LoRAs will need
            piece = world.draw(world.random_scene(rng)).crop((32, 32, 96, 96))
            picture.paste(piece, (rng.randrange(64), rng.randrange(64)))
        pictures.append(np.asarray(_turned(picture, rng) if rng.random() < strange else picture))
    return to_tensor(pictures)


def _turned(picture: Image.Image, rng: random.Random) -> Image.Image:
    """The picture with all hues turned by the same angle and saturations scaled."""
    hue, saturation, value = picture.convert("HSV").split()
    turn, scale = rng.randrange(256), rng.uniform(0.4, 1.3)
    hue = hue.point([(at + turn) % 256 for at in range(256)])
    saturation = saturation.point([min(255, round(at * scale)) for at in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


def train(plan: Plan, rank: int) -> None:
    """One process of the training."""
    torch.manual_seed(0)
    vae = make_vae().to(plan.device)
    sit = Sitting(plan, rank, "vae", list(vae.parameters()), learning_rate=6e-4)
    going = True
    while going:
        x = draw_batch(sit.rng).to(plan.device)
        with sitting.mixed_precision(plan.device):
            if sit.done > DECODER_ALONE_FROM:
                with torch.no_grad():
                    mean = vae.encode(x).latent_dist.mode()
                latents, kl = mean + 0.02 * mean.std() * torch.randn_like(mean), torch.zeros(())
            else:
                posterior = vae.encode(x).latent_dist
                latents = posterior.sample()
                kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).float().mean()
            error = vae.decode(latents).sample.float() - x
        going = sit.update(error.abs().mean() + error.square().mean() + KL_WEIGHT * kl)
        if rank == 0 and sit.step % 32 == 0:
            psnr = 10 * torch.log10(4 / error.square().mean())
            print(f"vae step {sit.step}, {sit.elapsed_s:.0f} s, {psnr:.1f} dB in the batch", flush=True)
    if rank == 0:
        whiten(vae)
        torch.save(vae.state_dict(), plan.state / "vae_whitened.pt")


@torch.no_grad()
def whiten(vae: AutoencoderKL, *, batches: int = 60) -> None:
    """Fold a change of basis into ``quant_conv`` and ``post_quant_conv`` so that the latents' four channels are
    uncorrelated, with mean 0 and, once scaled by ``SCALING_FACTOR``, variance 1. Pictures stay what they were.
    """
    device = vae.device
    rng = random.Random(99)
    latents = torch.cat(
        [
            vae.encode(pixels([world.random_scene(rng) for _ in range(16)]).to(device)).latent_dist.mean
            for _ in range(batches)
        ]
    )
    channels = latents.permute(1, 0, 2, 3).flatten(1).double()
    mean = channels.mean(1)
    eigenvalues, vectors = torch.linalg.eigh(torch.cov(channels))
    forward = vectors @ torch.diag(eigenvalues.rsqrt()) @ vectors.T / SCALING_FACTOR
    into, out = vae.quant_conv, vae.post_quant_conv
    assert into is not None and out is not None
    weight, bias = into.weight[:4, :, 0, 0].double(), into.bias[:4].double()
    into.weight[:4, :, 0, 0] = (forward @ weight).float()
    into.bias[:4] = (forward @ (bias - mean)).float()
    into.weight[4:] = 0
    into.bias[4:] = -20  # log variance: the posterior is its mean
    weight = out.weight[:, :, 0, 0].double()
    out.bias.copy_((out.bias.double() + weight @ mean).float())
    out.weight[:, :, 0, 0] = (weight @ torch.linalg.inv(forward)).float()


if __name__ == "__main__":
    sitting.run(train, Plan.from_arguments(__doc__ or "", minutes=30, port=29511))
