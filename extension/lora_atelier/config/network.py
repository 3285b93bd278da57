"""The adapter to train: its family, its size, and which parts of the model it covers."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

from ..errors import Problem, problem
from .blocks import weight_problems
from .kind_options import option_problems
from .setting import SAME, checked, setting

# What each algorithm is called in kohya's files: network_module, and LyCORIS' algo where that is the module.
ALGORITHMS: dict[str, tuple[str, str]] = {
    "lora": ("networks.lora", ""),
    "dora": ("lycoris.kohya", "locon"),  # with dora_wd=True
    "loha": ("lycoris.kohya", "loha"),
    "lokr": ("lycoris.kohya", "lokr"),
    "oft": ("lycoris.kohya", "diag-oft"),
    "boft": ("lycoris.kohya", "boft"),
    "ia3": ("lycoris.kohya", "ia3"),
    "glora": ("lycoris.kohya", "glora"),
    "full": ("lycoris.kohya", "full"),
    "dylora": ("lycoris.kohya", "dylora"),
    "kohya-lora-fa": ("networks.lora_fa", ""),
    "kohya-dylora": ("networks.dylora", ""),
    "kohya-oft": ("networks.oft", ""),
}
# What else the modules take in network_args, beside the settings below.
MORE_NETWORK_ARGS: Mapping[str, frozenset[str]] = {
    "networks.lora": frozenset(),
    "networks.lora_fa": frozenset(),
    "networks.dylora": frozenset({"unit"}),
    "networks.oft": frozenset({"enable_all_linear", "enable_conv"}),
    "lycoris.kohya": frozenset(
        {"preset", "use_scalar", "block_size", "train_norm", "constraint", "rescaled", "wd_on_output", "full_matrix",
         "bypass_mode", "rs_lora", "unbalanced_factorization", "decompose_both", "rank_dropout_scale",
         "train_on_input"}
    ),
}  # fmt: skip
_PLUS_SETTINGS = ("loraplus_lr_ratio", "loraplus_unet_lr_ratio", "loraplus_text_encoder_lr_ratio")
_BLOCK_SETTINGS = (
    "block_dims", "block_alphas", "conv_block_dims", "conv_block_alphas", "down_lr_weight", "mid_lr_weight",
    "up_lr_weight",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Family and size of the adapter to train, and which parts of the model it covers."""

    algorithm: str = setting(
        "lora",
        "Kind of adapter",
        "lora suits nearly everything and loads everywhere; dora, loha, lokr and oft are its relatives.",
        kohya="network_module",
        choices=tuple(ALGORITHMS),
    )
    rank: int = setting(16, "Rank", "Inner size of each low-rank pair.", kohya="network_dim", absent=4)
    alpha: float = setting(8.0, "Alpha", "The change is scaled by alpha / rank.", kohya="network_alpha", absent=1.0)
    conv_rank: int = setting(
        0, "Convolution rank", "Rank of the 3×3 convolutions' pairs; 0 leaves them alone.", kohya="conv_dim", least=0
    )
    conv_alpha: float = setting(
        1.0, "Convolution alpha", "The convolutions' change is scaled by alpha / rank.", kohya="conv_alpha"
    )
    train_te: bool = setting(
        False,
        "Train the text encoder",
        "Usually off: the U-Net alone learns pictures well.",
        kohya="network_train_unet_only",
        absent=True,
    )
    network_train_text_encoder_only: bool = setting(
        False, "Text encoder only", "Train the text encoder and leave the U-Net alone.", kohya=SAME
    )
    dropout: float = setting(
        0.0, "Dropout", "Share of inner values set to zero in a step.", kohya="network_dropout", least=0, most=0.99
    )
    rank_dropout: float = setting(
        0.0, "Rank dropout", "Share of the inner size left out in a step.", kohya=SAME, least=0, most=0.99
    )
    module_dropout: float = setting(
        0.0, "Module dropout", "Chance that a layer's change is left out in a step.", kohya=SAME, least=0, most=0.99
    )
    scale_weight_norms: float = setting(
        0.0,
        "Largest norm",
        "A layer's change that grows beyond this is scaled down; 0 is off, 1 is usual.",
        kohya=SAME,
        least=0,
    )
    network_weights: str = setting(
        "", "Start from a LoRA", "A LoRA file whose weights the training goes on from.", kohya=SAME
    )
    dim_from_weights: bool = setting(
        False, "Its ranks too", "Ranks and alphas are those of the LoRA that is started from.", kohya=SAME
    )
    # One number for each block of the U-Net: 25 (SD: 12 down, 1 mid, 12 up) or 23 (SDXL).
    block_dims: tuple[int, ...] = setting(
        (), "Ranks by block", "A rank for each block of the U-Net: 25 numbers, SDXL 23.", kohya=SAME, least=0
    )
    block_alphas: tuple[float, ...] = setting(
        (), "Alphas by block", "An alpha for each block, as many as there are ranks.", kohya=SAME, least=0
    )
    conv_block_dims: tuple[int, ...] = setting(
        (), "Convolution ranks by block", "The same for the 3×3 convolutions.", kohya=SAME, least=0
    )
    conv_block_alphas: tuple[float, ...] = setting(
        (), "Convolution alphas by block", "An alpha for each block's convolutions.", kohya=SAME, least=0
    )
    # Numbers parted by commas, or one of sd-scripts' curves ("sine", "cosine", "linear", "reverse_linear", "zeros"),
    # to which "+0.25" may be added; blocks.py reads them.
    down_lr_weight: str = setting(
        "",
        "Rates of the down blocks",
        "Factors of the learning rate: 12 numbers, SDXL 9, or the name of a curve.",
        kohya=SAME,
    )
    mid_lr_weight: str = setting(
        "", "Rate of the middle block", "A factor of the learning rate; SDXL takes 3 numbers.", kohya=SAME
    )
    up_lr_weight: str = setting(
        "",
        "Rates of the up blocks",
        "Factors of the learning rate: 12 numbers, SDXL 9, or the name of a curve.",
        kohya=SAME,
    )
    block_lr_zero_threshold: float = setting(
        0.0, "Least factor", "Blocks whose factor is not above this are not trained.", kohya=SAME, least=0
    )
    loraplus_lr_ratio: float = setting(
        0.0,
        "LoRA+",
        "The second matrix learns so many times faster than the first; 0 is off, 16 is usual.",
        kohya=SAME,
        least=0,
    )
    loraplus_unet_lr_ratio: float = setting(
        0.0, "LoRA+ of the U-Net", "The same for the U-Net alone; 0 takes the value above.", kohya=SAME, least=0
    )
    loraplus_text_encoder_lr_ratio: float = setting(
        0.0,
        "LoRA+ of the text encoder",
        "The same for the text encoder alone; 0 takes the value above.",
        kohya=SAME,
        least=0,
    )
    # LoKr's; -1 lets LyCORIS choose the most even split.
    factor: int = setting(-1, "Factor", "LoKr: the size of its first matrix; -1 chooses it.", kohya=SAME, least=-1)
    dora_wd: bool = setting(
        False, "Weight decomposition", "LoHa and LoKr: learn size and direction apart, as DoRA does.", kohya=SAME
    )
    use_tucker: bool = setting(
        False, "Tucker decomposition", "Convolutions are split in three instead of two.", kohya=SAME
    )
    network_args: tuple[str, ...] = setting(
        (), "More of the adapter", "Further options of its kind, each written name=value.", kohya=SAME
    )

    def problems(self) -> Iterator[Problem]:
        """Yield everything that is wrong with these settings."""
        yield from checked("network", self)
        if self.rank < 1:
            yield problem("network.rank", "Rank is {rank}; it must be 1 or more (4 to 128 is usual).", rank=self.rank)
        if not self.alpha > 0:
            yield problem(
                "network.alpha", "Alpha is {alpha}; it must be more than 0 (half the rank is usual).", alpha=self.alpha
            )
        yield from self._part_problems()
        yield from self._block_problems()
        yield from self._kind_problems()

    def _part_problems(self) -> Iterator[Problem]:
        if self.network_train_text_encoder_only and not self.train_te:
            yield problem(
                "network.network_train_text_encoder_only",
                "network_train_unet_only and network_train_text_encoder_only exclude each other; keep one.",
            )
        if self.dim_from_weights and not self.network_weights:
            yield problem(
                "network.dim_from_weights", "dim_from_weights takes the ranks of network_weights; name that LoRA too."
            )

    def _block_problems(self) -> Iterator[Problem]:
        for name, dims in (
            ("block_alphas", "block_dims"),
            ("conv_block_dims", "block_dims"),
            ("conv_block_alphas", "conv_block_dims"),
        ):
            given, wanted = len(getattr(self, name)), len(getattr(self, dims))
            if given and given != wanted:
                yield problem(
                    f"network.{name}",
                    "{name} has {given} numbers and {dims} has {wanted}; give as many of both.",
                    name=name,
                    given=given,
                    dims=dims,
                    wanted=wanted,
                )
        for name in ("down_lr_weight", "mid_lr_weight", "up_lr_weight"):
            yield from weight_problems(f"network.{name}", getattr(self, name))

    def _kind_problems(self) -> Iterator[Problem]:
        """What the chosen kind of adapter does not know."""
        module, _ = ALGORITHMS.get(self.algorithm, ("", ""))
        if not module:
            return
        decomposed, low_rank = {"loha", "lokr"}, {"lora", "dora", "dylora", "kohya-lora-fa", "kohya-dylora"}
        for name, kinds in (
            *((name, low_rank) for name in _PLUS_SETTINGS),
            # The files of the others do not tell their rank.
            ("dim_from_weights", low_rank | {"loha", "glora"}),
            ("factor", {"lokr"}),
            ("dora_wd", decomposed),
            ("use_tucker", decomposed | {"dora", "boft", "glora", "full"}),
            *((name, {"lora", "kohya-lora-fa"}) for name in _BLOCK_SETTINGS),
        ):
            if name in self._given() and self.algorithm not in kinds:
                yield problem(
                    f"network.{name}",
                    "“{name}” means nothing for an adapter of the kind {algorithm}; remove it, or choose {kinds}.",
                    name=name,
                    algorithm=self.algorithm,
                    kinds=" / ".join(kind for kind in ALGORITHMS if kind in kinds),
                )
        known = MORE_NETWORK_ARGS[module]
        for name in (argument.partition("=")[0].strip() for argument in self.network_args):
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                yield problem(
                    "network.network_args",
                    "“{name}” means nothing for an adapter of the kind {algorithm}; it knows {known}.",
                    name=name,
                    algorithm=self.algorithm,
                    known=near[0] if near else ", ".join(sorted(known)) or "–",
                )
        yield from option_problems("network.network_args", self.network_args, algorithm=self.algorithm, rank=self.rank)
        if self.algorithm == "kohya-dylora" and self.conv_rank not in (0, self.rank):
            yield problem(
                "network.conv_rank",
                "DyLoRA's convolutions have the same rank as the rest: {rank}, not {conv_rank}.",
                rank=self.rank,
                conv_rank=self.conv_rank,
            )

    def _given(self) -> set[str]:
        """The settings that are not at their default."""
        return {f.name for f in fields(self) if getattr(self, f.name) != f.default}
