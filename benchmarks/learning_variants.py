"""The variants that ``learning.py`` trains: kinds of adapters, sizes, optimizers, what may save steps, and peers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lora_atelier.config import TrainConfig

# What full fine-tuning is asked for with: benchmarks/learning_full.py trains it, not our trainer.
FULL = "full fine-tuning"
# How sd-scripts trains, in our trainer; what 20 steps of both come to is the same (tests/trainer/test_parity.py).
KOHYA = "as sd-scripts"
# What the product trains with, and what begins so differs from it.
RECIPE = "recipe"
# What all others differ from.
_PLAIN: Mapping[str, Mapping[str, Any]] = {
    "network": {"rank": 16, "alpha": 8.0},
    "optimizer": {"learning_rate": 3e-3, "ema_decay": 0.0},
    "schedule": {"warmup": 0.05},
}


@dataclass(frozen=True, eq=False)  # mappings have no hash
class Variant:
    """What differs from the recipe, or from the plain settings, by group of the configuration."""

    name: str
    network: Mapping[str, Any] = field(default_factory=dict)
    optimizer: Mapping[str, Any] = field(default_factory=dict)
    schedule: Mapping[str, Any] = field(default_factory=dict)
    loss: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_full(self) -> bool:
        """Whether all weights of the U-Net are trained, and no adapter."""
        return self.name.startswith(FULL)

    @property
    def is_kohyas(self) -> bool:
        """Whether it stands for what sd-scripts would do."""
        return self.name.startswith(KOHYA)

    def applied(self, config: TrainConfig, seed: int) -> TrainConfig:
        """The recipe with the differences and the seed."""
        plain = {} if self.name.startswith(RECIPE) else _PLAIN

        def changed(name: str, differing: Mapping[str, Any]) -> Any:
            return dataclasses.replace(getattr(config, name), **{**plain.get(name, {}), **differing})

        return dataclasses.replace(
            config,
            network=changed("network", self.network),
            optimizer=changed("optimizer", self.optimizer),
            schedule=changed("schedule", {**self.schedule, "seed": seed}),
            loss=changed("loss", self.loss),
        )


# sd-scripts' best of four learning rates and two optimizers, with rank 16 and the recipe's number of steps: constant
# rate, each timestep drawn alone. Adafactor as its recipes give it.
_ADAFACTOR = ("relative_step=False", "scale_parameter=False", "warmup_init=False")
_KOHYAS = tuple(
    Variant(
        f"{KOHYA}, {optimizer} {rate:g}",
        optimizer={
            "optimizer": optimizer,
            "learning_rate": rate,
            "optimizer_args": _ADAFACTOR if optimizer == "Adafactor" else (),
        },
        schedule={"scheduler": "constant", "warmup": 0.0},
        loss={"timesteps": "uniform"},
    )
    for optimizer in ("AdamW", "Adafactor")
    for rate in (3e-4, 1e-3, 3e-3, 1e-2)
)
_LORA = {"conv_rank": 0}
_SMALL = {"rank": 8, "alpha": 4.0}
_LOKR = {"algorithm": "lokr", "factor": 4}
_MIN_SNR = {"min_snr_gamma": 5.0}
VARIANTS = (
    # It trains convolutions as well: a LoCon of rank 8 for both.
    Variant(RECIPE),
    Variant(f"{RECIPE}, rate 4e-3", optimizer={"learning_rate": 4e-3}),
    Variant(f"{RECIPE}, half of the steps", schedule={"steps": 450}),
    Variant(f"{RECIPE}, min-SNR 5", loss=_MIN_SNR),
    Variant(f"{RECIPE}, min-SNR 5, half of the steps", schedule={"steps": 450}, loss=_MIN_SNR),
    Variant("LoRA", _LORA),
    *(Variant(f"rank {rank}", {"rank": rank, "alpha": rank / 2}) for rank in (4, 8, 16, 32)),
    Variant("scale 1", {"alpha": 16.0, "conv_alpha": 8.0}),
    Variant("DoRA", {"algorithm": "dora"}),
    Variant("LoHa", {"algorithm": "loha"}),
    Variant("LoHa, rate 1e-3", {"algorithm": "loha"}, {"learning_rate": 1e-3}),
    Variant("LoKr", {"algorithm": "lokr"}),
    Variant("LoKr, factor 4, rate 1e-3", _LOKR, {"learning_rate": 1e-3}),
    Variant("OFT", {"algorithm": "oft", "rank": 8, "conv_rank": 8}),
    Variant("IA3", {"algorithm": "ia3"}),
    Variant("rate halved", optimizer={"learning_rate": 1.5e-3}),
    Variant("rate doubled", optimizer={"learning_rate": 6e-3}),
    Variant("Prodigy", optimizer={"optimizer": "Prodigy", "learning_rate": 1.0}),
    # What may reach the same in fewer steps.
    Variant("uniform timesteps", loss={"timesteps": "uniform"}),
    Variant("low-discrepancy timesteps", loss={"timesteps": "low_discrepancy"}),
    Variant("rank 8, low-discrepancy timesteps", _SMALL, loss={"timesteps": "low_discrepancy"}),
    Variant("min-SNR 5", loss=_MIN_SNR),
    Variant("rank 8, min-SNR 5", _SMALL, loss=_MIN_SNR),
    Variant("rank 8, min-SNR 5, two thirds of the steps", _SMALL, schedule={"steps": 600}, loss=_MIN_SNR),
    Variant("rank 8, min-SNR 5, averaged weights", _SMALL, {"ema_decay": 0.98}, loss=_MIN_SNR),
    Variant("LoKr, factor 4, rate 3e-3, min-SNR 5", _LOKR, {"learning_rate": 3e-3}, loss=_MIN_SNR),
    Variant("debiased", loss={"debiased_estimation_loss": True}),
    Variant("huber", loss={"loss_type": "huber"}),
    Variant("LoRA+ 4", {"loraplus_lr_ratio": 4.0}),
    Variant("LoRA+ 16, rate 1e-3", {"loraplus_lr_ratio": 16.0}, {"learning_rate": 1e-3}),
    Variant("averaged weights", optimizer={"ema_decay": 0.99}),
    Variant("averaged weights, rate doubled", optimizer={"ema_decay": 0.99, "learning_rate": 6e-3}),
    Variant("module dropout 0.1", {"module_dropout": 0.1}),
    # Peers.
    *_KOHYAS,
    *(Variant(f"{FULL}, rate {rate:g}", optimizer={"learning_rate": rate}) for rate in (1e-4, 3e-4, 1e-3)),
)
QUICK = (RECIPE, f"{KOHYA}, AdamW 0.003", f"{FULL}, rate 0.0003")
