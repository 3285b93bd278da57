"""Checkpoint or diffusers folder -> modules. Each weight is read once, straight into the dtype it will have."""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import memory
from ..errors import ModelError
from ..safetensors_header import BrokenFileError
from ..safetensors_tensors import Buffer, TensorFile, dtype_of
from . import configs, detect, ldm, tokenizer
from .detect import ModelInfo
from .inversions import Inversions
from .layers import ldm_layout, te_path
from .text import Reading, TextConditioning
from .text import encode as encode_texts
from .tokenizer import ClipTokenizer

PARTS = ("unet", "vae", "te")


@dataclass(eq=False)
class Model:
    """A base model's modules, in eval mode and without gradients; parts that were not asked for are None or empty.

    ``unet`` is a diffusers UNet2DConditionModel, ``vae`` an AutoencoderKL, each of ``text_encoders`` a transformers
    CLIPTextModel (SDXL's second one with projection).
    """

    info: ModelInfo
    scheduler_config: dict[str, Any]
    unet: Any = None
    vae: Any = None
    tokenizers: tuple[ClipTokenizer, ...] = ()
    text_encoders: tuple[Any, ...] = field(default=())
    # Words that stand for vectors, one set a text encoder; empty where there are none.
    inversions: tuple[Inversions, ...] = field(default=())

    @property
    def scaling_factor(self) -> float:
        """What the VAE's latents are multiplied by, so that their standard deviation is about 1."""
        return float(self.vae.config.scaling_factor)

    def parts(self) -> Iterator[nn.Module]:
        """The loaded modules."""
        yield from (part for part in (self.unet, self.vae, *self.text_encoders) if part is not None)

    def encode(
        self, texts: Sequence[str], clip_skip: int | None = None, *, windows: int | None = 1
    ) -> TextConditioning:
        """Return the conditioning of b texts; see ``Reading`` for what the settings mean."""
        return self.read(texts, Reading(clip_skip=clip_skip or 0, windows=windows))

    def read(self, texts: Sequence[str], reading: Reading) -> TextConditioning:
        """Return the conditioning of b texts read in a certain way; gradients flow where the caller allows them."""
        return encode_texts(
            texts,
            self.tokenizers,
            self.text_encoders,
            self.inversions,
            sdxl=self.info.family == "sdxl",
            reading=reading,
        )

    def decode(self, latents: Tensor) -> Tensor:
        """Return the pictures (b, 3, 8h, 8w), 0 to 1, float32, of scaled latents (b, 4, h, w).

        Computed in the VAE's own precision, also within autocast: SDXL's overflows float16.
        """
        latents = latents.to(self.vae.device, self.vae.dtype) / self.scaling_factor
        with torch.autocast(latents.device.type, enabled=False):
            pixels = self.vae.decode(latents, return_dict=False)[0]
        return (pixels.float() / 2 + 0.5).clamp(0, 1)

    def encode_images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation (b, 4, h, w), float32, of the latents of pictures (b, 3, 8h, 8w), -1 to 1.

        Both are scaled already: ``mean + std * noise`` are latents as the U-Net takes them and ``decode`` reads them.
        """
        posterior = self.vae.encode(pixels.to(self.vae.device, self.vae.dtype)).latent_dist
        return posterior.mean.float() * self.scaling_factor, posterior.std.float() * self.scaling_factor

    def prediction(
        self,
        latents: Tensor,
        timesteps: Tensor,
        text: TextConditioning,
        *,
        size: tuple[int, int],
        unet: Callable[..., Any] | None = None,
    ) -> Tensor:
        """Return what the U-Net predicts (noise or velocity) for noisy latents (b, 4, h, w) at timesteps (b,).

        ``size`` is the picture's (width, height), of which SDXL is told. ``unet`` answers instead of the U-Net itself,
        which may be a compiled one.
        """
        added = None
        if self.info.family == "sdxl":
            # Podell et al. 2023, SDXL, section 2.2: original size, crop corner, target size, each (height, width).
            width, height = size
            # In float32: half precision rounds a side like 1000.
            ids = torch.tensor([height, width, 0, 0, height, width], device=latents.device, dtype=torch.float32)
            added = {"text_embeds": text.pooled, "time_ids": ids.expand(latents.shape[0], -1)}
        return (self.unet if unet is None else unet)(
            latents, timesteps, encoder_hidden_states=text.context, added_cond_kwargs=added, return_dict=False
        )[0]


def load(
    model: ModelInfo | Path | str,
    parts: Collection[str] = PARTS,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Model:
    """Return the chosen ``parts`` ("unet", "vae", "te") of a model, in ``dtype`` on ``device``.

    Modules are made without memory (meta device) and every weight is put into them as it is read, so that the peak is
    the model itself and one weight. A VAE that overflows float16 (SDXL's) stays in float32. Raises ModelError.
    """
    info = model if isinstance(model, ModelInfo) else detect.inspect(model)
    try:
        with open_source(info) as source:
            return _load(source, info, parts, dtype, torch.device(device))
    except BrokenFileError as error:
        raise ModelError(
            "{path} can't be read as a model.",
            why="The file is broken or incomplete: {reason}.",
            todo="Download or copy it again.",
            path=str(info.path),
            reason=str(error),
        ) from error
    except OSError as error:
        raise ModelError("{path} can't be read.", why="{error}.", path=str(info.path), error=str(error)) from error


def read_tokenizers(info: ModelInfo) -> tuple[ClipTokenizer, ...]:
    """Return a model's tokenizers without reading its weights. Raises ModelError."""
    try:
        with open_source(info) as source:
            return tuple(source.tokenizer(name) for name in _encoder_names(info))
    except (OSError, BrokenFileError) as error:
        raise ModelError("{path} can't be read.", why="{error}.", path=str(info.path), error=str(error)) from error


def _encoder_names(info: ModelInfo) -> tuple[str, ...]:
    return ("text_encoder", "text_encoder_2") if info.family == "sdxl" else ("text_encoder",)


def _load(
    source: ModelSource, info: ModelInfo, parts: Collection[str], dtype: torch.dtype, device: torch.device
) -> Model:
    loaded = Model(info, source.scheduler_config())
    if "unet" in parts:
        loaded.unet = fill(empty_unet(source.config("unet")), source, "unet", dtype, device)
    if "vae" in parts:
        config = source.config("vae")
        vae_dtype = torch.float32 if dtype == torch.float16 and config.get("force_upcast") else dtype
        loaded.vae = fill(empty_vae(config), source, "vae", vae_dtype, device)
    if "te" in parts:
        names, encoders = _encoder_names(info), []
        for name in names:
            text_encoder = empty_text_encoder(source.config(name), with_projection=name == "text_encoder_2")
            encoders.append(fill(text_encoder, source, name, dtype, device))
        loaded.text_encoders = tuple(encoders)
        loaded.tokenizers = tuple(source.tokenizer(name) for name in names)
    return loaded


# --- modules


@contextlib.contextmanager
def libraries() -> Iterator[None]:
    """Within, diffusers and transformers are imported, and the network is forbidden to them."""
    # Read when the libraries are first imported; the hub is never asked, whatever the user's environment says.
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["DISABLE_TELEMETRY"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    with memory.uncollected():
        yield


def empty_unet(config: Mapping[str, Any]) -> nn.Module:
    """Return a U-Net of this architecture on the meta device: shapes and names, no memory."""
    with libraries():
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    return _on_meta(lambda: UNet2DConditionModel.from_config(dict(config)))


def empty_vae(config: Mapping[str, Any]) -> nn.Module:
    """Return a VAE of this architecture on the meta device."""
    with libraries():
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    return _on_meta(lambda: AutoencoderKL.from_config(dict(config)))


def empty_text_encoder(config: Mapping[str, Any], *, with_projection: bool) -> nn.Module:
    """Return a CLIP text model of this architecture on the meta device."""
    with libraries():
        from transformers.models.clip.configuration_clip import CLIPTextConfig
        from transformers.models.clip.modeling_clip import CLIPTextModel, CLIPTextModelWithProjection

    cls = CLIPTextModelWithProjection if with_projection else CLIPTextModel
    text_encoder = _on_meta(lambda: cls(CLIPTextConfig.from_dict(dict(config))))
    for module in text_encoder.modules():
        position_ids = getattr(module, "position_ids", None)
        if isinstance(position_ids, Tensor):
            # The only buffer: it is in no file, so it is made here.
            module.position_ids = torch.arange(position_ids.shape[-1])[None]
    return text_encoder


def _on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return build().eval().requires_grad_(False)


def empty(info: ModelInfo) -> Model:
    """Return U-Net and text encoders of a model without their numbers, on the meta device. Raises ModelError."""
    try:
        with open_source(info) as source:
            names = _encoder_names(info)
            encoders = (
                empty_text_encoder(source.config(name), with_projection=name == "text_encoder_2") for name in names
            )
            return Model(info, {}, unet=empty_unet(source.config("unet")), text_encoders=tuple(encoders))
    except (OSError, BrokenFileError) as error:
        raise ModelError("{path} can't be read.", why="{error}.", path=str(info.path), error=str(error)) from error


def fill(module: nn.Module, source: ModelSource, part: str, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """Put every parameter of a module on meta into place, one by one. Raises ModelError for missing or odd weights."""
    missing, buffer = [], Buffer()
    for owner_path, owner in module.named_modules():
        for name, parameter in list(owner.named_parameters(recurse=False)):
            key = f"{owner_path}.{name}" if owner_path else name
            found = source.find(part, key, module)
            if found is None:
                missing.append(key)
                continue
            # What stays as it is stored must have memory of its own.
            stays = device.type == "cpu" and found.dtype == dtype
            tensor = found.read(None if stays else buffer)
            if tensor.numel() != parameter.numel() or _squeezed(tensor) != _squeezed(parameter):
                raise ModelError(
                    "{path} can't be used.",
                    why="{key} in {part} has the shape {got}; {expected} was expected.",
                    todo="It is not a complete model of the family that it seems to be. Choose another checkpoint.",
                    path=str(source.info.path),
                    key=key,
                    part=part,
                    got=str(tuple(tensor.shape)),
                    expected=str(tuple(parameter.shape)),
                )
            if not tensor.is_floating_point():
                raise ModelError(
                    "{path} can't be used.",
                    why="Its weights are quantised ({key} is stored as {dtype}).",
                    todo="Choose a version of this model in float16, bfloat16, float8 or float32.",
                    path=str(source.info.path),
                    key=key,
                    dtype=str(tensor.dtype).removeprefix("torch."),
                )
            # 1x1 convolutions and linear layers hold the same numbers under different shapes.
            tensor = tensor.reshape(parameter.shape).to(device, dtype)
            setattr(owner, name, nn.Parameter(tensor, requires_grad=False))
    if missing:
        raise ModelError(
            "{path} can't be used.",
            why="{count} weights of its {part} are missing, the first is {key}.",
            todo="Choose a complete model.",
            path=str(source.info.path),
            count=len(missing),
            part=part,
            key=missing[0],
        )
    return module.to(device)


def _squeezed(tensor: Tensor) -> tuple[int, ...]:
    return tuple(size for size in tensor.shape if size != 1)


# --- where configs and weights come from


class ModelSource(ABC):
    """A model on disk: the configs of its parts and their weights by diffusers' names."""

    info: ModelInfo

    def __enter__(self) -> ModelSource:
        return self

    @abstractmethod
    def __exit__(self, *_: object) -> None: ...

    @abstractmethod
    def config(self, part: str) -> Mapping[str, Any]: ...

    @abstractmethod
    def scheduler_config(self) -> dict[str, Any]: ...

    @abstractmethod
    def tokenizer(self, part: str) -> ClipTokenizer: ...

    @abstractmethod
    def find(self, part: str, key: str, module: nn.Module) -> Stored | None: ...


@dataclass(frozen=True)
class Stored:
    """Where a weight lies: a tensor of a file, one of its three parts (query, key and value in one), or transposed."""

    file: TensorFile
    key: str
    third: int | None = None
    transposed: bool = False

    @property
    def dtype(self) -> torch.dtype | None:
        """The dtype it is stored in; None for one that this torch does not know."""
        return dtype_of(self.file.header.tensors[self.key].dtype)

    def read(self, buffer: Buffer | None = None) -> Tensor:
        """Return the weight, in its stored dtype; in ``buffer``, where one is given, until that is used again."""
        if self.third is not None:
            info = self.file.header.tensors[self.key]
            count = info.shape[0] // 3
            part = (buffer or Buffer()).of(info.size_bytes // 3)
            rows = self.file.read_rows(self.key, self.third * count, (self.third + 1) * count, part)
            return rows.reshape(count, *info.shape[1:])
        tensor = self.file.read(self.key, buffer)
        return tensor.T.contiguous() if self.transposed else tensor


def open_source(info: ModelInfo) -> ModelSource:
    """Open a model's files, as a context. Raises ModelError, BrokenFileError, OSError."""
    return _Folder(info) if info.kind == "diffusers" else _Checkpoint(info)


class _Folder(ModelSource):
    def __init__(self, info: ModelInfo) -> None:
        self.info = info
        self._files: dict[str, tuple[list[TensorFile], dict[str, tuple[TensorFile, str]]]] = {}

    def __exit__(self, *_: object) -> None:
        for files, _by_key in self._files.values():
            for file in files:
                file.__exit__(None, None, None)

    def config(self, part: str) -> Mapping[str, Any]:
        config = detect.read_json(self.info.path / part / "config.json")
        if not config:
            raise ModelError(
                "{path} is no model folder.",
                why="It has no {part}/config.json.",
                todo="Copy or download the whole model again.",
                path=str(self.info.path),
                part=part,
            )
        return config

    def scheduler_config(self) -> dict[str, Any]:
        said = detect.read_json(self.info.path / "scheduler" / "scheduler_config.json")
        return {**configs.SCHEDULER, **{key: value for key, value in said.items() if not key.startswith("_")}}

    def tokenizer(self, part: str) -> ClipTokenizer:
        config = self.config(part)
        folder = self.info.path / part.replace("text_encoder", "tokenizer")
        length = int(config.get("max_position_embeddings", 77))
        found = tokenizer.from_folder(folder, length)
        return found or tokenizer.clip(pad_with_end=part == "text_encoder" and self.info.family != "sd2")

    def find(self, part: str, key: str, module: nn.Module) -> Stored | None:
        by_key = self._open(part)
        for name in (key, te_path(key), key.removeprefix("text_model.")):
            if name in by_key:
                return Stored(*by_key[name])
        return None

    def _open(self, part: str) -> dict[str, tuple[TensorFile, str]]:
        if part not in self._files:
            files = [TensorFile(path) for path in detect.weights_files(self.info.path / part)]
            by_key = {_modern(key): (file, key) for file in files for key in file.header.tensors}
            self._files[part] = files, by_key
        return self._files[part][1]


# diffusers renamed the VAE's attention in 2023; models saved before keep the old names.
_OLD_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


def _modern(key: str) -> str:
    if "mid_block.attentions.0." in key:
        for old, new in _OLD_ATTENTION.items():
            key = key.replace(old, new)
    return key


class _Checkpoint(ModelSource):
    def __init__(self, info: ModelInfo) -> None:
        self.info = info
        self._file = TensorFile(info.path)
        self._keys = self._file.header.tensors

    def __exit__(self, *_: object) -> None:
        self._file.__exit__(None, None, None)

    def config(self, part: str) -> Mapping[str, Any]:
        if part == "unet":
            return configs.UNETS[self.info.family]
        if part == "vae":
            return configs.VAES[self.info.family]
        return configs.TEXT_ENCODERS[self.info.family][1 if part == "text_encoder_2" else 0]

    def scheduler_config(self) -> dict[str, Any]:
        config = dict(configs.SCHEDULER, prediction_type=self.info.prediction_type)
        return {**config, "rescale_betas_zero_snr": True} if self.info.zero_snr else config

    def tokenizer(self, part: str) -> ClipTokenizer:
        config = self.config(part)
        return tokenizer.clip(pad_with_end=config["pad_token_id"] == config["eos_token_id"])

    def find(self, part: str, key: str, module: nn.Module) -> Stored | None:
        if part == "unet":
            return self._first(f"model.diffusion_model.{ldm.unet_path(key, *ldm_layout(module))}")
        if part == "vae":
            config: Any = module.config
            return self._first(f"first_stage_model.{ldm.vae_path(key, len(config.block_out_channels))}")
        return self._text(part, key)

    def _text(self, part: str, key: str) -> Stored | None:
        at = 1 if part == "text_encoder_2" else 0
        start = f"conditioner.embedders.{at}." if self.info.family == "sdxl" else "cond_stage_model."
        plain = key.removeprefix("text_model.")
        # Some SD1 files lack "text_model." (made with old transformers).
        found = self._first(f"{start}transformer.text_model.{plain}", f"{start}transformer.{plain}")
        if found is not None:
            return found
        name, third = ldm.open_clip_key(plain)
        found = self._first(f"{start}model.{name}")
        if found is None:
            return None
        return replace(found, third=third, transposed=name == "text_projection")

    def _first(self, *names: str) -> Stored | None:
        return next((Stored(self._file, name) for name in names if name in self._keys), None)
