"""Which of a run's measurements on held-out pictures is the best so far, and how long ago it was."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Best:
    """The step with the lowest held-out loss, and how many measurements since were not lower."""

    step: int = 0
    loss: float = math.inf
    since: int = 0

    def after(self, step: int, loss: float) -> Best:
        """What is best once ``loss`` was measured at ``step``; one that is known already changes nothing."""
        if step == self.step:
            return self
        return Best(step, loss) if loss < self.loss else Best(self.step, self.loss, self.since + 1)

    def is_exhausted(self, patience: int) -> bool:
        """Whether a run that waits for ``patience`` measurements without a better one (0: for ever) is to end."""
        return 0 < patience <= self.since

    def to_json(self) -> dict[str, Any]:
        """As plain JSON; there is none for infinity."""
        return asdict(self) if self.step else {}

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Best:
        """What ``to_json`` gave."""
        return cls(int(said["step"]), float(said["loss"]), int(said["since"])) if said else cls()
