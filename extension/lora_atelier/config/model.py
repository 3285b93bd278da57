"""The base model that the adapter is trained on, and how its text encoder and VAE are used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import Problem, problem
from .setting import SAME, checked, setting


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The base model that the adapter is trained on."""

    base_model: str = setting(
        "",
        "Base model",
        "A .safetensors checkpoint or a diffusers folder.",
        kohya="pretrained_model_name_or_path",
    )
    v2: bool = setting(False, "Stable Diffusion 2", "The base model is SD 2.x.", kohya=SAME)
    v_parameterization: bool = setting(
        False, "v-prediction", "The base model predicts velocity instead of noise.", kohya=SAME
    )
    vae: str = setting("", "Other VAE", "A VAE that is used instead of the base model's own.", kohya=SAME)
    no_half_vae: bool = setting(
        False, "VAE in float32", "Encode the pictures in full precision; some VAEs fail in fp16.", kohya=SAME
    )
    clip_skip: int = setting(
        0,
        "CLIP skip",
        "2 leaves out the text encoder's last layer, 0 and 1 leave out none; SDXL always leaves one out.",
        kohya=SAME,
        least=0,
        most=12,
    )
    max_token_length: int = setting(
        75,
        "Longest caption",
        "Tokens that a caption may have; what is longer is cut.",
        kohya=SAME,
        choices=(75, 150, 225),
    )
    base_weights: tuple[str, ...] = setting(
        (), "LoRAs in the base", "LoRA files that are merged into the base model before the training.", kohya=SAME
    )
    base_weights_multiplier: tuple[float, ...] = setting(
        (), "Their weights", "One number for each of those LoRAs; 1 where there is none.", kohya=SAME
    )

    def problems(self) -> Iterator[Problem]:
        """Yield everything that is wrong with these settings."""
        if not self.base_model:
            yield problem("model.base_model", "No base model is chosen. Choose the model to train on.")
        yield from checked("model", self)
        if len(self.base_weights_multiplier) > len(self.base_weights):
            yield problem(
                "model.base_weights_multiplier",
                "There are {numbers} weights for {files} LoRAs; give one for each.",
                numbers=len(self.base_weights_multiplier),
                files=len(self.base_weights),
            )
