"""Small labelled image folders that tests make."""

from pathlib import Path

import numpy as np
from PIL import Image

COLORS = {"blue": (40, 60, 200), "green": (50, 180, 60), "red": (200, 50, 40)}


def color_folder(root: Path, per_class: int, size: int = 16, seed: int = 0) -> Path:
    """Write ``root/<colour>/<n>.png``: noisy pictures whose class is their colour."""
    rng = np.random.default_rng(seed)
    for name, color in COLORS.items():
        (root / name).mkdir(parents=True)
        for i in range(per_class):
            pixels = rng.normal(color, 30, (size, size, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i:03d}.png")
    return root
