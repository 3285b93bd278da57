"""What ``network_args`` say of one kind of adapter, read into types; LyCORIS' names and defaults (kohya.py, 4.1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

from ..errors import Problem, problem

_TRUE, _FALSE = frozenset({"true", "1", "yes"}), frozenset({"false", "0", "no", "none", ""})
# Which layers LyCORIS trains, by the name of its built-in preset.
PRESETS = (
    "full", "full-lin", "attn-mlp", "attn-only", "unet-only", "unet-transformer-only", "unet-convblock-only", "ia3",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class KindOptions:
    """Options of single kinds of adapters; each kind reads those that concern it."""

    preset: str = ""
    block_size: int = 4
    unit: int = 1
    constraint: float = 0.0
    rescaled: bool = False
    wd_on_output: bool = True
    full_matrix: bool = False
    rs_lora: bool = False
    unbalanced_factorization: bool = False
    decompose_both: bool = False
    rank_dropout_scale: bool = False
    train_on_input: bool = False
    train_norm: bool = False
    # How the same change is computed; it makes none.
    bypass_mode: bool = False
    use_scalar: bool = False

    @classmethod
    def of(cls, arguments: Sequence[str]) -> KindOptions:
        """The options of a list of ``name=value``; names that are none are left to ``NetworkConfig.problems``.

        Raises ValueError for a value of another type.
        """
        given: dict[str, str | int | float | bool] = {}
        for name, text in _pairs(arguments).items():
            given[name] = _value(_TYPES[name], text)
        return cls(**given)  # type: ignore[arg-type]


_TYPES: Mapping[str, str] = {f.name: str(f.type) for f in fields(KindOptions)}


def option_problems(where: str, arguments: Sequence[str], *, algorithm: str, rank: int) -> Iterator[Problem]:
    """A problem for each option whose value can't be used."""
    read: dict[str, str | int | float | bool] = {}
    for name, text in _pairs(arguments).items():
        try:
            read[name] = _value(_TYPES[name], text)
        except ValueError:
            wanted = {"bool": "true / false", "int": "1, 2, 3 …", "float": "0.5"}.get(_TYPES[name], "")
            yield problem(where, "“{name}” is “{text}”; it must be like {wanted}.", name=name, text=text, wanted=wanted)
    options = dataclasses.replace(KindOptions(), **read)  # type: ignore[arg-type]
    if options.preset and options.preset not in PRESETS:
        yield problem(
            where,
            "The preset “{preset}” is not one of LyCORIS' own, and files of presets are not read; choose one of "
            "{presets}.",
            preset=options.preset,
            presets=", ".join(PRESETS),
        )
    size = options.unit if algorithm == "kohya-dylora" else options.block_size
    if algorithm in ("dylora", "kohya-dylora") and (size < 1 or rank % size):
        yield problem(
            where,
            "DyLoRA trains blocks of {size} ranks, and the rank {rank} is no multiple of that; change one of them.",
            size=size,
            rank=rank,
        )
    if options.constraint < 0:
        yield problem(where, "“{name}” is “{text}”; it must be 0 or more.", name="constraint", text=options.constraint)


def _pairs(arguments: Sequence[str]) -> dict[str, str]:
    pairs = (argument.partition("=") for argument in arguments)
    return {name.strip(): text.strip() for name, _, text in pairs if name.strip() in _TYPES}


def _value(kind: str, text: str) -> str | int | float | bool:
    if kind == "bool":
        said = text.lower()
        if said not in _TRUE | _FALSE:
            raise ValueError(text)
        return said in _TRUE
    return int(text) if kind == "int" else float(text) if kind == "float" else text
