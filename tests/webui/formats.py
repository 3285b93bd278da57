"""LoRA files of every format and dialect for a random base model, and for each the plain change that it means."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from lora_atelier.adapters import families, file

from .models import Place

# Each a format in kohya's or LyCORIS' names, or a dialect of an ordinary LoRA.
NAMES = ("locon", "loha", "lokr", "glora", "full", "ia3", "oft", "diag-oft", "boft", "dora",
         "peft", "processors", "comfyui", "ldm-names", "lycoris")  # fmt: skip
_RANK, _BLOCK = 4, 8
_ATTENTION = re.compile(r"attn\d_to_(q|k|v|out_0)$")
_ALL = re.compile(r"attn\d_to_(q|k|v|out_0)$|ff_net_(0_proj|2)$|_proj_(in|out)$|(q|k|v|out)_proj$|_fc[12]$")
_CONVOLUTION = re.compile(r"down_blocks_\d_resnets_0_conv1$")
_METADATA = {"ss_base_model_version": "sd_v1", "ss_network_dim": str(_RANK)}


def write_lora(
    path: Path, places: Iterable[Place], *, seed: int, text: bool = False, rank: int = _RANK, **metadata: str
) -> None:
    """A random LoRA in kohya's names, for the U-Net's attention layers and, with ``text``, the text encoder's."""
    generator, tensors = torch.Generator().manual_seed(seed), {}
    for place in places:
        if _ALL.search(place.name) and (text or not place.is_text):
            made = _low_rank(place.weight, generator, rank) | {"alpha": torch.tensor(float(rank))}
            tensors |= {f"{place.name}.{suffix}": value for suffix, value in made.items()}
    file.write(path, _half(tensors), _METADATA | {"ss_output_name": path.stem} | metadata)


def write_words(path: Path, folder: Path, places: Iterable[Place], *, seed: int) -> None:
    """The LoRA that ``write_lora`` makes of ``seed`` with two vectors for the word "keptword" inside, and the same
    two for "filedword" as a file in ``folder``, where the webui keeps such words."""
    places = list(places)
    write_lora(path, places, seed=seed)
    width = next(place.weight.shape[1] for place in places if place.name.endswith("q_proj"))
    vectors = torch.randn(2, width, generator=torch.Generator().manual_seed(seed))
    lora = file.read(path)
    file.write(path, {**lora.tensors, "bundle_emb.keptword.string_to_param.*": vectors}, lora.metadata)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"emb_params": vectors}, folder / "filedword.safetensors")


def write_format(folder: Path, name: str, places: Iterable[Place], *, seed: int) -> None:
    """Write ``name`` and beside it ``name-plain``: the same change as whole matrices, which every webui can load."""
    generator, tensors, changes = torch.Generator().manual_seed(seed), {}, {}
    for place in places:
        wanted = _CONVOLUTION if name == "locon" else _ATTENTION
        if place.is_text or not wanted.search(place.name):
            continue
        made = _half(_tensors(name, place.weight, generator))
        tensors |= {_key(name, place, suffix): value for suffix, value in made.items()}
        adapters = families.match(families.group({f"{place.name}.{s}": v for s, v in made.items()}).layers[place.name])
        assert adapters is not None, name
        changes[f"{place.name}.diff"] = adapters["weight"].delta(place.weight)
    file.write(folder / f"{name}.safetensors", tensors, _METADATA | {"ss_output_name": name})
    file.write(folder / f"{name}-plain.safetensors", changes, _METADATA | {"ss_output_name": f"{name}-plain"})


def _tensors(name: str, weight: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """One layer's tensors by key suffix, for a change of about the weight's own size."""
    out, inner = weight.shape[:2]
    size = float(weight.std())

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(shape, generator=generator) * scale

    if name == "loha":
        made = {f"hada_w{n}_a": draw(out, _RANK) for n in (1, 2)} | {f"hada_w{n}_b": draw(_RANK, inner) for n in (1, 2)}
        return made | {"hada_w1_a": draw(out, _RANK, scale=size / 4), "alpha": torch.tensor(float(_RANK))}
    if name == "lokr":
        return {"lokr_w1": draw(4, 4), "lokr_w2": draw(out // 4, inner // 4, scale=size), "alpha": torch.tensor(1.0)}
    if name == "glora":
        a = {"a1.weight": draw(inner, _RANK, scale=0.1), "a2.weight": draw(_RANK, inner, scale=0.3)}
        b = {"b1.weight": draw(out, _RANK, scale=size), "b2.weight": draw(_RANK, inner, scale=0.3)}
        return a | b | {"alpha": torch.tensor(float(_RANK))}
    if name == "full":
        return {"diff": draw(out, inner, scale=size)}
    if name == "ia3":
        return {"weight": draw(out, scale=0.8), "on_input": torch.tensor(False)}
    if name in ("oft", "diag-oft"):
        return {"oft_blocks": draw(out // _BLOCK, _BLOCK, _BLOCK, scale=0.4), "alpha": torch.tensor(1.0)}
    if name == "boft":
        return {"oft_blocks": draw(2, out // _BLOCK, _BLOCK, _BLOCK, scale=0.4), "alpha": torch.tensor(1.0)}
    made = _low_rank(weight, generator)
    if name in ("peft", "comfyui", "processors"):
        return made  # these have no alpha: it is the rank
    made["alpha"] = torch.tensor(float(_RANK))
    if name == "dora":
        lengths = weight.reshape(out, -1).norm(dim=1)
        made["dora_scale"] = (lengths * (1 + 0.3 * draw(out))).reshape(-1, *[1] * (weight.ndim - 1))
    return made


def _low_rank(weight: Tensor, generator: torch.Generator, rank: int = _RANK) -> dict[str, Tensor]:
    out, inner, *kernel = weight.shape
    down = torch.randn([rank, inner, *kernel], generator=generator) * 0.3
    up = torch.randn([out, rank, *[1] * len(kernel)], generator=generator) * 0.05
    return {"lora_down.weight": down, "lora_up.weight": up}


def _key(name: str, place: Place, suffix: str) -> str:
    """A tensor's key in the dialect that ``name`` stands for."""
    ab = {"lora_down.weight": "lora_A.weight", "lora_up.weight": "lora_B.weight"}
    if name == "peft":
        return f"unet.{place.path}.{ab[suffix]}"
    if name == "comfyui":
        return f"diffusion_model.{place.ldm_path}.{ab[suffix]}"
    if name == "processors":
        parent, _, last = place.path.removesuffix(".0").rpartition(".")
        ends = {"lora_down.weight": "down.weight", "lora_up.weight": "up.weight"}
        return f"unet.{parent}.processor.{last}_lora.{ends[suffix]}"
    if name == "ldm-names":
        return f"lora_unet_{place.ldm_path.replace('.', '_')}.{suffix}"
    if name == "lycoris":
        return f"lycoris_{place.path.replace('.', '_')}.{suffix}"
    prefix = "oft" if name == "oft" else "lora"
    return f"{prefix}_{place.name.removeprefix('lora_')}.{suffix}"


def _half(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.half() if value.is_floating_point() else value for key, value in tensors.items()}
