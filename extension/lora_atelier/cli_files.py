"""The commands about files: what a LoRA or a model is, and LoRAs in other programs' names. Loads torch when called."""

from __future__ import annotations

import contextlib
import gc
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import locales, safetensors_header
from .adapters import keys
from .errors import AdapterFormatError, AdapterNotFoundError, ExtensionError, HostError, Message, message
from .models import detect

if TYPE_CHECKING:
    from .adapters.file import AdapterFile
    from .loader.report import Block, Matched, Outline, Report

NAMINGS = ("kohya", "diffusers")
_PICKLES = {".pt", ".ckpt", ".pth", ".bin"}
# Names that are listed before the rest is counted.
_FEW = 3
# What a LoRA's metadata says about itself, in this order; the rest is counted.
_SHOWN_METADATA = (
    "ss_output_name",
    "modelspec.title",
    "modelspec.architecture",
    "ss_base_model_version",
    "ss_sd_model_name",
    "ss_network_dim",
    "ss_network_alpha",
    "ss_network_args",
    "ss_steps",
    "ss_epoch",
    "ss_learning_rate",
    "ss_resolution",
    "ss_num_train_images",
    "sshs_model_hash",
    "atelier_rights",
)


# ------------------------------------------------------------------------------------------------ inspect


def inspect(path: Path, *, checkpoint: Path | None, toy: Path, lang: str, as_json: bool = False) -> None:
    """Print what a LoRA, a checkpoint or a diffusers folder is, as sentences or as JSON.

    A LoRA is compared with ``checkpoint``, whose weights are then read, or else with the layers of the family that it
    is for; ``toy`` is the folder of our own base model. Raises ExtensionError where there is nothing to look at.
    """
    if path.is_dir():
        _print_model(detect.inspect(path), lang, as_json)
        return
    header = _header(path)
    if not keys.is_adapter(header.tensors) and not any(key.startswith("bundle_emb.") for key in header.tensors):
        if as_json:
            _print_model(detect.inspect(path), lang, as_json)
            return
        try:
            _print_model(detect.inspect(path), lang, as_json)
        except ExtensionError as error:
            print(locales.sentence(error, lang))
        _print_header(path, header, lang)
        return
    with contextlib.nullcontext() if checkpoint is not None else _small_work():
        from .adapters import file
        from .loader import report

        content = file.read(path)
        model = _model_of(content, checkpoint, toy, weights=True)
        said = report.describe(content, model)
    if as_json:
        print(json.dumps({"metadata": dict(content.metadata), **said.to_json()}, ensure_ascii=False, indent=2))
        return
    for line in _lines(said, content.metadata, lang, with_weights=checkpoint is not None):
        print(line)


@contextlib.contextmanager
def _small_work() -> Iterator[None]:
    """A LoRA's matrices are so small that threads would only wait for each other.

    And loading torch makes objects by the hundred thousand, all of which stay: to look for garbage among them again and
    again takes a quarter of a second.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        import torch

        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
    finally:
        if collects:
            gc.enable()


def _header(path: Path) -> safetensors_header.Header:
    if path.suffix.lower() in _PICKLES and path.is_file():
        raise AdapterFormatError(
            "{name} was not opened.",
            why="{suffix} files are Python pickles, which can run any program when they are opened.",
            todo="Use its .safetensors version.",
            name=path.name,
            suffix=path.suffix,
        )
    try:
        return safetensors_header.read(path)
    except FileNotFoundError as error:
        raise AdapterNotFoundError("There is no file {path}.", path=str(path)) from error
    except (OSError, safetensors_header.BrokenFileError) as error:
        raise HostError("{path} can't be read.", why="{reason}.", path=str(path), reason=str(error)) from error


def _model_of(content: AdapterFile, checkpoint: Path | None, toy: Path, *, weights: bool) -> Outline | None:
    """The model to compare a LoRA with: the given one, else the layers of its own family; None if that is unknown."""
    from .loader import report
    from .models import load

    if checkpoint is not None:
        info = detect.inspect(checkpoint)
        if weights:
            import torch

            # Half the memory of float32, and norms do not need more.
            model = load.load(info, parts=("unet", "te"), dtype=torch.float16)
            return report.Outline(model, info.family)
        return report.Outline(_empty(info), info.family)
    family = "" if keys.foreign_base(content.tensors) else report.base_of(content)
    if family == "toy":
        return report.Outline(_empty(detect.inspect(toy)), family)
    for known in ("sd1", "sd2", "sdxl"):
        if family == known:
            info = detect.ModelInfo(Path(), "checkpoint", known, "epsilon", 0, "")
            return report.Outline(_empty(info), family)
    return None


def _empty(info: detect.ModelInfo) -> Any:
    """A model's modules on the meta device: names and shapes; a checkpoint's are known by its family."""
    from .models import configs, load, skeleton

    names = ("text_encoder", "text_encoder_2") if info.family == "sdxl" else ("text_encoder",)
    if info.kind == "diffusers":
        unet: Mapping[str, Any] = detect.read_json(info.path / "unet" / "config.json")
        encoders = [detect.read_json(info.path / name / "config.json") for name in names]
    else:
        unet, encoders = configs.UNETS[info.family], [dict(each) for each in configs.TEXT_ENCODERS[info.family]]
    modules = skeleton.build(unet, encoders) or (
        load.empty_unet(unet),
        tuple(
            load.empty_text_encoder(config, with_projection=name == "text_encoder_2")
            for name, config in zip(names, encoders, strict=True)
        ),
    )
    return load.Model(info, {}, unet=modules[0], text_encoders=modules[1])


def _print_model(info: detect.ModelInfo, lang: str, as_json: bool) -> None:
    if as_json:
        said = {name: getattr(info, name) for name in ("kind", "family", "prediction_type", "resolution", "title")}
        print(json.dumps(said, ensure_ascii=False, indent=2))
        return
    said_model = message(
        "{title}: {family}, {prediction}, {resolution} px, {kind}",
        title=info.title,
        family=detect.FAMILY_NAMES[info.family],
        prediction=info.prediction_type,
        resolution=info.resolution,
        kind=info.kind,
    )
    print(locales.sentence(said_model, lang))


def _print_header(path: Path, header: safetensors_header.Header, lang: str) -> None:
    tensors = header.tensors.values()
    numbers = sum(math.prod(tensor.shape) for tensor in tensors)
    kinds = Counter(tensor.dtype for tensor in tensors)
    print(locales.sentence(_size(path.name, path.stat().st_size, len(header.tensors), kinds, numbers), lang))
    for line in _metadata_lines(header.metadata, lang):
        print(line)


def _size(name: str, size_bytes: int, tensors: int, dtypes: Mapping[str, int], numbers: int) -> Message:
    return message(
        "{name}: {size} MB, {tensors} tensors ({dtypes}), {numbers} numbers",
        name=name,
        size=f"{size_bytes / 1e6:.2f}",
        tensors=tensors,
        dtypes=_counted(dtypes),
        numbers=f"{numbers:,}",
    )


def _counted(counts: Mapping[Any, int]) -> str:
    return ", ".join(f"{count} × {'-' if value is None else _short(value)}" for value, count in counts.items())


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _metadata_lines(metadata: Mapping[str, str], lang: str) -> Iterator[str]:
    shown = [key for key in _SHOWN_METADATA if metadata.get(key) not in (None, "", "None")]
    for key in shown:
        yield f"  {key} = {metadata[key]}"
    if len(metadata) > len(shown):
        more = message("  and {count} more in its metadata", count=len(metadata) - len(shown))
        yield locales.sentence(more, lang)


def _lines(said: Report, metadata: Mapping[str, str], lang: str, *, with_weights: bool) -> Iterator[str]:
    def text(told: Message | ExtensionError) -> str:
        return locales.sentence(told, lang)

    yield text(_size(said.name, said.size_bytes, said.tensors, said.dtypes, said.numbers))
    yield text(message("Kind: {families}", families=_counted(said.families)))
    if any(rank is not None for rank in said.ranks):
        yield text(message("Rank: {ranks}", ranks=_counted(said.ranks)))
        yield text(message("Alpha: {alphas}", alphas=_counted(said.alphas)))
    yield text(_base(said))
    parts = (f"{text(_part(part))} {count}" for part, count in said.parts.items())
    yield text(message("Layers: {parts}", parts=", ".join(parts) or "0"))
    yield text(message("Names: {dialects}", dialects=_counted(said.dialects)))
    if said.trigger_words:
        yield text(message("Trigger words: {words}", words=said.trigger_words))
    if said.tags:
        yield text(message("Most frequent tags: {tags}", tags=", ".join(said.tags)))
    if said.embeddings:
        yield text(message("Embeddings: {names}", names=", ".join(said.embeddings)))
    yield from _metadata_lines(metadata, lang)
    yield ""
    if said.matched is not None:
        yield from _matched_lines(said.matched, lang)
    if said.blocks:
        yield ""
        if with_weights:
            yield text(message("Change by block (norm ‖ΔW‖, and its share of ‖W‖):"))
        else:
            yield text(message("Change by block (norm ‖ΔW‖; its share of ‖W‖ needs --checkpoint):"))
        yield from (_block_line(block, lang) for block in said.blocks)
    yield ""
    if said.problems:
        yield text(message("What is wrong with it:"))
        yield from (f"  - {text(problem)}" for problem in said.problems)
    else:
        yield text(message("Nothing is wrong with the file."))


def _base(said: Report) -> Message:
    if said.foreign_base:
        return message("For: {base}, which LoRA Atelier can't use", base=said.foreign_base)
    if said.told_base:
        return message("For: {base} (by its shapes)", base=detect.FAMILY_NAMES[said.told_base])
    if said.said_base:
        return message("For: {base} (by its metadata)", base=detect.FAMILY_NAMES[said.said_base])
    return message("For: unknown; neither its shapes nor its metadata tell")


def _part(part: str) -> Message:
    if part == "unet":
        return message("U-Net")
    return message("text encoder") if part == "text_encoder" else message("text encoder 2")


def _matched_lines(matched: Matched, lang: str) -> Iterator[str]:
    family = detect.FAMILY_NAMES.get(matched.family, matched.family)
    fits = message(
        "{matching} of {total} layers match {family}.", matching=matched.matching, total=matched.total, family=family
    )
    yield locales.sentence(fits, lang)
    misfits = [f"{misfit.layer} {misfit.got} / {misfit.expected}" for misfit in matched.misfits]
    for names, told in (
        (list(matched.absent), message("  not in the model:")),
        (misfits, message("  another shape (in the file / in the model):")),
        (list(matched.unread), message("  of a kind that can't be read:")),
    ):
        if names:
            rest = f" … (+{len(names) - _FEW})" if len(names) > _FEW else ""
            yield f"{locales.sentence(told, lang)} {', '.join(names[:_FEW])}{rest}"
    if matched.refusal is None:
        yield locales.sentence(message("It would be applied."), lang)
        return
    reason = ("" if lang == "ja" else " ").join(locales.sentence(part, lang) for part in matched.refusal.parts()[1:])
    yield locales.sentence(message("It would not be applied: {reason}", reason=reason), lang)


def _block_line(block: Block, lang: str) -> str:
    name = f"{locales.sentence(_part(block.part), lang)} {block.block.replace('_blocks.', ' ').replace('_block', '')}"
    change = "?" if block.unknown == block.layers else f"{block.change:.4g}"
    share = "" if block.relative is None else f"  {100 * block.relative:.3g} %"
    unknown = message("  ({count} layers not known without the weights)", count=block.unknown)
    return f"  {name.strip()} ({block.layers}): {change}{share}" + (
        locales.sentence(unknown, lang) if block.unknown else ""
    )


# ------------------------------------------------------------------------------------------------ convert


def convert(path: Path, *, to: str, output: Path | None, checkpoint: Path | None, toy: Path) -> Path:
    """Write a LoRA in kohya's or in diffusers' names into a file of its own and return that file.

    Raises ExtensionError where the file is no LoRA, its model is unknown, the other names can't express it, or there is
    a file of the new name.
    """
    header = _header(path)
    target = output or path.with_name(f"{path.stem}-{to}.safetensors")
    _refuse_existing(target)
    if not keys.is_adapter(header.tensors):
        raise AdapterFormatError("{name} is no LoRA.", todo="Give the path of a LoRA's file.", name=path.name)
    from .adapters import convert as naming
    from .adapters import file, peft

    content = file.read(path)
    model = _model_of(content, checkpoint, toy, weights=False)
    if model is None:
        raise AdapterFormatError(
            "{name} was not converted.",
            why="It can't be told for which model it is.",
            todo="Say with --checkpoint for which model it is.",
            name=path.name,
        )
    scales = peft.configs(path, content.metadata)
    made = (naming.to_kohya if to == "kohya" else naming.to_diffusers)(
        path.name, content.tensors, content.metadata, model.names(), scales
    )
    if made.tensors.keys() == content.tensors.keys():
        raise AdapterFormatError(
            "{name} was not converted.", why="It has these names already.", todo="Use it as it is.", name=path.name
        )
    # Webuis know a LoRA by this name, too, and two must not share it.
    said = {**made.metadata, **({"ss_output_name": target.stem} if "ss_output_name" in made.metadata else {})}
    _refuse_existing(target)
    try:
        file.write(target, made.tensors, said)
    except OSError as error:
        raise HostError(
            "{path} can't be written.", why="{reason}.", path=str(target), reason=error.strerror or str(error)
        ) from error
    return target


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise HostError(
            "{path} exists already and was not overwritten.",
            todo="Choose another name with --output.",
            path=str(path),
        )
