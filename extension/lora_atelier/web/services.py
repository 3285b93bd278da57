"""What the routes stand on, put together once by whoever owns the server: the embedded host, or a webui's entry."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import Message, ModelError
from ..hosts.base import Drawing, Host
from ..hosts.lease import KEEP, Lease
from ..jobs.compare import Comparison
from ..jobs.measuring import Measuring
from ..jobs.previews import Preview, Previews
from ..jobs.queue import Queue
from ..jobs.service import Jobs
from ..jobs.trainer_setup import TrainerSetup
from ..loader.catalogue import Catalogue
from ..models.detect import ModelInfo
from ..rights import signals
from .access import Access
from .gpu import why_it_waits
from .loads import loads
from .rights_desk import Desk
from .uploads import Uploads


@dataclass(frozen=True, kw_only=True)
class Services:
    """``base_models`` lists the models that can be trained on, the usual choice first.

    ``regularisation`` gives pictures that keep what a base model knows, where we have some for it. ``loads`` says how
    much of a LoRA file the host's model takes, and whether that is all; ``refresh_adapters`` makes the host look for
    new files; ``comparison`` draws checkpoints side by side, where the host lets us draw; ``environment`` makes the
    trainer's, where that is not this very process's; ``previews`` draws samples for trainings, where the host keeps its
    model beside them; ``lease`` is the graphics card, lent to trainings.
    """

    jobs: Jobs
    uploads: Uploads
    catalogue: Catalogue
    base_models: Callable[[], Sequence[ModelInfo]]
    access: Access = field(default_factory=Access)
    # Made of ``jobs`` where none are given.
    queue: Queue = field(default=None)  # type: ignore[assignment]
    measuring: Measuring = field(default=None)  # type: ignore[assignment]
    desk: Desk = field(default=None)  # type: ignore[assignment]
    regularisation: Callable[[ModelInfo], Path | None] = lambda info: None
    loads: Callable[[Path], tuple[Message, bool]] | None = None
    refresh_adapters: Callable[[], None] = lambda: None
    comparison: Comparison | None = None
    environment: TrainerSetup | None = None
    previews: Previews | None = None
    lease: Lease | None = None

    def __post_init__(self) -> None:
        if self.queue is None:
            object.__setattr__(self, "queue", Queue(self.jobs))
        if self.measuring is None:
            object.__setattr__(self, "measuring", Measuring(self.jobs))
        if self.desk is None:
            object.__setattr__(self, "desk", Desk(self.uploads, self.jobs.data_dir))

    def start(self) -> None:
        """Let threads see to what waits and to what trainings want drawn."""
        self.queue.start()
        if self.previews is not None:
            self.previews.start()

    def end(self) -> None:
        """Let these threads end."""
        self.queue.end()
        if self.previews is not None:
            self.previews.end()


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
    previews = Previews(
        jobs,
        draw=lambda preview: host.picture(_drawing(preview)),
        is_ready=lambda model: _draws_beside(host, model),
        refresh=host.refresh_adapters,
    )
    return Services(
        jobs=jobs,
        # Our own host draws as the trainer does; two of the same models in memory would be for nothing.
        previews=previews if host.id != "embedded" else None,
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


def _draws_beside(host: Host, model: Path) -> bool:
    """Whether the host keeps its model while trainings go on, and that is the model which is trained on."""
    try:
        return host.lease.state()["mode"] == KEEP and host.current().path == model
    except ModelError:
        return False


def _drawing(preview: Preview) -> Drawing:
    return Drawing(**dataclasses.asdict(preview))
