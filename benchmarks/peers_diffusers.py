"""diffusers with PEFT on the benchmark's model; ``loader.py`` starts this.

Two ways to use it: fused into the weights, which a change must take out and put in again, and beside the layers.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import peers_common
import torch
from peers_common import cpu_and_wall, forward_pass, hand_over, load_model, measure, medians

from lora_atelier.models.load import Model, empty_unet


def pipeline(model: Model) -> Any:
    """diffusers' own pipeline around the model's modules."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=None,
        text_encoder=model.text_encoders[0],
        tokenizer=None,
        unet=model.unet,
        scheduler=DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


class PeftLoader:
    """A pipeline's LoRA functions behind the steps that all loaders are taken through."""

    def __init__(self, pipe: Any, folder: Path, *, fused: bool) -> None:
        self._pipe, self._folder, self._fused = pipe, folder, fused
        self._opened: list[str] = []
        self._is_fused = False

    def open(self, name: str) -> None:
        """Read the file and put its layers beside the model's."""
        self._pipe.load_lora_weights(self._folder / f"{name}.safetensors", adapter_name=name)
        self._opened.append(name)

    def use(self, *calls: tuple[str, float]) -> None:
        """Take out what is fused, set the weights, fuse again; without a call unload."""
        if self._is_fused:
            self._pipe.unfuse_lora()
            self._is_fused = False
        if not calls:
            self._pipe.unload_lora_weights()
            self._opened.clear()
            return
        for name, _ in calls:
            if name not in self._opened:
                self.open(name)
        self._pipe.set_adapters([name for name, _ in calls], [weight for _, weight in calls])
        if self._fused:
            self._pipe.fuse_lora(adapter_names=[name for name, _ in calls])
            self._is_fused = True


def forward(pipe: Any, folder: Path, repeats: int) -> dict[str, float]:
    """CPU seconds of a forward pass: plain, with a LoRA beside the layers, and with it fused."""
    torch.set_num_threads(1)
    # The same weights in modules that PEFT has not wrapped.
    plain = empty_unet(dict(pipe.unet.config))
    plain.load_state_dict(pipe.unet.state_dict(), assign=True)
    plain_pass, wrapped_pass = forward_pass(plain), forward_pass(pipe.unet)
    loader = PeftLoader(pipe, folder, fused=False)
    loader.open("a")
    loader.use(("a", 0.8))
    plain_pass()
    wrapped_pass()
    rounds = []
    for _ in range(repeats):
        seconds = {"plain": cpu_and_wall(plain_pass)[0], "un-fused": cpu_and_wall(wrapped_pass)[0]}
        pipe.fuse_lora(adapter_names=["a"])
        seconds["fused"] = cpu_and_wall(wrapped_pass)[0]
        pipe.unfuse_lora()
        rounds.append(seconds)
    return medians(rounds)


def main() -> int:
    told = peers_common.arguments(__doc__)
    pipe = pipeline(load_model(told.work, told.dtype))
    folder = told.work / "loras"
    if told.job == "forward":
        hand_over({"forward": forward(pipe, folder, told.repeats)})
    else:
        hand_over(measure(PeftLoader(pipe, folder, fused=told.job == "fused"), told.repeats))
    return 0


if __name__ == "__main__":
    sys.exit(main())
