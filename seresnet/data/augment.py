"""What training does to images: a crop where they are decoded, the rest on the batch, on the device, with kornia."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from seresnet.preprocess import Preprocess


@dataclass(frozen=True)
class TrainCrop:
    """Cut one image to ``size`` x ``size`` pixels for training.

    ``resized``: a random box of ``scale`` of the area and ``ratio`` of width to height, resized (arXiv 1409.4842;
    ten tries, then a central box, as is usual). ``center``: the evaluation transform's resize and crop, the same at
    each call, so that its result can be kept.
    """

    kind: Literal["resized", "center"]
    preprocess: Preprocess
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> NDArray[np.uint8]:
        """Return uint8 pixels ``(H, W, C)``."""
        if self.kind == "center":
            return self.preprocess.pixels(image)
        box = self.random_box(image.size, rng)
        _, height, width = self.preprocess.input_size
        resample = Image.Resampling[self.preprocess.interpolation.upper()]
        return np.asarray(
            image.crop(box).resize((width, height), resample)
        )  # resize(box=) would blend in its surroundings

    def random_box(self, size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Return a random ``(left, top, right, bottom)`` within an image of ``(width, height)``."""
        width, height = size
        for _ in range(10):
            area = width * height * rng.uniform(*self.scale)
            aspect = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
                return left, top, left + w, top + h
        w = min(width, round(height * self.ratio[1]))
        h = min(height, round(width / self.ratio[0]))
        left, top = (width - w) // 2, (height - h) // 2
        return left, top, left + w, top + h


class BatchAugment(nn.Module):
    """Augment a uint8 batch ``(N, H, W, C)`` and return normalised floats ``(N, C, H, W)``, channels last in memory.

    ``pad``: shift by up to that many pixels, zeros moving in (after normalisation zero is the mean colour, as in
    arXiv 1512.03385, section 4.2). ``hflip``: probability of mirroring. ``rotation``: degrees either way.
    ``erase``: probability of random erasing (arXiv 1708.04896). Draws from torch's global random state.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, preprocess: Preprocess, *, pad: int, hflip: float, rotation: float, erase: float) -> None:
        super().__init__()
        import kornia.augmentation as K

        _, height, width = preprocess.input_size
        steps: list[nn.Module] = []
        if rotation:
            steps.append(K.RandomRotation(rotation, p=1.0))
        if pad:
            steps.append(K.RandomCrop((height, width), padding=pad, cropping_mode="slice", p=1.0))
        if hflip:
            steps.append(K.RandomHorizontalFlip(p=hflip))
        if erase:
            steps.append(K.RandomErasing(p=erase))
        self.steps = nn.Sequential(*steps)
        shape = (1, len(preprocess.mean), 1, 1)
        self.register_buffer("mean", torch.tensor(preprocess.mean).view(shape) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(preprocess.std).view(shape) * 255, persistent=False)

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Tensor:
        """Return the normalised, augmented batch."""
        x = pixels.permute(0, 3, 1, 2).float()  # (N, H, W, C) -> (N, C, H, W)
        x = (x - self.mean) / self.std
        return self.steps(x).contiguous(memory_format=torch.channels_last)
