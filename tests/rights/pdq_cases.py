"""The pictures that our PDQ is compared with the pdqhash package on; made of arithmetic and of PNGs alone, so that no
version of a decoder or resampler changes one. Needs numpy and Pillow."""

from pathlib import Path

import numpy as np
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"


def pictures():
    """Names and pixels (h, w, 3): every example picture, parts of some, and sizes that test each filter width."""
    for path in sorted(EXAMPLES.rglob("*.png")):
        yield f"{path.parent.name}/{path.name}", np.asarray(Image.open(path).convert("RGB"))
    cut = np.asarray(Image.open(EXAMPLES / "style" / "03.png").convert("RGB"))
    for height, width in ((5, 7), (40, 63), (64, 64), (65, 100), (101, 128)):
        yield f"cut {height}x{width}", np.ascontiguousarray(cut[:height, :width])
    for height, width in ((4, 90), (127, 128), (129, 257), (512, 512), (480, 700), (1000, 70)):
        yield f"waves {height}x{width}", waves(height, width)
    for value in (0, 128, 255):
        yield f"flat {value}", np.full((128, 200, 3), value, np.uint8)


def waves(height, width):
    """Integer waves of several lengths with a little noise."""
    y, x = np.mgrid[:height, :width]
    rng = np.random.RandomState(height * width)
    colours = [(x * a + y * b) % m * 255 // m for a, b, m in ((3, 1, 97), (1, 5, 211), (7, 2, 53))]
    noisy = np.stack(colours, axis=-1) + rng.randint(0, 16, (height, width, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)
