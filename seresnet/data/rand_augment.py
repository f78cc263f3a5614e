"""RandAugment: two random operations on each image, all of about one strength (arXiv 1909.13719).

Runs with Pillow on the decoding threads, so that each image gets operations of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

COUNT = 2  # operations per image
PROBABILITY = 0.5  # of each
SPREAD = 0.5  # standard deviation of the magnitude
RESAMPLES = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)


@dataclass(frozen=True)
class Settings:
    """How an operation that moves pixels fills what becomes empty (0 to 255, one per band) and how it resamples."""

    fill: tuple[int, ...] = (128, 128, 128)
    resample: Image.Resampling = Image.Resampling.BICUBIC


Operation = Callable[[Image.Image, float, Settings], Image.Image]


def rand_augment(
    image: Image.Image, magnitude: float, rng: np.random.Generator, fill: tuple[int, ...] | None = None
) -> Image.Image:
    """Apply up to two operations of strength about ``magnitude``, from 0 to 10, each with a probability of a half.

    ``fill``: mean color of the data set, one value from 0 to 255 per band; None: mid-grey.

    This is timm's ``rand-m{magnitude}-n2-mstd0.5-inc1`` (timm 1.0.31, data/auto_augment.py), which arXiv 2110.00476
    used (table 2: "7 / 0.5"): the same operations and ranges, a higher magnitude is a stronger change in each of them,
    empty pixels get the mean color, and each operation resamples bilinearly or bicubically, drawn at random.
    """
    fill = fill or (128,) * len(image.getbands())
    for name in rng.choice(list(OPERATIONS), COUNT):
        strength = float(np.clip(rng.normal(magnitude, SPREAD) / 10, 0, 1))
        sign = 1 if rng.random() < 0.5 else -1
        resample = RESAMPLES[int(rng.integers(len(RESAMPLES)))]
        if rng.random() < PROBABILITY:
            image = OPERATIONS[name](image, sign * strength, Settings(fill, resample))
    return image


def _affine(image: Image.Image, settings: Settings, *matrix: float) -> Image.Image:
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, settings.resample, fillcolor=_color(settings, image)
    )


def _color(settings: Settings, image: Image.Image) -> int | tuple[int, ...]:
    return settings.fill if len(image.getbands()) > 1 else settings.fill[0]


def rotate(image: Image.Image, s: float, settings: Settings) -> Image.Image:
    """Rotate by up to 30 degrees."""
    return image.rotate(30 * s, settings.resample, fillcolor=_color(settings, image))


def posterize(image: Image.Image, s: float, _: Settings) -> Image.Image:
    """Keep the four highest bits, down to none: at full strength the image is black."""
    mask = 0xFF & ~(2 ** (4 + int(4 * abs(s))) - 1)  # ImageOps.posterize refuses 0 bits since Pillow 12
    return image.point([value & mask for value in range(256)] * len(image.getbands()))


def solarize(image: Image.Image, s: float, _: Settings) -> Image.Image:
    """Invert what is brighter than a threshold of 256 and less."""
    return ImageOps.solarize(image, 256 - int(256 * abs(s)))


def solarize_add(image: Image.Image, s: float, _: Settings) -> Image.Image:
    """Brighten the darker half by up to 110."""
    add = int(110 * abs(s))
    return image.point([min(255, v + add) if v < 128 else v for v in range(256)] * len(image.getbands()))


def enhance(kind: Callable[[Image.Image], Any]) -> Operation:
    """Return an operation that scales color, contrast, brightness or sharpness by 0.1 to 1.9."""
    return lambda image, s, _: kind(image).enhance(max(0.1, 1 + 0.9 * s))


OPERATIONS: dict[str, Operation] = {
    "autocontrast": lambda image, *_: ImageOps.autocontrast(image),
    "equalize": lambda image, *_: ImageOps.equalize(image),
    "invert": lambda image, *_: ImageOps.invert(image),
    "rotate": rotate,
    "posterize": posterize,
    "solarize": solarize,
    "solarize_add": solarize_add,
    "color": enhance(ImageEnhance.Color),
    "contrast": enhance(ImageEnhance.Contrast),
    "brightness": enhance(ImageEnhance.Brightness),
    "sharpness": enhance(ImageEnhance.Sharpness),
    "shear_x": lambda image, s, to: _affine(image, to, 1, 0.3 * s, 0, 0, 1, 0),
    "shear_y": lambda image, s, to: _affine(image, to, 1, 0, 0, 0.3 * s, 1, 0),
    "translate_x": lambda image, s, to: _affine(image, to, 1, 0, 0.45 * s * image.width, 0, 1, 0),
    "translate_y": lambda image, s, to: _affine(image, to, 1, 0, 0, 0, 1, 0.45 * s * image.height),
}
