"""The host of our own, where there is no webui: one base model, txt2img, LoRAs through our loader."""

from __future__ import annotations

import contextlib
import datetime
import os
import random
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image, PngImagePlugin

from .. import __version__, atomic
from ..errors import ExtensionError, HostError, Message, ModelError, OriginalsLostError, message
from ..loader.catalogue import Catalogue
from ..loader.session import Applied, Embeddings, LoaderSession, LoaderSettings
from ..models import detect, inversions, layers, load
from ..models.detect import ModelInfo
from ..models.inversions import Inversions
from ..models.layers import Layer
from ..models.load import Model
from ..models.sample import DEFAULT_SAMPLER, SamplingCancelledError, Txt2Img, sample
from ..models.stored import StoredModel
from ..prompt import NetworkCall, ParsedPrompt, parse
from ..rights import credits, guard_words
from ..rights.credits import Credit
from ..rights.guard import Finding
from . import infotext
from .base import Checkpoint, Drawing, Note
from .guarding import Guarding, having_weight
from .lease import KEEP, WAIT, Lease

# Seeds as the webuis draw them: 32 bits.
_SEEDS = 1 << 32
_MAX_PICTURES = 100


@dataclass(frozen=True, kw_only=True)
class GenerateRequest:
    """What the page asks for. A ``seed`` below 0 means: choose one; picture n of all has seed + n."""

    prompt: str
    negative_prompt: str = ""
    steps: int = 20
    sampler: str = DEFAULT_SAMPLER
    cfg_scale: float = 7.0
    width: int = 512
    height: int = 512
    seed: int = -1
    batch_size: int = 1
    batch_count: int = 1
    clip_skip: int | None = None


@dataclass(frozen=True)
class Generated:
    """Pictures, the infotext and the file of each (None if it could not be saved), and what to tell the person.

    ``findings`` are the guard's, None for pictures without LoRAs; ``loras`` those that had a weight.
    """

    images: list[Image.Image]
    infotexts: list[str]
    files: list[Path | None]
    seeds: list[int]
    comments: list[Note]
    findings: list[Finding | None] = field(default_factory=list)
    loras: tuple[str, ...] = ()

    @property
    def compared(self) -> Message | None:
        """What the guard found of all pictures, in a sentence; None where there was nothing to compare."""
        return guard_words.sentence([each for each in self.findings if each is not None], self.loras)


OnProgress = Callable[[int, int], None]


class EmbeddedHost:
    """A Host with a base model of its own. Thread-safe: one picture is made at a time, others wait.

    The model is looked at when the host is made (ModelError says what is wrong with it) and loaded when it is first
    needed. Everything that is written goes below ``data_dir``: ``loras``, ``models``, ``outputs``.
    """

    id = "embedded"

    def __init__(
        self,
        model_path: Path | str,
        data_dir: Path | str,
        *,
        device: str | None = None,
        dtype: torch.dtype | None = None,
        lora_dirs: Sequence[Path] = (),
        loader: LoaderSettings | None = None,
        gpu_mode: str = "",
    ) -> None:
        """``gpu_mode`` says who has the graphics card while a training goes on, one of ``lease.MODES``: where there is
        one, pictures wait for it."""
        self.data_dir = Path(data_dir)
        self._info = detect.inspect(model_path)
        self._offered = [self._info.path]
        self._device = torch.device(device or _best_device())
        self._dtype = dtype
        self._lora_dirs = [self.data_dir / "loras", *lora_dirs]
        self._lora_dirs[0].mkdir(parents=True, exist_ok=True)
        self.catalogue = Catalogue(self._lora_dirs, self.data_dir / "catalogue.sqlite")
        self._lock = threading.RLock()
        self._cancelled = threading.Event()
        self._model: Model | None = None
        self._layers: dict[str, Layer] = {}
        self._aliases: dict[str, str] = {}
        self._session = LoaderSession(self, self.catalogue, loader)
        self._warnings: list[Note] = []
        self.guarding = Guarding(self.data_dir, self.catalogue)
        mode = gpu_mode or (KEEP if self._device.type == "cpu" else WAIT)
        # The model is read again by whoever draws the next picture.
        self.lease = Lease(release=self.unload, take_back=lambda: None, lock=lambda: self._lock, mode=lambda: mode)

    # --- what every host offers

    def layers(self) -> Mapping[str, Layer]:
        """Where the model's weights are, by layer name; loads the model."""
        with self._lock:
            self.model()
            return self._layers

    def aliases(self) -> Mapping[str, str]:
        """Other layer names in use -> names in ``layers``; loads the model."""
        with self._lock:
            self.model()
            return self._aliases

    def stored_weights(self) -> StoredModel:
        """The files that the model was read from; loads the model."""
        return StoredModel(self.model())

    def use_embeddings(self, embeddings: Embeddings) -> list[Note]:
        """Let prompts name exactly these textual inversions; return a sentence for each that does not fit."""
        model, notes = self.model(), list[Note]()
        widths = [encoder.get_input_embeddings().weight.shape[1] for encoder in model.text_encoders]
        words: list[dict[str, torch.Tensor]] = [{} for _ in widths]
        for name, stored in embeddings.items():
            vectors = inversions.of_parts(stored, widths)
            if vectors is None:
                notes.append(
                    message("The embedding “{name}” was left out: it is for another model's text encoder.", name=name)
                )
                continue
            for at, tensor in enumerate(vectors):
                words[at][name] = tensor
        model.inversions = tuple(Inversions(each) for each in words)
        return notes

    def family(self) -> str:
        """The base model's family."""
        return self._info.family

    def current(self) -> ModelInfo:
        """The chosen base model."""
        return self._info

    def checkpoints(self) -> Sequence[Checkpoint]:
        """The models given at the start and those in ``data_dir/models``, each with what is wrong with it."""
        folder = self.data_dir / "models"
        found = sorted(folder.iterdir()) if folder.is_dir() else []
        models = [path for path in found if path.suffix == ".safetensors" or (path / "unet").is_dir()]
        return [_checkpoint(path) for path in dict.fromkeys([*self._offered, *models])]

    def lora_dirs(self) -> Sequence[Path]:
        """The folders with LoRA files; new ones are written into the first."""
        return self._lora_dirs

    def refresh_adapters(self) -> None:
        """Nothing to do: the catalogue looks at the folders whenever it is asked."""

    def warn(self, note: Note) -> None:
        """Say something beside the picture that is being made, or the next one."""
        with self._lock:
            self._warnings.append(note)

    # --- the model

    def model(self) -> Model:
        """Return the loaded model, loading it first if need be. Raises ModelError, or HostError without memory."""
        with self._lock:
            if self._model is None:
                with _memory_errors_said():
                    dtype = self._dtype or _best_dtype(self._device, self._info)
                    model = load.load(self._info, dtype=dtype, device=self._device)
                self._layers, self._aliases = layers.layers(model), layers.aliases(model)
                self._model = model
            return self._model

    def select(self, path: Path | str) -> ModelInfo:
        """Choose another base model; the old one leaves memory. Raises ModelError and then keeps the old one."""
        info = detect.inspect(path)
        with self._lock:
            if info.path != self._info.path:
                self.unload()
                self._info = info
                if info.path not in self._offered:
                    self._offered.append(info.path)
        return info

    def unload(self) -> None:
        """Free the model's memory; it is loaded again when it is next needed."""
        with self._lock:
            self._session.forget()
            self._model, self._layers, self._aliases = None, {}, {}
            if self._device.type == "cuda":
                torch.cuda.empty_cache()

    # --- pictures

    @property
    def applied(self) -> tuple[Applied, ...]:
        """The adapters that are on the model now."""
        return self._session.applied

    def cancel(self) -> None:
        """End the generation that is running; it returns the pictures that are finished."""
        self._cancelled.set()

    def draw(
        self, request: Txt2Img, calls: Sequence[NetworkCall] = (), *, on_progress: OnProgress | None = None
    ) -> tuple[list[Image.Image], list[Note]]:
        """Return the pictures of a plain request with these adapters on, and what was left out. Nothing is saved."""
        with self._lock, _memory_errors_said(), _suitable_threads(self._info):
            notes = self._use(calls)
            return sample(self.model(), request, on_step=on_progress), notes

    def picture(self, asked: Drawing) -> Image.Image:
        """Draw what a comparison or a training wants to see."""
        side, parsed = self._info.resolution, parse(asked.prompt)
        request = Txt2Img(
            prompts=[parsed.text],
            negative_prompt=asked.negative_prompt,
            steps=asked.steps,
            sampler=asked.sampler or DEFAULT_SAMPLER,
            cfg_scale=asked.cfg_scale or (3.0 if self._info.family == "toy" else 7.0),
            width=asked.width or side,
            height=asked.height or side,
            seeds=[asked.seed],
        )
        images, notes = self.draw(request, parsed.calls)
        lost = next((note for note in notes if isinstance(note, ExtensionError)), None)
        if lost is not None:
            raise lost
        return images[0]

    def generate(
        self,
        request: GenerateRequest,
        *,
        on_progress: OnProgress | None = None,
        on_wait: Callable[[Message], None] = lambda said: None,
    ) -> Generated:
        """Return and save the pictures that a request asks for, with the LoRAs that its prompt names.

        ``on_progress(step, steps)`` counts the steps of all batches; ``on_wait`` is told each second why nothing is
        drawn while a training has the graphics card. LoRAs that can't be used are left out and said in ``comments``, as
        is everything else that went differently than asked. Raises HostError for a request that can't be done or not
        enough memory, ModelError if the model can't be loaded.
        """
        seed = request.seed if request.seed >= 0 else random.randrange(_SEEDS)
        _check(request)
        prompt, negative = parse(request.prompt), parse(request.negative_prompt)
        with self._lock, _memory_errors_said(), _suitable_threads(self._info):
            self._cancelled.clear()
            if not self.lease.wait(on_wait, is_cancelled=self._cancelled.is_set):
                return Generated([], [], [], [], [_stopped(0, request)])
            comments: list[Note] = [*prompt.problems, *negative.problems, *_about_negative(negative)]
            comments += self._use(prompt.calls)
            model = self.model()
            on = tuple(each.name for each in having_weight(self.applied))
            result = Generated([], [], [], [], comments, loras=on)
            for batch in range(request.batch_count):
                seeds = [(seed + batch * request.batch_size + at) % _SEEDS for at in range(request.batch_size)]
                txt2img = _txt2img(request, prompt.text, negative.text, seeds)
                on_step = self._progress(on_progress, batch, request.batch_count)
                try:
                    images = sample(model, txt2img, on_step=on_step, on_problem=comments.append)
                except SamplingCancelledError:
                    comments.append(_stopped(len(result.images), request))
                    break
                self._keep(result, request, images, seeds)
            comments += self._warnings
            self._warnings = []
            return result

    def _use(self, calls: Sequence[NetworkCall]) -> list[Note]:
        """Put exactly these calls on the model. Where its own weights can't be read back, it is loaded anew first."""
        self.model()
        try:
            return self._session.use(calls)
        except OriginalsLostError:
            # The file that the weights came from was replaced: what it holds now is the base model from here on.
            self.unload()
            self._info = detect.inspect(self._info.path)
            self.model()
            said = message("The base model's file was changed while a LoRA was on; it was loaded again.")
            return [said, *self._session.use(calls)]

    def _progress(self, on_progress: OnProgress | None, batch: int, batches: int) -> OnProgress:
        def step(done: int, steps: int) -> None:
            if on_progress is not None:
                on_progress(batch * steps + done, batches * steps)
            if self._cancelled.is_set():
                raise SamplingCancelledError

        return step

    def _keep(
        self, result: Generated, request: GenerateRequest, images: Sequence[Image.Image], seeds: Sequence[int]
    ) -> None:
        credited = self.guarding.credits(self.applied)
        xmp = credits.xmp(credited, model=self._info.title, version=__version__)
        for image, seed in zip(images, seeds, strict=True):
            text = self._infotext(request, seed, credited)
            image.info["parameters"] = text
            try:
                path = _save(self.data_dir / "outputs", image, text, xmp, seed)
            except OSError as error:
                path = None
                said = message("The picture could not be saved: {error}.", error=str(error))
                if said not in result.comments:
                    result.comments.append(said)
            result.images.append(image)
            result.infotexts.append(text)
            result.files.append(path)
            result.seeds.append(seed)
            name = path.relative_to(self.data_dir / "outputs").as_posix() if path is not None else f"unsaved-{seed}"
            looked = self.guarding.look(image, name, self.applied)
            result.findings.append(looked.finding)
            result.comments.extend(note for note in looked.notes if str(note) not in map(str, result.comments))

    def _infotext(self, request: GenerateRequest, seed: int, credited: Sequence[Credit]) -> str:
        hashes = ", ".join(f"{applied.name}: {applied.content_hash[:12]}" for applied in self.applied)
        values: dict[str, str | int | float | None] = {
            "Steps": request.steps,
            "Sampler": request.sampler,
            "CFG scale": request.cfg_scale,
            "Seed": seed,
            "Size": f"{request.width}x{request.height}",
            "Model": self._info.title,
            "Clip skip": request.clip_skip if (request.clip_skip or 1) > 1 else None,
            "Lora hashes": hashes or None,
            "LoRA Atelier": hashes or None,
            "Credits": credits.text(credited) or None,
            "Version": f"LoRA Atelier {__version__}",
        }
        return infotext.build(request.prompt, request.negative_prompt, values)


def _txt2img(request: GenerateRequest, prompt: str, negative_prompt: str, seeds: Sequence[int]) -> Txt2Img:
    return Txt2Img(
        prompts=[prompt],
        negative_prompt=negative_prompt,
        steps=request.steps,
        sampler=request.sampler,
        cfg_scale=request.cfg_scale,
        width=request.width,
        height=request.height,
        seeds=seeds,
        clip_skip=request.clip_skip,
    )


def _stopped(count: int, request: GenerateRequest) -> Message:
    total = request.batch_size * request.batch_count
    return message("Stopped; {count} of {total} pictures are finished.", count=count, total=total)


def _check(request: GenerateRequest) -> None:
    for count in (request.batch_size, request.batch_count):
        if not 1 <= count <= _MAX_PICTURES:
            raise HostError(
                "Batch size and batch count are {size} and {count}; both must be 1 to {most}.",
                size=request.batch_size,
                count=request.batch_count,
                most=_MAX_PICTURES,
            )
    problem = _txt2img(request, "", "", [0]).problem()
    if problem:
        values: dict[str, Any] = dict(problem.values)
        raise HostError(problem.template, **values)


def _about_negative(negative: ParsedPrompt) -> list[Note]:
    if not negative.calls:
        return []
    tags = " ".join(call.source for call in negative.calls)
    return [message("{tags} in the negative prompt was ignored; LoRAs work from the prompt.", tags=tags)]


def _checkpoint(path: Path) -> Checkpoint:
    try:
        info = detect.inspect(path)
    except ModelError as error:
        return Checkpoint(path, path.stem, problem=error)
    return Checkpoint(path, info.title, info)


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _best_dtype(device: torch.device, info: ModelInfo) -> torch.dtype:
    """Half precision where the device computes in it; on a CPU only SDXL, whose 14 GB in float32 few machines have."""
    if device.type == "cuda":
        return torch.float16
    return torch.bfloat16 if device.type == "cpu" and info.family == "sdxl" else torch.float32


@contextlib.contextmanager
def _memory_errors_said() -> Iterator[None]:
    try:
        yield
    except (MemoryError, torch.cuda.OutOfMemoryError) as error:
        raise _out_of_memory() from error
    except RuntimeError as error:
        # What torch's allocators for CPU and MPS raise has no class of its own.
        if re.search(r"can't allocate memory|not enough memory|out of memory", str(error)):
            raise _out_of_memory() from error
        raise


@contextlib.contextmanager
def _suitable_threads(info: ModelInfo) -> Iterator[None]:
    """One thread for the small base model, unless waiting threads sleep (OMP_WAIT_POLICY=PASSIVE, as we start it).

    On two busy cores, as while a training runs, two threads that spin while they wait for each other took 26 CPU
    seconds for a batch of 8 where one thread, or two that sleep, take 3.
    """
    before = torch.get_num_threads()
    spins = os.environ.get("OMP_WAIT_POLICY", "").upper() != "PASSIVE"
    torch.set_num_threads(1 if info.family == "toy" and spins else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _out_of_memory() -> HostError:
    return HostError(
        "There is not enough memory for this picture.",
        why="The model, the size and the batch together need more than is free.",
        todo="Choose a smaller size or batch, or close other programs.",
    )


def _save(folder: Path, image: Image.Image, text: str, xmp: str, seed: int) -> Path:
    """Write a picture with its infotext and XMP below ``folder`` under a number that is free. Raises OSError."""
    day = folder / datetime.date.today().isoformat()
    day.mkdir(parents=True, exist_ok=True)
    numbers = (re.match(r"(\d+)-", path.name) for path in day.iterdir())
    number = max((int(found[1]) for found in numbers if found), default=0) + 1
    path = day / f"{number:05}-{seed}.png"
    said = PngImagePlugin.PngInfo()
    said.add_text("parameters", text)
    said.add_itxt(credits.PNG_KEY, xmp)
    atomic.write_with(path, lambda temporary: image.save(temporary, format="PNG", pnginfo=said))
    return path
