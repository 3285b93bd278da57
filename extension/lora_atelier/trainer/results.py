"""What a run leaves on disk: states, checkpoints, the best adapter, and the finished LoRA with its card."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from .. import events
from ..adapters import file as adapter_file
from ..config.rhythm import Rhythm, outdated
from ..errors import JobError, Message, message
from ..events import Saved
from ..rights import credentials, rollup, signature
from ..rights.showings import Showings
from ..rights.store import data_dir_of
from . import checkpoint
from .batches import BatchPlan
from .best import Best
from .checkpoint import Progressed
from .examiner import Allowed
from .memorising import Memorised, memorise
from .metadata import Facts, metadata
from .pictures import Pictures
from .run import Run
from .trainee import Example, Trainee

_STEP = re.compile(r"-s(\d{6,})(-\d+)?$")


@dataclass
class Results:
    """Writes the files of a run. What can't be written is a warning as long as a later one may do."""

    this: Run
    trainee: Trainee
    pictures: Pictures
    plan: BatchPlan
    rhythm: Rhythm
    memorised: Memorised | None = None
    _unsigned: Message | None = None

    def keep(self, progressed: Progressed) -> bool:
        """Write state and adapter of a step; a full disk is a warning, and the next checkpoint tries again.

        Returns whether they are kept.
        """
        output, step = self.this.config.output, progressed.step
        try:
            state = checkpoint.save_state(self.this.path / "state", self.trainee, progressed, keep=output.keep_states)
            path = checkpoint.fresh_path(self._checkpoints, f"{output.name}-s{step:06d}")
            self.write_adapter(path, step)
            self._showings(step).write(self.this.path)
        except OSError as error:
            self.this.warn(
                message(
                    "The checkpoint of step {step} could not be kept: {reason}. Make room; the last one is good.",
                    step=step,
                    reason=error.strerror or str(error),
                )
            )
            return False
        self.this.tell(Saved(step=step, file=path.name, state=state))
        self._remove_outdated()
        return True

    def keep_best(self, best: Best) -> None:
        """Keep the adapter of the best measurement beside the checkpoints, and remove the one that was it before."""
        folder = self.this.path / "best"
        path = folder / f"{self.this.config.output.name}-s{best.step:06d}.safetensors"
        try:
            self.write_adapter(path, best.step)
            for old in folder.glob("*.safetensors"):
                if old != path:
                    old.unlink(missing_ok=True)
        except OSError as error:
            self.this.warn(
                message(
                    "The best LoRA so far, of step {step}, could not be kept: {reason}. Make room.",
                    step=best.step,
                    reason=error.strerror or str(error),
                )
            )
            return
        self.this.tell(events.Best(step=best.step, loss=best.loss, file=path.name))

    def memorise(self, examples: Sequence[Example], allowed: Allowed, *, best: Best | None) -> None:
        """Test which pictures the result gives back; the file that is written next says so."""
        file = self._best_file(best) if best is not None else None
        self.memorised = memorise(self.this, self.trainee, self.pictures, examples, allowed=allowed, best=file)

    def finish(self, step: int, *, best: Best | None, kept: int, preview: Path | None) -> tuple[Path, str]:
        """Put the LoRA and its card into the LoRA folder; returns its path and the hash of its tensors.

        It is that of ``step``, or of ``best`` where it is given. Raises JobError; ``kept`` is the step that can then
        be gone on from.
        """
        output = self.this.config.output
        path = checkpoint.fresh_path(Path(output.folder), output.name)
        try:
            model_hash = self._write_best(path, best) if best is not None else None
            if model_hash is None:
                model_hash = self.write_adapter(path, step)
        except OSError as error:
            raise JobError(
                "The LoRA could not be written to {folder}.",
                why="{reason}.",
                todo="Make room on the disk or allow writing there, then press Resume: it goes on from step {kept}.",
                folder=str(path.parent),
                reason=error.strerror or str(error),
                kept=kept,
            ) from error
        try:
            checkpoint.write_card(path, trigger=self.this.job.trigger, description="LoRA Atelier", preview=preview)
        except OSError as error:
            self.this.warn(message("The card of the LoRA could not be written: {reason}.", reason=str(error)))
        try:
            if self.memorised is not None:
                self.memorised.keep(path, model_hash)
        except OSError as error:
            self.this.warn(
                message("The fingerprints of the pictures could not be written: {reason}.", reason=str(error))
            )
        if self._unsigned is not None:
            self.this.warn(self._unsigned)
        return path, model_hash

    def write_adapter(self, path: Path, step: int) -> str:
        """Write what was trained as it is now; returns the hash of its tensors. Raises OSError."""
        dtype = checkpoint.DTYPES[self.this.config.output.precision]
        path.parent.mkdir(parents=True, exist_ok=True)
        with self.trainee.arrived():
            return self._write(path, self.trainee.network.tensors(dtype), step)

    def _write_best(self, path: Path, best: Best) -> str | None:
        file = self._best_file(best)
        return self._write(path, load_file(file), best.step) if file else None

    def _write(self, path: Path, tensors: Mapping[str, Tensor], step: int) -> str:
        """Write an adapter file with what it says of itself, signed: also one on the way may be passed on."""
        described, self._unsigned = signature.signed(
            self._described(path, step), adapter_file.stored(tensors), data_dir_of(self.this.path)
        )
        return adapter_file.write(path, tensors, described)

    def _best_file(self, best: Best) -> Path | None:
        return next(iter(sorted((self.this.path / "best").glob(f"*-s{best.step:06d}.safetensors"))), None)

    @property
    def _checkpoints(self) -> Path:
        return self.this.path / "checkpoints"

    def _showings(self, step: int) -> Showings:
        """How often each picture was shown in the batches up to ``step``."""
        shown = self.plan.showings(step * self.this.config.schedule.accumulation)
        counts = {self.pictures.admitted.sha256(item): 0 for item in self.pictures}
        for item, count in zip(self.pictures.train, shown, strict=True):
            counts[self.pictures.admitted.sha256(item)] += count
        return Showings(step, counts)

    def _remove_outdated(self) -> None:
        """Delete the checkpoints that the settings do not want any more; what can't be deleted stays."""
        output = self.this.config.output
        found: dict[int, list[Path]] = {}
        for path in self._checkpoints.glob("*.safetensors"):
            if match := _STEP.search(path.stem):
                found.setdefault(int(match.group(1)), []).append(path)
        gone = outdated(
            list(found), self.rhythm, last_n_steps=output.save_last_n_steps, last_n_epochs=output.save_last_n_epochs
        )
        for path in (path for step in gone for path in found[step]):
            try:
                path.unlink()
            except OSError as error:
                print(f"{path.name} could not be deleted: {error}", flush=True)

    def _described(self, path: Path, step: int) -> dict[str, str]:
        job = self.this.job
        facts = Facts.of(
            self.pictures,
            step=step,
            batches_per_epoch=self.plan.batches_per_epoch,
            started=job.created,
            session=int(job.created * 1000) % 2**32,
            rights=self._rights(),
        )
        return metadata(self.this.config, self.trainee.model.info, facts, stem=path.stem, trigger=job.trigger)

    def _rights(self) -> dict[str, Any]:
        """What the file says of the rights of its pictures, and of the LoRA that the training went on from."""
        said = rollup.joined(self.pictures.admitted.summary(), self._origins)
        if self.memorised is not None and self.memorised.report is not None:
            said["memorisation"] = self.memorised.report.stamp()
        return said

    @cached_property
    def _origins(self) -> list[dict[str, Any] | None]:
        start = self.this.config.network.network_weights
        return credentials.origins([Path(start)] if start else [])
