"""The U-Net of a training's steps through torch.compile; what is measured and drawn stays with the U-Net itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..config import TrainConfig
from ..errors import Message, message
from .network import LoraNetwork

# Each bucket and each short last batch is a shape of its own, compiled once; torch's limit of 8 is soon reached.
_MOST_SHAPES = 64
# Backends that replay recorded graphs: torch must be told where a step begins.
_WITH_GRAPHS = ("cudagraphs", "inductor")
# How far, as a share of their length, the gradients of two orders of the same sums may lie apart.
_APART, _APART_IN_HALF = 0.01, 0.1


class WrongGradientsError(Exception):
    """What a compiler made has other gradients than what it was made of."""


class CompiledUnet:
    """Answers as ``unet`` does, compiled by one of torch's backends when it is first called with a shape.

    With each new shape the gradients of ``parameters`` are compared with the U-Net's own, unless ``draws`` says that
    something is drawn in between (dropout, which compilers draw in their own way): torch 2.13's inductor gives wrong
    ones on a processor at batch 1. Where they differ, or the compiler is missing or fails, ``warn`` is told once and
    the U-Net itself answers from then on: a training never fails by what was to make it faster.
    """

    def __init__(
        self,
        unet: nn.Module,
        backend: Any,
        parameters: Sequence[nn.Parameter],
        warn: Callable[[Message], None],
        *,
        draws: bool = False,
    ) -> None:
        import torch._dynamo

        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MOST_SHAPES)
        self._unet, self._backend, self._warn = unet, backend, warn
        self._parameters, self._draws = list(parameters), draws
        self._compiled: Callable[..., Any] = torch.compile(unet, backend=backend, dynamic=False)
        self._tried: set[tuple[torch.Size, ...]] = set()
        self._is_given_up = False

    def __call__(self, latents: Tensor, *arguments: Any, **named: Any) -> Any:
        """What the U-Net answers to latents (b, 4, h, w) and the rest of its arguments."""
        if self._is_given_up:
            return self._unet(latents, *arguments, **named)
        shape = latents.shape, *(each.shape for each in named.values() if isinstance(each, Tensor))
        try:
            if shape not in self._tried:
                self._try(latents, *arguments, **named)
                self._tried.add(shape)
            return self._answer(latents, *arguments, **named)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a compiler raises; what the U-Net itself raises, it raises again below
            self._is_given_up = True
            answer = self._unet(latents, *arguments, **named)
            self._warn(self._why(error))
            return answer

    def _answer(self, *arguments: Any, **named: Any) -> Any:
        if self._backend in _WITH_GRAPHS:
            torch.compiler.cudagraph_mark_step_begin()
        return self._compiled(*arguments, **named)

    def _try(self, latents: Tensor, *arguments: Any, **named: Any) -> None:
        """Compile both ways, forward and backward, and compare. Raises WrongGradientsError."""
        devices = [latents.device] if latents.is_cuda else []
        with torch.random.fork_rng(devices):  # the step's own draws are the same whether it was tried before or not
            made = self._gradients(self._answer, latents, *arguments, **named)
            if self._draws:
                return
            wanted = self._gradients(self._unet, latents, *arguments, **named)
        difference = torch.stack(torch._foreach_norm(torch._foreach_sub(made, wanted))).norm()
        limit = _APART if _is_full(latents) else _APART_IN_HALF
        # Not the other way round: a gradient that is no number is wrong as well.
        if not bool(difference <= limit * torch.stack(torch._foreach_norm(wanted)).norm()):
            raise WrongGradientsError

    def _gradients(self, unet: Callable[..., Any], *arguments: Any, **named: Any) -> list[Tensor]:
        """Of the mean square of the answer; copies, because recorded graphs write theirs again."""
        loss = unet(*arguments, **named)[0].float().square().mean()
        found = torch.autograd.grad(loss, self._parameters, allow_unused=True, materialize_grads=True)
        return [gradient.float().clone() for gradient in found]

    def _why(self, error: Exception) -> Message:
        if isinstance(error, WrongGradientsError):
            return message(
                "The U-Net is not compiled: what “{backend}” makes of it has other gradients than the U-Net itself. "
                "Choose another dynamo_backend, or remove torch_compile. The LoRA is the same.",
                backend=str(self._backend),
            )
        return message(
            "The U-Net can't be compiled here ({reason}); the training goes on without. Remove torch_compile, "
            "or install a compiler that PyTorch knows.",
            reason=_first_line(error),
        )


def compiled_unet(
    config: TrainConfig, unet: nn.Module, network: LoraNetwork, warn: Callable[[Message], None]
) -> CompiledUnet | None:
    """The compiled U-Net that ``config`` asks for; None where it asks for none, or where ``warn`` is told why not."""
    if not config.memory.torch_compile:
        return None
    if config.network.module_dropout or config.network.algorithm == "dylora":
        # Each set of layers that are left out would be a program of its own.
        warn(
            message(
                "The U-Net is not compiled: with module_dropout or DyLoRA other layers take part at each step. The "
                "LoRA is the same."
            )
        )
        return None
    draws = bool(config.network.dropout or config.network.rank_dropout)
    return CompiledUnet(unet, config.memory.dynamo_backend, list(network.parameters()), warn, draws=draws)


def _is_full(latents: Tensor) -> bool:
    """Whether what is computed with them is in float32."""
    kind = latents.device.type
    return latents.dtype == torch.float32 and not torch.is_autocast_enabled(kind)


def _first_line(error: Exception) -> str:
    said = str(error).strip().splitlines()
    return said[0].rstrip(".") if said else type(error).__name__
