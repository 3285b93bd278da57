"""Train the VAE's decoder alone, after everything else: the latents, and so the U-Net, stay as they are.

    PYTHONPATH=extension:. python -m base_model.train_decoder --state STATE [--minutes 10]

Goes on from STATE/vae_whitened.pt and replaces it when the time is over. Noise on the latents teaches the decoder to
draw clean edges from what a U-Net of this size gives it; half of the pictures have colours that the world does
not have, so that a LoRA's colours come out true.
"""

from __future__ import annotations

from itertools import chain

import torch

from base_model import sitting
from base_model.architecture import SCALING_FACTOR, make_vae
from base_model.sitting import Plan, Sitting
from base_model.train_vae import draw_batch

# Standard deviations of the noise on latents of standard deviation 1.
LEAST_NOISE, MOST_NOISE = 0.02, 0.25


def train(plan: Plan, rank: int) -> None:
    """One process of the training."""
    vae = make_vae().to(plan.device)
    vae.load_state_dict(torch.load(plan.state / "vae_whitened.pt", map_location=plan.device, weights_only=True))
    assert vae.post_quant_conv is not None
    parameters = list(chain(vae.post_quant_conv.parameters(), vae.decoder.parameters()))
    sit = Sitting(plan, rank, "decoder", parameters, learning_rate=4e-4)
    going = True
    while going:
        x = draw_batch(sit.rng, strange=0.5).to(plan.device)
        with sitting.mixed_precision(plan.device):
            with torch.no_grad():
                latents = vae.encode(x).latent_dist.mode()
            noise = torch.empty(len(x), 1, 1, 1, device=x.device).uniform_(LEAST_NOISE, MOST_NOISE) / SCALING_FACTOR
            error = vae.decode(latents + noise * torch.randn_like(latents)).sample.float() - x
        going = sit.update(error.abs().mean() + error.square().mean())
        if rank == 0 and sit.step % 32 == 0:
            psnr = 10 * torch.log10(4 / error.square().mean())
            print(f"decoder step {sit.step}, {sit.elapsed_s:.0f} s, {psnr:.1f} dB in the batch", flush=True)
    if rank == 0:
        sitting.copy_into(parameters, sit.ema)
        torch.save(vae.state_dict(), plan.state / "vae_whitened.pt")


if __name__ == "__main__":
    sitting.run(train, Plan.from_arguments(__doc__ or "", minutes=10, port=29514))
