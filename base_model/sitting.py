"""Training in several sittings: processes that average their weights, and a state that is saved every two minutes.

One thread a process and an average every 16 steps (local SGD): on a CPU two threads in one process are slower than
two processes. On a GPU one process is enough.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

AVERAGE_EVERY = 16
SAVE_EVERY_S = 120.0


@dataclass(frozen=True)
class Plan:
    """How long, by how many, and where the state is kept."""

    state: Path
    minutes: float
    processes: int
    device: str
    port: int

    @classmethod
    def from_arguments(cls, description: str, *, minutes: float, port: int) -> Plan:
        parser = argparse.ArgumentParser(description=description)
        parser.add_argument("--state", type=Path, required=True, help="folder for the state; an old one is continued")
        parser.add_argument("--minutes", type=float, default=minutes, help="length of the whole run over all sittings")
        parser.add_argument("--processes", type=int, default=2)
        parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
        args = parser.parse_args()
        processes = 1 if args.device != "cpu" else args.processes
        return cls(args.state, args.minutes, processes, args.device, port)


@dataclass
class Sitting:
    """One process of a run: parameters, optimiser, averaged copy, and how far the whole run is."""

    plan: Plan
    rank: int
    name: str
    parameters: list[nn.Parameter]
    learning_rate: float
    optimizer: torch.optim.Optimizer = field(init=False)
    ema: list[Tensor] = field(init=False)
    step: int = 0
    _elapsed_s: float = 0.0
    _began: float = 0.0
    _saved: float = 0.0

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.AdamW(self.parameters, lr=self.learning_rate, betas=(0.9, 0.99), weight_decay=1e-2)
        self.ema = [parameter.data.clone() for parameter in self.parameters]
        if self.path.exists():
            self._load(torch.load(self.path, map_location=self.plan.device, weights_only=True))
        # A later sitting draws other pictures than the first; which ones does not matter here.
        self.rng = random.Random(7919 * self.rank + self.step)
        torch.manual_seed(7919 * self.rank + self.step)
        self._began = self._saved = time.monotonic()

    @property
    def path(self) -> Path:
        return self.plan.state / f"{self.name}.pt"

    @property
    def elapsed_s(self) -> float:
        """Seconds of all sittings."""
        return self._elapsed_s + time.monotonic() - self._began

    @property
    def done(self) -> float:
        """How much of the run is over, 0 to 1."""
        return min(1.0, self.elapsed_s / (60 * self.plan.minutes))

    def update(self, loss: Tensor) -> bool:
        """Take one optimizer step; now and then average, save and report. Returns False when the run is over."""
        done = self.done
        warmup = min(1.0, (self.step + 1) / 100)
        rate = self.learning_rate * (warmup * (0.5 + 0.5 * math.cos(math.pi * done)) + 0.01)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in self.parameters if p.grad is not None], 1.0)
        self.optimizer.step()
        self.step += 1
        return self.step % AVERAGE_EVERY != 0 or self._meet(done)

    def _meet(self, done: float) -> bool:
        average(self.parameters)
        decay = min(0.98, (self.step / AVERAGE_EVERY + 1) / (self.step / AVERAGE_EVERY + 10))
        for mean, parameter in zip(self.ema, self.parameters, strict=True):
            mean.lerp_(parameter.data, 1 - decay)
        over, due = done >= 1, time.monotonic() - self._saved > SAVE_EVERY_S
        if dist.is_initialized():
            # The clocks of the processes differ a little; the first one's decides.
            decision = torch.tensor([over, due], dtype=torch.uint8)
            dist.broadcast(decision, 0)
            over, due = bool(decision[0]), bool(decision[1])
        if over or due:
            self._saved = time.monotonic()
            if self.rank == 0:
                self.save()
        return not over

    def save(self) -> None:
        """Write the state beside the old one, then put it in its place."""
        temporary = self.path.with_suffix(".tmp")
        state = {
            "parameters": [parameter.data for parameter in self.parameters],
            "ema": self.ema,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "elapsed_s": self.elapsed_s,
        }
        torch.save(state, temporary)
        temporary.replace(self.path)

    def _load(self, state: dict[str, Any]) -> None:
        copy_into(self.parameters, state["parameters"])
        self.ema = state["ema"]
        if state["optimizer"] is not None:  # a restored state has none
            self.optimizer.load_state_dict(state["optimizer"])
        self.step, self._elapsed_s = state["step"], state["elapsed_s"]


def mixed_precision(device: str) -> torch.autocast:
    """bfloat16 where the device computes in it: a CPU without takes eight times as long as in float32."""
    has_bfloat16 = device != "cpu" or torch.cpu.get_capabilities().get("avx512_bf16", False)
    return torch.autocast(device, dtype=torch.bfloat16, enabled=has_bfloat16)


def copy_into(parameters: Iterable[nn.Parameter], values: Iterable[Tensor]) -> None:
    """Copy tensors into parameters, one by one."""
    for parameter, value in zip(parameters, values, strict=True):
        parameter.data.copy_(value)


def average(parameters: list[nn.Parameter]) -> None:
    """Give every process the mean of all processes' parameters."""
    if not dist.is_initialized():
        return
    flat = torch.cat([parameter.data.flatten() for parameter in parameters])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    start = 0
    for parameter in parameters:
        parameter.data.copy_(flat[start : start + parameter.numel()].view_as(parameter))
        start += parameter.numel()


def run(work: Callable[[Plan, int], None], plan: Plan) -> None:
    """Run ``work(plan, rank)`` in as many processes as planned and wait for them."""
    plan.state.mkdir(parents=True, exist_ok=True)
    if plan.processes == 1:
        work(plan, 0)
    else:
        mp.spawn(_process, (work, plan), nprocs=plan.processes)


def _process(rank: int, work: Callable[[Plan, int], None], plan: Plan) -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    address = f"tcp://127.0.0.1:{plan.port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=plan.processes)
    work(plan, rank)
    dist.destroy_process_group()
