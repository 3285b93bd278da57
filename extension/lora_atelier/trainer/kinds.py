"""The kinds of adapters beside LoRA: what each is made of, and what it starts from.

Sizes, starts and keys are those of LyCORIS (Yeh et al. 2023, arXiv 2309.14859; package 4.1), which tests hold them to.
"""

from __future__ import annotations

import math
from typing import Unpack

import torch
from torch import Tensor, nn

from ..adapters.base import Adapter
from ..adapters.boft import BoftAdapter
from ..adapters.full import FullAdapter
from ..adapters.glora import GloraAdapter
from ..adapters.ia3 import Ia3Adapter
from ..adapters.loha import LohaAdapter
from ..adapters.lokr import LokrAdapter
from ..adapters.lora import LoraAdapter
from ..adapters.oft import OftAdapter
from ..config import KindOptions, NetworkConfig
from ..errors import ConfigError
from . import noise
from .branches import Branch, DoraBranch, DyloraBranch, LoraBranch, frozen, uniform
from .factors import balanced, butterfly
from .rebuilt import Extras, RebuiltBranch, Start
from .sizes import Size


class LohaBranch(RebuiltBranch):
    """LoHa: ``hada_w2_a`` starts as nothing, the other three as normal numbers; a core each in Tucker form."""

    def __init__(
        self, layer: nn.Module, rank: int, alpha: float, *, tucker: bool, seed: int, name: str, **more: Unpack[Extras]
    ) -> None:
        outputs, inputs, *kernel = frozen(layer).shape
        self._cores = tucker and math.prod(kernel) > 1
        columns = inputs if self._cores else inputs * math.prod(kernel)
        start: Start = {}
        for n in (1, 2):
            a = (rank, outputs) if self._cores else (outputs, rank)
            start[f"hada_w{n}_a"] = torch.zeros(a) if n == 2 else _normal(a, 0.1, seed, f"w{n}_a", name)
            start[f"hada_w{n}_b"] = _normal((rank, columns), 1.0, seed, f"w{n}_b", name)
            if self._cores:
                start[f"hada_t{n}"] = _normal((rank, rank, *kernel), 0.1, seed, f"t{n}", name)
        self.product = tuple(start)
        self._scale = alpha / rank
        super().__init__(layer, start, fixed={"alpha": torch.tensor(alpha)}, **more)

    def inner(self) -> Adapter:
        w1_a, w1_b, w2_a, w2_b = (self.tensor(f"hada_w{n}_{side}") for n in (1, 2) for side in "ab")
        t1, t2 = (self.tensor(f"hada_t{n}") if self._cores else None for n in (1, 2))
        return LohaAdapter(w1_a, w1_b, w2_a, w2_b, self._scale, t1, t2)


class LokrBranch(RebuiltBranch):
    """LoKr: the second tensor of its large side starts as nothing. A side hardly larger than its rank is whole."""

    def __init__(
        self,
        layer: nn.Module,
        rank: int,
        alpha: float,
        factor: int,
        *,
        options: KindOptions,
        tucker: bool,
        seed: int,
        name: str,
        **more: Unpack[Extras],
    ) -> None:
        outputs, inputs, *kernel = frozen(layer).shape
        b, d = balanced(inputs, factor)
        a, c = balanced(outputs, factor)
        if options.unbalanced_factorization:
            a, c = c, a
        whole = options.full_matrix
        start: Start = {}
        if options.decompose_both and rank < max(a, b) / 2 and not whole:
            self._w1: tuple[str, ...] = ("lokr_w1_a", "lokr_w1_b")
            start["lokr_w1_a"] = uniform((a, rank), seed, "w1_a", name)
            start["lokr_w1_b"] = uniform((rank, b), seed, "w1_b", name)
        else:
            self._w1 = ("lokr_w1",)
            start["lokr_w1"] = uniform((a, b), seed, "w1", name)
        if whole or rank >= max(c, d) / 2:
            self._w2: tuple[str, ...] = ("lokr_w2",)
            start["lokr_w2"] = torch.zeros(c, d, *kernel)
        elif tucker and math.prod(kernel) > 1:
            self._w2 = ("lokr_w2_a", "lokr_w2_b", "lokr_t2")
            start["lokr_w2_a"] = uniform((rank, c), seed, "w2_a", name)
            start["lokr_w2_b"] = torch.zeros(rank, d)
            start["lokr_t2"] = uniform((rank, rank, *kernel), seed, "t2", name)
        else:
            self._w2 = ("lokr_w2_a", "lokr_w2_b")
            start["lokr_w2_a"] = uniform((c, rank), seed, "w2_a", name)
            start["lokr_w2_b"] = torch.zeros(rank, d * math.prod(kernel))
        # Two whole sides have no rank that alpha could be divided by.
        alpha = float(rank) if len(self._w1) == len(self._w2) == 1 else alpha
        self.product = tuple(start)
        self._scale = alpha / rank
        super().__init__(layer, start, fixed={"alpha": torch.tensor(alpha)}, **more)

    def inner(self) -> Adapter:
        w1, w2 = (tuple(self.tensor(suffix) for suffix in side) for side in (self._w1, self._w2))
        return LokrAdapter(w1, w2, self._scale)


class OftBranch(RebuiltBranch):
    """OFT (``butterfly`` False) and BOFT: blocks of zeros, which turn nothing. The "rank" chooses the blocks' size.

    The file's alpha is the constraint.
    """

    product = ("oft_blocks",)

    def __init__(
        self, layer: nn.Module, rank: int, *, butterflies: bool, options: KindOptions, name: str, **more: Unpack[Extras]
    ) -> None:
        weight = frozen(layer)
        outputs = weight.shape[0]
        self._butterflies = butterflies
        if butterflies:
            found = butterfly(outputs, rank)
            if found is None:
                raise ConfigError(
                    "The layer {layer} can't be trained with BOFT.",
                    why="Its {outputs} outputs can't be parted into blocks of at most {rank}.",
                    todo="Choose a larger rank, or oft.",
                    layer=name,
                    outputs=outputs,
                    rank=rank,
                )
            size, count = found
            blocks = torch.zeros((count - 1).bit_count() + 1, count, size, size)
        else:
            size, count = balanced(outputs, rank)
            blocks = torch.zeros(count, size, size)
        self._constraint = options.constraint * outputs
        start = {"oft_blocks": blocks}
        if options.rescaled:
            start["rescale"] = torch.ones(outputs, *[1] * (weight.dim() - 1))
        super().__init__(
            layer,
            start,
            fixed={"alpha": torch.tensor(options.constraint)},
            **more,
        )

    def inner(self) -> Adapter:
        blocks = self.tensor("oft_blocks")
        rescale = self.tensor("rescale") if "rescale" in self._suffixes else None
        if self._butterflies:
            return BoftAdapter(blocks, self._constraint, rescale)
        return OftAdapter(blocks, self._constraint, rescale)

    def _limited(self) -> Tensor:
        return self.tensor("oft_blocks")


class Ia3Branch(RebuiltBranch):
    """IA3: a number for each output, or input, that starts as 0."""

    product = ("weight",)

    def __init__(self, layer: nn.Module, *, on_input: bool, **more: Unpack[Extras]) -> None:
        outputs, inputs, *kernel = frozen(layer).shape
        count = inputs if on_input else outputs
        vector = torch.zeros(1, count, *[1] * len(kernel)) if kernel else torch.zeros(count)
        self._rows = not on_input
        fixed = {"on_input": torch.tensor(int(on_input))}
        super().__init__(layer, {"weight": vector}, fixed=fixed, **more)

    def inner(self) -> Adapter:
        return Ia3Adapter(self.tensor("weight").reshape(-1), on_input=not self._rows)


class GloraBranch(RebuiltBranch):
    """GLoRA: ``a2`` and ``b2`` start as nothing."""

    product = ("a1.weight", "a2.weight", "b1.weight", "b2.weight")

    def __init__(
        self, layer: nn.Module, rank: int, alpha: float, *, seed: int, name: str, **more: Unpack[Extras]
    ) -> None:
        outputs, inputs, *kernel = frozen(layer).shape
        ones = [1] * len(kernel)
        start = {
            "a1.weight": uniform((inputs, rank, *ones), seed, "a1", name),
            "a2.weight": torch.zeros(rank, inputs, *ones),
            "b1.weight": uniform((outputs, rank, *ones), seed, "b1", name),
            "b2.weight": torch.zeros(rank, inputs, *kernel),
        }
        self._scale = alpha / rank
        super().__init__(layer, start, fixed={"alpha": torch.tensor(alpha)}, **more)

    def inner(self) -> Adapter:
        left, right, up, down = (self.tensor(f"{name}.weight") for name in ("a1", "a2", "b1", "b2"))
        return GloraAdapter(left, right, up, down, self._scale)

    @torch.no_grad()
    def limit_norm(self, most: float) -> None:
        # A sum of two products of two each.
        factor = (most / torch.linalg.vector_norm(self._limited()).clamp(min=most)) ** 0.5
        for suffix in self.product:
            self.tensor(suffix).mul_(factor)


class FullBranch(RebuiltBranch):
    """The differences themselves, of weight and bias, which start as 0."""

    product = ("diff",)

    def __init__(self, layer: nn.Module, **more: Unpack[Extras]) -> None:
        start = {"diff": torch.zeros(frozen(layer).shape)}
        if isinstance(layer.bias, Tensor):
            start["diff_b"] = torch.zeros(layer.bias.shape)
        super().__init__(layer, start, **more)

    def inner(self) -> Adapter:
        return FullAdapter(self.tensor("diff"))

    def bias_change(self) -> Tensor | None:
        return self.tensor("diff_b") if "diff_b" in self._suffixes else None


class NormBranch(RebuiltBranch):
    """The differences of a norm's weight and bias (LyCORIS' train_norm)."""

    product = ("w_norm",)

    def __init__(self, layer: nn.Module) -> None:
        start = {"w_norm": torch.zeros(frozen(layer).shape)}
        if isinstance(layer.bias, Tensor):
            start["b_norm"] = torch.zeros(layer.bias.shape)
        super().__init__(layer, start)

    def inner(self) -> Adapter:
        return FullAdapter(self.tensor("w_norm"))

    def bias_change(self) -> Tensor | None:
        return self.tensor("b_norm") if "b_norm" in self._suffixes else None


class TuckerBranch(RebuiltBranch):
    """LoRA with DoRA around it in the forms that ``DoraBranch`` has not: a core in the middle, lengths by input."""

    def __init__(
        self, layer: nn.Module, rank: int, alpha: float, *, tucker: bool, seed: int, name: str, **more: Unpack[Extras]
    ) -> None:
        outputs, inputs, *kernel = frozen(layer).shape
        ones = [1] * len(kernel)
        core = tucker and math.prod(kernel) > 1
        start = {
            "lora_down.weight": uniform((rank, inputs, *(ones if core else kernel)), seed, "down", name),
            "lora_up.weight": torch.zeros(outputs, rank, *ones),
        }
        if core:
            start["lora_mid.weight"] = uniform((rank, rank, *kernel), seed, "mid", name)
        self.product = tuple(start)
        self._alpha = alpha
        super().__init__(layer, start, fixed={"alpha": torch.tensor(alpha)}, **more)

    def inner(self) -> Adapter:
        mid = self.tensor("lora_mid.weight") if "lora_mid_weight" in self._suffixes else None
        return LoraAdapter(self.tensor("lora_down.weight"), self.tensor("lora_up.weight"), self._alpha, mid)


def make_branch(layer: nn.Module, config: NetworkConfig, size: Size, *, seed: int, name: str) -> Branch:
    """The branch that the settings ask for, beside one layer. Raises ConfigError where its kind does not fit it."""
    options = KindOptions.of(config.network_args)
    if isinstance(layer, (nn.LayerNorm, nn.GroupNorm)):
        return NormBranch(layer)
    rank, alpha = size
    alpha = alpha * math.sqrt(rank) if options.rs_lora else alpha
    kind, tucker = config.algorithm, config.use_tucker
    dropout, rank_dropout = config.dropout, config.rank_dropout
    if kind in ("lora", "dora", "kohya-lora-fa") and not is_other_dora(config, options, layer):
        make = DoraBranch if kind == "dora" else LoraBranch
        made = make(layer, rank, alpha, dropout=dropout, rank_dropout=rank_dropout, seed=seed, name=name)
        made.down.requires_grad_(kind != "kohya-lora-fa")
        return made
    if kind in ("dylora", "kohya-dylora"):
        block = options.block_size if kind == "dylora" else options.unit
        drops = {"dropout": dropout, "rank_dropout": rank_dropout}
        return DyloraBranch(layer, rank, alpha, block, **drops, seed=seed, name=name)
    more: Extras = {
        "dropout": dropout,
        "rank_dropout": rank_dropout,
        "rank_dropout_scale": options.rank_dropout_scale,
    }
    if kind == "dora" or config.dora_wd:
        more["lengths"] = "output" if options.wd_on_output else "input"
    if kind == "dora":
        return TuckerBranch(layer, rank, alpha, tucker=tucker, seed=seed, name=name, **more)
    if kind == "loha":
        return LohaBranch(layer, rank, alpha, tucker=tucker, seed=seed, name=name, **more)
    if kind == "lokr":
        factor = config.factor
        return LokrBranch(layer, rank, alpha, factor, options=options, tucker=tucker, seed=seed, name=name, **more)
    if kind in ("oft", "boft"):
        return OftBranch(layer, rank, butterflies=kind == "boft", options=options, name=name, **more)
    if kind == "ia3":
        return Ia3Branch(layer, on_input=options.train_on_input or _reads_input(name, options), **more)
    if kind == "glora":
        return GloraBranch(layer, rank, alpha, seed=seed, name=name, **more)
    assert kind == "full", kind
    return FullBranch(layer, **more)


def is_other_dora(config: NetworkConfig, options: KindOptions, layer: nn.Module) -> bool:
    """Whether a DoRA has one of the forms that ``DoraBranch`` has not."""
    is_cut = config.use_tucker and isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1)
    return config.algorithm == "dora" and (is_cut or not options.wd_on_output)


def _reads_input(name: str, options: KindOptions) -> bool:
    """Whether LyCORIS' preset for IA3 scales this layer's inputs: those of the second half of each feed-forward."""
    return options.preset == "ia3" and name.endswith(("_ff_net_2", "_mlp_fc2"))


def _normal(shape: tuple[int, ...], std: float, *key: noise.Key) -> Tensor:
    return torch.empty(shape).normal_(0.0, std, generator=noise.generator(*key))
