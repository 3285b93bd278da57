"""What the processes that ``loader.py`` starts have in common: the model, the steps, the clock and the memory.

A peer is measured in a process of its own, on the very modules that our loader is measured on, through ``measure``.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "extension"))

import torch
from torch import nn

from lora_atelier.models import ldm
from lora_atelier.models.layers import ldm_layout, te_path
from lora_atelier.models.load import Model, load, open_source

DTYPES = {"fp16": torch.float16, "fp32": torch.float32}
# What every loader does, in this order; the second LoRA's step opens its file, too.
STEPS = ("open", "first apply", "0.8 -> 0.5", "second LoRA added", "remove")
CHANGE = "0.8 -> 0.5"
MB = 1e6
# A latent of 256 px, twice, as classifier-free guidance needs it, and one text of CLIP's.
LATENTS, TOKENS = (2, 4, 32, 32), 77


class Loader(Protocol):
    """A program that puts LoRAs on a model."""

    def open(self, name: str) -> None:
        """Read a LoRA's file and find its layers; the weights stay as they are."""
        ...

    def use(self, *calls: tuple[str, float]) -> None:
        """Make exactly these LoRAs, each at its multiplier, the change of the model."""
        ...


def arguments(description: str | None) -> argparse.Namespace:
    """What ``loader.py`` tells a process that it starts."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("job", help="what to measure")
    parser.add_argument("work", type=Path, help="the folder with model/ and loras/")
    parser.add_argument("--dtype", choices=DTYPES, default="fp16")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--webui", type=Path, help="an installed webui")
    return parser.parse_args()


def load_model(work: Path, dtype: str) -> Model:
    """The benchmark's model without its VAE, which no LoRA touches."""
    return load(work / "model", ("unet", "te"), DTYPES[dtype])


def config(model: Model, part: str) -> dict[str, Any]:
    """A part's config as it stands in the model's folder."""
    with open_source(model.info) as source:
        return dict(source.config(part))


# --- time


def cpu_and_wall(act: Callable[[], object]) -> tuple[float, float]:
    """Seconds of processor time, of all threads and the system's share, and seconds on the wall."""
    wall, cpu = time.perf_counter(), time.process_time()
    act()
    return time.process_time() - cpu, time.perf_counter() - wall


def median_cpu(act: Callable[[], object], repeats: int) -> float:
    """The median of the processor seconds."""
    return statistics.median(cpu_and_wall(act)[0] for _ in range(repeats))


# --- memory


def private_bytes() -> int:
    """Memory that is this process's alone and that no file backs."""
    return _status("RssAnon") if sys.platform == "linux" else _uss()


def peak_private_bytes() -> int:
    """The most of it since ``forget_peak``; elsewhere than on Linux what it is now."""
    if sys.platform != "linux":
        return _uss()
    # The mark is of all resident memory; files and shared memory hardly change while a LoRA is applied.
    return _status("VmHWM") - _status("RssFile") - _status("RssShmem")


def forget_peak() -> None:
    """Let the high-water mark begin again (proc(5), clear_refs)."""
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def give_back_free() -> None:
    """Give what loading left unused back to the system: filled again, it would not be counted."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError, TypeError):
        # Only glibc has it.
        ctypes.CDLL(None).malloc_trim(0)


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def _uss() -> int:
    import psutil

    return int(psutil.Process().memory_full_info().uss)


# --- the steps


def measure(loader: Loader, repeats: int) -> dict[str, Any]:
    """Take a loader through the steps on one thread, then through its changes on all.

    Returns {"cpu": seconds by step, "wall": likewise, "memory": MB more than before by name}; the change is the median
    of ``repeats``, up and down alternating.
    """
    cpu: dict[str, float] = {}
    wall: dict[str, float] = {}
    memory: dict[str, float] = {}
    _warm_up()
    torch.set_num_threads(1)
    give_back_free()
    before = private_bytes()
    forget_peak()

    def step(name: str, act: Callable[[], object]) -> None:
        cpu[name], wall[name] = cpu_and_wall(act)

    step("open", lambda: loader.open("a"))
    step("first apply", lambda: loader.use(("a", 0.8)))
    memory["peak"] = (peak_private_bytes() - before) / MB
    gc.collect()
    memory["steady"] = (private_bytes() - before) / MB
    forget_peak()
    cpu[CHANGE], wall[CHANGE] = _change(loader, repeats)
    memory["peak of the change"] = (peak_private_bytes() - before) / MB
    give_back_free()
    memory["steady, unused heap given back"] = (private_bytes() - before) / MB
    loader.use(("a", 0.5))
    step("second LoRA added", lambda: loader.use(("a", 0.5), ("b", 0.7)))
    step("remove", loader.use)
    gc.collect()
    memory["after removal"] = (private_bytes() - before) / MB
    loader.use(("a", 0.8))
    torch.set_num_threads(os.cpu_count() or 1)
    # Twice is enough: where other work wants the processors, threads that wait for each other take very long.
    cpu[f"{CHANGE}, all threads"], wall[f"{CHANGE}, all threads"] = _change(loader, 2)
    loader.use()
    return {"cpu": cpu, "wall": wall, "memory": memory}


def _change(loader: Loader, repeats: int) -> tuple[float, float]:
    """From 0.8 to 0.5 and back; ends at 0.8."""
    times = []
    for _ in range(-(-repeats // 2)):
        for multiplier in (0.5, 0.8):
            times.append(cpu_and_wall(lambda at=multiplier: loader.use(("a", at))))  # type: ignore[misc]
    return statistics.median(cpu for cpu, _ in times), statistics.median(wall for _, wall in times)


def _warm_up() -> None:
    """Let torch start its threads and load its kernels, so that no loader pays for them or seems to need memory."""
    for threads in (os.cpu_count() or 1, 1):
        torch.set_num_threads(threads)
        for dtype in DTYPES.values():
            square = torch.randn(512, 512).to(dtype)
            (square @ square).float().half()


def hand_over(result: dict[str, Any]) -> None:
    """Give a result to the process that started this one: the last line that is printed."""
    print(json.dumps(result))


# --- a model under the names of the webuis' own code


class Tree(nn.Module):
    """Modules under other paths than those that they have in their model."""

    def put(self, path: str, module: nn.Module) -> None:
        """Make ``module`` reachable as ``path``."""
        *above, name = path.split(".")
        at: nn.Module = self
        for each in above:
            if each not in at._modules:
                at.add_module(each, Tree())
            at = at._modules[each]  # type: ignore[assignment]
        at.add_module(name, module)


def ldm_unet(unet: nn.Module) -> Tree:
    """A U-Net as ``diffusion_model`` with the paths of ldm, which all webuis but SD.Next know it by."""
    tree = Tree()
    for path, module in _with_parameters(unet):
        tree.put(f"diffusion_model.{ldm.unet_path(path, *ldm_layout(unet))}", module)
    return tree


def text_tree(encoder: nn.Module, prefix: str) -> Tree:
    """A text encoder below ``prefix``."""
    tree = Tree()
    for path, module in _with_parameters(encoder):
        tree.put(f"{prefix}.{te_path(path)}", module)
    return tree


def _with_parameters(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for path, module in root.named_modules():
        if next(module.parameters(recurse=False), None) is not None:
            yield path, module


# --- a forward pass


def forward_pass(unet: Any) -> Callable[[], object]:
    """One call of a U-Net on two latents of 256 px."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(LATENTS, generator=generator)
    context = torch.randn(LATENTS[0], TOKENS, unet.config.cross_attention_dim, generator=generator)

    def run() -> object:
        with torch.no_grad():
            return unet(latents, torch.tensor(500), encoder_hidden_states=context, return_dict=False)[0]

    return run


def medians(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    """The median of each name over rounds in which all were measured."""
    return {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
