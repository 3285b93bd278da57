"""Pictures for runs of a few steps."""

import pytest
from PIL import Image


@pytest.fixture
def pictures(tmp_path):
    """A folder of nine small pictures of two shapes, with captions; its name is not ASCII and has spaces."""
    folder = tmp_path / "絵 with spaces"
    folder.mkdir()
    for at in range(9):
        size = (64, 64) if at % 3 else (96, 48)
        Image.effect_mandelbrot(size, (-2 + at / 9, -1.5, 1, 1.5), 20 + at).convert("RGB").save(folder / f"{at}.png")
        (folder / f"{at}.txt").write_text(f"momo {at}", encoding="utf-8")
    return folder
