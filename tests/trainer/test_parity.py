"""Twenty steps of ours beside twenty of sd-scripts: same inputs, same start, float32, one thread.

What sd-scripts' came to is in ``parity.json``, made by ``make_parity.py`` with the versions that it names.
"""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from diffusers import UNet2DConditionModel
from tests.trainer import parity_cases as cases

from lora_atelier.config import from_kohya
from lora_atelier.models import detect
from lora_atelier.models.layers import target_layers
from lora_atelier.models.load import Model
from lora_atelier.models.text import TextConditioning
from lora_atelier.trainer import losses, noise
from lora_atelier.trainer.batches import Place
from lora_atelier.trainer.loop import Loop
from lora_atelier.trainer.network import LoraNetwork
from lora_atelier.trainer.trainee import Batch, Example, Trainee

STORED = json.loads(Path(__file__).with_name("parity.json").read_text(encoding="utf-8"))["fingerprints"]
PINNED = "zero-terminal-snr-min-snr"


class Given(Loop):
    """The loop, with the inputs of each step given instead of drawn."""

    def _batch(self, places, number):
        given, loss = cases.step_inputs(number), self.config.loss
        noises = given["noise"]
        if loss.noise_offset:
            noises = noise.offset_noise(noises, given["offsets"], loss.noise_offset)
        masks = torch.nn.functional.interpolate(given["masks"][:, None], size=cases.LATENTS[2:], mode="area")
        return Batch(
            latents=given["latents"],
            noises=noises,
            timesteps=given["timesteps"],
            captions=[str(number)] * cases.BATCH,
            size=(64, 64),
            masks=masks if loss.masked_loss else None,
        )


class BothAtOnce:
    """A plan whose every batch has both pictures."""

    def batch(self, number):
        return [Place(0), Place(1)]

    def multiplier(self, number):
        return 1.0


def configured(case):
    """The case's options of kohya's as our configuration."""
    options = {
        **cases.PLAIN,
        **case.options,
        "optimizer_type": case.optimizer,
        "learning_rate": case.rate,
        "max_train_steps": cases.STEPS,
        "network_dim": cases.RANK,
        "network_alpha": cases.ALPHA,
        "masked_loss": case.masked,
    }
    if case.arguments:
        options["optimizer_args"] = list(case.arguments)
    return from_kohya({"all": options}, {"datasets": [{"subsets": [{"image_dir": "pictures"}]}]})


def trained(case, folder):
    """The fingerprint of what our trainer makes of a case."""
    config = configured(case)
    kind = "v_prediction" if config.model.v_parameterization else "epsilon"
    info = dataclasses.replace(detect.inspect(folder), prediction_type=kind)
    unet = UNet2DConditionModel(**cases.UNET).requires_grad_(False).eval()
    unet.load_state_dict({name: cases.frozen(name, value) for name, value in unet.state_dict().items()})
    network = LoraNetwork(target_layers(unet), config.network, seed=1)
    network.load(
        {
            name: cases.start(name, value) if name.endswith("lora_down.weight") else value
            for name, value in network.tensors(torch.float32).items()
        }
    )
    network.attach()
    network.train()
    alphas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000).square().neg().add(1).cumprod(0)
    if config.loss.zero_terminal_snr:
        alphas = losses.zero_terminal(alphas)
    groups = [{"params": list(network.parameters()), "lr": case.rate, "peak_lr": case.rate}]
    if case.optimizer == "SGD":
        optimizer = torch.optim.SGD(groups)
    else:
        settings = config.optimizer
        optimizer = torch.optim.AdamW(
            groups, betas=(settings.beta1, settings.beta2), weight_decay=settings.weight_decay
        )
    Given(
        config=config,
        trainee=Trainee(
            model=Model(info, {}, unet),
            network=network,
            optimizer=optimizer,
            accelerator=Accelerator(cpu=True),
            alphas_cumprod=alphas,
            condition=lambda captions: TextConditioning(cases.step_inputs(int(captions[0]))["context"]),
        ),
        examples=[Example(posteriors=(), caption="", size=(64, 64), weight=weight) for weight in cases.WEIGHTS],
        plan=BothAtOnce(),
        report=lambda event: None,
        warn=lambda said: None,
        peak_memory=lambda: 0,
    ).run(until=lambda step: False)
    return cases.fingerprint(network.tensors(torch.float32))


def distance(name, folder):
    """‖ΔW − ΔW′‖ / ‖ΔW′‖ of ours and sd-scripts'."""
    theirs = torch.tensor(STORED[name], dtype=torch.float64)
    assert theirs.norm() > 1e-3, "nothing was learned: this would prove nothing"
    return float((trained(cases.CASES[name], folder) - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("name", [name for name in cases.CASES if name != PINNED])
def test_twenty_steps_come_to_what_they_come_to_in_sd_scripts(name, tiny_model_folder):
    assert distance(name, tiny_model_folder) <= cases.CASES[name].tolerance


def test_min_snr_weighs_by_the_schedule_in_use_where_sd_scripts_takes_the_one_before(tiny_model_folder):
    assert distance(PINNED, tiny_model_folder) > 1e-2
