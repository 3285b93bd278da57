"""Text -> pictures: the samplers that webuis offer, over diffusers' schedulers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..errors import HostError, Message, message
from .load import Model, libraries
from .text import TextConditioning

# What each sampler is in diffusers: module, class, options. "leading" and "linspace" are where a few steps are taken
# from the 1000 of training: DDIM's own code leads, k-diffusion spaces evenly from the last to the first.
_DPM = ("scheduling_dpmsolver_multistep", "DPMSolverMultistepScheduler")
SAMPLERS: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "DDIM": ("scheduling_ddim", "DDIMScheduler", {"timestep_spacing": "leading"}),
    "Euler": ("scheduling_euler_discrete", "EulerDiscreteScheduler", {"timestep_spacing": "linspace"}),
    "Euler a": (
        "scheduling_euler_ancestral_discrete",
        "EulerAncestralDiscreteScheduler",
        {"timestep_spacing": "linspace"},
    ),
    "Heun": ("scheduling_heun_discrete", "HeunDiscreteScheduler", {"timestep_spacing": "linspace"}),
    "DPM2": ("scheduling_k_dpm_2_discrete", "KDPM2DiscreteScheduler", {"timestep_spacing": "linspace"}),
    "DPM++ 2M": (*_DPM, {"timestep_spacing": "linspace"}),
    "DPM++ 2M Karras": (*_DPM, {"timestep_spacing": "linspace", "use_karras_sigmas": True}),
    "DPM++ 2M SDE": (*_DPM, {"timestep_spacing": "linspace", "algorithm_type": "sde-dpmsolver++"}),
    "DPM++ 2M SDE Karras": (
        *_DPM,
        {"timestep_spacing": "linspace", "algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True},
    ),
    "UniPC": ("scheduling_unipc_multistep", "UniPCMultistepScheduler", {"timestep_spacing": "linspace"}),
    "PNDM": ("scheduling_pndm", "PNDMScheduler", {"timestep_spacing": "leading", "skip_prk_steps": True}),
}
DEFAULT_SAMPLER = "DDIM"
# Pictures above this many pixels in all are decoded one after the other: the VAE, not the U-Net, needs most memory.
_DECODE_PIXELS = 1 << 20

OnStep = Callable[[int, int], None]


class SamplingCancelledError(Exception):
    """Raised by an ``on_step`` callback to end sampling; ``sample`` lets it pass."""


@dataclass(frozen=True, kw_only=True)
class Txt2Img:
    """What to draw: one picture for each of ``seeds``; ``prompts`` has one text for all of them or one for each."""

    prompts: Sequence[str]
    negative_prompt: str = ""
    steps: int = 20
    sampler: str = DEFAULT_SAMPLER
    cfg_scale: float = 7.0
    width: int = 512
    height: int = 512
    seeds: Sequence[int] = field(default=(0,))
    clip_skip: int | None = None

    def problem(self) -> Message | None:
        """The first thing about the request that can't be done, or None."""
        if self.sampler not in SAMPLERS:
            return message(
                "There is no sampler “{sampler}”; there are {names}.", sampler=self.sampler, names=", ".join(SAMPLERS)
            )
        if not 1 <= self.steps <= 150:
            return message("Steps are {steps}; they must be 1 to 150.", steps=self.steps)
        for side in (self.width, self.height):
            if side % 8 or not 64 <= side <= 4096:
                return message(
                    "The size is {width}×{height}; both must be multiples of 8 from 64 to 4096.",
                    width=self.width,
                    height=self.height,
                )
        if len(self.prompts) not in (1, len(self.seeds)):
            return message("The number of prompts and of seeds differ.")
        return None


def scheduler(model: Model, sampler: str) -> Any:
    """Return the diffusers scheduler of a sampler for this model's noise schedule and prediction type."""
    module_name, class_name, options = SAMPLERS[sampler]
    with libraries():
        module = __import__(f"diffusers.schedulers.{module_name}", fromlist=[class_name])
    cls = getattr(module, class_name)
    config = {**model.scheduler_config, **options}
    if config.get("rescale_betas_zero_snr") or model.scheduler_config.get("timestep_spacing") == "trailing":
        # A schedule that ends in pure noise must be started there (Lin et al. 2023, section 3.4), and a model that
        # says so itself was made for it.
        config["timestep_spacing"] = "trailing"
    known = inspect.signature(cls.__init__).parameters
    return cls.from_config({key: value for key, value in config.items() if key in known})


@torch.no_grad()
def sample(
    model: Model,
    request: Txt2Img,
    *,
    on_step: OnStep | None = None,
    on_problem: Callable[[Message], object] | None = None,
) -> list[Image.Image]:
    """Return the pictures, one for each seed.

    The noise of a picture depends on its seed alone and is drawn on the CPU, so that it is the same in any batch and
    on any device; torch's global random state is not touched. ``on_step(step, steps)`` is called after each step and
    may raise ``SamplingCancelledError``; ``on_problem`` is told if a picture came out black because the model's numbers
    overflowed. Raises HostError for a request that can't be done.
    """
    problem = request.problem()
    if problem:
        values: dict[str, Any] = dict(problem.values)
        raise HostError(problem.template, **values)
    latents = _sample_latents(model, request, on_step)
    batch = max(1, _DECODE_PIXELS // (request.width * request.height))
    pixels = torch.cat([model.decode(part) for part in latents.split(batch)])
    if on_problem is not None and not torch.isfinite(pixels).all():
        on_problem(
            message(
                "A picture came out black: numbers overflowed in {precision}. Lower the weight of its LoRAs or the CFG "
                "scale, or use float32.",
                precision=str(model.unet.dtype).removeprefix("torch."),
            )
        )
    return [_image(picture) for picture in pixels.nan_to_num(0.0)]


def _sample_latents(model: Model, request: Txt2Img, on_step: OnStep | None) -> Tensor:
    """The finished latents (b, 4, h/8, w/8), scaled; b seeds."""
    unet, count = model.unet, len(request.seeds)
    guided = request.cfg_scale != 1.0
    text = _conditioning(model, request, guided)
    generators = [torch.Generator("cpu").manual_seed(int(seed) % (1 << 63)) for seed in request.seeds]
    shape = (unet.config.in_channels, request.height // 8, request.width // 8)
    noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
    steps = scheduler(model, request.sampler)
    steps.set_timesteps(request.steps, device=unet.device)
    # The state between steps stays in float32: half precision would round it 20 times.
    latents = noise.to(unet.device) * steps.init_noise_sigma
    extra = {"generator": generators} if "generator" in inspect.signature(steps.step).parameters else {}
    total = len(steps.timesteps)
    for number, timestep in enumerate(steps.timesteps):
        doubled = torch.cat([latents, latents]) if guided else latents
        doubled = steps.scale_model_input(doubled, timestep).to(unet.dtype)
        timesteps = timestep.expand(len(doubled))
        predicted = model.prediction(doubled, timesteps, text, size=(request.width, request.height)).float()
        if guided:
            # Ho & Salimans 2022, Classifier-Free Diffusion Guidance, eq. 6, with scale = 1 + w.
            negative, positive = predicted.split(count)
            predicted = negative + request.cfg_scale * (positive - negative)
        latents = steps.step(predicted, timestep, latents, return_dict=False, **extra)[0]
        if on_step is not None:
            on_step(number + 1, total)
    return latents


def _conditioning(model: Model, request: Txt2Img, guided: bool) -> TextConditioning:
    """The texts' conditioning, negative first (2b, n, c) where there is guidance, else (b, n, c)."""
    count = len(request.seeds)
    texts = list(request.prompts) if len(request.prompts) == count else list(request.prompts) * count
    distinct = list(dict.fromkeys([request.negative_prompt, *texts] if guided else texts))
    encoded = model.encode(distinct, request.clip_skip, windows=None)
    order = [distinct.index(text) for text in ([request.negative_prompt] * count if guided else []) + texts]
    pooled = encoded.pooled[order] if encoded.pooled is not None else None
    return TextConditioning(encoded.context[order].to(model.unet.dtype), pooled)


def _image(pixels: Tensor) -> Image.Image:
    """The picture of pixels (3, h, w), 0 to 1."""
    return Image.fromarray((pixels * 255).round().to("cpu", torch.uint8).permute(1, 2, 0).numpy(), "RGB")
