"""What training does to images: a crop where they are decoded, the rest on the batch, on the device.

All that is random comes from uniform samples drawn for the global batch, one row per image, so that an image is
changed in the same way whatever the number of ranks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from seresnet.data.preprocess import Preprocess
from seresnet.data.rand_augment import RESAMPLES, rand_augment


@dataclass(frozen=True)
class TrainCrop:
    """Cut one image to ``size`` x ``size`` pixels for training.

    ``resized``: a random box of ``scale`` of the area and ``ratio`` of width to height, resized (arXiv 1409.4842;
    ten tries, then a central box, as is usual). ``center``: the evaluation transform's resize and crop.
    ``rand_augment``: magnitude of `seresnet.data.rand_augment`; ``pixel_noise``: noise of up to that many grey levels,
    drawn for each value of each pixel, as the authors of SENet did (github.com/hujie-frank/SENet, issue 38).
    0 disables either.
    ``random_interpolation``: resize bilinearly or bicubically, drawn for each image, as timm does in training; else as
    the evaluation transform does.
    """

    kind: Literal["resized", "center"]
    preprocess: Preprocess
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    rand_augment: float = 0.0
    pixel_noise: int = 0
    random_interpolation: bool = False

    @property
    def fill(self) -> tuple[int, ...]:
        """The mean color, 0 to 255 per channel, rounded as timm does."""
        return tuple(min(255, round(255 * mean)) for mean in self.preprocess.mean)

    @property
    def fixed(self) -> bool:
        """Whether an image gives the same pixels each time, so that they can be kept."""
        return self.kind == "center" and not (self.rand_augment or self.pixel_noise)

    def __call__(
        self, image: Image.Image, rng: np.random.Generator, size: tuple[int, int] | None = None
    ) -> NDArray[np.uint8]:
        """Return uint8 pixels ``(H, W, C)``. ``size``: of the original, if ``image`` is a smaller copy."""
        pixels = self.cut(image, rng, size or image.size)
        if self.rand_augment:
            channels = pixels.shape[2]
            changed = rand_augment(Image.fromarray(pixels.squeeze()), self.rand_augment, rng, self.fill)
            pixels = np.asarray(changed).reshape(*pixels.shape[:2], channels)
        if self.pixel_noise:
            noise = rng.integers(-self.pixel_noise, self.pixel_noise, pixels.shape, np.int16, endpoint=True)
            pixels = (pixels + noise).clip(0, 255).astype(np.uint8)
        return pixels

    def cut(self, image: Image.Image, rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.uint8]:
        """Return the pixels of the crop ``(H, W, C)``."""
        if self.kind == "center":
            return self.preprocess.pixels(image)
        box = self.random_box(size, rng)
        channels, height, width = self.preprocess.input_size
        image = image.convert("L") if channels == 1 else image
        resample = Image.Resampling[self.preprocess.interpolation.upper()]
        if self.random_interpolation:
            resample = RESAMPLES[int(rng.integers(len(RESAMPLES)))]
        if size == image.size:
            part = image.crop(box).resize((width, height), resample)  # resize(box=) would blend in its surroundings
        else:
            left, top, right, bottom = (edge * image.size[i % 2] / size[i % 2] for i, edge in enumerate(box))
            part = image.resize(
                (width, height), resample, (left, top, min(right, image.width), min(bottom, image.height))
            )
        return np.asarray(part).reshape(height, width, channels)

    def reduction(self, size: tuple[int, int], seeds: Sequence[int]) -> int:
        """Return by which factor (1, 2, 4 or 8) a JPEG of ``size`` may be made smaller while it is decoded.

        ``seeds`` are those of the generator that will cut it: what it cuts out stays at least twice as large as the
        result, so that the resize that follows leaves next to no difference (as in Pillow's ``Image.thumbnail``).
        """
        _, height, width = self.preprocess.input_size
        if self.kind == "center" or size[0] < 4 * width or size[1] < 4 * height:
            return 1
        left, top, right, bottom = self.random_box(size, np.random.default_rng(seeds))
        spare = min((right - left) / width, (bottom - top) / height) / 2
        return next((factor for factor in (8, 4, 2) if factor <= spare), 1)

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


SAMPLES_PER_IMAGE = 16  # each augmentation reads columns of its own, so that none changes what another one does
ROTATION, SHIFT_Y, SHIFT_X, MIRROR, ERASE, AREA, RATIO, TOP, LEFT = range(9)


def uniform_samples(seed: int, step: int, images: int) -> NDArray[np.float32]:
    """Return uniform samples from 0 to 1, ``(images, SAMPLES_PER_IMAGE)``: a row for each image of a global batch."""
    return np.random.default_rng([seed, step]).random((images, SAMPLES_PER_IMAGE), dtype=np.float32)


class BatchAugment(nn.Module):
    """Augment a uint8 batch ``(N, H, W, C)`` and return normalised floats ``(N, C, H, W)``, channels last in memory.

    ``pad``: shift by up to that many pixels, zeros moving in (after normalisation zero is the mean colour, as in
    arXiv 1512.03385, section 4.2). ``hflip``: probability of mirroring. ``rotation``: degrees either way.
    ``random_erasing_prob``: probability of random erasing, as in timm: a box of 2 % to a third of the area, set to the
    mean color (arXiv 1708.04896 has up to 40 % and random values).
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, preprocess: Preprocess, *, pad: int, hflip: float, rotation: float, random_erasing_prob: float
    ) -> None:
        super().__init__()
        self.pad, self.hflip, self.rotation = pad, hflip, rotation
        self.random_erasing_prob = random_erasing_prob
        self.register_buffer("mean", torch.tensor(preprocess.mean) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(preprocess.std) * 255, persistent=False)

    @torch.no_grad()
    def forward(self, pixels: Tensor, uniform: Tensor | None = None) -> Tensor:
        """Return the normalised batch, augmented by ``uniform`` samples ``(N, SAMPLES_PER_IMAGE)`` where given."""
        x = (pixels.float() - self.mean) / self.std  # (N, H, W, C)
        if uniform is not None:
            if self.rotation:
                x = rotated(x, (2 * uniform[:, ROTATION] - 1) * math.radians(self.rotation))
            if self.pad or self.hflip:
                shift = ((2 * self.pad + 1) * uniform[:, [SHIFT_Y, SHIFT_X]]).long().clamp_(max=2 * self.pad) - self.pad
                x = shifted(x, shift, uniform[:, MIRROR] < self.hflip)
            if self.random_erasing_prob:
                x = erased(x, uniform, self.random_erasing_prob)
        return x.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def rotated(x: Tensor, angles: Tensor) -> Tensor:
    """Turn each image of ``(N, H, W, C)`` about its middle by ``angles`` ``(N,)`` in radians, with zeros behind it."""
    n, height, width, channels = x.shape
    cos, sin, none = angles.cos(), angles.sin(), torch.zeros_like(angles)
    theta = torch.stack([cos, -sin * height / width, none, sin * width / height, cos, none], 1).view(n, 2, 3)
    grid = F.affine_grid(theta, [n, channels, height, width], align_corners=False)
    return F.grid_sample(x.permute(0, 3, 1, 2), grid, align_corners=False).permute(0, 2, 3, 1)


def shifted(x: Tensor, shift: Tensor, mirrored: Tensor) -> Tensor:
    """Move images ``(N, H, W, C)`` by ``shift`` ``(N, 2)`` pixels, down and right, and then mirror some, ``(N,)``."""
    n, height, width, _ = x.shape
    across = torch.arange(width, device=x.device).expand(n, -1)  # (N, W)
    across = torch.where(mirrored[:, None], width - 1 - across, across) - shift[:, 1:]
    down = torch.arange(height, device=x.device) - shift[:, :1]  # (N, H)
    inside = ((down >= 0) & (down < height))[:, :, None] & ((across >= 0) & (across < width))[:, None, :]
    images = torch.arange(n, device=x.device)[:, None, None]
    moved = x[images, down.clamp(0, height - 1)[:, :, None], across.clamp(0, width - 1)[:, None, :]]
    return moved * inside[..., None]


def erased(x: Tensor, uniform: Tensor, probability: float) -> Tensor:
    """Set a box of 2 % to 1/3 of the area, of aspect 0.3 to 3.3, to zero in some of the images of ``(N, H, W, C)``."""
    height, width = x.shape[1:3]
    area = height * width * (0.02 + (1 / 3 - 0.02) * uniform[:, AREA])
    ratio = torch.exp((2 * uniform[:, RATIO] - 1) * math.log(1 / 0.3))
    h, w = (area * ratio).sqrt().round().clamp(1, height), (area / ratio).sqrt().round().clamp(1, width)
    top, left = (uniform[:, TOP] * (height - h + 1)).floor(), (uniform[:, LEFT] * (width - w + 1)).floor()
    y, x_ = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    rows = (y >= top[:, None]) & (y < (top + h)[:, None])  # (N, H)
    columns = (x_ >= left[:, None]) & (x_ < (left + w)[:, None])  # (N, W)
    box = rows[:, :, None] & columns[:, None, :] & (uniform[:, ERASE] < probability)[:, None, None]
    return x.masked_fill(box[..., None], 0.0)
