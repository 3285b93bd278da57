"""Names of layers that the fake webuis have, and what became of their weights."""

import torch

Q = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
OUT = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0"
TEXT = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"


def changes(before, after):
    """The changed tensors' differences."""
    return [a - b for b, a in zip(before, after, strict=True) if not torch.equal(a, b)]
