"""The U-Net of a training's steps through torch.compile; what is measured and drawn stays with the U-Net itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..config import TrainConfig
from ..errors import Message, message

# Each bucket and each short last batch is a shape of its own, compiled once; torch's limit of 8 is soon reached.
_MOST_SHAPES = 64
# Backends that replay recorded graphs: torch must be told where a step begins.
_WITH_GRAPHS = ("cudagraphs", "inductor")


class CompiledUnet:
    """Answers as ``unet`` does, compiled by one of torch's backends when it is first called with a shape.

    Where the compiler is missing or fails, ``warn`` is told once and the U-Net itself answers from then on: a training
    never fails by what was to make it faster.
    """

    def __init__(self, unet: nn.Module, backend: str, warn: Callable[[Message], None]) -> None:
        import torch._dynamo

        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MOST_SHAPES)
        self._unet, self._warn, self._backend = unet, warn, backend
        self._compiled: Callable[..., Any] = torch.compile(unet, backend=backend, dynamic=False)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """What the U-Net answers."""
        if self._compiled is self._unet:
            return self._unet(*arguments, **named)
        if self._backend in _WITH_GRAPHS:
            torch.compiler.cudagraph_mark_step_begin()
        try:
            return self._compiled(*arguments, **named)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a compiler raises; what the U-Net itself raises, it raises again below
            self._compiled = self._unet
            answer = self._unet(*arguments, **named)
            self._warn(
                message(
                    "The U-Net can't be compiled here ({reason}); the training goes on without. Remove torch_compile, "
                    "or install a compiler that PyTorch knows.",
                    reason=_first_line(error),
                )
            )
            return answer


def compiled_unet(config: TrainConfig, unet: nn.Module, warn: Callable[[Message], None]) -> CompiledUnet | None:
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
    if config.memory.dynamo_backend == "inductor" and next(unet.parameters()).device.type == "cpu":
        # torch 2.13, batches of one picture: gradients of some layers were not those of the U-Net itself.
        warn(
            message(
                "The U-Net is not compiled: on a processor PyTorch's inductor can give wrong gradients. Choose "
                "dynamo_backend = aot_eager, or remove torch_compile. The LoRA is the same."
            )
        )
        return None
    return CompiledUnet(unet, config.memory.dynamo_backend, warn)


def _first_line(error: Exception) -> str:
    said = str(error).strip().splitlines()
    return said[0].rstrip(".") if said else type(error).__name__
