"""A run that sd-scripts trains: what it needs is laid out, it is started and followed, what it writes is kept.

    python -m lora_atelier.jobs.supervisor RUN_DIR

Runs in the trainer's environment, ends with the trainer's exit statuses, and says what happens in the run's events, so
that nobody who looks at a run need know which program trains it.
"""

from __future__ import annotations

import shutil
import signal
import sys
import threading
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

from .. import config_files
from ..adapters.card import fresh_path, write_card
from ..config import TrainConfig
from ..engines import kohya_files, sd_scripts
from ..engines.kohya_launch import STOPPED as STOPPED_THERE
from ..engines.kohya_output import Translator, Wrote, failure
from ..errors import AlreadyRunningError, ConfigError, ExtensionError, JobError, Message, message
from ..events import Appender, Event, Failed, Finished, Preparing, Sampled, Saved, Stopped, Warned
from ..locking import FileLock
from ..rights import credentials, rollup
from . import estimate, sd_scripts_files
from .run_dir import Job, RunDir
from .sd_scripts_data import LaidOut, lay_out
from .sd_scripts_files import Kept
from .sd_scripts_sitting import Sitting, take_samples

FINISHED, FAILED, STOPPED = 0, 1, 3
_NAMED_AT_MOST = 20
_EVENTS_EVERY_S = 0.5


class _StopRequestedError(Exception):
    """Raised between preparations when the run is to stop before its first step."""


@dataclass
class Supervisor:
    """One sitting of a run: ``before`` is the state that it goes on from."""

    run: RunDir
    job: Job
    config: TrainConfig
    events: Appender
    before: Kept = field(default_factory=Kept)
    _asked: threading.Event = field(default_factory=threading.Event)
    _began: float = field(default_factory=time.monotonic)
    _sat_down: float = 0.0
    _prepared: float = 0.0
    _saved: int = -1
    _preview: Path | None = None

    @property
    def folder(self) -> Path:
        """Where sd-scripts finds its pictures and options, and writes."""
        return self.run.path / "sd-scripts"

    # ------------------------------------------------------------------------------------------- the sitting

    def work(self) -> int:
        """Train, or go on; returns the exit status. Raises ExtensionError, OSError."""
        self.before = sd_scripts_files.latest_state(self.run)
        checkout = sd_scripts.find(self._data_dir(), Path(self.job.checkout) if self.job.checkout else None)
        if checkout is None:
            raise JobError(
                "There is no sd-scripts on this machine.",
                todo="Type  python install.py sd-scripts  to fetch it, then press Resume.",
            )
        try:
            laid = self._lay_out()
        except _StopRequestedError:
            self.tell(Stopped(step=self.before.step))
            return STOPPED
        if self.before.complete:
            return self._finish(laid, self.before.step)
        out = self.folder / f"out-{self.before.step:06d}"
        shutil.rmtree(out, ignore_errors=True)
        options = self._write_options(laid, out)
        if self.before.step:
            self.warn(
                message(
                    "sd-scripts shuffles the pictures anew when it goes on: in this pass over them some come twice and "
                    "some not at all."
                )
            )
        translator = Translator(self.before.step, laid.pictures, time.monotonic, _EVENTS_EVERY_S)
        state, stop = out / "stopped-state", self.folder / "stop"
        sitting = Sitting(
            command=sd_scripts.command(
                checkout, self.job.family, options, done=self.before.step, stop=stop, state=state
            ),
            folder=self.folder,
            stop=stop,
            translator=translator,
            tell=self.tell,
            keep=lambda wrote: self._keep(laid, wrote),
            asked=self.stop_requested,
            samples=lambda: self._samples(out, translator.step),
        )
        self._sat_down = time.monotonic()
        status = sitting.run()
        self._samples(out, translator.step)
        if status == STOPPED_THERE and translator.stopped:
            return self._stopped(state, translator.step)
        if self.stop_requested() and not translator.steps:
            self.tell(Stopped(step=self.before.step))
            return STOPPED
        final = out / f"{self.config.output.name}.safetensors"
        if status or not final.is_file():
            raise failure(status, "\n".join(sitting.tail))
        for wrote in translator.end():
            if isinstance(wrote, Wrote):
                self._keep(laid, wrote, complete=True)
        return self._finish(laid, translator.step)

    def _lay_out(self) -> LaidOut:
        self._preparing(0, 0)
        laid = lay_out(
            self.config,
            self.folder / "pictures",
            run_dir=self.run.path,
            trigger=self.job.trigger,
            whose=self.job.whose,
            progress=self._preparing,
        )
        for remark in laid.remarks[:_NAMED_AT_MOST]:
            self.warn(remark)
        if len(laid.remarks) > _NAMED_AT_MOST:
            more = len(laid.remarks) - _NAMED_AT_MOST
            self.warn(message("… and {count} more pictures with problems.", count=more))
        return laid

    def _preparing(self, done: int, total: int) -> None:
        if self.stop_requested():
            raise _StopRequestedError
        now = time.monotonic()
        if now - self._prepared > _EVENTS_EVERY_S or done in (0, total):
            self._prepared = now
            self.tell(Preparing(stage="pictures", done=done, total=total))

    def _write_options(self, laid: LaidOut, out: Path) -> Path:
        """The two files for this sitting. Raises ConfigError with all that stands against it."""
        main = config_files.load_toml(self.run.config_path)
        files, warnings = kohya_files.set_right(
            main, laid.dataset, family=self.job.family, device=estimate.device(), pictures=laid.pictures
        )
        if files.problems:
            raise ConfigError.from_problems(tuple(files.problems))
        for said in warnings if not self.before.step else ():
            self.warn(said)
        tokenizers = self._data_dir() / "cache" / "tokenizers"
        sd_scripts.write_tokenizers(tokenizers)
        options = kohya_files.with_paths(
            files,
            output_dir=out,
            output_name=self.config.output.name,
            tokenizers=tokenizers,
            state=self.before.path,
        )
        dataset = self.folder / config_files.DATASET
        options["dataset_config"] = str(dataset)
        dataset.write_text(config_files.dump_toml(files.dataset), encoding="utf-8")
        path = self.folder / config_files.CONFIG
        path.write_text(config_files.dump_toml(options), encoding="utf-8")
        return path

    # ------------------------------------------------------------------------------------------- what it wrote

    def _kept(self, step: int, *, complete: bool = False) -> Kept:
        seconds = self.before.train_seconds + time.monotonic() - self._sat_down
        return Kept(step=step, train_seconds=seconds, complete=complete)

    def _keep(self, laid: LaidOut, wrote: Wrote, *, complete: bool = False) -> None:
        """Keep a checkpoint and its state; a full disk is a warning, and the next one tries again."""
        name = f"{self.config.output.name}-s{wrote.step:06d}.safetensors"
        try:
            if wrote.checkpoint:
                target = self.run.path / "checkpoints" / name
                self._write(laid, Path(wrote.checkpoint), target, wrote.step)
            state = ""
            if wrote.state:
                kept, keep = self._kept(wrote.step, complete=complete), self.config.output.keep_states
                state = sd_scripts_files.keep_state(self.run, Path(wrote.state), kept, keep=keep)
        except OSError as error:
            self.warn(
                message(
                    "The checkpoint of step {step} could not be kept: {reason}. Make room; the last one is good.",
                    step=wrote.step,
                    reason=error.strerror or str(error),
                )
            )
            return
        if wrote.checkpoint and not complete:
            Path(wrote.checkpoint).unlink(missing_ok=True)
        if self._saved != wrote.step:
            self._saved = wrote.step
            self.tell(Saved(step=wrote.step, file=name if wrote.checkpoint else "", state=state))

    def _write(self, laid: LaidOut, source: Path, target: Path, step: int) -> tuple[str, Message | None]:
        start = self.config.network.network_weights
        rights = rollup.joined(laid.admitted.summary(), credentials.origins([Path(start)] if start else []))
        own = sd_scripts_files.own_metadata(self.config, self.job, rights)
        return sd_scripts_files.write_adapter(source, target, own, self._data_dir(), step=step)

    def _samples(self, out: Path, step: int) -> None:
        drawn = take_samples(out / "sample", self.run.samples_dir, self.config.sampling.prompts, self.before.step, step)
        for event in drawn:
            self.tell(event)
            if isinstance(event, Sampled) and event.file.endswith("-01.png"):
                self._preview = self.run.samples_dir / event.file

    def _stopped(self, state: Path, step: int) -> int:
        name = sd_scripts_files.keep_state(self.run, state, self._kept(step), keep=self.config.output.keep_states)
        self.tell(Saved(step=step, file="", state=name))
        self.tell(Stopped(step=step))
        return STOPPED

    def _finish(self, laid: LaidOut, step: int) -> int:
        """Put adapter and card into the LoRA folder."""
        laid.check()
        source = self.run.path / "checkpoints" / f"{self.config.output.name}-s{step:06d}.safetensors"
        if not source.is_file():
            source = self.folder / f"out-{self.before.step:06d}" / f"{self.config.output.name}.safetensors"
        target = fresh_path(Path(self.config.output.folder or self.job.lora_dir), self.config.output.name)
        model_hash, unsigned = self._write(laid, source, target, step)
        try:
            write_card(target, trigger=self.job.trigger, description="LoRA Atelier", preview=self._preview)
        except OSError as error:
            self.warn(message("The card of the LoRA could not be written: {reason}.", reason=str(error)))
        if unsigned is not None:
            self.warn(unsigned)
        kept = self.before if self.before.complete else self._kept(step)
        self.tell(
            Finished(
                step=step,
                file=str(target),
                model_hash=model_hash,
                seconds=time.monotonic() - self._began,
                train_seconds=kept.train_seconds,
                peak_memory_bytes=_peak_memory_bytes(),
            )
        )
        # The pictures are the person's again, the rest is kept elsewhere.
        shutil.rmtree(self.folder, ignore_errors=True)
        print(f"Finished: {target}", flush=True)
        return FINISHED

    # ------------------------------------------------------------------------------------------- being spoken to

    def tell(self, event: Event) -> None:
        """Report an event. A full disk must not end a run that could still save its state later."""
        try:
            self.events.add(event)
        except OSError as error:
            print(f"An event was lost: {error}", file=sys.stderr)

    def warn(self, said: Message) -> None:
        """Report something that does not end the run."""
        print(f"Warning: {said}", flush=True)
        self.tell(Warned(message=said.to_json()))

    def stop_requested(self) -> bool:
        """Whether the file ``stop`` is there or a signal came."""
        return self._asked.is_set() or self.run.stop_path.exists()

    def stop_on_signals(self) -> None:
        """Let SIGTERM and Ctrl-C ask for a stop instead of ending the process at once."""
        for name in ("SIGTERM", "SIGINT", "SIGBREAK"):
            number = getattr(signal, name, None)
            if number is not None:
                signal.signal(number, lambda *_: self._asked.set())

    def _data_dir(self) -> Path:
        """Where the runs lie; a run that stands alone is its own."""
        return self.run.path.parents[1] if self.run.path.parent.name == "runs" else self.run.path


def main(arguments: list[str]) -> int:
    """Do the run in the directory that is given; returns the exit status."""
    run = RunDir(Path(arguments[0]).resolve())
    lock = FileLock(run.lock_path)
    if not lock.acquire():
        print(AlreadyRunningError("This training is running already.", todo="Wait until it ends, or stop it."))
        return FAILED
    events = Appender(run.events_path)
    try:
        supervisor = Supervisor(run, run.job(), config_files.read(run.path), events)
        supervisor.stop_on_signals()
        return supervisor.work()
    except ExtensionError as error:
        return _fail(events, error)
    except Exception as error:  # the process's edge: whatever it is, the page must learn of it
        traceback.print_exc()
        return _fail(events, _unexpected(error, run))
    finally:
        lock.release()


def _fail(events: Appender, error: ExtensionError) -> int:
    print(f"Failed: {error}", file=sys.stderr, flush=True)
    try:
        events.add(Failed(error=error.to_json()))
    except OSError as lost:
        print(f"An event was lost: {lost}", file=sys.stderr)
    return FAILED


def _unexpected(error: Exception, run: RunDir) -> ExtensionError:
    if isinstance(error, OSError):
        return JobError(
            "The training can't read or write its files.",
            why="{reason}.",
            todo="Make room on the disk or allow writing there, then press Resume.",
            reason=str(error),
        )
    return JobError(
        "The training ended with an error that nobody foresaw.",
        why="{kind}: {reason}.",
        todo="Its log {log} holds the details; please report them.",
        kind=type(error).__name__,
        reason=(str(error) or type(error).__name__).splitlines()[0][:300],
        log=str(run.log_path),
    )


def _peak_memory_bytes() -> int:
    """The most memory that sd-scripts' process held; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    # Kilobytes on Linux, bytes on macOS.
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
