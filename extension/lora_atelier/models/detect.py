"""What a base model is (family, prediction type, size), read from headers and configs alone. Needs no torch."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .. import safetensors_header
from ..errors import Message, ModelError, message
from ..safetensors_header import BrokenFileError, Header

Family = Literal["toy", "sd1", "sd2", "sdxl"]
PredictionType = Literal["epsilon", "v_prediction"]

FAMILY_NAMES: Mapping[str, str] = {
    "toy": "LoRA Atelier Base",
    "sd1": "Stable Diffusion 1.x",
    "sd2": "Stable Diffusion 2.x",
    "sdxl": "Stable Diffusion XL",
}
# These formats are Python pickles: opening one can run any program.
PICKLES = {".ckpt", ".pt", ".pth", ".bin", ".pkl"}
_UNET = "model.diffusion_model."
_RESOLUTIONS = {"sd1": 512, "sd2": 512, "sdxl": 1024}


@dataclass(frozen=True)
class ModelInfo:
    """A base model that can be loaded: one .safetensors file (checkpoint) or a diffusers folder.

    ``resolution`` is the side of the square pictures it was made for; ``zero_snr`` says that its noise schedule was
    rescaled to end in pure noise (Lin et al. 2023, Common Diffusion Noise Schedules, section 3.1).
    """

    path: Path
    kind: Literal["diffusers", "checkpoint"]
    family: Family
    prediction_type: PredictionType
    resolution: int
    title: str
    zero_snr: bool = False


def inspect(path: Path | str) -> ModelInfo:
    """Return what the model at ``path`` is.

    Raises ModelError, with the reason, for pickles, broken files, adapters, parts of models, and families that we
    can't use (SD3, Flux, … are named).
    """
    path = Path(path)
    try:
        if path.is_dir():
            return _inspect_folder(path)
        if not path.is_file():
            raise ModelError(
                "There is no model at {path}.",
                todo="Give the path of a .safetensors checkpoint or of a diffusers folder.",
                path=str(path),
            )
        _refuse_pickle(path)
        header = safetensors_header.read(path)
    except BrokenFileError as error:
        raise _broken(path, str(error)) from error
    except OSError as error:
        raise ModelError("{path} can't be read.", why="{error}.", path=str(path), error=str(error)) from error
    return _inspect_checkpoint(path, header)


def _broken(path: Path, reason: str) -> ModelError:
    return ModelError(
        "{path} can't be read as a model.",
        why="The file is broken or incomplete: {reason}.",
        todo="Download or copy it again.",
        path=str(path),
        reason=reason,
    )


def _refuse_pickle(path: Path) -> None:
    if path.suffix.lower() in PICKLES:
        raise ModelError(
            "{name} was not opened.",
            why="{suffix} files are Python pickles, which can run any program when they are opened.",
            todo="Use the .safetensors version of this model.",
            name=path.name,
            suffix=path.suffix,
        )
    if path.suffix.lower() != ".safetensors":
        raise ModelError(
            "{name} was not opened.",
            why="Its name does not end in .safetensors.",
            todo="Give the path of a .safetensors checkpoint or of a diffusers folder.",
            name=path.name,
        )


# --- diffusers folders


def _inspect_folder(folder: Path) -> ModelInfo:
    index = read_json(folder / "model_index.json")
    transformer = read_json(folder / "transformer" / "config.json")
    if transformer:
        raise _unsupported(folder, _transformer_kind(str(transformer.get("_class_name", ""))))
    unet = read_json(folder / "unet" / "config.json")
    if not unet:
        raise ModelError(
            "{path} is no model folder.",
            why="It has no unet/config.json.",
            todo="Give the folder that holds model_index.json, or a .safetensors checkpoint.",
            path=str(folder),
        )
    for part in ("unet", "vae", "text_encoder"):
        weights_files(folder / part)
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    family = _family_of_config(folder, unet)
    return ModelInfo(
        path=folder,
        kind="diffusers",
        family=family,
        prediction_type=_prediction_type(scheduler.get("prediction_type")) or "epsilon",
        resolution=int(unet.get("sample_size") or 0) * 8 or _RESOLUTIONS.get(family, 512),
        title=str(index.get("_atelier_title") or folder.resolve().name),
        zero_snr=bool(scheduler.get("rescale_betas_zero_snr", False)),
    )


def read_json(path: Path) -> dict[str, Any]:
    """Return a config file's object, empty where there is no file. Raises ModelError if it is no JSON object."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except NotADirectoryError:
        return {}
    except (OSError, ValueError) as error:
        raise _broken(path, str(error)) from error
    if not isinstance(data, dict):
        raise _broken(path, "it is not a JSON object")
    return data


def weights_files(part: Path) -> list[Path]:
    """Return the .safetensors files that hold one part of a diffusers folder; several where it is sharded.

    Where a folder holds full and half precision, the full one is returned. Raises ModelError if there is none.
    """
    for stem in ("diffusion_pytorch_model", "model"):
        for variant in ("", ".fp16", ".non_ema", ".ema"):
            single = part / f"{stem}{variant}.safetensors"
            if single.is_file():
                return [single]
            index = read_json(part / f"{stem}.safetensors.index{variant}.json")
            if index:
                return sorted({part / str(name) for name in index.get("weight_map", {}).values()})
    if any(file.suffix in PICKLES for file in part.glob("*")):
        raise ModelError(
            "The weights in {path} were not opened.",
            why="They are Python pickles, which can run any program when they are opened.",
            todo="Use a version of this model with .safetensors weights.",
            path=str(part),
        )
    raise ModelError(
        "{path} has no weights.",
        why="There is no .safetensors file in it.",
        todo="Copy or download the whole model again.",
        path=str(part),
    )


def _family_of_config(folder: Path, unet: Mapping[str, Any]) -> Family:
    channels = int(unet.get("in_channels", 4))
    if channels != 4:
        raise _unsupported(folder, _BY_CHANNELS.get(channels, _UNKNOWN_KIND))
    width = unet.get("cross_attention_dim")
    width = width[0] if isinstance(width, list) and width else width
    return _family(folder, int(width or 0), text_time=unet.get("addition_embed_type") == "text_time")


def _family(path: Path, width: int, *, text_time: bool) -> Family:
    if text_time:
        if width == 1280:
            raise _unsupported(
                path, message("It is the refiner of SDXL, which only finishes the pictures of the base model.")
            )
        return "sdxl"
    if width == 768:
        return "sd1"
    if width == 1024:
        return "sd2"
    if 0 < width < 768:
        return "toy"
    raise _unsupported(path, _UNKNOWN_KIND)


def _named(kind: str) -> Message:
    return message("It is {kind}; Stable Diffusion 1.x, 2.x and XL can be used.", kind=kind)


# By the channels that a U-Net reads: the latents' four, and whatever it is told besides.
_BY_CHANNELS = {
    9: message("It is an inpainting model, which also needs a picture and a mask."),
    8: message("It is a model for editing pictures, which also needs a picture."),
    7: message("It is an upscaler, which also needs a picture."),
    5: message("It is a depth model, which also needs a depth map."),
}
_UNKNOWN_KIND = message("Its kind is unknown; Stable Diffusion 1.x, 2.x and XL can be used.")


def _transformer_kind(class_name: str) -> Message:
    for start, name in (
        ("SD3", "Stable Diffusion 3"),
        ("Flux", "Flux"),
        ("PixArt", "PixArt"),
        ("Auraflow", "AuraFlow"),
    ):
        if class_name.lower().startswith(start.lower()):
            return _named(name)
    name = class_name.removesuffix("Transformer2DModel")
    return _named(name) if name else _UNKNOWN_KIND


def _unsupported(path: Path, kind: Message) -> ModelError:
    values: dict[str, Any] = dict(kind.values)
    return ModelError(
        "{name} can't be used.", why=kind.template, todo="Choose another checkpoint.", name=path.name, **values
    )


# --- single files


def _inspect_checkpoint(path: Path, header: Header) -> ModelInfo:
    keys = header.tensors
    kind = _foreign_kind(keys)
    if kind:
        raise _unsupported(path, kind)
    stem = keys.get(_UNET + "input_blocks.0.0.weight")
    if stem is None or len(stem.shape) != 4:
        raise ModelError(
            "{name} is no base model.",
            why="It holds no Stable Diffusion U-Net.",
            todo="Choose a checkpoint: the large file, usually 2 to 7 GB.",
            name=path.name,
        )
    if stem.shape[1] != 4:
        raise _unsupported(path, _BY_CHANNELS.get(stem.shape[1], _UNKNOWN_KIND))
    width = next(
        (keys[key].shape[-1] for key in keys if key.startswith(_UNET) and key.endswith("attn2.to_k.weight")), 0
    )
    family = _family(path, width, text_time=_UNET + "label_emb.0.0.weight" in keys)
    if family == "toy":
        # Our own base model is a folder, whose configs say its sizes; a file of such a width is nobody's that we know.
        raise _unsupported(path, _UNKNOWN_KIND)
    for prefixes, why in (
        (("first_stage_model.",), message("It holds no VAE.")),
        (("cond_stage_model.", "conditioner."), message("It holds no text encoder.")),
    ):
        if not any(key.startswith(prefixes) for key in keys):
            raise ModelError(
                "{name} can't be used.",
                why=why.template,
                todo="Choose a full checkpoint, with U-Net, VAE and text encoder in one file.",
                name=path.name,
            )
    prediction_type = checkpoint_prediction_type(path, header, family)
    return ModelInfo(
        path=path,
        kind="checkpoint",
        family=family,
        prediction_type=prediction_type,
        resolution=_resolution(header.metadata, family, prediction_type),
        title=header.metadata.get("modelspec.title") or path.stem,
        zero_snr="ztsnr" in keys,
    )


_FOREIGN = (
    (
        r"^(lora_|lycoris_|oft_)|\.(lora_down|lora_A|lora_up|hada_w1_a|lokr_w1)",
        message("It is an adapter (LoRA), not a base model."),
    ),
    (r"(^|\.)joint_blocks\.", _named("Stable Diffusion 3")),
    (r"(^|\.)double_blocks\.", _named("Flux")),
    (r"(^|\.)cap_embedder\.", _named("Lumina")),
    (r"^(control_model\.|controlnet_)", message("It is a ControlNet, not a base model.")),
    (r"^(down_blocks|mid_block|up_blocks)\.", message("It is only the U-Net of a model.")),
    (r"^(encoder|decoder)\.(mid|down|up)", message("It is only the VAE of a model.")),
)


def _foreign_kind(keys: Iterable[str]) -> Message | None:
    """What a file is that can't be a base model for us, or None."""
    keys = list(keys)
    for pattern, kind in _FOREIGN:
        found = re.compile(pattern)
        if any(found.search(key) for key in keys):
            return kind
    return None


def checkpoint_prediction_type(path: Path, header: Header, family: str) -> PredictionType:
    """Return what a single file's U-Net predicts; the file itself rarely says it, so several hints are asked in turn.

    1. ``modelspec.prediction_type`` in the metadata.
    2. A tensor called ``v_pred`` (how v-prediction finetunes of SDXL mark themselves).
    3. A ``.yaml`` beside the file, as AUTOMATIC1111 wants for SD2 (``parameterization: "v"``).
    4. "vpred", "v-pred", "v_pred" or "768-v" in the file's name.
    5. SD2 without any of these: the values of one normalisation bias, whose spread in the v-prediction models is above
       0.09 (observed by ComfyUI's authors on the released 512 and 768 models; finetunes keep it).

    Everything else predicts noise.
    """
    said = _prediction_type(header.metadata.get("modelspec.prediction_type"))
    if said:
        return said
    if "v_pred" in header.tensors:
        return "v_prediction"
    for yaml in (path.with_suffix(".yaml"), path.with_suffix(".yml")):
        if yaml.is_file():
            text = yaml.read_text(encoding="utf-8", errors="replace")
            return "v_prediction" if re.search(r"parameterization:\s*[\"']?v\b", text) else "epsilon"
    if re.search(r"v[-_ ]?pred|768-?v", path.stem.lower()):
        return "v_prediction"
    if family == "sd2":
        values = _small_tensor(path, header, _UNET + "output_blocks.11.1.transformer_blocks.0.norm1.bias")
        if values:
            mean = math.fsum(values) / len(values)
            if math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values)) > 0.09:
                return "v_prediction"
    return "epsilon"


def _prediction_type(said: Any) -> PredictionType | None:
    text = str(said or "").lower()
    if text in ("v", "v_prediction", "v-prediction", "velocity"):
        return "v_prediction"
    if text in ("epsilon", "eps"):
        return "epsilon"
    return None


def _small_tensor(path: Path, header: Header, key: str) -> list[float]:
    info = header.tensors.get(key)
    if info is None or info.size_bytes > 1 << 16:
        return []
    with path.open("rb") as file:
        file.seek(info.offset)
        data = file.read(info.size_bytes)
    if info.dtype == "BF16":  # the upper half of a float32
        data = b"".join(b"\0\0" + data[at : at + 2] for at in range(0, len(data), 2))
    code = {"F16": "e", "F32": "f", "BF16": "f", "F64": "d"}.get(info.dtype)
    return [value for (value,) in struct.iter_unpack("<" + code, data)] if code else []


def _resolution(metadata: Mapping[str, str], family: Family, prediction_type: PredictionType) -> int:
    said = re.match(r"(\d+)x(\d+)", metadata.get("modelspec.resolution", ""))
    if said:
        side = round(math.sqrt(int(said.group(1)) * int(said.group(2))) / 64) * 64
        if 256 <= side <= 2048:
            return side
    return 768 if family == "sd2" and prediction_type == "v_prediction" else _RESOLUTIONS[family]
