"""The trainer and the loader on a graphics card, beside sd-scripts and diffusers with PEFT.

    python benchmarks/gpu.py [--json FILE] [--sd-scripts DIR] [--only PART ...] [--work FOLDER]

Trainer: Stable Diffusion 1.5's and SDXL's sizes with random weights, bf16, LoRA of rank 16 on the U-Net, the pictures
of ``trainer.py``; ours as it is and compiled by torch's "inductor" and "cudagraphs". Seconds are on the wall: of a step
the median of three blocks of ten that the card works through without a wait; to the first step from the process' start,
pictures encoded anew, while the other trainers of the case start. Memory is torch's peak on the card.

Loader: rank 32 on all layers of a model in fp16 on the card, as in ``loader.py``.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import loader
import torch
import trainer
from loader import at_most, beside, write_random
from results import Row, report

from lora_atelier.config import MemoryConfig, ModelConfig, TrainConfig
from lora_atelier.engines.sd_scripts import python_of
from lora_atelier.jobs.service import Jobs
from lora_atelier.models import configs
from lora_atelier.models.load import empty_vae

HERE = Path(__file__).resolve().parent
BACKENDS = ("inductor", "cudagraphs")
MODES = ("copy", "reread", "fused")
# Many get ready at once: threads that spin while they wait for each other would take the processor from the others.
ENVIRONMENT = {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True)
class Case:
    """What is trained: pictures of ``side`` × ``side`` pixels, ``batch`` at a time, on a model of this family."""

    family: str
    side: int
    batch: int

    @property
    def name(self) -> str:
        return f"{self.family} {self.side} px, batch {self.batch}"


CASES = (Case("sd1", 512, 1), Case("sd1", 512, 4), Case("sdxl", 1024, 1), Case("sdxl", 1024, 4))
LOADED = {"loader-sd1": "sd1", "loader-sdxl": "sdxl"}
PARTS = (*(case.name for case in CASES), *LOADED)


# ---------------------------------------------------------------------------------------------------- the data


def model_of(family: str, work: Path) -> Path:
    """The model to train: SD 1.5's checkpoint of ``trainer.py``, or SDXL's folder of ``loader.py`` with a VAE."""
    if not (work / "tokenizer").is_dir():
        trainer.make_data(work)
    if family == "sd1":
        return work / "model.safetensors"
    folder = work / family / "model"
    if not (folder / "vae" / "config.json").is_file():
        loads(family, work)
        config = configs.VAES[family]
        (folder / "vae" / "model.safetensors").unlink()
        write_random(folder / "vae" / "diffusion_pytorch_model.safetensors", dict(empty_vae(config).named_parameters()))
        (folder / "vae" / "config.json").write_text(json.dumps(dict(config)), encoding="utf-8")
    return folder


def loads(family: str, work: Path) -> Path:
    """The folder of ``loader.py`` with a model and two LoRAs."""
    folder = work / family
    if not folder.is_dir():
        folder.mkdir()
        loader.make_data(family, folder)
    return folder


# ----------------------------------------------------------------------------------------------- the processes


class Measuring:
    """A process that gets ready and then waits for its turn."""

    def __init__(self, name: str, python: Path | str, *words: object) -> None:
        self.name = name
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - it is read when the process has failed
        self._process = subprocess.Popen(
            [str(python), str(HERE / "gpu_process.py"), *map(str, words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            env={**os.environ, **ENVIRONMENT},
        )
        self._ready: dict[str, Any] | None = None

    def wait(self) -> None:
        """Until it is ready, or has failed."""
        self._ready = self._line()

    def result(self) -> dict[str, Any] | None:
        """What it measures now; None if it failed, which is said."""
        if self._ready is None:
            return None
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        measured = self._line()
        self._process.wait()
        return None if measured is None else self._ready | measured

    def _line(self) -> dict[str, Any] | None:
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            return dict(json.loads(line))
        self._process.wait()
        self._said.seek(0)
        print(f"{self.name} failed:\n{self._said.read()[-3000:]}", file=sys.stderr, flush=True)
        return None


def measured(processes: Sequence[Measuring]) -> list[dict[str, Any] | None]:
    """What each of them measures, one after another once all are ready."""
    for each in processes:
        each.wait()
    return [each.result() for each in processes]


def configuration(case: Case, work: Path, backend: str) -> TrainConfig:
    """That of ``trainer.py``, compiled where a ``backend`` is named."""
    config = trainer.configuration(trainer.Case(case.side, case.batch, "bf16", 0), work)
    return dataclasses.replace(
        config,
        model=ModelConfig(base_model=str(model_of(case.family, work))),
        memory=MemoryConfig(torch_compile=bool(backend), dynamo_backend=backend or "inductor"),
    )


def native(case: Case, work: Path, backend: str = "") -> Measuring:
    run = Jobs(work / f"data {case.name} {backend}").add(configuration(case, work, backend), trigger="sks")
    return Measuring(f"{case.name}, ours {backend}", sys.executable, "train", "native", run.path)


def sd_scripts(case: Case, work: Path, folder: Path) -> Measuring:
    python = python_of(folder)
    if python is None:
        raise SystemExit(f"{folder} has no environment beside it.")
    run = Jobs(work / f"data {case.name} sd-scripts").add(configuration(case, work, ""), trigger="sks")
    options = (
        *("--config_file", run.path / "config.toml", "--dataset_config", run.path / "dataset.toml"),
        *("--tokenizer_cache_dir", work / "tokenizer", "--sdpa", "--max_data_loader_n_workers", "0"),
    )
    words = ("train", "sd-scripts", folder, "train_network.py", *options)
    return Measuring(f"{case.name}, sd-scripts", python, *words)


def floor(case: Case, work: Path) -> Measuring:
    words = ("train", "floor", model_of(case.family, work), case.side, case.batch, "bf16")
    return Measuring(f"{case.name}, floor", sys.executable, *words)


# ------------------------------------------------------------------------------------------------ measurements


@dataclass
class Anchors:
    """What a case was measured at by sd-scripts and by the U-Net alone, as far as they ran."""

    peer: Mapping[str, float] | None
    floor: Mapping[str, float] | None


def plain(case: Case, work: Path, peer: Path | None) -> tuple[list[Row], Anchors]:
    """Ours as it is, beside the others; sd-scripts has another script for SDXL, which is not measured."""
    processes = [native(case, work), floor(case, work)]
    if peer is not None and case.family == "sd1":
        processes.append(sd_scripts(case, work, peer))
    ours, bare, theirs = (*measured(processes), None)[:3]
    anchors = Anchors(theirs, bare)
    return trainer_rows(f"{case.name}, not compiled", ours, anchors), anchors


def compiled(case: Case, processes: Sequence[Measuring], anchors: Anchors) -> list[Row]:
    """Ours compiled by each backend, when all of them are ready."""
    found = zip(BACKENDS, measured(processes), strict=True)
    return [row for name, made in found for row in trainer_rows(f"{case.name}, compiled ({name})", made, anchors)]


def trainer_rows(who: str, made: Mapping[str, float] | None, anchors: Anchors) -> list[Row]:
    """The rows of one training; none if it failed."""
    if made is None:
        return []
    step = 1e3 * made["step"]
    return [
        beside(f"{who}: step beside sd-scripts", step, "ms", _of(anchors.peer, "step", 1e3)),
        beside(f"{who}: step beside forward and backward alone", step, "ms", _of(anchors.floor, "step", 1e3)),
        beside(f"{who}: to the first step", made["first step"], "s", _of(anchors.peer, "first step")),
        beside(f"{who}: peak on the card", made["allocated"], "MB", _of(anchors.peer, "allocated")),
        beside(f"{who}: peak on the card, reserved", made["reserved"], "MB", _of(anchors.peer, "reserved")),
    ]


def _of(said: Mapping[str, float] | None, name: str, factor: float = 1.0) -> float | None:
    return None if said is None else said[name] * factor


def loaded(family: str, work: Path) -> list[Row]:
    """What our loader, in both modes, and PEFT's take on the card."""
    folder = loads(family, work)
    modes = MODES if loader.has_peft() else MODES[:2]
    found = [Measuring(f"{family}, {mode}", sys.executable, "load", mode, folder) for mode in modes]
    said = dict(zip(modes, measured(found), strict=True))
    peer = said.get("fused")
    rows = []
    for mode, made in said.items():
        if made is None:
            continue
        who = f"{family} fp16, {'diffusers + PEFT, fused' if mode == 'fused' else f'ours ({mode})'}"
        anchors = peer["seconds"] if peer is not None and mode != "fused" else {}
        for name, seconds in made["seconds"].items():
            rows.append(beside(f"{who}: {name}", 1e3 * seconds, "ms", _of(anchors, name, 1e3) if anchors else None))
        rows.append(at_most(f"{who}: more memory on the card", made["steady"], "MB", None))
        rows.append(at_most(f"{who}: peak of it", made["peak"], "MB", None))
        rows.append(Row(f"{who}: weights returned bit for bit", float(made["returned"]), "1 = yes"))
    return rows


def collect(wanted: Sequence[str], work: Path, peer: Path | None) -> Iterator[list[Row]]:
    """The rows of every part that was asked for, as soon as they are known."""
    cases = [case for case in CASES if case.name in wanted]
    for part, family in LOADED.items():
        if part in wanted:
            print(f"{part} …", file=sys.stderr, flush=True)
            yield loaded(family, work)
    anchors: dict[Case, Anchors] = {}
    for case in cases:
        print(f"{case.name} …", file=sys.stderr, flush=True)
        rows, anchors[case] = plain(case, work, peer)
        yield rows
    # Compiling takes minutes of one processor core and leaves the card alone.
    compiling = {case: [native(case, work, backend) for backend in BACKENDS] for case in cases}
    for case, processes in compiling.items():
        yield compiled(case, processes, anchors[case])


@contextlib.contextmanager
def _folder(work: Path | None) -> Iterator[Path]:
    if work is None:
        with tempfile.TemporaryDirectory() as made:
            yield Path(made)
    else:
        work.mkdir(parents=True, exist_ok=True)
        yield work.resolve()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what was asked for; returns 1 where there is no card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the rows there as well")
    parser.add_argument("--sd-scripts", type=Path, help="a checkout of kohya's sd-scripts with its environment")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=f"these alone: {'; '.join(PARTS)}")
    parser.add_argument("--work", type=Path, help="where the data is made and kept; else a temporary folder")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("PyTorch sees no graphics card here.", file=sys.stderr)
        return 1
    peer = options.sd_scripts.resolve() if options.sd_scripts else None
    wanted = options.only or PARTS
    rows: list[Row] = [Row(f"card: {torch.cuda.get_device_name()}, torch {torch.__version__}", 1, "")]
    with _folder(options.work) as work:
        for made in collect(wanted, work, peer):
            rows += made
            if options.json is not None:
                report(rows, options.json)  # what is measured is kept, whatever comes
    return report(rows, options.json)


if __name__ == "__main__":
    raise SystemExit(main())
