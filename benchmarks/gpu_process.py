"""One measurement on a graphics card, in a process of its own; ``gpu.py`` starts it and says how.

    python benchmarks/gpu_process.py train native RUN_DIR
    python benchmarks/gpu_process.py train sd-scripts DIR SCRIPT ARGUMENT ...
    python benchmarks/gpu_process.py train floor MODEL SIDE BATCH PRECISION
    python benchmarks/gpu_process.py load copy|reread|fused WORK

Processes get ready side by side. Each says so with a line of JSON and measures when it is answered with a line, so that
one at a time uses the card; the second line that it prints is the result.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "extension"))

import psutil
import torch

WARM_UP, BLOCKS, BLOCK = 5, 3, 10
CHANGES = 10
MB = 1e6


class Line:
    """What is said to the process that started this one; everything else that is printed goes to the standard error."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)

    def tell(self, said: Mapping[str, Any]) -> None:
        """One line of JSON."""
        self._out.write(json.dumps(said) + "\n")
        self._out.flush()

    def wait(self) -> None:
        """Until it is this process' turn; where nobody is there any more, the end."""
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        if not sys.stdin.readline():
            os._exit(0)


class Blocks:
    """Times blocks of steps that the card works through without a wait in between, then ends the process."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._steps, self._began = 0, 0.0
        self._blocks: list[float] = []

    def after_step(self, *_: object) -> None:
        """The first step ends what is made ready; after some more, every ``BLOCK`` of them are a block."""
        self._steps += 1
        if self._steps == 1:
            torch.cuda.synchronize()
            self._line.tell({"first step": time.time() - psutil.Process().create_time()})
            self._line.wait()
        counted = self._steps - 1 - WARM_UP
        if counted < 0 or counted % BLOCK:
            return
        torch.cuda.synchronize()
        now = time.perf_counter()
        if counted:
            self._blocks.append((now - self._began) / BLOCK)
        self._began = now
        if len(self._blocks) == BLOCKS:
            self._tell()

    def _tell(self) -> None:
        self._line.tell(
            {
                "step": statistics.median(self._blocks),
                "allocated": torch.cuda.max_memory_allocated() / MB,
                "reserved": torch.cuda.max_memory_reserved() / MB,
            }
        )
        os._exit(0)


def load(line: Line, kind: str, work: Path) -> dict[str, Any]:
    """Put a LoRA on a model on the card, change it, add a second, take both off; seconds on the wall and MB there."""
    import peers_common

    model = peers_common.load_model(work, "fp16")
    for part in model.parts():
        part.to("cuda")
    weights = [each for part in model.parts() for each in part.parameters()]
    before = [each.detach().view(torch.int16).sum(dtype=torch.int64) for each in weights]
    loader = _loader(kind, model, work)
    torch.randn(512, 512, device="cuda").half() @ torch.randn(512, 512, device="cuda").half()  # its library starts
    seconds: dict[str, float] = {}
    line.tell({})
    line.wait()
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    seconds["open and first apply"] = _wall(lambda: loader.use(("a", 0.8)))
    steady = torch.cuda.memory_allocated() - held
    changes = [
        _wall(lambda at=multiplier: loader.use(("a", at)))  # type: ignore[misc]
        for multiplier in (0.5, 0.8) * (CHANGES // 2)
    ]
    seconds[peers_common.CHANGE] = statistics.median(changes)
    peak = torch.cuda.max_memory_allocated() - held
    seconds["second LoRA added"] = _wall(lambda: loader.use(("a", 0.8), ("b", 0.7)))
    seconds["remove"] = _wall(loader.use)
    after = [each.detach().view(torch.int16).sum(dtype=torch.int64) for each in weights]
    returned = all(int(one) == int(other) for one, other in zip(before, after, strict=True))
    return {"seconds": seconds, "steady": steady / MB, "peak": peak / MB, "returned": returned}


def _loader(kind: str, model: Any, work: Path) -> Any:
    if kind == "fused":
        from peers_diffusers import PeftLoader, pipeline

        return PeftLoader(pipeline(model), work / "loras", fused=True)
    from loader import BenchmarkHost, OurLoader

    return OurLoader(BenchmarkHost(model), work / "loras", kind)  # type: ignore[arg-type]


def _wall(act: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    began = time.perf_counter()
    act()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def main() -> None:
    """Measure what the arguments name."""
    line = Line()
    job, kind, *arguments = sys.argv[1:]
    if job == "train":
        from trainer_process import train

        train(kind, arguments, Blocks(line).after_step)
    line.tell(load(line, kind, Path(arguments[0])))


if __name__ == "__main__":
    main()
