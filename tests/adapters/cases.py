"""One layer of every adapter format, random, as it stands in a file: shapes by key suffix, and the formula it means."""

import torch

from . import specification as spec

LINEAR, CONV1, CONV3 = (64, 48), (64, 48, 1, 1), (32, 48, 3, 3)


def _lora(shape, rank=4, alpha=2.0, mid=False):
    out, inner, *kernel = shape
    ones = [1] * len(kernel)
    made = {"lora_down.weight": (rank, inner, *(ones if mid else kernel)), "lora_up.weight": (out, rank, *ones)}
    if mid:
        made["lora_mid.weight"] = (rank, rank, *kernel)
    return made | ({"alpha": alpha} if alpha is not None else {})


def _loha(shape, rank=4, alpha=2.0, tucker=False):
    out, inner, *kernel = shape
    if tucker:
        made = {f"hada_t{n}": (rank, rank, *kernel) for n in (1, 2)}
        made |= {f"hada_w{n}_a": (rank, out) for n in (1, 2)} | {f"hada_w{n}_b": (rank, inner) for n in (1, 2)}
    else:
        size = inner
        for each in kernel:
            size *= each
        made = {f"hada_w{n}_a": (out, rank) for n in (1, 2)} | {f"hada_w{n}_b": (rank, size) for n in (1, 2)}
    return made | ({"alpha": alpha} if alpha is not None else {})


# name -> (weight's shape, {key suffix: shape or number}, the formula)
CASES = {
    "lora": (LINEAR, _lora(LINEAR), spec.lora),
    "lora without alpha": (LINEAR, _lora(LINEAR, alpha=None), spec.lora),
    "lora, alpha = rank": (LINEAR, _lora(LINEAR, alpha=4.0), spec.lora),
    "lora of rank 1": (LINEAR, _lora(LINEAR, rank=1), spec.lora),
    "lora 1x1": (CONV1, _lora(CONV1), spec.lora),
    "lora of a linear layer on a 1x1 convolution": (CONV1, _lora(LINEAR), spec.lora),
    "lora of a 1x1 convolution on a linear layer": (LINEAR, _lora(CONV1), spec.lora),
    "locon 3x3": (CONV3, _lora(CONV3), spec.lora),
    "locon 3x3, tucker": (CONV3, _lora(CONV3, mid=True), spec.lora),
    "loha": (LINEAR, _loha(LINEAR), spec.loha),
    "loha without alpha": (LINEAR, _loha(LINEAR, alpha=None), spec.loha),
    "loha 3x3": (CONV3, _loha(CONV3), spec.loha),
    "loha 3x3, tucker": (CONV3, _loha(CONV3, tucker=True), spec.loha),
    "lokr, both whole": (LINEAR, {"lokr_w1": (4, 6), "lokr_w2": (16, 8), "alpha": 2.0}, spec.lokr),
    "lokr, w2 in factors": (
        LINEAR,
        {"lokr_w1": (4, 6), "lokr_w2_a": (16, 4), "lokr_w2_b": (4, 8), "alpha": 1.0},
        spec.lokr,
    ),
    "lokr, both in factors": (
        LINEAR,
        {"lokr_w1_a": (8, 4), "lokr_w1_b": (4, 6), "lokr_w2_a": (8, 4), "lokr_w2_b": (4, 8), "alpha": 2.0},
        spec.lokr,
    ),
    "lokr, w1 in factors": (
        LINEAR,
        {"lokr_w1_a": (8, 2), "lokr_w1_b": (2, 6), "lokr_w2": (8, 8), "alpha": 1.0},
        spec.lokr,
    ),
    "lokr 3x3": (
        CONV3,
        {"lokr_w1": (4, 6), "lokr_w2_a": (8, 4), "lokr_w2_b": (4, 8 * 9), "alpha": 2.0},
        spec.lokr,
    ),
    "lokr 3x3, whole": (CONV3, {"lokr_w1": (4, 6), "lokr_w2": (8, 8, 3, 3)}, spec.lokr),
    "lokr 3x3, tucker": (
        CONV3,
        {"lokr_w1": (4, 6), "lokr_t2": (4, 4, 3, 3), "lokr_w2_a": (4, 8), "lokr_w2_b": (4, 8), "alpha": 2.0},
        spec.lokr,
    ),
    "full": (LINEAR, {"diff": LINEAR}, spec.full),
    "full 3x3": (CONV3, {"diff": CONV3}, spec.full),
    "ia3 by output": (LINEAR, {"weight": (64,), "on_input": 0.0}, spec.ia3),
    "ia3 by input": (LINEAR, {"weight": (48,), "on_input": 1.0}, spec.ia3),
    "ia3 3x3 by output": (CONV3, {"weight": (1, 32, 1, 1), "on_input": 0.0}, spec.ia3),
    "ia3 3x3 by input": (CONV3, {"weight": (1, 48, 1, 1), "on_input": 1.0}, spec.ia3),
    "oft": (LINEAR, {"oft_blocks": (8, 8, 8), "alpha": 0.0}, spec.oft),
    "oft with a constraint": (LINEAR, {"oft_blocks": (8, 8, 8), "alpha": 1e-3}, spec.oft),
    "oft, rescaled": (LINEAR, {"oft_blocks": (8, 8, 8), "alpha": 0.0, "rescale": (64, 1)}, spec.oft),
    "oft 3x3": (CONV3, {"oft_blocks": (4, 8, 8), "alpha": 0.0, "rescale": (32, 1, 1, 1)}, spec.oft),
    "oft of the first LyCORIS": (LINEAR, {"oft_diag": (8, 8, 8)}, spec.oft),
    "boft": (LINEAR, {"oft_blocks": (4, 8, 8, 8), "alpha": 0.0}, spec.boft),
    "boft with a constraint": (LINEAR, {"oft_blocks": (4, 8, 8, 8), "alpha": 1e-3}, spec.boft),
    "boft 3x3, rescaled": (CONV3, {"oft_blocks": (3, 4, 8, 8), "alpha": 0.0, "rescale": (32, 1, 1, 1)}, spec.boft),
    "glora": (
        LINEAR,
        {"a1.weight": (48, 4), "a2.weight": (4, 48), "b1.weight": (64, 4), "b2.weight": (4, 48), "alpha": 2.0},
        spec.glora,
    ),
    "glora before 2.0": (
        LINEAR,
        {"a1.weight": (4, 48), "a2.weight": (48, 4), "b1.weight": (4, 48), "b2.weight": (64, 4), "alpha": 2.0},
        spec.glora_old,
    ),
    "glora 3x3": (
        CONV3,
        {
            "a1.weight": (48, 4, 1, 1),
            "a2.weight": (4, 48, 1, 1),
            "b1.weight": (32, 4, 1, 1),
            "b2.weight": (4, 48, 3, 3),
            "alpha": 2.0,
        },
        spec.glora,
    ),
    "dora by output": (LINEAR, _lora(LINEAR) | {"dora_scale": (64, 1)}, spec.dora(spec.lora)),
    "dora by input": (LINEAR, _lora(LINEAR) | {"dora_scale": (1, 48)}, spec.dora(spec.lora)),
    "dora 3x3 by output": (CONV3, _lora(CONV3) | {"dora_scale": (32, 1, 1, 1)}, spec.dora(spec.lora)),
    "dora 3x3 by input": (CONV3, _lora(CONV3) | {"dora_scale": (1, 48, 1, 1)}, spec.dora(spec.lora)),
    "doha": (LINEAR, _loha(LINEAR) | {"dora_scale": (64, 1)}, spec.dora(spec.loha)),
    "dokr": (
        LINEAR,
        {"lokr_w1": (4, 6), "lokr_w2": (16, 8), "dora_scale": (64, 1)},
        spec.dora(spec.lokr),
    ),
}  # fmt: skip
# Where a layer's change is one product of two matrices, the bounds are tighter than where it is several.
PLAIN = [name for name in CASES if name.startswith(("lora", "locon", "full", "ia3")) and "tucker" not in name]


def make(name, *, dtype=torch.float32, seed=0):
    """Return (weight, tensors by suffix) of a case, the tensors as they would be stored in ``dtype``.

    Sizes are those of a trained adapter: changes of about a tenth of the weight.
    """
    shape, suffixes, _ = CASES[name]
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=generator) * 0.1
    tensors = {}
    for suffix, of in suffixes.items():
        if isinstance(of, float):
            tensors[suffix] = torch.tensor(of)
            continue
        size = 0.6 if suffix.startswith(("hada", "lokr", "lora_mid")) else 0.2
        value = torch.randn(of, generator=generator) * size
        if suffix == "diff" or suffix.startswith(("oft_blocks", "weight")):
            value = value * 0.25
        if suffix == "oft_diag":
            value = torch.linalg.qr(torch.randn(of, generator=generator)).Q
        if suffix in ("dora_scale", "rescale"):
            value = 1 + 0.1 * value
        tensors[suffix] = value.to(dtype)
    return weight, tensors


def exact(name, weight, tensors):
    """Return the weight at multiplier 1 in float64, from the tensors as they are stored."""
    _, _, formula = CASES[name]
    numbers = {suffix: tensor.double().numpy() for suffix, tensor in tensors.items()}
    return torch.from_numpy(formula(weight.double().numpy(), numbers))
