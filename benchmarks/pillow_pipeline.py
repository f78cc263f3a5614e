"""What Pillow alone does with a file: open, decode, crop, resize, pixels. The measure of benchmarks/input_pipeline.py.

Imported by processes of its own, so it imports nothing else of this project.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Box = tuple[int, int, int, int]
Job = tuple[str, Box | None]  # a file, and the random box to cut out; None: the evaluation's crop


def pixels(job: Job, size: int = 224, shorter_side: int = 256) -> NDArray[np.uint8]:
    """Return the pixels (size, size, 3) of a training crop, or of the usual evaluation crop."""
    path, box = job
    with Image.open(path) as file:
        image = file.convert("RGB")
    if box is not None:
        return np.asarray(image.crop(box).resize((size, size), Image.Resampling.BICUBIC))
    scale = shorter_side / min(image.size)
    image = image.resize((int(image.width * scale), int(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))


def each(jobs: Sequence[Job]) -> int:
    """Go through some files, and return how many there were."""
    for job in jobs:
        pixels(job)
    return len(jobs)
