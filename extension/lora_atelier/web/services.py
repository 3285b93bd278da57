"""What the routes stand on, put together once by whoever owns the server: the embedded host, or a webui's entry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import Message
from ..hosts.base import Drawing, Host
from ..hosts.lease import Lease
from ..jobs.compare import Comparison
from ..jobs.measuring import Measuring
from ..jobs.queue import Queue
from ..jobs.service import Jobs
from ..jobs.trainer_setup import TrainerSetup
from ..loader.catalogue import Catalogue
from ..models.detect import ModelInfo
from ..rights import signals
from .access import Access
from .gpu import why_it_waits
from .loads import loads
from .uploads import Uploads


@dataclass(frozen=True, kw_only=True)
class Services:
    """``base_models`` lists the models that can be trained on, the usual choice first.

    ``regularisation`` gives pictures that keep what a base model knows, where we have some for it. ``loads`` says how
    much of a LoRA file the host's model takes, and whether that is all; ``refresh_adapters`` makes the host look for
    new files; ``comparison`` draws checkpoints side by side, where the host lets us draw; ``environment`` makes the
    trainer's, where that is not this very process's; ``lease`` is the graphics card, lent to trainings.
    """

    jobs: Jobs
    uploads: Uploads
    catalogue: Catalogue
    base_models: Callable[[], Sequence[ModelInfo]]
    access: Access = field(default_factory=Access)
    # Made of ``jobs`` where none are given.
    queue: Queue = field(default=None)  # type: ignore[assignment]
    measuring: Measuring = field(default=None)  # type: ignore[assignment]
    regularisation: Callable[[ModelInfo], Path | None] = lambda info: None
    loads: Callable[[Path], tuple[Message, bool]] | None = None
    refresh_adapters: Callable[[], None] = lambda: None
    comparison: Comparison | None = None
    environment: TrainerSetup | None = None
    lease: Lease | None = None

    def __post_init__(self) -> None:
        if self.queue is None:
            object.__setattr__(self, "queue", Queue(self.jobs))
        if self.measuring is None:
            object.__setattr__(self, "measuring", Measuring(self.jobs))


def services(
    host: Host,
    *,
    access: Access | None = None,
    regularisation: Callable[[ModelInfo], Path | None] | None = None,
    host_device: int = 0,
) -> Services:
    """The services of one host: its data folder, LoRA folders and base models, the chosen model first.

    ``host_device`` is the number of the graphics card that the host draws with, and lends to trainings.
    Pictures that carry a data-mining prohibition are shown as refused, by the rule that the trainer's gate has.
    """

    def base_models() -> list[ModelInfo]:
        usable = [checkpoint.info for checkpoint in host.checkpoints() if checkpoint.info is not None]
        return sorted(usable, key=lambda info: info.path != host.current().path)

    jobs = Jobs(host.data_dir, host.lora_dirs()[0], host_device=host_device)
    host.lease.going_on = lambda: why_it_waits(jobs.on_host_device())
    comparison = Comparison(
        lambda prompt, seed: host.picture(Drawing(prompt=prompt, seed=seed)),
        host.lora_dirs()[0],
        host.refresh_adapters,
    )
    return Services(
        jobs=jobs,
        queue=Queue(jobs, host.lease.lend, host.refresh_adapters),
        measuring=Measuring(jobs, host.lease.lend),
        comparison=comparison,
        uploads=Uploads(host.data_dir / "uploads", signals.refusal),
        catalogue=host.catalogue,
        base_models=base_models,
        access=access or Access(),
        regularisation=regularisation or (lambda info: None),
        loads=lambda path: loads(path, host),
        refresh_adapters=host.refresh_adapters,
        lease=host.lease,
        environment=TrainerSetup(host.data_dir, for_webui=host.id != "embedded"),
    )
