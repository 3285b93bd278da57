"""The three networks of the embedded base model: Stable Diffusion's classes at toy size."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

CONTEXT_WIDTH = 128
# Stable Diffusion's: hosts and trainers hard-code both.
SCALING_FACTOR = 0.18215
SCHEDULER = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "trailing",
}
# Size of the constants that keep a group normalisation from changing the picture's brightness (see make_vae).
_ANCHOR = 4.0
_TAPS = 12


def alphas_cumprod() -> torch.Tensor:
    """The noise schedule: (1000,) shares of signal, as SCHEDULER describes it."""
    betas = torch.linspace(SCHEDULER["beta_start"] ** 0.5, SCHEDULER["beta_end"] ** 0.5, 1000) ** 2  # type: ignore[operator]
    return torch.cumprod(1 - betas, 0)


def make_unet() -> UNet2DConditionModel:
    """The U-Net, 6.2 M parameters, for 16 × 16 × 4 latents; every residual branch starts as nothing."""
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        block_out_channels=(48, 96, 144),
        layers_per_block=1,
        attention_head_dim=4,  # diffusers' old name for the number of heads
        norm_num_groups=8,
        cross_attention_dim=CONTEXT_WIDTH,
    )
    for name, parameter in unet.named_parameters():
        if name.endswith(("conv2.weight", "proj_out.weight")) or name.startswith("conv_out."):
            nn.init.zeros_(parameter)
    return unet


def make_text_encoder(vocabulary: int) -> CLIPTextModel:
    """The CLIP text encoder, two layers; its token embeddings start wide enough to be told apart."""
    model = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=CONTEXT_WIDTH,
            intermediate_size=4 * CONTEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=77,
            hidden_act="quick_gelu",
            projection_dim=CONTEXT_WIDTH,
            bos_token_id=vocabulary - 2,
            eos_token_id=vocabulary - 1,
            pad_token_id=vocabulary - 1,
        )
    )
    nn.init.normal_(model.get_input_embeddings().weight, std=0.2)
    return model


@torch.no_grad()
def make_vae() -> AutoencoderKL:
    """The VAE, 0.9 M parameters, started as "mean of each 8 × 8 block -> latent -> nearest": 21.7 dB untrained.

    The first 12 channels carry (x, -x, +A, -A) for red, green and blue through both halves. The constants ±A
    dominate each normalisation group's statistics, so that it scales by a fixed number, and silu(x) - silu(-x) = x
    undoes the activation. Residual branches start as nothing.
    """
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=(16, 32, 64, 64),
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=128,
        scaling_factor=SCALING_FACTOR,
        mid_block_add_attention=False,
    )
    for name, module in vae.named_modules():
        if name.endswith("conv2"):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
        elif name.endswith(("conv_shortcut", "upsamplers.0.conv")):
            _pass_through(module)
        elif name.endswith("downsamplers.0.conv"):
            _pass_through(module)
            module.weight[:_TAPS] = 0
            for channel in range(_TAPS):
                module.weight[channel, channel, 0:2, 0:2] = 0.25
    _spread(vae.encoder.conv_in)
    _spread(vae.decoder.conv_in)
    # In the encoder the group has 16 channels, six of them ±A; in the decoder 4, two of them ±A.
    _gather(vae.encoder.conv_out, scale=_ANCHOR * (6 / 16) ** 0.5)
    _gather(vae.decoder.conv_out, scale=_ANCHOR * (2 / 4) ** 0.5)
    vae.encoder.conv_out.weight[:3, _TAPS:] *= 0.1
    vae.encoder.conv_out.weight[4:] *= 0.1
    vae.encoder.conv_out.bias[4:] = -6  # log variance of the posterior
    vae.decoder.conv_out.weight[:, _TAPS:] *= 0.1
    for module in (vae.quant_conv, vae.post_quant_conv):
        nn.init.dirac_(module.weight)
        nn.init.zeros_(module.bias)
    return vae


def _pass_through(conv: nn.Conv2d) -> None:
    middle = conv.kernel_size[0] // 2
    conv.weight[:_TAPS] = 0
    conv.bias[:_TAPS] = 0
    for channel in range(_TAPS):
        conv.weight[channel, channel, middle, middle] = 1


def _spread(conv: nn.Conv2d) -> None:
    conv.weight[:_TAPS] = 0
    conv.bias[:_TAPS] = 0
    for colour in range(3):
        conv.weight[4 * colour, colour, 1, 1] = 1
        conv.weight[4 * colour + 1, colour, 1, 1] = -1
        conv.bias[4 * colour + 2] = _ANCHOR
        conv.bias[4 * colour + 3] = -_ANCHOR


def _gather(conv: nn.Conv2d, scale: float) -> None:
    conv.weight[:, :_TAPS] = 0
    nn.init.zeros_(conv.bias)
    for colour in range(3):
        conv.weight[colour, 4 * colour, 1, 1] = scale
        conv.weight[colour, 4 * colour + 1, 1, 1] = -scale
