"""What a run needs before its first step: pictures and captions encoded, or found encoded, and the rest of the model.

Every check comes before the model is read. Of the model nothing is read that is not needed: where pictures and captions
were encoded before, and no samples are asked for, neither VAE nor text encoders are; else they are freed once all is
encoded. Which pictures are encoded before the U-Net is read, and which later, `encoding` says.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import torch
from torch import Tensor

from .. import memory
from ..config import TrainConfig
from ..datasets import checks, processing, record
from ..datasets.cache import LATENTS, MASKS, TEXTS, CacheFolder
from ..datasets.items import Item
from ..datasets.processing import CaptionRules
from ..errors import DataError, message
from ..models.detect import ModelInfo
from ..models.load import Model
from ..models.text import TextConditioning
from . import captions
from .caches import TensorCache
from .captions import Reader
from .checkpoint import latest_state, step_of
from .conditions import Latents, Texts
from .encoding import Encoded, Encoder
from .fresh import Fresh, is_fresh
from .masking import MaskFile, Masks
from .parts import Parts
from .pictures import Pictures, plan_of
from .run import Run, StopRequestedError, announce
from .trainee import Example

# How many of the pictures that are trained on are measured on where none is held out.
_MEASURED = 4
PRECISIONS = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
Condition = Callable[[Sequence[str]], TextConditioning]


@dataclass
class Prepared:
    """A model with the parts that the training needs, and what it is trained and measured on.

    ``encoder`` encodes what waits of it.
    """

    model: Model
    examples: list[Example]
    heldout: list[Example]
    condition: Condition
    encoder: Encoder


@dataclass
class Took:
    """Seconds that a preparation took: reading model parts, decoding pictures, encoding each of them and all captions.

    ``captions`` is how many there were.
    """

    model: float = 0.0
    pictures: float = 0.0
    encoding: list[float] = field(default_factory=list)
    texts: float = 0.0
    captions: int = 0


@dataclass
class _Draft:
    """A picture on its way to an example: what is known of it before anything is encoded."""

    item: Item
    held_out: bool
    posteriors: Encoded
    mask: Tensor | None = None
    mask_file: MaskFile | None = None

    @property
    def mask_sha256(self) -> str:
        return self.mask_file.sha256 if self.mask_file is not None else ""


@dataclass
class Preparation:
    """Makes a run ready, in the order of its methods; ``at_once``: no picture is left to be encoded later."""

    this: Run
    pictures: Pictures
    info: ModelInfo
    device: torch.device
    at_once: bool = False
    began: float = field(default_factory=time.time)
    took: Took = field(default_factory=Took)

    @property
    def config(self) -> TrainConfig:
        return self.this.config

    @cached_property
    def parts(self) -> Parts:
        """Where the parts of the model come from."""
        return Parts.of(self.config.model, self.info, self.device)

    @property
    def dtype(self) -> torch.dtype:
        return PRECISIONS[self.config.schedule.mixed_precision]

    def prepare(self) -> Prepared:
        """All of it. Raises DataError, RightsError, ModelError, AdapterError, StopRequestedError."""
        folder = CacheFolder.of_run(self.this.path)
        encoder = self._encoder(folder)
        masks = Masks(TensorCache(folder, MASKS))
        began = time.monotonic()
        drafts = self._drafts(encoder, masks)
        self._check(drafts)
        self._compare(drafts)
        self.took.pictures = time.monotonic() - began

        self.this.preparing("model")
        self._encode(encoder, self._first(drafts))
        samples = bool(self.config.sampling.prompts)
        keep_vae = samples or any(is_fresh(draft.item) for draft in drafts if not draft.held_out)
        model = encoder.model() if keep_vae else Model(self.info, {})
        if not keep_vae and encoder.leave():
            self._give_back()
        examples = [self._example(draft, model) for draft in drafts if not draft.held_out]
        heldout = [self._example(draft, model) for draft in drafts if draft.held_out]

        condition = self._conditioner(model, folder, [*examples, *heldout], keep=samples)
        self.this.preparing("model")
        whole = self._load("unet", self.dtype)
        whole.vae, whole.text_encoders, whole.tokenizers = model.vae, model.text_encoders, model.tokenizers
        folder.clean(used_since=self.began)
        own = [draft for draft in drafts if not draft.held_out]
        seen = [example for example, draft in zip(examples, own, strict=True) if not draft.item.is_reg]
        return Prepared(
            whole, examples, heldout or seen[:_MEASURED], lambda captions: condition(whole, captions), encoder
        )

    def missing(self) -> list[Item]:
        """The pictures that would have to be encoded: those of which the cache lacks a side."""
        encoder = self._encoder(CacheFolder.of_run(self.this.path))
        return [item for item in self.pictures if encoder.find(item).missing]

    def _encoder(self, folder: CacheFolder) -> Encoder:
        dtype = torch.float32 if self.config.model.no_half_vae else self.dtype
        latents = Latents(TensorCache(folder, LATENTS), self.parts.key(folder, "vae", dtype))
        return Encoder(self.pictures, latents, lambda: self._load("vae", dtype))

    def _load(self, part: str, dtype: torch.dtype) -> Model:
        began = time.monotonic()
        read = self.parts.load(part, dtype)
        self.took.model += time.monotonic() - began
        return read

    # ------------------------------------------------------------------------------- before the model is read

    def _drafts(self, encoder: Encoder, masks: Masks) -> list[_Draft]:
        """All pictures, from the cache or decoded; one that turns out broken is named and left out."""
        drafts = []
        heldout, items = set(self.pictures.heldout), list(self.pictures)
        for done, item in enumerate(items):
            if self.this.stop_requested():
                raise StopRequestedError
            try:
                drafts.append(self._draft(item, item in heldout, encoder, masks))
            except DataError as error:
                self.pictures.remove(item)
                self.this.warn(message("“{name}” is left out: {reason}", name=item.path.name, reason=str(error)))
            self.this.preparing("pictures", done + 1, len(items))
        if all(item.is_reg for item in self.pictures.train):
            raise DataError(
                "There is no picture to train on.",
                why="None of the pictures can be decoded.",
                todo="Save them again as PNG or JPEG.",
            )
        return drafts

    def _draft(self, item: Item, held_out: bool, encoder: Encoder, masks: Masks) -> _Draft:
        sha256, framing = self.pictures.admitted.sha256(item), self.pictures.framing(item)
        draft = _Draft(item, held_out, encoder.find(item))
        has_mask = self.config.loss.masked_loss and item.mask is not None
        file = MaskFile.read(item.mask) if has_mask and item.mask is not None else None
        is_masked = file is not None or item.alpha_mask
        draft.mask_file = file
        draft.mask = masks.read(item, sha256, file, framing) if is_masked else None
        if not draft.posteriors.missing and (draft.mask is not None or not is_masked):
            encoder.take(draft.posteriors)
            return draft
        shown = self.pictures.show(item)
        if is_masked and draft.mask is None:
            draft.mask = masks.make(item, sha256, file, framing, shown.opacity)
        # One that is another at each step would wait for ever: no step asks for it as it is.
        encoder.take(draft.posteriors, None if is_fresh(item) else shown.picture)
        return draft

    def _check(self, drafts: Sequence[_Draft]) -> None:
        """Say what is unusual about pictures, masks, captions and trigger."""
        own = [draft.item for draft in drafts if not draft.item.is_reg]
        said = [*checks.few_pictures(len(own)), *checks.common_trigger(self.this.job.trigger)]
        said += checks.black_masks([d.item.path.name for d in drafts if d.mask is not None and not d.mask.any()])
        said += checks.long_captions(
            {processing.process(item.caption, item.rules, None): item.path.name for item in reversed(own)},
            limit=self.config.model.max_token_length,
            count=captions.counter(self.info, self.config),
        )
        announce(self.this, said)

    def _compare(self, drafts: Sequence[_Draft]) -> None:
        """Refuse to go on with other pictures than the run began with; write the list down when it begins.

        Raises DataError; OSError if the list can't be written.
        """
        now = [self.pictures.entry(d.item, held_out=d.held_out, mask_sha256=d.mask_sha256) for d in drafts]
        path = self.this.path / record.FILE
        before = record.read(path)
        if before is None or latest_state(self.this.path / "state") is None:
            record.write(path, now)
            return
        found = record.difference(before, now)
        if found:
            announce(self.this, list(found.sentences()))
            raise found.error()

    # ------------------------------------------------------------------------------------- with the encoders

    def _first(self, drafts: Sequence[_Draft]) -> list[_Draft]:
        """Those that are encoded before the U-Net is read: what is measured on, and what the next step sees.

        What is not held in memory, too: its file may be another by the time that a step needs it.
        """
        if self.at_once or self.device.type != "cpu":
            return list(drafts)
        own = [draft for draft in drafts if not draft.held_out]
        first = {id(draft) for draft in drafts if draft.held_out or draft.posteriors.picture is None}
        if self.config.validation.split and len(own) == len(drafts):
            first.update(id(draft) for draft in [draft for draft in own if not draft.item.is_reg][:_MEASURED])
        plan, accumulation = plan_of(self.config, self.pictures), self.config.schedule.accumulation
        state = latest_state(self.this.path / "state")
        step = step_of(state) if state is not None else 0
        for number in range(step * accumulation, (step + 1) * accumulation):
            first.update(id(own[place.index]) for place in plan.batch(number))
        return [draft for draft in drafts if id(draft) in first]

    def _encode(self, encoder: Encoder, drafts: Sequence[_Draft]) -> None:
        """Fill in the posteriors that the cache did not have. Raises RightsError if a picture changed meanwhile."""
        if any(draft.posteriors.missing for draft in drafts):
            # Reading it is no part of a picture's time.
            encoder.model()
        for done, draft in enumerate(drafts):
            if self.this.stop_requested():
                raise StopRequestedError
            if draft.posteriors.missing:
                began = time.monotonic()
                tuple(draft.posteriors)
                self.took.encoding.append(time.monotonic() - began)
            self.this.preparing("latents", done + 1, len(drafts))

    def _example(self, draft: _Draft, model: Model) -> Example:
        item = draft.item
        fresh = Fresh(item, self.pictures, model, draft.mask_file) if is_fresh(item) else None
        return Example(
            posteriors=draft.posteriors,
            caption=processing.process(item.caption, item.rules, None),
            size=self.pictures.framing(item).bucket,
            weight=self.config.loss.prior_weight if item.is_reg else 1.0,
            key=self.pictures.admitted.sha256(item),
            loss_mask=draft.mask,
            varied=partial(_varied, item.caption, item.rules) if item.rules.varies else None,
            fresh=fresh,
            preserved=item.diff_output_preservation,
        )

    def _conditioner(self, model: Model, folder: CacheFolder, examples: Sequence[Example], *, keep: bool) -> Reader:
        """How captions become conditioning. The text encoders are in ``model`` afterwards only if they are needed."""
        reading = captions.reading_of(self.config)
        if self.config.network.train_te:
            self._read_text_encoders(model)
            return captions.at_each_step(reading).read
        loaded_s, began = self.took.model, time.monotonic()
        made = captions.beforehand(
            self.this,
            model,
            examples,
            texts=Texts(TensorCache(folder, TEXTS), self.parts.key(folder, "te", self.dtype), reading),
            device=self.device,
            read_encoders=lambda: self._read_text_encoders(model),
            keep=keep,
        )
        self.took.texts = time.monotonic() - began - (self.took.model - loaded_s)
        self.took.captions = made.captions
        if not made.needs_encoders and model.text_encoders:
            model.text_encoders = model.tokenizers = ()
            self._give_back()
        return made.read

    def _read_text_encoders(self, model: Model) -> None:
        self.this.preparing("model")
        read = self._load("te", self.dtype)
        model.text_encoders, model.tokenizers = read.text_encoders, read.tokenizers

    def _give_back(self) -> None:
        """Hand what was freed to the system, before the next part of the model takes it anew."""
        gc.collect()
        memory.give_back()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _varied(caption: str, rules: CaptionRules, draw: random.Random, step: int, steps: int) -> str:
    return processing.process(caption, rules, draw, step=step, steps=steps)
