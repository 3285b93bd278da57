"""Train all weights of a run's U-Net instead of an adapter: ``learning_full.py RUN_DIR``.

Everything else is the run's: pictures, captions, caches, noise, timesteps, schedule, optimizer, measurements. What it
writes into its LoRA folder is the whole U-Net, by its own names.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "extension"))

import torch
from torch import Tensor, nn

from lora_atelier.models.load import Model
from lora_atelier.models.sample import DEFAULT_SAMPLER, scheduler
from lora_atelier.models.text import TextConditioning
from lora_atelier.trainer import optimizers, session
from lora_atelier.trainer.run import Run, run
from lora_atelier.trainer.trainee import Trainee


class WholeUnet(nn.Module):
    """What the trainer asks of a network, answered by the U-Net itself."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self._unet = [unet]  # in a list: to train and to evaluate is the network's, and the U-Net has no such states

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """The U-Net's."""
        return self._unet[0].parameters(recurse)

    def begin(self, number: int, *, multiplier: float = 1.0) -> None:
        """Nothing is drawn."""

    def tensors(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """All weights."""
        return {key: tensor.detach().to("cpu", dtype).contiguous() for key, tensor in self._unet[0].named_parameters()}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take what ``tensors`` gave."""
        for key, parameter in self._unet[0].named_parameters():
            parameter.copy_(tensors[key])


def build(this: Run, model: Model, accelerator: Any, condition: Callable[[Sequence[str]], TextConditioning]) -> Trainee:
    """As ``trainer.building.build``, with the U-Net's own weights."""
    config = this.config
    model.unet.requires_grad_(True)
    network: Any = WholeUnet(model.unet)
    groups = [{"params": list(network.parameters()), "lr": config.optimizer.learning_rate}]
    optimizer = accelerator.prepare(optimizers.make(groups, config.optimizer))
    alphas = scheduler(model, DEFAULT_SAMPLER).alphas_cumprod.float().cpu()
    return Trainee(model, network, optimizer, accelerator, alphas, condition)


if __name__ == "__main__":
    session.build = build
    raise SystemExit(run(Path(sys.argv[1])))
