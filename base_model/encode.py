"""Encode drawn pictures once, so that the U-Net's training need not draw and encode.

    PYTHONPATH=extension:. python -m base_model.encode --state STATE

Writes STATE/latents-easy-N.pt and STATE/latents-all-N.pt, one file a process. Held-out combinations are left out.
"""

from __future__ import annotations

import random
from dataclasses import astuple
from pathlib import Path

import torch
from torch import Tensor

from base_model import sitting
from base_model.architecture import SCALING_FACTOR, make_vae
from base_model.sitting import Plan
from base_model.train_vae import pixels
from lora_atelier.embedded import world

BATCH_SIZE = 16
# Pictures in all, and the seed of the first process.
SETS = {"easy": (9_600, 10), "all": (38_400, 20)}


def scenes_to_learn(rng: random.Random, count: int, *, easy: bool) -> list[world.Scene]:
    """``count`` random scenes, none of a held-out combination."""
    found: list[world.Scene] = []
    while len(found) < count:
        scene = world.random_scene(rng, easy=easy)
        if not world.is_held_out(scene):
            found.append(scene)
    return found


@torch.no_grad()
def encode(plan: Plan, rank: int) -> None:
    """One process's share of the pictures."""
    vae = make_vae().to(plan.device)
    vae.load_state_dict(torch.load(plan.state / "vae_whitened.pt", map_location=plan.device, weights_only=True))
    for name, (total, seed) in SETS.items():
        rng = random.Random(seed + rank)
        scenes, latents = [], []
        for done in range(0, total // plan.processes, BATCH_SIZE):
            batch = scenes_to_learn(rng, BATCH_SIZE, easy=name == "easy")
            with sitting.mixed_precision(plan.device):
                mean = vae.encode(pixels(batch).to(plan.device)).latent_dist.mean
            latents.append((mean.float() * SCALING_FACTOR).half().cpu())
            scenes += batch
            if rank == 0 and done % 3200 == 0:
                print(f"{name}: {done} of {total // plan.processes}", flush=True)
        # Without the jitter: a caption does not say it, and nothing else reads these scenes.
        words = [astuple(scene)[:6] for scene in scenes]
        torch.save({"latents": torch.cat(latents), "scenes": words}, plan.state / f"latents-{name}-{rank}.pt")


def read(state: Path, name: str) -> tuple[Tensor, list[world.Scene]]:
    """The encoded pictures of one set: (n, 4, 16, 16) float16, scaled to variance 1, and their scenes."""
    latents, scenes = [], []
    for path in sorted(state.glob(f"latents-{name}-*.pt")):
        stored = torch.load(path, weights_only=True)
        latents.append(stored["latents"])
        scenes += [world.Scene(*words) for words in stored["scenes"]]
    return torch.cat(latents), scenes


if __name__ == "__main__":
    sitting.run(encode, Plan.from_arguments(__doc__ or "", minutes=0, port=29513))
