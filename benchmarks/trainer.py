"""How long a training step takes, how soon the first one is done and how much memory a run needs, beside sd-scripts.

    python benchmarks/trainer.py [--quick] [--json FILE] [--sd-scripts DIR] [--trainer PYTHON] [--only CASE ...]
                                 [--work FOLDER]

The model has Stable Diffusion 1.5's size and random weights, the LoRA rank 16 on the U-Net. All trainers get the same
two configuration files and the same seven square photographs. They run side by side, each in a process of its own, and
take turns step by step, so that other work on the machine meets all of them; at 512 pixels and four pictures at a time
one after the other, as three of them do not fit into 24 GB. ``--trainer`` names the Python of the environment that
`install.py trainer` makes: one with more packages takes longer to begin. The start of sd-scripts includes that of its
`accelerate launch`. Seconds are processor time on one thread (`OMP_NUM_THREADS=1`); memory is private and anonymous,
its peak over the whole run, loading included; resident memory counts mapped files as well.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loader import beside, write_random
from peers_common import MB
from PIL import Image
from results import Row, report

from lora_atelier.config import (
    DataConfig,
    DatasetConfig,
    ModelConfig,
    NetworkConfig,
    OutputConfig,
    ScheduleConfig,
    SubsetConfig,
    TrainConfig,
    ValidationConfig,
)
from lora_atelier.engines.sd_scripts import python_of, write_tokenizers
from lora_atelier.jobs.service import Jobs
from lora_atelier.models import configs, ldm
from lora_atelier.models.layers import ldm_layout
from lora_atelier.models.load import empty_text_encoder, empty_unet, empty_vae

HERE = Path(__file__).resolve().parent
PHOTOGRAPHS = HERE.parent / "examples" / "photographs"
STEP_BUDGET, FLOOR_BUDGET, MEMORY_BUDGET = 0.97, 1.08, 0.5
START_BUDGETS = {"new folder": 0.5, "unchanged folder": 0.2}
WARM_UP = 2


@dataclass(frozen=True)
class Case:
    """What is trained: pictures of ``side`` × ``side`` pixels, ``batch`` at a time, computed in ``precision``."""

    side: int
    batch: int
    precision: str
    pairs: int

    @property
    def together(self) -> bool:
        """Whether the trainers are in memory at the same time."""
        return self.side**2 * self.batch < 512**2 * 4

    @property
    def name(self) -> str:
        return f"{self.side}-b{self.batch}-{'fp32' if self.precision == 'no' else self.precision}"


CASES = tuple(
    Case(side, batch, precision, pairs)
    for side, batch, pairs in ((256, 1, 15), (256, 4, 15), (512, 1, 15), (512, 4, 3))
    for precision in ("no", "bf16")
)
QUICK = (Case(128, 1, "no", 3),)


# ---------------------------------------------------------------------------------------------------- the data


def make_data(work: Path) -> None:
    """Write ``model.safetensors`` under ldm's names, ``pictures/`` with captions, and ``tokenizer/`` for sd-scripts."""
    unet, vae = empty_unet(configs.UNETS["sd1"]), empty_vae(configs.VAES["sd1"])
    encoder = empty_text_encoder(configs.CLIP_L, with_projection=False)
    layout, resolutions = ldm_layout(unet), len(configs.VAES["sd1"]["block_out_channels"])
    names = {f"model.diffusion_model.{ldm.unet_path(key, *layout)}": p for key, p in unet.named_parameters()}
    names |= {f"first_stage_model.{ldm.vae_path(key, resolutions)}": p for key, p in vae.named_parameters()}
    names |= {
        f"cond_stage_model.transformer.text_model.{key.removeprefix('text_model.')}": p
        for key, p in encoder.named_parameters()
    }
    write_random(work / "model.safetensors", names)
    (work / "pictures").mkdir()
    for number, source in enumerate(sorted(PHOTOGRAPHS.glob("*.jpg"))):
        with Image.open(source) as photograph:
            side = min(photograph.size)
            photograph.convert("RGB").resize((512, 512), box=(0, 0, side, side)).save(
                work / "pictures" / f"{number}.png"
            )
        (work / "pictures" / f"{number}.txt").write_text(f"sks photo {number}\n", encoding="utf-8")
    write_tokenizers(work / "tokenizer")


def configuration(case: Case, work: Path) -> TrainConfig:
    """The same for every trainer; longer than any measurement, without anything beside the steps."""
    dataset = DatasetConfig(
        resolution=(case.side, case.side),
        batch_size=case.batch,
        enable_bucket=False,
        # An epoch of seven full batches: then every picture is in the cache.
        subsets=(SubsetConfig(image_dir=str(work / "pictures"), num_repeats=case.batch),),
    )
    return TrainConfig(
        model=ModelConfig(base_model=str(work / "model.safetensors")),
        output=OutputConfig(folder=str(work / "out"), name="bench", save_every_n_steps=100_000),
        network=NetworkConfig(rank=16, alpha=8.0),
        schedule=ScheduleConfig(steps=1000, scheduler="constant", warmup=0.0, mixed_precision=case.precision, seed=1),
        validation=ValidationConfig(split=0.0),
        data=DataConfig(datasets=(dataset,)),
    )


# ----------------------------------------------------------------------------------------------- the processes


@dataclass
class Trainer:
    """A process that was started, between its pauses."""

    name: str
    process: subprocess.Popen[str]
    peak_bytes: int = 0
    peak_resident_bytes: int = 0
    start: float = 0.0
    cpu: list[float] = field(default_factory=list)
    _watch: threading.Thread | None = None

    def watch(self) -> None:
        """Follow its private memory until it ends."""
        self._watch = threading.Thread(target=self._follow_memory, daemon=True)
        self._watch.start()

    def wait(self) -> float:
        """Processor seconds of the step that ends now."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended early, with code {self.process.wait()}; its output is above.")
        return float(json.loads(line)["cpu"])

    def step(self) -> float:
        """Let it make one step; returns its processor seconds."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.wait()

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _follow_memory(self) -> None:
        status = Path(f"/proc/{self.process.pid}/status")
        done = threading.Event()
        while self.process.poll() is None:
            with contextlib.suppress(OSError, IndexError):
                said = status.read_text(encoding="ascii")
                private, most = (int(said.partition(f"{name}:")[2].split()[0]) for name in ("RssAnon", "VmHWM"))
                self.peak_bytes = max(self.peak_bytes, private * 1024)
                self.peak_resident_bytes = most * 1024
            done.wait(0.02)


@contextlib.contextmanager
def started(name: str, python: Path | str, *arguments: str) -> Iterator[Trainer]:
    """A process of ``trainer_process.py``, ended with the block."""
    process = subprocess.Popen(
        [str(python), str(HERE / "trainer_process.py"), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None if os.environ.get("LORA_ATELIER_VERBOSE") else subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    trainer = Trainer(name, process)
    trainer.watch()
    try:
        yield trainer
    finally:
        trainer.end()


def native(
    case: Case, work: Path, jobs: Jobs, python: Path | str = sys.executable
) -> contextlib.AbstractContextManager[Trainer]:
    run = jobs.add(configuration(case, work), trigger="sks")
    return started("native", python, "native", str(run.path))


def sd_scripts(case: Case, work: Path, jobs: Jobs, folder: Path) -> contextlib.AbstractContextManager[Trainer]:
    run = jobs.add(configuration(case, work), trigger="sks")
    python = python_of(folder)
    if python is None:
        raise SystemExit(f"{folder} has no environment beside it.")
    return started(
        "sd-scripts",
        python,
        "sd-scripts",
        str(folder),
        "train_network.py",
        *("--config_file", str(run.path / "config.toml"), "--dataset_config", str(run.path / "dataset.toml")),
        *("--tokenizer_cache_dir", str(work / "tokenizer"), "--sdpa", "--max_data_loader_n_workers", "0"),
    )


def bare(case: Case, work: Path) -> contextlib.AbstractContextManager[Trainer]:
    model = str(work / "model.safetensors")
    return started("floor", sys.executable, "floor", model, str(case.side), str(case.batch), case.precision)


def launching(folder: Path) -> float:
    """Processor seconds of `accelerate launch` beside those of the script that it starts, here an empty one."""
    with tempfile.TemporaryDirectory() as temporary:
        script = Path(temporary) / "empty.py"
        script.write_text("", encoding="utf-8")
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [
                *(str(python_of(folder)), "-m", "accelerate.commands.accelerate_cli", "launch", "--cpu"),
                *("--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
                str(script),
            ],
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


# ------------------------------------------------------------------------------------------------ measurements


def measure(case: Case, work: Path, peer: Path | None, python: Path | str) -> list[Row]:
    """All rows of one case."""
    data = work / f"data-{case.name}"
    shutil.rmtree(data, ignore_errors=True)
    jobs = Jobs(data)
    begin = {"native": lambda: native(case, work, jobs, python)}
    if peer is not None:
        begin["sd-scripts"] = lambda: sd_scripts(case, work, jobs, peer)
    begin["floor"] = lambda: bare(case, work)
    ran: dict[str, Trainer] = {}
    for names in [list(begin)] if case.together else [[name] for name in begin]:
        with contextlib.ExitStack() as stack:
            for name in names:
                # One after the other until the first step, so that nobody's loading disturbs another's.
                ran[name] = stack.enter_context(begin[name]())
                ran[name].start = ran[name].wait()
            take_turns(case, [ran[name] for name in names])
    ours, theirs = ran["native"], ran.get("sd-scripts")
    start = {"new folder": ours.start}
    their_start = launching(peer) + theirs.start if peer is not None and theirs is not None else None
    with native(case, work, jobs, python) as again:
        start["unchanged folder"] = again.wait()
    step, floor = statistics.median(ours.cpu), statistics.median(ran["floor"].cpu)
    their_step = statistics.median(theirs.cpu) if theirs else None
    rows = [
        beside(f"{case.name}: step beside sd-scripts", step, "CPU s", their_step, STEP_BUDGET),
        beside(
            f"{case.name}: step beside forward and backward alone",
            step,
            "CPU s",
            floor,
            FLOOR_BUDGET if case.side >= 256 else None,
        ),
    ]
    for name, budget in START_BUDGETS.items():
        rows.append(beside(f"{case.name}: to the first step, {name}", start[name], "CPU s", their_start, budget))
    their_peak = theirs.peak_bytes / MB if theirs else None
    budget = MEMORY_BUDGET if case.precision == "bf16" else None
    rows.append(beside(f"{case.name}: peak private memory", ours.peak_bytes / MB, "MB", their_peak, budget))
    their_resident = theirs.peak_resident_bytes / MB if theirs else None
    rows.append(beside(f"{case.name}: peak resident memory", ours.peak_resident_bytes / MB, "MB", their_resident, None))
    return rows


def take_turns(case: Case, running: Sequence[Trainer]) -> None:
    """Let each make a step in turn, again and again."""
    for turn in range(WARM_UP + case.pairs):
        for trainer in running:
            seconds = trainer.step()
            if turn >= WARM_UP:
                trainer.cpu.append(seconds)
        named = ", ".join(trainer.name for trainer in running)
        print(f"{case.name}, {named}: {turn + 1} of {WARM_UP + case.pairs}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what was asked for; returns 1 if a budget was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small case, ends in about 3 minutes")
    parser.add_argument("--json", type=Path, help="write the rows there as well")
    parser.add_argument("--sd-scripts", type=Path, help="a checkout of kohya's sd-scripts with its environment")
    parser.add_argument("--trainer", type=Path, default=sys.executable, help="the Python that trains; else this one")
    parser.add_argument("--only", nargs="+", choices=[case.name for case in CASES], help="these cases alone")
    parser.add_argument("--work", type=Path, help="where the data is made and kept; else a temporary folder")
    options = parser.parse_args(arguments)
    cases = QUICK if options.quick else [c for c in CASES if not options.only or c.name in options.only]
    with contextlib.ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        work.mkdir(parents=True, exist_ok=True)
        if not (work / "tokenizer").is_dir():
            make_data(work)
        peer = options.sd_scripts.resolve() if options.sd_scripts else None
        rows = [row for case in cases for row in measure(case, work, peer, options.trainer)]
    return report(rows, options.json)


if __name__ == "__main__":
    raise SystemExit(main())
