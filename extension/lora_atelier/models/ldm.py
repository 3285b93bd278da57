"""The names that Stable Diffusion's original code (ldm, sgm) gives to the parts of diffusers' modules.

Single-file checkpoints use them for every weight, and kohya's SDXL adapters for the U-Net's layers. Everything here is
text: a diffusers path goes in, an ldm path comes out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_STEMS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def unet_path(path: str, layers_per_block: int, up_attentions: Mapping[int, bool]) -> str:
    """Return the ldm path of a U-Net module or weight; ``up_attentions`` says which up blocks have attention.

    In an ldm U-Net every resnet with what follows it is one numbered block, so that ``down_blocks.1.attentions.0``
    is ``input_blocks.4.1`` where a block has two layers and a downsampler.
    """
    for stem, ldm in _UNET_STEMS.items():
        if path == stem or path.startswith(stem + "."):
            return ldm + path[len(stem) :]
    step = layers_per_block + 1
    match = re.match(r"(down_blocks|up_blocks)\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)(.*)$", path)
    if match:
        side, block, kind, at, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
        if kind == "downsamplers":
            return f"input_blocks.{(block + 1) * step}.0.op{rest.removeprefix('.conv')}"
        if kind == "upsamplers":
            return f"output_blocks.{block * step + layers_per_block}.{2 if up_attentions[block] else 1}{rest}"
        number = block * step + at + (1 if side == "down_blocks" else 0)
        ldm_side = "input_blocks" if side == "down_blocks" else "output_blocks"
        return f"{ldm_side}.{number}.{0 if kind == 'resnets' else 1}{_inner(rest, _RESNET, kind == 'resnets')}"
    match = re.match(r"mid_block\.(resnets|attentions)\.(\d+)(.*)$", path)
    if match:
        kind, at, rest = match[1], int(match[2]), match[3]
        number = 2 * at + (1 if kind == "attentions" else 0)
        return f"middle_block.{number}{_inner(rest, _RESNET, kind == 'resnets')}"
    return path


def vae_path(path: str, num_blocks: int) -> str:
    """Return the ldm path of a VAE module or weight; ``num_blocks`` is the number of resolutions."""
    path = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", path)
    path = re.sub(r"mid_block\.attentions\.0(.*)$", lambda m: "mid.attn_1" + _inner(m[1], _VAE_ATTENTION, True), path)
    path = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", path)
    path = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", path)
    # The decoder's first block is the smallest; ldm counts resolutions from the largest in both directions.
    path = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{num_blocks - 1 - int(m[1])}.upsample", path)
    path = re.sub(r"up_blocks\.(\d+)\.resnets\.(\d+)", lambda m: f"up.{num_blocks - 1 - int(m[1])}.block.{m[2]}", path)
    return path.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")


def open_clip_key(key: str) -> tuple[str, int | None]:
    """Return OpenCLIP's key for a CLIP text model's weight, and which third of a fused weight it is (q 0, k 1, v 2).

    ``key`` is in the canonical form without ``text_model.``, for example ``encoder.layers.0.self_attn.q_proj.weight``.
    The text projection is stored transposed.
    """
    if key == "embeddings.position_embedding.weight":
        return "positional_embedding", None
    if key == "text_projection.weight":
        return "text_projection", None
    key = key.replace("embeddings.token_embedding", "token_embedding").replace("final_layer_norm", "ln_final")
    key = key.replace("encoder.layers.", "transformer.resblocks.")
    key = key.replace("layer_norm1", "ln_1").replace("layer_norm2", "ln_2")
    key = key.replace("mlp.fc1", "mlp.c_fc").replace("mlp.fc2", "mlp.c_proj")
    fused = re.search(r"self_attn\.([qkv])_proj\.(weight|bias)$", key)
    if fused:
        return key[: fused.start()] + f"attn.in_proj_{fused[2]}", "qkv".index(fused[1])
    return key.replace("self_attn.out_proj", "attn.out_proj"), None


def _inner(rest: str, names: Mapping[str, str], rename: bool) -> str:
    if not rename:
        return rest
    for name, ldm in names.items():
        if rest == f".{name}" or rest.startswith(f".{name}."):
            return f".{ldm}{rest[len(name) + 1 :]}"
    return rest
