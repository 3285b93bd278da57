"""The memorisation test at the end of a training: which pictures does the LoRA give back, and up to which weight?

``examiner`` does it; here is what comes before and after.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file

from ..datasets.items import Item
from ..errors import ExtensionError, message
from ..rights import calibration, references
from ..rights.calibration import Prepared
from ..rights.memorisation import Report
from .examiner import Allowed, Examiner
from .pictures import Pictures
from .run import Run
from .trainee import Example, Trainee


@dataclass
class Memorised:
    """What the end of a training knows of its pictures: the test's report, and what the guard keeps beside the LoRA."""

    prepared: list[Prepared] = field(default_factory=list)
    report: Report | None = None

    def keep(self, adapter: Path, model_hash: str) -> None:
        """Write the pictures' fingerprints beside the LoRA. Raises OSError."""
        if self.prepared:
            calibration.build(model_hash, self.prepared).write(references.beside(adapter))


def memorise(
    this: Run,
    trainee: Trainee,
    pictures: Pictures,
    examples: Sequence[Example],
    *,
    allowed: Allowed,
    best: Path | None = None,
) -> Memorised:
    """Take the pictures' fingerprints and test what was trained; ``best`` is the adapter file that is the result.

    Whatever fails is a warning: the LoRA must not be lost to it. Writes the report into the run's directory.
    """
    found = Memorised()
    share = this.config.validation.memorisation
    try:
        own = [(item, example) for item, example in zip(pictures.train, examples, strict=True) if not item.is_reg]
        prepared = {item: made for item, _ in own if (made := _prepared(pictures, item)) is not None}
        found.prepared = list(prepared.values())
        if share and prepared:
            tests = [(item, example) for item, example in own if item in prepared]
            with _weights(trainee, best), _quiet(trainee):
                examiner = Examiner(this, trainee, tests, found.prepared, allowed=allowed, share=share)
                found.report = examiner.examine()
            found.report.write(this.path)
            if found.report.hits or found.report.too_short is not None:
                this.warn(found.report.said)
            print(found.report.said, flush=True)
    except (ExtensionError, OSError, RuntimeError, MemoryError) as error:
        reason = str(error).rstrip(".") or type(error).__name__
        this.warn(message("The memorisation test failed: {reason}.", reason=reason))
    return found


def _prepared(pictures: Pictures, item: Item) -> Prepared | None:
    """What is kept of a picture as the model saw it; None if its file is another now."""
    try:
        return calibration.prepare(item.path.name, pictures.admitted.sha256(item), pictures.show(item).picture)
    except ExtensionError:
        return None


@contextlib.contextmanager
def _weights(trainee: Trainee, best: Path | None) -> Iterator[None]:
    """Within, the network has the weights of the result; afterwards those of training."""
    with trainee.arrived():
        if best is None:
            yield
            return
        trained = trainee.network.tensors(torch.float32)
        try:
            trainee.network.load({key: tensor.float() for key, tensor in load_file(best).items()})
            yield
        finally:
            trainee.network.load(trained)


@contextlib.contextmanager
def _quiet(trainee: Trainee) -> Iterator[None]:
    """Within, nothing of the network is left out by chance."""
    trainee.network.eval()
    try:
        yield
    finally:
        trainee.network.train()
