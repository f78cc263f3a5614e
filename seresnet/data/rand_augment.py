"""RandAugment: two random operations on each image, all of about one strength (arXiv 1909.13719).

With Pillow, where the images are decoded: there each image gets operations of its own, and Pillow's loops run beside
each other on the decoding threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

Operation = Callable[[Image.Image, float], Image.Image]

COUNT = 2  # operations an image
PROBABILITY = 0.5  # of each
SPREAD = 0.5  # standard deviation of the magnitude


def rand_augment(image: Image.Image, magnitude: float, rng: np.random.Generator) -> Image.Image:
    """Apply up to two operations of strength about ``magnitude``, from 0 to 10, each with a probability of a half.

    The settings are those of arXiv 2110.00476, table 2 ("7 / 0.5"), and the operations and their ranges are those of
    the implementation that it used, where a higher magnitude is a stronger change in every operation.
    """
    for name in rng.choice(list(OPERATIONS), COUNT):
        strength = float(np.clip(rng.normal(magnitude, SPREAD) / 10, 0, 1))
        sign = 1 if rng.random() < 0.5 else -1
        if rng.random() < PROBABILITY:
            image = OPERATIONS[name](image, sign * strength)
    return image


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=_fill(image)
    )


def _fill(image: Image.Image) -> tuple[int, ...]:
    return (128,) * len(image.getbands())


def rotate(image: Image.Image, s: float) -> Image.Image:
    """Turn by up to 30 degrees."""
    return image.rotate(30 * s, Image.Resampling.BILINEAR, fillcolor=_fill(image))


def posterize(image: Image.Image, s: float) -> Image.Image:
    """Keep the four highest bits, down to one."""
    return ImageOps.posterize(image, max(1, 4 - int(4 * abs(s))))


def solarize(image: Image.Image, s: float) -> Image.Image:
    """Invert what is brighter than a threshold of 256 and less."""
    return ImageOps.solarize(image, 256 - int(256 * abs(s)))


def solarize_add(image: Image.Image, s: float) -> Image.Image:
    """Brighten the darker half by up to 110."""
    add = int(110 * abs(s))
    return image.point([min(255, v + add) if v < 128 else v for v in range(256)] * len(image.getbands()))


def enhance(kind: Callable[[Image.Image], Any]) -> Operation:
    """Return an operation that scales colour, contrast, brightness or sharpness by 0.1 to 1.9."""
    return lambda image, s: kind(image).enhance(max(0.1, 1 + 0.9 * s))


OPERATIONS: dict[str, Operation] = {
    "autocontrast": lambda image, _: ImageOps.autocontrast(image),
    "equalize": lambda image, _: ImageOps.equalize(image),
    "invert": lambda image, _: ImageOps.invert(image),
    "rotate": rotate,
    "posterize": posterize,
    "solarize": solarize,
    "solarize_add": solarize_add,
    "color": enhance(ImageEnhance.Color),
    "contrast": enhance(ImageEnhance.Contrast),
    "brightness": enhance(ImageEnhance.Brightness),
    "sharpness": enhance(ImageEnhance.Sharpness),
    "shear_x": lambda image, s: _affine(image, 1, 0.3 * s, 0, 0, 1, 0),
    "shear_y": lambda image, s: _affine(image, 1, 0, 0, 0.3 * s, 1, 0),
    "translate_x": lambda image, s: _affine(image, 1, 0, 0.45 * s * image.width, 0, 1, 0),
    "translate_y": lambda image, s: _affine(image, 1, 0, 0, 0, 1, 0.45 * s * image.height),
}
