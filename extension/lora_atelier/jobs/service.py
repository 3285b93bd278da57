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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import config_files, engines, events
from ..config import (
    GOALS,
    QUALITIES,
    DataConfig,
    ModelConfig,
    SamplingConfig,
    SubsetConfig,
    TrainConfig,
    recipe,
    to_kohya,
    unsupported,
)
from ..engines.base import Asked
from ..errors import (
    AlreadyRunningError,
    ConfigError,
    ExtensionError,
    JobError,
    ModelError,
    Problem,
    problem,
)
from ..models.detect import ModelInfo, inspect
from . import estimate, process
from .environment import trainer_python
from .names import fresh_name, safe_name
from .run_dir import Job, Progress, RunDir
from .view import RunView, describe

WHOSE = ("mine", "permission", "open-licence", "experiment")
PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".jxl"})
# A run in one of these will make, or can still make, a LoRA of its name.
LIVE = ("waiting", "running", "stopped", "died")
_CHECKPOINT = re.compile(r"-s\d{6}$")
# Below this a run would end in the middle with a full disk, whatever it trains.
_SPARE_BYTES = 50_000_000
# Showings of pictures to learn from for each showing of a regularisation picture, however many there are of each.
_SHOWN_PER_REGULARISATION = 1.5


@dataclass(frozen=True, kw_only=True)
class JobForm:
    """What a person fills in; ``pictures`` is the folder. ``keep_pictures`` puts a copy into the run's directory."""

    name: str
    trigger: str
    goal: str
    whose: str
    pictures: Path | None
    base_model: Path
    quality: str = "good"
    keep_pictures: bool = False
    regularisation: Path | None = None
    sample_prompts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Notice:
    """Something to say about one field of the form; what is ``blocking`` must be put right before a run can start.

    ``suggestion`` is the value that will be used, or could be used, instead.
    """

    problem: Problem
    blocking: bool = True
    suggestion: str = ""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What would be done with a form: its plan, the settings, and everything to say about it."""

    name: str
    pictures: int
    info: ModelInfo | None = None
    config: TrainConfig | None = None
    plan: estimate.Plan | None = None
    notices: tuple[Notice, ...] = ()

    def blocking(self) -> tuple[Problem, ...]:
        return tuple(notice.problem for notice in self.notices if notice.blocking)


class Jobs:
    """The runs under ``data_dir``; finished LoRAs go to ``lora_dir``."""

    def __init__(self, data_dir: Path, lora_dir: Path | None = None, command: Sequence[str] | None = None) -> None:
        self.data_dir = data_dir
        self.runs_dir = data_dir / "runs"
        self.lora_dir = lora_dir or data_dir / "loras"
        self.rates = estimate.Rates(data_dir / "rates.json")
        self._command = command
        self._progress: dict[Path, Progress] = {}
        self._lock = threading.RLock()

    # ------------------------------------------------------------------------------------------- before a run

    def propose(self, form: JobForm) -> Proposal:
        """What would be done with ``form``, and every problem it has; nothing is written but a probe of the folder."""
        notices: list[Notice] = []
        name = self._name(form, notices)
        _check_words(form, notices)
        pictures = _count(form.pictures, notices)
        info = _inspect(form.base_model, notices)
        config = plan = None
        if info is not None and form.goal in GOALS and form.quality in QUALITIES:
            device = estimate.device()
            config = _settings(form, name, info, pictures, self.lora_dir, device)
            plan = estimate.estimate(config, info, pictures=pictures, rates=self.rates, device=device)
            self._check_room(plan, notices)
            notices += [Notice(p) for p in config.problems() if not p.field.startswith("data") and name]
        self._check_folder(notices)
        return Proposal(name=name, pictures=pictures, info=info, config=config, plan=plan, notices=tuple(notices))

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
            if form.keep_pictures:
                _copy_pictures(form.pictures, run.pictures_dir)
                source = run.pictures_dir
            config = _with_pictures(config, form, source)
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
        pictures = sum(_count(Path(subset.image_dir), []) for subset in subsets)
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
            if self._command is None:
                trainer_python()
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
        with self._lock:
            self._refuse_second(run)
            process.start(run, self._command)

    def resume(self, run: RunDir) -> None:
        """Let a run that was stopped, failed or died go on from its last complete state. Raises JobError."""
        view = self.view(run)
        if view.status == "finished":
            raise JobError("“{name}” is finished; there is nothing to resume.", name=view.job.name if view.job else "")
        run.job()  # says so if it can't be read
        self.start(run)

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

    def stop_timeout_s(self, run: RunDir) -> float:
        """How long a run may take to end its step and keep its state before it is ended: without a graphics card a step
        can be a minute long."""
        with self._lock:
            stepped = self._progress.setdefault(run.path, Progress(run)).update().get(events.Stepped)
        return max(process.STOP_TIMEOUT_S, 3 * stepped.seconds_per_step if stepped else 0.0)

    def _refuse_second(self, run: RunDir | None) -> None:
        for view in self.list():
            if view.status == "running" and view.job is not None:
                if run is not None and view.run.path == run.path:
                    raise AlreadyRunningError(
                        "“{name}” is being trained already.",
                        todo="Wait until it ends, or stop it.",
                        name=view.job.name,
                    )
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
            return describe(run, job, progress, status)

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


def count_pictures(folder: Path) -> int:
    """How many picture files lie in ``folder``, or else in kohya's numbered folders (``10_momo``) inside it.

    Told by their endings alone. Raises OSError.
    """
    with os.scandir(folder) as entries:
        listed = list(entries)
    count = sum(Path(entry.name).suffix.lower() in PICTURE_SUFFIXES for entry in listed)
    numbered = [Path(entry.path) for entry in listed if entry.is_dir() and re.fullmatch(r"\d+_.+", entry.name)]
    return count or sum(count_pictures(each) for each in numbered)


def _run_id(name: str) -> str:
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}-{name}"


def _check_words(form: JobForm, notices: list[Notice]) -> None:
    trigger = form.trigger.strip()
    if not trigger:
        notices.append(
            Notice(problem("trigger", "There is no trigger word. Give a word that will call it in a prompt."))
        )
    elif len(trigger) > 100 or re.search(r"[<>\n\r]", trigger):
        notices.append(Notice(problem("trigger", "The trigger word may have up to 100 characters and no “<” or “>”.")))
    if form.goal not in GOALS:
        notices.append(Notice(problem("goal", "Say what is to be learned: a character, a style or an object.")))
    if form.quality not in QUALITIES:
        notices.append(Notice(problem("quality", "Choose how good it is to become: draft, good or best.")))
    if form.whose not in WHOSE:
        notices.append(Notice(problem("whose", "Say whose pictures these are.")))


def _count(folder: Path | None, notices: list[Notice]) -> int:
    try:
        count = count_pictures(folder) if folder is not None else 0
    except OSError as error:
        said = problem(
            "pictures",
            "The folder {folder} can't be read ({reason}). Choose another one.",
            folder=str(folder),
            reason=error.strerror or str(error),
        )
        notices.append(Notice(said))
        return 0
    if count == 0:
        notices.append(Notice(problem("pictures", "There are no pictures. Drop some pictures or choose a folder.")))
    elif count == 1:
        notices.append(
            Notice(
                problem("pictures", "One picture is very little: it will be copied rather than learned. Use 10 to 30."),
                blocking=False,
            )
        )
    return count


def _inspect(base_model: Path, notices: list[Notice]) -> ModelInfo | None:
    try:
        return inspect(base_model)
    except ModelError as error:
        notices.append(Notice(Problem("base_model", error.what), blocking=True))
        notices += [Notice(Problem("base_model", part)) for part in (error.why, error.todo) if part]
        return None


def _settings(form: JobForm, name: str, info: ModelInfo, pictures: int, lora_dir: Path, device: str) -> TrainConfig:
    config = recipe(goal=form.goal, family=info.family, num_images=pictures, quality=form.quality)
    dataset = dataclasses.replace(
        config.data.datasets[0],
        resolution=(info.resolution, info.resolution),
        min_bucket_reso=max(64, info.resolution // 2),
        max_bucket_reso=info.resolution * 2,
    )
    schedule = config.schedule
    if device == "gpu" and info.family != "toy":
        schedule = dataclasses.replace(schedule, mixed_precision="bf16", gradient_checkpointing=info.family == "sdxl")
    validation = config.validation if pictures >= 5 else dataclasses.replace(config.validation, split=0.0)
    return dataclasses.replace(
        config,
        model=ModelConfig(
            base_model=str(form.base_model),
            v2=info.family == "sd2",
            v_parameterization=info.prediction_type == "v_prediction",
        ),
        output=dataclasses.replace(config.output, folder=str(lora_dir), name=name or "lora"),
        schedule=schedule,
        validation=validation,
        sampling=SamplingConfig(prompts=_sample_prompts(form, info)),
        data=DataConfig(datasets=(dataset,)),
    )


def _with_pictures(config: TrainConfig, form: JobForm, source: Path) -> TrainConfig:
    own = SubsetConfig(image_dir=str(source), class_tokens=form.trigger.strip())
    subsets = [own]
    if form.regularisation is not None:
        pictures, others = _count(source, []), _count(form.regularisation, [])
        repeats = max(1, round(_SHOWN_PER_REGULARISATION * others / max(1, pictures)))
        subsets = [
            dataclasses.replace(own, num_repeats=repeats),
            SubsetConfig(image_dir=str(form.regularisation), is_reg=True),
        ]
    dataset = dataclasses.replace(config.data.datasets[0], subsets=tuple(subsets))
    return dataclasses.replace(config, data=DataConfig(datasets=(dataset,)))


def _sample_prompts(form: JobForm, info: ModelInfo) -> tuple[str, ...]:
    side = info.resolution
    scale = 3 if info.family == "toy" else 7
    prompts = form.sample_prompts or (form.trigger.strip(),)
    return tuple(f"{text} --w {side} --h {side} --d 1 --s 20 --l {scale}" for text in prompts if text)


def _copy_pictures(source: Path, target: Path) -> None:
    """Put the pictures and captions of ``source`` into ``target``: as second names of the same files where the disk
    allows it, so that 5 000 pictures cost nothing, else as copies."""
    target.mkdir()
    with os.scandir(source) as entries:
        files = [Path(entry.path) for entry in entries if entry.is_file() and not entry.name.startswith(".")]
    for file in files:
        try:
            os.link(file, target / file.name)
        except OSError:
            shutil.copy2(file, target / file.name)
