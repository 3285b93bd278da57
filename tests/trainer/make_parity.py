"""Make ``parity.json`` with sd-scripts itself, in its own environment:

    path/to/its/python tests/trainer/make_parity.py path/to/sd-scripts

Its training step, network, losses, optimizers and schedules run unchanged; the constants of its U-Net, which make it a
tiny one, and the functions that draw random numbers are replaced from outside.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import parity_cases as cases  # noqa: E402


def main(checkout):
    torch.set_num_threads(1)
    sys.path[0] = str(checkout)
    from importlib import import_module

    sys.path.insert(0, str(HERE.parents[1] / "extension" / "lora_atelier" / "engines"))
    import_module("kohya_launch")._make_torchvision_importable()
    del sys.path[0]
    made = {name: train(case) for name, case in cases.CASES.items()}
    commit = subprocess.run(["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    said = {"made_by": "make_parity.py", "sd-scripts": commit, "torch": torch.__version__, "fingerprints": made}
    (HERE / "parity.json").write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


def unet():
    from library import original_unet

    original_unet.BLOCK_OUT_CHANNELS = cases.UNET["block_out_channels"]
    original_unet.TIMESTEP_INPUT_DIM = cases.UNET["block_out_channels"][0]
    original_unet.TIME_EMBED_DIM = cases.UNET["block_out_channels"][0] * 4
    original_unet.LAYERS_PER_BLOCK = cases.UNET["layers_per_block"]
    original_unet.LAYERS_PER_BLOCK_UP = cases.UNET["layers_per_block"] + 1
    original_unet.NORM_GROUPS = original_unet.TRANSFORMER_NORM_NUM_GROUPS = cases.UNET["norm_num_groups"]
    original_unet.DOWN_BLOCK_TYPES = cases.UNET["down_block_types"]
    original_unet.UP_BLOCK_TYPES = cases.UNET["up_block_types"]
    made = original_unet.UNet2DConditionModel(
        sample_size=cases.UNET["sample_size"],
        attention_head_dim=cases.UNET["attention_head_dim"],
        cross_attention_dim=cases.CONTEXT,
        use_linear_projection=False,
        upcast_attention=False,
    )
    made.load_state_dict({name: cases.frozen(name, value) for name, value in made.state_dict().items()})
    made.set_use_sdpa(True)
    return made.requires_grad_(False)


def train(case):
    import train_network
    from accelerate import Accelerator
    from library import train_util
    from networks import lora

    args = train_network.setup_parser().parse_args([])
    options = {**cases.PLAIN, **case.options}
    for name, value in options.items():
        setattr(args, name, value)
    args.optimizer_type = case.optimizer
    args.optimizer_args = list(case.arguments) or None
    args.learning_rate = args.unet_lr = case.rate
    args.max_train_steps = cases.STEPS
    trainer, accelerator, model = train_network.NetworkTrainer(), Accelerator(cpu=True), unet()
    trainer.vae_scale_factor = 1.0  # the latents are scaled already
    network = lora.create_network(1.0, cases.RANK, cases.ALPHA, None, [torch.nn.Module()], model)
    network.apply_to([torch.nn.Module()], model, apply_text_encoder=False, apply_unet=True)
    network.load_state_dict(
        {
            name: cases.start(name, value) if name.endswith("lora_down.weight") else value
            for name, value in network.state_dict().items()
        }
    )
    network.requires_grad_(True)
    groups, _ = network.prepare_optimizer_params(None, case.rate, case.rate)
    _, _, optimizer = train_util.get_optimizer(args, groups)
    schedule = train_util.get_scheduler_fix(args, optimizer, 1)
    network, optimizer, schedule = accelerator.prepare(network, optimizer, schedule)
    noises = trainer.get_noise_scheduler(args, accelerator.device)
    for number in range(cases.STEPS):
        given = cases.step_inputs(number)
        batch = {
            "latents": given["latents"],
            "text_encoder_outputs_list": [given["context"]],
            "loss_weights": torch.tensor(cases.WEIGHTS),
        }
        if case.masked:
            batch["alpha_masks"] = given["masks"]
        with Drawn(given):
            loss = trainer.process_batch(
                batch, [], model, network, None, noises, None, torch.float32, accelerator, args, None, None,
                train_text_encoder=False,
            )  # fmt: skip
        accelerator.backward(loss)
        if args.max_grad_norm:
            accelerator.clip_grad_norm_(network.get_trainable_params(), args.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
    return cases.fingerprint(network.state_dict()).tolist()


class Drawn:
    """Within, torch's draws are those of the step."""

    def __init__(self, given):
        self.replaced = {
            "randn_like": lambda *_, **__: given["noise"],
            "randn": lambda *_, **__: given["offsets"],
            "randint": lambda *_, **__: given["timesteps"],
        }

    def __enter__(self):
        self.kept = {name: getattr(torch, name) for name in self.replaced}
        for name, function in self.replaced.items():
            setattr(torch, name, function)

    def __exit__(self, *_):
        for name, function in self.kept.items():
            setattr(torch, name, function)


if __name__ == "__main__":
    main(sys.argv[1])
