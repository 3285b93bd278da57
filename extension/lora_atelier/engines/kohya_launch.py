"""Runs a script of sd-scripts, in its own Python, with three things set right from outside; none of its files change.

``python kohya_launch.py --checkout DIR --script FILE [--done N] [--stop FILE --state DIR] -- OPTIONS``

* A run that goes on makes the steps that are left. By itself it would make all of them again, on the tail of the
  learning rate's curve, or, told to skip, lose count after the first pass over the pictures.
* The file ``--stop`` ends it after the present step, with a complete state in ``--state``.
* It ends when whoever started it ends: its standard input is a pipe that closes then.

Lines that begin with ``[atelier]`` are for ``kohya_output``. Imports nothing of ours: this Python has sd-scripts'
packages alone.
"""

from __future__ import annotations

import argparse
import importlib
import os
import runpy
import sys
import threading
import types
from pathlib import Path
from typing import Any

MARK = "[atelier]"
# Exit statuses of ours: stopped as asked, abandoned by the starter, or a checkout that can't be used like this.
STOPPED, ABANDONED, UNKNOWN_CHECKOUT = 3, 4, 5


def main(arguments: list[str]) -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkout", type=Path, required=True)
    parser.add_argument("--script", required=True)
    parser.add_argument("--done", type=int, default=0)
    parser.add_argument("--stop", type=Path)
    parser.add_argument("--state", type=Path)
    split = arguments.index("--")
    options = parser.parse_args(arguments[:split])
    checkout = options.checkout.resolve()
    # As if it had been started from there; the folder of this file must not be searched.
    sys.path[0] = str(checkout)
    sys.argv = [str(checkout / options.script), *arguments[split + 1 :]]
    if options.stop is not None:
        threading.Thread(target=_end_with_starter, daemon=True).start()
    _make_torchvision_importable()
    train_util = importlib.import_module("library.train_util")
    if options.done:
        _make_only_the_steps_that_are_left(train_util, options.done)
    if options.stop is not None and options.state is not None:
        _stop_when_asked(train_util, options.stop, options.state)
    runpy.run_path(sys.argv[0], run_name="__main__")


def _end_with_starter() -> None:
    # Not through sys.stdin, whose lock a waiting thread would hold when the interpreter ends.
    while os.read(0, 1024):
        pass
    os._exit(ABANDONED)


def _make_torchvision_importable() -> None:
    """Only its picture transforms are used; a build for CUDA beside a PyTorch without registers operators it lacks."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        sys.modules["torchvision._meta_registrations"] = types.ModuleType("torchvision._meta_registrations")
        importlib.import_module("torchvision")


def _need(owner: Any, name: str) -> Any:
    found = getattr(owner, name, None)
    if found is None:
        print(f"{MARK} unknown checkout: it has no {name}", flush=True)
        raise SystemExit(UNKNOWN_CHECKOUT)
    return found


def _make_only_the_steps_that_are_left(train_util: Any, done: int) -> None:
    """The number of steps is lowered between the schedule's making, which needs all of them, and the first step."""
    load = _need(train_util, "resume_from_local_or_hf_if_specified")

    def load_and_count(accelerator: Any, args: Any) -> None:
        load(accelerator, args)
        args.max_train_steps = max(1, args.max_train_steps - done)

    train_util.resume_from_local_or_hf_if_specified = load_and_count


def _stop_when_asked(train_util: Any, stop: Path, state: Path) -> None:
    """Its recorder of losses is told of every batch, after the optimizer's step: there we look and report."""
    prepare = _need(train_util, "prepare_accelerator")
    recorder = _need(train_util, "LossRecorder")
    add, steps = recorder.add, 0
    accelerators: list[Any] = []
    training: list[Any] = []

    def prepare_and_keep(args: Any) -> Any:
        accelerators.append(prepare(args))
        return accelerators[-1]

    def add_and_look(self: Any, **said: Any) -> None:
        nonlocal steps
        add(self, **said)
        # Others record the losses of held-out pictures; the training's comes first.
        training.append(self)
        is_training = self is training[0]
        del training[1:]
        if not is_training:
            print(f"\n{MARK} held_out={self.moving_average:.6g}", flush=True)
            return
        accelerator = accelerators[-1]
        if not accelerator.sync_gradients:
            return
        steps += 1
        # Its progress bar leaves its line open.
        print(f"\n{MARK} loss={said['loss']:.6g} lr={_learning_rate(accelerator):.6g}", flush=True)
        if stop.exists():
            accelerator.save_state(str(state))
            print(f"\n{MARK} stopped after {steps} steps", flush=True)
            raise SystemExit(STOPPED)

    train_util.prepare_accelerator = prepare_and_keep
    recorder.add = add_and_look


def _learning_rate(accelerator: Any) -> float:
    for optimizer in getattr(accelerator, "_optimizers", []):
        return float(optimizer.param_groups[0]["lr"])
    return 0.0


if __name__ == "__main__":
    main(sys.argv[1:])
