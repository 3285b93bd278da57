"""A step where the model is not on the processor: torch's meta device has no numbers, and mixes with no other."""

import contextlib

import pytest
import torch

from lora_atelier.config import LossConfig, NetworkConfig, OptimizerConfig, TrainConfig
from lora_atelier.models.load import load
from lora_atelier.models.text import TextConditioning
from lora_atelier.trainer import optimizers
from lora_atelier.trainer.averaging import Average
from lora_atelier.trainer.batches import BatchPlan, Sight
from lora_atelier.trainer.groups import parameter_groups
from lora_atelier.trainer.loop import Loop
from lora_atelier.trainer.network import LoraNetwork
from lora_atelier.trainer.targets import trained_layers
from lora_atelier.trainer.trainee import Example, Trainee

CARD = torch.device("meta")
LOSSES = {
    "plain": LossConfig(),
    "all": LossConfig(loss_type="huber", min_snr_gamma=5.0, noise_offset=0.1, ip_noise_gamma=0.1),
}


class Accelerator:
    """What a step asks of accelerate's, on the card."""

    device = CARD

    def autocast(self):
        return contextlib.nullcontext()

    def backward(self, loss):
        loss.backward()

    def clip_grad_norm_(self, parameters, most):
        return torch.nn.utils.clip_grad_norm_(parameters, most)

    def unscale_gradients(self):
        pass


def a_loop(folder, config):
    model = load(folder, ("unet",))
    model.unet.to(CARD).requires_grad_(False)
    network = LoraNetwork(trained_layers(model, config.network), config.network, seed=1)
    network.attach()
    network.train()
    width = model.unet.config.cross_attention_dim

    def condition(captions):
        return TextConditioning(torch.empty(len(captions), 77, width, device=CARD))

    optimizer = optimizers.make(parameter_groups(network, config), config.optimizer)
    average = Average(network.parameters(), config.optimizer.ema_decay)
    trainee = Trainee(
        model, network, optimizer, Accelerator(), torch.linspace(0.999, 0.01, 1000), condition, average
    )  # fmt: skip
    posteriors = (torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8))
    examples = [
        Example(posteriors, "a", (64, 64), loss_mask=torch.ones(1, 8, 8), preserved=preserved)
        for preserved in (False, True)
    ]
    plan = BatchPlan([Sight((64, 64), mirror_rate=0.5, batch_size=2)] * 2, seed=1)
    return Loop(config, trainee, examples, plan, report=pytest.fail, peak_memory=int, warn=pytest.fail)


@pytest.mark.parametrize(
    ("algorithm", "loss"),
    [("lora", "plain"), *((name, "all") for name in ("lora", "dora", "dylora", "loha", "lokr", "oft", "ia3"))],
)
def test_a_step_mixes_no_devices(tiny_model_folder, monkeypatch, algorithm, loss):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # the meta device knows none
    network = NetworkConfig(
        rank=4, alpha=2.0, algorithm=algorithm, scale_weight_norms=1.0, rank_dropout=0.1 if loss == "all" else 0.0
    )  # fmt: skip
    config = TrainConfig(network=network, loss=LOSSES[loss], optimizer=OptimizerConfig(ema_decay=0.9))
    loop = a_loop(tiny_model_folder, config)

    for _ in range(2):
        made = loop._optimize()
        loop.step += 1

    assert made.loss.device == made.norm.device == loop._sizes().device == CARD
