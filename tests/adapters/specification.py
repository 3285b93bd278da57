"""What every adapter format means, in float64 numpy, written from the papers and the trainers' forward passes.

Nothing here is shared with the loader: each function takes a layer's tensors as they stand in a file (numpy, float64,
by key suffix) and the unchanged weight, and returns the weight at multiplier 1.
"""

import numpy as np


def lora(w, t):
    rank = t["lora_down.weight"].shape[0]
    scale = float(t.get("alpha", rank)) / rank
    up = t["lora_up.weight"].reshape(-1, rank)
    down = t["lora_down.weight"]
    change = np.zeros(w.reshape(w.shape[0], w.shape[1], -1).shape)
    kernels = down.reshape(rank, down.shape[1], -1)
    if "lora_mid.weight" in t:
        core = t["lora_mid.weight"].reshape(rank, rank, -1)
        for at in range(core.shape[2]):
            change[:, :, at] = up @ core[:, :, at] @ kernels[:, :, 0]
    else:
        for at in range(kernels.shape[2]):
            change[:, :, at] = up @ kernels[:, :, at]
    return w + scale * change.reshape(w.shape)


def loha(w, t):
    scale = float(t.get("alpha", t["hada_w1_b"].shape[0])) / t["hada_w1_b"].shape[0]
    halves = []
    for n in (1, 2):
        a, b = t[f"hada_w{n}_a"], t[f"hada_w{n}_b"]
        core = t.get(f"hada_t{n}")
        if core is None:
            halves.append((a @ b).reshape(w.shape))
        else:
            half = np.zeros(w.shape)
            for y in range(w.shape[2]):
                for x in range(w.shape[3]):
                    half[:, :, y, x] = a.T @ core[:, :, y, x] @ b
            halves.append(half)
    return w + scale * halves[0] * halves[1]


def lokr(w, t):
    if "lokr_w1" in t:
        w1, rank = t["lokr_w1"], None
    else:
        w1, rank = t["lokr_w1_a"] @ t["lokr_w1_b"], t["lokr_w1_b"].shape[0]
    if "lokr_w2" in t:
        w2 = t["lokr_w2"]
    else:
        a, b = t["lokr_w2_a"], t["lokr_w2_b"]
        rank = b.shape[0]
        if "lokr_t2" in t:
            core = t["lokr_t2"]
            w2 = np.zeros((a.shape[1], b.shape[1], *core.shape[2:]))
            for y in range(core.shape[2]):
                for x in range(core.shape[3]):
                    w2[:, :, y, x] = a.T @ core[:, :, y, x] @ b
        else:
            w2 = a @ b.reshape(b.shape[0], -1)
    scale = 1.0 if rank is None else float(t.get("alpha", rank)) / rank
    a, b = w1.shape
    c = w2.shape[0]
    flat = w.reshape(w.shape[0], -1)
    block = flat.shape[1] // b
    change = np.zeros(flat.shape)
    for i in range(a):
        for j in range(b):
            change[i * c : (i + 1) * c, j * block : (j + 1) * block] = w1[i, j] * w2.reshape(c, -1)
    return w + scale * change.reshape(w.shape)


def full(w, t):
    return w + t.get("diff", t.get("w_norm")).reshape(w.shape)


def ia3(w, t):
    vector = t["weight"].reshape(-1)
    result = w.copy()
    for at, factor in enumerate(vector):
        if t["on_input"]:
            result[:, at] *= 1 + factor
        else:
            result[at] *= 1 + factor
    return result


def _rotation(block, factor):
    q = (block - block.T) * factor
    eye = np.eye(len(q))
    return (eye + q) @ np.linalg.inv(eye - q)


def _factor(blocks, t, outputs):
    """What COFT's constraint (alpha times the outputs) makes of Q: all blocks of a layer have one norm together."""
    limit = float(t.get("alpha", 0)) * outputs
    norm = np.sqrt(sum(((block - block.T) ** 2).sum() for block in blocks.reshape(-1, *blocks.shape[-2:])))
    return limit / norm if 0 < limit < norm else 1.0


def _rescaled(w, t):
    return w if "rescale" not in t else t["rescale"].reshape(-1, *[1] * (w.ndim - 1)) * w


def oft(w, t):
    blocks = t.get("oft_blocks", t.get("oft_diag"))
    size = blocks.shape[1]
    result = w.copy()
    factor = _factor(blocks, t, w.shape[0])
    for at, block in enumerate(blocks):
        rotation = block if "oft_diag" in t else _rotation(block, factor)
        rows = slice(at * size, (at + 1) * size)
        result[rows] = np.tensordot(rotation.T, w[rows], axes=1)
    return _rescaled(result, t)


def boft(w, t):
    blocks = t["oft_blocks"]
    stages, count, size, _ = blocks.shape
    factor = _factor(blocks, t, w.shape[0])
    rows = w.reshape(w.shape[0], -1).copy()
    for stage in range(stages):
        # Row p of the shuffled order is row place[p]: within a group the rows of its two halves alternate.
        half = 2**stage * size // 2
        place = [
            start + side * half + at for start in range(0, len(rows), 2 * half) for at in range(half) for side in (0, 1)
        ]
        shuffled = rows[place]
        for at in range(count):
            part = slice(at * size, (at + 1) * size)
            shuffled[part] = _rotation(blocks[stage, at], factor) @ shuffled[part]
        rows[place] = shuffled
    return _rescaled(rows.reshape(w.shape), t)


def glora(w, t):
    """Today's convention; the older one has the names of each pair exchanged."""
    a1, a2, b1, b2 = (t[f"{name}.weight"] for name in ("a1", "a2", "b1", "b2"))
    rank = b2.shape[0]
    scale = float(t.get("alpha", rank)) / rank
    inner = a1.reshape(a1.shape[0], -1) @ a2.reshape(a2.shape[0], -1)
    flat, kernels = w.reshape(w.shape[0], w.shape[1], -1), b2.reshape(rank, b2.shape[1], -1)
    change = np.zeros(flat.shape)
    for at in range(flat.shape[2]):
        change[:, :, at] = flat[:, :, at] @ inner + b1.reshape(-1, rank) @ kernels[:, :, at]
    return w + scale * change.reshape(w.shape)


def glora_old(w, t):
    names = {"a1.weight": "a2.weight", "a2.weight": "a1.weight", "b1.weight": "b2.weight", "b2.weight": "b1.weight"}
    return glora(w, {names.get(key, key): value for key, value in t.items()})


def dora(inner):
    """DoRA around another format's function."""

    def decomposed(w, t):
        length = t["dora_scale"]
        direction = inner(w, {key: value for key, value in t.items() if key != "dora_scale"})
        by_input = length.ndim > 1 and length.shape[0] == 1
        result = direction.copy()
        for at, wanted in enumerate(length.reshape(-1)):
            part = result[:, at] if by_input else result[at]
            part *= wanted / np.sqrt((part**2).sum())
        return result

    return decomposed
