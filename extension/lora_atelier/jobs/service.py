"""All training runs of one data folder: made from a form, started, followed, stopped, resumed.

Nothing is remembered here that is not on disk: two of these on one folder, or a new one after a crash, see the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from .. import config_files, engines, events
from ..config import GOALS, QUALITIES, TrainConfig, model_problems, notes, to_kohya, unsupported
from ..engines.base import Asked
from ..errors import AlreadyRunningError, ConfigError, ExtensionError, JobError, Problem, problem
from ..locking import FileLock
from ..models.detect import ModelInfo, inspect
from . import devices as cards
from . import estimate, forms, overlay, process
from .environment import trainer_python
from .forms import PICTURE_SUFFIXES as PICTURE_SUFFIXES
from .forms import WHOSE as WHOSE
from .forms import JobForm as JobForm
from .forms import Notice, Proposal
from .names import fresh_name, safe_name
from .run_dir import Job, Progress, RunDir
from .view import RunView, describe

# A run in one of these will make, or can still make, a LoRA of its name.
LIVE = ("waiting", "running", "stopped", "died")
_CHECKPOINT = re.compile(r"-s\d{6}$")
# How long a process waits for another one that starts a training.
_STARTING_S = 10.0
# Below this a run would end in the middle with a full disk, whatever it trains.
_SPARE_BYTES = 50_000_000
# What the checks of the form's own fields say better.
_SAID_BY_THE_FORM = ("data.datasets.0.subsets.0.image_dir", "output.name", "output.folder", "model.base_model")


class Jobs:
    """The runs under ``data_dir``; finished LoRAs go to ``lora_dir``."""

    def __init__(
        self,
        data_dir: Path,
        lora_dir: Path | None = None,
        command: Sequence[str] | None = None,
        on_start: Callable[[RunDir], None] | None = None,
        devices: Sequence[str] | None = None,
        host_device: int = 0,
    ) -> None:
        """``command`` replaces the trainer (tests); ``on_start`` is told of every run whose process was started.

        ``devices`` are the cards that runs may have, one run each, that of whoever draws pictures the last; as
        ``devices.devices`` finds them, with ``host_device`` the number of that one, where they are not given.
        """
        self.data_dir = data_dir
        self.runs_dir = data_dir / "runs"
        self.lora_dir = lora_dir or data_dir / "loras"
        self.rates = estimate.Rates(data_dir / "rates.json")
        self._command = command
        self._on_start = on_start
        self._devices = tuple(devices) if devices is not None else None
        self._host_device = host_device
        self._progress: dict[Path, Progress] = {}
        self._lock = threading.RLock()

    # ------------------------------------------------------------------------------------------- before a run

    def propose(self, form: JobForm) -> Proposal:
        """What would be done with ``form``, and every problem it has; nothing is written but a probe of the folder."""
        notices: list[Notice] = []
        name = self._name(form, notices)
        forms.check_words(form, notices)
        given = forms.count(form.pictures, notices, form.left_out)
        pictures = forms.count(form.pictures, [], form.unused) if form.refused else given
        info = forms.look_at_model(form.base_model, notices)
        plain = config = plan = None
        if info is not None and form.goal in GOALS and form.quality in QUALITIES:
            device = estimate.device()
            plain = forms.settings(form, name, info, pictures, self.lora_dir, device)
            config, wrong = overlay.changed(plain, form.changes)
            notices += [Notice(each) for each in wrong]
            plan = estimate.estimate(config, info, pictures=pictures, rates=self.rates, device=device)
            plan = dataclasses.replace(plan, given=given if given > pictures else 0)
            self._check_room(plan, notices)
            self._check_settings(form, config, info, notices)
        self._check_folder(notices)
        return Proposal(
            name=name,
            pictures=pictures,
            info=info,
            recipe=plain,
            config=config,
            plan=plan,
            notices=tuple(notices),
        )

    def _check_settings(self, form: JobForm, config: TrainConfig, info: ModelInfo, notices: list[Notice]) -> None:
        """Note what is wrong with the settings themselves, on this model and this engine, and what is unusual."""
        wrong = [
            *config.problems(),
            *self._against(config, form.engine, info.family, form.checkout),
            *model_problems(config, family=info.family, prediction_type=info.prediction_type),
        ]
        said: list[Notice] = [Notice(each) for each in wrong if each.field not in _SAID_BY_THE_FORM]
        if form.engine == "native" and form.changes:
            said += [Notice(each, blocking=False) for each in notes(config)]
        for notice in said:
            placed = Problem(overlay.place_of(notice.problem.field), notice.problem.message)
            notices.append(dataclasses.replace(notice, problem=placed))

    def _name(self, form: JobForm, notices: list[Notice]) -> str:
        safe = safe_name(form.name)
        if not safe:
            notices.append(Notice(problem("name", "The name has no letter or digit. Give the LoRA a name.")))
            return ""
        fresh = fresh_name(safe, self.taken_names())
        if fresh != safe:
            notices.append(
                Notice(
                    problem("name", "“{name}” exists already; this one will be “{fresh}”.", name=safe, fresh=fresh),
                    blocking=False,
                    suggestion=fresh,
                )
            )
        elif safe != form.name.strip():
            notices.append(
                Notice(
                    problem("name", "In prompts and file names it is written “{name}”: <lora:{name}:0.8>.", name=safe),
                    blocking=False,
                    suggestion=safe,
                )
            )
        return fresh

    def taken_names(self) -> set[str]:
        """Names of LoRAs that exist, and of runs that will make one."""
        files: set[str] = set()
        with contextlib.suppress(OSError):
            files = {_CHECKPOINT.sub("", path.stem) for path in self.lora_dir.rglob("*.safetensors")}
        going = {view.job.name for view in self.list() if view.job is not None and view.status in LIVE}
        return files | going

    def _check_folder(self, notices: list[Notice]) -> None:
        for folder in (self.lora_dir, self.runs_dir):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                probe = folder / f".atelier-{os.getpid()}-{threading.get_ident()}"
                probe.write_bytes(b"")
                probe.unlink()
            except OSError as error:
                said = problem(
                    "",
                    "The folder {folder} can't be written to ({reason}). Allow it, or choose another folder.",
                    folder=str(folder),
                    reason=error.strerror or str(error),
                )
                notices.append(Notice(said))
                return

    def _check_room(self, plan: estimate.Plan, notices: list[Notice]) -> None:
        needed = needed_bytes(plan)
        try:
            free = free_bytes(self.lora_dir)
        except OSError:
            return
        if free < needed:
            said = problem(
                "",
                "The disk has {free} MB left and the training needs about {needed} MB. Make room, then try again.",
                free=free // 1_000_000,
                needed=needed // 1_000_000,
            )
            notices.append(Notice(said))

    # ------------------------------------------------------------------------------------------- making a run

    def create(self, form: JobForm) -> RunDir:
        """Make the directory of a run that waits to be started.

        Raises ConfigError with everything that is wrong with the form, JobError when the files can't be written;
        nothing is left behind then.
        """
        proposal = self.propose(form)
        if proposal.blocking() or proposal.config is None or proposal.info is None or form.pictures is None:
            raise ConfigError.from_problems(proposal.blocking())
        config, source = proposal.config, form.pictures
        with self._new_run(proposal.name) as run:
            if form.keep_pictures or form.left_out or form.captions:
                from .picture_copies import copy_pictures

                copy_pictures(form, run.pictures_dir, self.data_dir)
                source = run.pictures_dir
            config = forms.moved(config, source)
            config_files.write(config, run.path)
            # The last file to be written: a directory without it is no run.
            Job(
                id=run.id,
                name=proposal.name,
                goal=form.goal,
                trigger=form.trigger.strip(),
                whose=form.whose,
                lora_dir=str(self.lora_dir),
                base_model=str(form.base_model),
                pictures=str(source),
                created=time.time(),
                quality=form.quality,
                family=proposal.info.family,
                engine=form.engine,
                checkout=str(form.checkout.resolve()) if form.checkout is not None else "",
                plan=proposal.plan.to_table() if proposal.plan else {},
            ).write(run.job_path)
        return run

    def add(
        self,
        config: TrainConfig,
        *,
        trigger: str = "",
        whose: str = "mine",
        goal: str = "character",
        engine: str = "native",
        checkout: Path | None = None,
        plan: estimate.Plan | None = None,
    ) -> RunDir:
        """Make a run of settings that someone wrote as files, for one of ``engines.NAMES``; ``checkout`` is the folder
        of sd-scripts, where it was named; ``plan`` is what was said of it, if it was. Raises as ``create`` does, and
        ModelError."""
        info = inspect(Path(config.model.base_model))
        name = fresh_name(safe_name(config.output.name) or "lora", self.taken_names())
        folder = Path(config.output.folder) if config.output.folder else self.lora_dir
        config = dataclasses.replace(config, output=dataclasses.replace(config.output, name=name, folder=str(folder)))
        problems = (*config.problems(), *self._against(config, engine, info.family, checkout))
        if problems:
            raise ConfigError.from_problems(problems)
        subsets = [subset for dataset in config.data.datasets for subset in dataset.subsets if not subset.is_reg]
        pictures = sum(forms.count(Path(subset.image_dir), []) for subset in subsets)
        if plan is None:
            plan = estimate.estimate(config, info, pictures=pictures, rates=self.rates, device=estimate.device())
        with self._new_run(name) as run:
            config_files.write(config, run.path)
            Job(
                id=run.id,
                name=name,
                goal=goal,
                trigger=trigger,
                whose=whose,
                lora_dir=str(folder),
                base_model=config.model.base_model,
                pictures=subsets[0].image_dir if subsets else "",
                created=time.time(),
                family=info.family,
                engine=engine,
                checkout=str(checkout.resolve()) if checkout is not None else "",
                plan=plan.to_table(),
            ).write(run.job_path)
        return run

    def _against(
        self, config: TrainConfig, engine: str, family: str, checkout: Path | None = None
    ) -> tuple[Problem, ...]:
        """What stands against these settings on this engine. Raises JobError for an engine that we don't know."""
        main, dataset = to_kohya(config)
        asked = Asked(main, dataset, family, self.data_dir, checkout, device=estimate.device())
        judged = engines.get(engine).judge(asked)
        return (*judged.problems, *(unsupported(config) if engine == "native" else ()))

    @contextlib.contextmanager
    def _new_run(self, name: str) -> Iterator[RunDir]:
        """An empty directory for a run of this name; gone again, with a JobError, if its files can't be written."""
        run = RunDir(self.runs_dir / _run_id(name))
        try:
            run.path.mkdir(parents=True)
            yield run
        except OSError as error:
            shutil.rmtree(run.path, ignore_errors=True)
            raise JobError(
                "The training was not created.",
                why="Its folder {folder} can't be written: {reason}.",
                todo="Make room on the disk or allow writing there, then try again.",
                folder=str(self.runs_dir),
                reason=error.strerror or str(error),
            ) from error

    # ------------------------------------------------------------------------------------------- a run's life

    def submit(self, form: JobForm) -> RunDir:
        """Make a run and start it. Raises AlreadyRunningError before anything is made if another one is going on."""
        with self._lock:
            self._refuse_second(None)
            self.require_trainer()
            run = self.create(form)
            try:
                self.start(run)
            except ExtensionError:
                # Nobody asked for a run that waits; without this its name would count as taken.
                shutil.rmtree(run.path, ignore_errors=True)
                raise
        return run

    def start(self, run: RunDir) -> None:
        """Start the trainer on a waiting run. Raises AlreadyRunningError, JobError."""
        with self._lock, self._starting():
            self._refuse_second(run)
            process.start(run, self._command, device=self.free_device() or "")
        if self._on_start is not None:
            self._on_start(run)

    @contextlib.contextmanager
    def _starting(self) -> Iterator[None]:
        """Within, no other process on this folder starts a training: page and command line may do so at once.

        The lock ends with its holder, however that ends. Raises AlreadyRunningError.
        """
        lock, until = FileLock(self.data_dir / "start.lock"), time.monotonic() + _STARTING_S
        while not lock.acquire():
            if time.monotonic() > until:
                raise AlreadyRunningError("Another training is being started.", todo="Queue this one, or try again.")
            time.sleep(0.05)
        try:
            yield
        finally:
            lock.release()

    def resume(self, run: RunDir) -> None:
        """Let a run that was stopped, failed or died go on from its last complete state. Raises JobError."""
        self.require_resumable(run)
        self.start(run)

    def require_resumable(self, run: RunDir) -> None:
        """Raise JobError unless a run can be started or go on."""
        view = self.view(run)
        if view.status == "finished":
            raise JobError("“{name}” is finished; there is nothing to resume.", name=view.job.name if view.job else "")
        run.job()  # says so if it can't be read

    def require_trainer(self) -> None:
        """Raise JobError if there is no environment to train in."""
        if self._command is None:
            trainer_python()

    @property
    def devices(self) -> tuple[str, ...]:
        """The cards that runs may have, one run each; the last is that of whoever draws pictures."""
        if self._devices is None:
            self._devices = cards.devices(self._host_device)
        return self._devices

    def running(self) -> RunView | None:
        """The run that is going on, if there is one; the newest of several."""
        return next(iter(self.all_running()), None)

    def all_running(self) -> list[RunView]:
        """The runs that are going on, at most one on each card."""
        return [view for view in self.list() if view.status == "running"]

    def on_host_device(self) -> RunView | None:
        """The run that has the card of whoever draws pictures, if there is one."""
        others = self.devices[:-1]
        return next((view for view in self.all_running() if view.card not in others), None)

    def free_device(self) -> str | None:
        """A card that no run has, or None. A run that nobody gave a card, by an older version, has any."""
        taken = [view.card for view in self.all_running()]
        if any(card not in self.devices for card in taken):
            return None
        return next((device for device in self.devices if device not in taken), None)

    def delete(self, run: RunDir) -> None:
        """Remove a run's directory with its log, samples, states and checkpoints; its LoRA stays. Raises JobError."""
        if self.view(run).status == "running":
            raise JobError("This training is running; stop it before you remove it.")
        with self._lock:
            self._progress.pop(run.path, None)
        try:
            shutil.rmtree(run.path)
        except OSError as error:
            raise JobError(
                "The training could not be removed.",
                why="{reason}.",
                todo="Close programs that have its files open, then try again.",
                reason=error.strerror or str(error),
            ) from error

    def stop(self, run: RunDir) -> None:
        """Ask a run to keep its state and end. Raises JobError if it is not running or can't be told."""
        view = self.view(run)
        if view.status != "running":
            raise JobError("This training is not running; there is nothing to stop.")
        try:
            process.stop(run, timeout_s=self.stop_timeout_s(run))
        except OSError as error:
            raise JobError(
                "The training could not be told to stop.",
                why="{reason}.",
                todo="Make room on the disk, then press Stop again.",
                reason=error.strerror or str(error),
            ) from error

    def ask_sample(self, run: RunDir) -> None:
        """Ask a running run to draw its samples after this step. Raises JobError."""
        self._ask(run, run.sample_now_path)

    def ask_save(self, run: RunDir) -> None:
        """Ask a running run to keep a checkpoint after this step. Raises JobError."""
        self._ask(run, run.save_now_path)

    def _ask(self, run: RunDir, file: Path) -> None:
        view = self.view(run)
        if view.status != "running":
            raise JobError("This training is not running.")
        try:
            file.write_text("now\n", encoding="ascii")
        except OSError as error:
            raise JobError(
                "The training could not be asked.",
                why="{reason}.",
                todo="Make room on the disk, then try again.",
                reason=error.strerror or str(error),
            ) from error

    def stop_timeout_s(self, run: RunDir) -> float:
        """How long a run may take to end its step and keep its state before it is ended: without a graphics card a step
        can be a minute long."""
        with self._lock:
            stepped = self._progress.setdefault(run.path, Progress(run)).update().get(events.Stepped)
        return max(process.STOP_TIMEOUT_S, 3 * stepped.seconds_per_step if stepped else 0.0)

    def _refuse_second(self, run: RunDir | None) -> None:
        is_free = self.free_device() is not None
        for view in self.all_running():
            if view.job is not None:
                if run is not None and view.run.path == run.path:
                    raise AlreadyRunningError(
                        "“{name}” is being trained already.",
                        todo="Wait until it ends, or stop it.",
                        name=view.job.name,
                    )
                if is_free:
                    continue
                raise AlreadyRunningError(
                    "Another training is going on: “{name}”, step {step} of {steps}.",
                    todo="Wait until it ends, or stop it; it can be resumed later.",
                    name=view.job.name,
                    step=view.step,
                    steps=view.steps,
                )

    # ------------------------------------------------------------------------------------------- looking at runs

    def get(self, run_id: str) -> RunDir:
        """The run of this id. Raises JobError if there is none."""
        run = RunDir(self.runs_dir / run_id)
        # The id comes from a browser: it must be one plain folder name.
        if Path(run_id).name != run_id or run_id in ("", ".", "..") or not run.job_path.is_file():
            raise JobError("There is no training “{id}”.", todo="Reload the page to see those that exist.", id=run_id)
        return run

    def list(self) -> list[RunView]:
        """All runs, newest first; those whose files can't be read say why."""
        try:
            runs = [RunDir(path.parent) for path in self.runs_dir.glob("*/job.toml")]
        except OSError:
            return []
        views = [self.view(run) for run in runs]
        return sorted(views, key=lambda view: view.job.created if view.job else 0.0, reverse=True)

    def view(self, run: RunDir) -> RunView:
        """How a run stands now."""
        try:
            job = run.job()
        except ExtensionError as error:
            return RunView(run=run, job=None, status="failed", error=error)
        with self._lock:
            progress = self._progress.setdefault(run.path, Progress(run)).update()
            status = progress.status(exited=process.has_exited(run))
            # What another program takes says nothing about ours.
            if status == "finished" and job.engine == "native":
                self._learn(run)
            return describe(run, job, progress, status, exit_code=process.exit_code(run))

    def _learn(self, run: RunDir) -> None:
        mark = run.path / "measured"
        if not mark.exists():
            self.rates.learn(run)
            with contextlib.suppress(OSError):
                mark.touch()


def needed_bytes(plan: estimate.Plan) -> int:
    """The room on the disk that a run takes: ten checkpoints and the finished file, two states of float32 weights with
    AdamW's two moments, and some to spare."""
    return plan.file_bytes * (11 + 2 * 6) + _SPARE_BYTES


def free_bytes(folder: Path) -> int:
    """Free space on the disk that ``folder`` is or will be on. Raises OSError."""
    while not folder.exists() and folder.parent != folder:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _run_id(name: str) -> str:
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}-{name}"
