"""Twenty training steps from inputs that any program with torch can make again; see ``make_parity.py``.

Every number is drawn on the CPU by a generator whose seed stands for what it is, so that neither program's own draws
matter. Imports nothing of ours: the environment of sd-scripts reads it too.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

import torch

STEPS, BATCH, RANK, ALPHA = 20, 2, 4, 2.0
LATENTS, TOKENS, CONTEXT = (BATCH, 4, 8, 8), 77, 32
# The second picture counts half, as a regularisation picture would.
WEIGHTS = (1.0, 0.5)
# A tiny U-Net of the real classes.
UNET = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": CONTEXT,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
SGD, ADAMW = 1e-5, 1e-3


@dataclass(frozen=True)
class Case:
    """``options`` are kohya's; ``rate`` the learning rate; the difference allowed is the optimizer's."""

    optimizer: str = "AdamW"
    rate: float = 1e-2
    options: dict = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    masked: bool = False

    @property
    def tolerance(self):
        return SGD if self.optimizer == "SGD" else ADAMW


def sgd(**options):
    return Case("SGD", 2.0, options)


CASES = {
    "plain-sgd": sgd(),
    "plain-adamw": Case(),
    "velocity-sgd": sgd(v_parameterization=True),
    "velocity-adamw": Case(options={"v_parameterization": True}),
    "min-snr": sgd(min_snr_gamma=5.0),
    "velocity-min-snr": sgd(min_snr_gamma=5.0, v_parameterization=True),
    "debiased": sgd(debiased_estimation_loss=True),
    "huber": sgd(loss_type="huber"),
    "huber-exponential": sgd(loss_type="huber", huber_schedule="exponential"),
    "smooth-l1": sgd(loss_type="smooth_l1", huber_schedule="constant"),
    "l1": sgd(loss_type="l1"),
    "offset-noise": sgd(noise_offset=0.1),
    "masks": Case("SGD", 2.0, {}, masked=True),
    "clipping": sgd(max_grad_norm=0.01),
    "weight-decay": Case(arguments=("weight_decay=0.1", "betas=0.9,0.99")),
    # Without a warm-up: sd-scripts begins one at a learning rate of 0, ours does not lose that step.
    "cosine": Case(options={"lr_scheduler": "cosine"}),
    # sd-scripts weighs by the schedule as it was before; ours by that which is trained with.
    "zero-terminal-snr-min-snr": sgd(zero_terminal_snr=True, min_snr_gamma=5.0, v_parameterization=True),
}
# sd-scripts takes a gradient's norm down to 1 unless it is told otherwise.
PLAIN = {"max_grad_norm": 1.0, "lr_scheduler": "constant", "loss_type": "l2"}


def normal(shape, *key):
    """Standard normal numbers that stand for ``key``."""
    return torch.randn(tuple(shape), generator=_generator(*key))


def _generator(*key):
    return torch.Generator().manual_seed(zlib.crc32("/".join(map(str, key)).encode()))


def frozen(name, like):
    """The frozen weight of this name: norms around 1, matrices that keep the size of what they get."""
    drawn = normal(like.shape, "frozen", name)
    if like.dim() == 1:
        return 1 + 0.1 * drawn if "norm" in name and name.endswith("weight") else 0.1 * drawn
    return drawn / like[0].numel() ** 0.5


def start(name, like):
    """The adapter's first ``lora_down`` weight of this name."""
    return normal(like.shape, "start", name) / like[0].numel() ** 0.5


def step_inputs(number):
    """Latents, noise, offsets (b, 4, 1, 1), timesteps, context and masks (b, 64, 64) of one step."""
    return {
        "latents": normal(LATENTS, "latents", number),
        "noise": normal(LATENTS, "noise", number),
        "offsets": normal((*LATENTS[:2], 1, 1), "offsets", number),
        "timesteps": torch.randint(0, 1000, (BATCH,), generator=_generator("timesteps", number)),
        "context": normal((BATCH, TOKENS, CONTEXT), "context", number),
        "masks": torch.rand((BATCH, 64, 64), generator=_generator("masks", number)),
    }


def fingerprint(tensors):
    """64 numbers that stand for all weight changes of an adapter: their products with fixed normal vectors.

    The relative distance of two adapters is that of their fingerprints, to about a tenth of it.
    """
    total = torch.zeros(64, dtype=torch.float64)
    for key in sorted(tensors):
        if not key.endswith("lora_down.weight"):
            continue
        name = key.removesuffix(".lora_down.weight")
        down, up = tensors[key].double(), tensors[f"{name}.lora_up.weight"].double()
        change = (up.flatten(1) @ down.flatten(1)).flatten()
        total += normal((64, change.numel()), "fingerprint", name).double() @ change
    return total
