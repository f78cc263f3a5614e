"""Small real pictures: pieces of the photographs that scikit-image brings along."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import skimage
from PIL import Image

NAMES = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "hubble_deep_field.jpg", "brick.png", "grass.png")
FOLDER = Path(skimage.__file__).parent / "data"


def pieces(size: int = 32, grid: int = 6) -> Iterator[Image.Image]:
    """Yield ``grid`` x ``grid`` pieces of each photograph, shrunk to ``size`` x ``size``, one photograph in turn."""
    photographs = [Image.open(FOLDER / name).convert("RGB") for name in NAMES if (FOLDER / name).exists()]
    for row in range(grid):
        for column in range(grid):
            for photograph in photographs:
                width, height = photograph.width // grid, photograph.height // grid
                box = (column * width, row * height, (column + 1) * width, (row + 1) * height)
                yield photograph.resize((size, size), Image.Resampling.BICUBIC, box)
