"""One training in a process of its own, which stops after every step until ``trainer.py`` says go on.

    python benchmarks/trainer_process.py native RUN_DIR
    python benchmarks/trainer_process.py sd-scripts DIR SCRIPT ARGUMENT ...
    python benchmarks/trainer_process.py floor MODEL SIDE BATCH PRECISION

Trainers run their own unchanged code: the pause sits in torch's hook after an optimizer's step. What ours does between
steps once for each picture, where sd-scripts does it before the first, is left out of a step's time. "floor" is forward
and backward of the frozen U-Net alone, with gradients flowing to its input, which no trainer can do without. A line of
JSON on the standard output tells of each step the processor time and the time on the wall since the last pause.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "extension"))

PRECISIONS = {"no": "float32", "bf16": "bfloat16"}


class Pauses:
    """Tells of each step and waits; what trainers print themselves goes to the standard error."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)
        self._steps = 0
        # The processor time since the process began, imports included; its wall time begins here.
        self._cpu, self._wall = 0.0, time.perf_counter()

    def after_step(self, *_: object) -> None:
        """Report, then wait for a line; the process ends when there is none, as a person's stop would end it."""
        self._steps += 1
        row = {
            "step": self._steps,
            "cpu": time.process_time() - self._cpu,
            "wall": time.perf_counter() - self._wall,
        }
        self._out.write(json.dumps(row) + "\n")
        if not sys.stdin.readline():
            os._exit(0)
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def leave_out(self, work: Callable[..., None]) -> Callable[..., None]:
        """``work``, whose time is then no part of a step's."""

        def timed(*arguments: object) -> None:
            cpu, wall = time.process_time(), time.perf_counter()
            work(*arguments)
            self._cpu += time.process_time() - cpu
            self._wall += time.perf_counter() - wall

        return timed


def main() -> None:
    """Run what the arguments name."""
    pauses = Pauses()
    kind, *arguments = sys.argv[1:]
    if kind == "native":
        from lora_atelier import memory

        # As the trainer imports it.
        with memory.uncollected():
            from lora_atelier.trainer.loop import Loop
        Loop._encode_ahead = pauses.leave_out(Loop._encode_ahead)  # type: ignore[method-assign]
    train(kind, arguments, pauses.after_step)


def train(kind: str, arguments: Sequence[str], after_step: Callable[..., None]) -> NoReturn:
    """Run a trainer, or the floor, on what ``arguments`` say; ``after_step`` is called after each step, and ends it."""
    if kind == "floor":
        floor(after_step, *arguments)
    from torch.optim.optimizer import register_optimizer_step_post_hook

    register_optimizer_step_post_hook(after_step)
    if kind == "native":
        from lora_atelier.trainer.run import run

        raise SystemExit(run(Path(arguments[0])))
    folder, script, *arguments = arguments
    sys.path.insert(0, folder)
    os.chdir(folder)
    sys.argv = [script, *arguments]
    runpy.run_path(str(Path(folder) / script), run_name="__main__")
    raise SystemExit


def floor(after_step: Callable[..., None], model: str, side: str, batch: str, precision: str) -> NoReturn:
    """Forward and backward of the U-Net alone, again and again."""
    import torch

    from lora_atelier.models.load import load
    from lora_atelier.models.text import TextConditioning

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, PRECISIONS[precision])
    loaded = load(Path(model), ("unet",), dtype, device)
    unet: Any = loaded.unet
    unet.requires_grad_(False)
    count, edge = int(batch), int(side) // 8
    latents = torch.randn(count, 4, edge, edge, dtype=dtype, device=device, requires_grad=True)
    context = torch.randn(count, 77, unet.config.cross_attention_dim, dtype=dtype, device=device)
    # What SDXL is told beside the texts; the others do not look at it.
    text = TextConditioning(context, torch.randn(count, 1280, dtype=dtype, device=device))
    timesteps = torch.full((count,), 500, device=device)
    while True:
        latents.grad = None
        predicted = loaded.prediction(latents, timesteps, text, size=(int(side), int(side)))
        predicted.float().square().mean().backward()
        after_step()


if __name__ == "__main__":
    main()
