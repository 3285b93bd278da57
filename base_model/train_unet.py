"""Train the base model's U-Net and text encoder on encoded pictures, with v-prediction.

    PYTHONPATH=extension:. python -m base_model.train_unet --state STATE [--minutes 120]

Writes STATE/unet.pt every two minutes and goes on from it.
"""

from __future__ import annotations

from itertools import chain

import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from transformers import CLIPTokenizer

from base_model import encode, sitting
from base_model.architecture import alphas_cumprod, make_text_encoder, make_unet
from base_model.sitting import Plan, Sitting
from lora_atelier.embedded import world

BATCH_SIZE = 24
EMPTY_CAPTIONS = 0.1
# Below these the place of the shape shows through the noise, and its words are not needed any more.
NOISY_FROM, NOISY_SHARE = 650, 0.6
# Easy pictures until shapes are learned: their share of a batch then falls from three quarters to none.
EASY_UNTIL, ALL_FROM = 0.47, 0.6


def share_of_all(done: float) -> float:
    """How many pictures of a batch come from the whole world when ``done`` of the run is over."""
    return min(1.0, max(0.25, (done - EASY_UNTIL) / (ALL_FROM - EASY_UNTIL)))


def stratified_timesteps(count: int, start: int = 0) -> Tensor:
    """``count`` timesteps, one from each of as many equal parts of start..999, in random order."""
    shares = (torch.arange(count) + torch.rand(count)) / count
    timesteps = (start + shares * (1000 - start)).long().clamp(start, 999)
    return timesteps[torch.randperm(count)]


def mixed_timesteps(count: int) -> Tensor:
    """Some from the whole schedule, most from the noisy part, where shape and place are decided."""
    whole = round((1 - NOISY_SHARE) * count)
    return torch.cat([stratified_timesteps(whole), stratified_timesteps(count - whole, NOISY_FROM)])


def train(plan: Plan, rank: int) -> None:
    """One process of the training."""
    tokenizer = CLIPTokenizer.from_pretrained(plan.state / "tokenizer")
    torch.manual_seed(0)
    unet = make_unet().to(plan.device, memory_format=torch.channels_last)
    # The backward pass of torch's fused attention takes a third of a step on a CPU; written out, a tenth.
    unet.set_attn_processor(AttnProcessor())
    text_encoder = make_text_encoder(len(tokenizer)).to(plan.device)
    parameters = list(chain(unet.parameters(), text_encoder.parameters()))
    if rank == 0:
        print(sum(parameter.numel() for parameter in parameters), "parameters", flush=True)
    sit = Sitting(plan, rank, "unet", parameters, learning_rate=1e-3)
    easy, whole = encode.read(plan.state, "easy"), encode.read(plan.state, "all")
    alphas = alphas_cumprod()
    going, mean_loss = True, 1.0
    while going:
        latents, captions = _batch(sit, easy, whole)
        timesteps = mixed_timesteps(BATCH_SIZE)
        alpha = alphas[timesteps].view(-1, 1, 1, 1)
        noise = torch.randn_like(latents)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        # Salimans & Ho 2022, Progressive Distillation, section 2.4: v = alpha·noise - sigma·x.
        velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * latents
        ids = tokenizer(captions, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
        with sitting.mixed_precision(plan.device):
            context = text_encoder(ids.to(plan.device))[0]
            predicted = unet(noisy.to(plan.device), timesteps.to(plan.device), context).sample
        loss = (predicted.float() - velocity.to(plan.device)).square().mean()
        going = sit.update(loss)
        mean_loss += 0.01 * (loss.item() - mean_loss)
        if rank == 0 and sit.step % 160 == 0:
            seen = sit.step * BATCH_SIZE * plan.processes
            print(f"unet step {sit.step}, {sit.elapsed_s:.0f} s, {seen} seen, loss {mean_loss:.4f}", flush=True)


def _batch(
    sit: Sitting, easy: tuple[Tensor, list[world.Scene]], whole: tuple[Tensor, list[world.Scene]]
) -> tuple[Tensor, list[str]]:
    latents, captions = [], []
    for _ in range(BATCH_SIZE):
        pictures, scenes = whole if sit.rng.random() < share_of_all(sit.done) else easy
        index = sit.rng.randrange(len(scenes))
        latents.append(pictures[index])
        captions.append("" if sit.rng.random() < EMPTY_CAPTIONS else world.caption(scenes[index], sit.rng))
    return torch.stack(latents).float(), captions


if __name__ == "__main__":
    sitting.run(train, Plan.from_arguments(__doc__ or "", minutes=120, port=29512))
