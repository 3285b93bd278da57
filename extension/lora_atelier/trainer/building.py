"""What is trained, made from the settings: the network beside the model's layers, its optimizer, its average."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..config import TrainConfig
from ..models.load import Model
from ..models.sample import DEFAULT_SAMPLER, scheduler
from ..models.text import TextConditioning
from . import losses, optimizers, schedules
from .averaging import Average
from .compiling import compiled_unet
from .groups import parameter_groups
from .metadata import thumbnail
from .network import LoraNetwork
from .run import Run
from .sizes import stored_sizes
from .starting import read_start, start_from
from .targets import trained_layers
from .trainee import Trainee


def build(this: Run, model: Model, accelerator: Any, condition: Callable[[Sequence[str]], TextConditioning]) -> Trainee:
    """The adapter of ``this`` run, attached to ``model`` and ready for its first step.

    Raises ConfigError where the optimizer can't be had, or the LoRA to start from does not fit.
    """
    config = this.config
    if config.schedule.gradient_checkpointing:
        model.unet.enable_gradient_checkpointing()
        model.unet.train()  # diffusers checkpoints only while training; nothing in it behaves otherwise differently
    start = read_start(config.network)
    sizes = stored_sizes(start) if config.network.dim_from_weights else None
    network = LoraNetwork(trained_layers(model, config.network), config.network, seed=config.schedule.seed, sizes=sizes)
    start_from(network, start, config.network)
    if config.memory.full_bf16:
        network.to(torch.bfloat16)
    network.attach()
    network.train()
    optimizer = accelerator.prepare(_optimizer(this, network))
    decay = config.optimizer.ema_decay
    average = Average(network.parameters(), decay) if decay else None
    compiled = compiled_unet(config, model.unet, network, this.warn)
    return Trainee(model, network, optimizer, accelerator, _alphas(model, config), condition, average, compiled)


def require(config: TrainConfig) -> None:
    """Raise ConfigError or AdapterError for what can't be had or read, before anything of the model is read."""
    optimizers.described(config.optimizer)
    schedules.factor(0, config.schedule, learning_rate=config.optimizer.learning_rate)
    read_start(config.network)
    if config.output.metadata_thumbnail:
        thumbnail(config.output.metadata_thumbnail)


def _optimizer(this: Run, network: LoraNetwork) -> torch.optim.Optimizer:
    settings = this.config.optimizer
    groups, said = optimizers.with_one_rate(parameter_groups(network, this.config), settings)
    if said is not None:
        this.warn(said)
    return optimizers.make(groups, settings)


def _alphas(model: Model, config: TrainConfig) -> Tensor:
    """Share of signal at each of the 1000 timesteps, (1000,), on the CPU."""
    found: Tensor = scheduler(model, DEFAULT_SAMPLER).alphas_cumprod
    alphas = found.float().cpu()
    return losses.zero_terminal(alphas) if config.loss.zero_terminal_snr else alphas
