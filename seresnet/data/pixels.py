"""Pixels of any kind as plain 8-bit RGB."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from seresnet.errors import ImageError

_PHOTOMETRIC = 262  # a tag of TIFF 6.0
_ROWS = 256


def to_rgb(image: Image.Image, scale_16bit: bool) -> Image.Image:
    """Convert a loaded picture of any mode to a new RGB image without metadata."""
    if scale_16bit and (image.mode.startswith("I") or image.mode == "F"):
        image = _scale_to_8bit(image)
    return flatten(image)


def flatten(image: Image.Image) -> Image.Image:
    """Convert 8-bit pixels to RGB, transparent ones over white."""
    try:
        if not image.has_transparency_data or image.mode[0] in "IF":
            rgb = image.copy() if image.mode == "RGB" else image.convert("RGB")
        else:
            rgba = image if image.mode == "RGBA" else image.convert("RGBA")
            rgb = Image.new("RGB", image.size, "white")
            rgb.paste(rgba, mask=rgba.getchannel("A"))
    except ValueError:
        raise ImageError(f"colours that cannot be converted ({image.mode})") from None
    rgb.info.clear()  # an orientation that was applied must not be applied again
    return rgb


def _scale_to_8bit(image: Image.Image) -> Image.Image:
    """Bring grey levels of 16 or 32 bits to 0..255.

    16 bits use their whole range. Wider numbers tell no range: they count as 8 or 16 bits (floats also as 0..1) where
    they fit in, and are stretched from their smallest to their largest value otherwise.
    """
    levels = np.asarray(image)
    if image.mode.startswith("I;16"):
        low, high = 0.0, 65535.0
    else:
        low, high = float(levels.min()), float(levels.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ImageError("pixels that are not finite numbers")
        limits = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
        if low >= 0 and high <= 65535:
            low, high = 0.0, next(limit for limit in limits if high <= limit)
    grey = np.empty(levels.shape, np.uint8)
    for start in range(0, len(levels), _ROWS):  # a band at a time: float64 of a large picture is gigabytes
        band = levels[start : start + _ROWS].astype(np.float64)
        grey[start : start + _ROWS] = np.rint((band - low) * (255 / max(high - low, 1e-300)))
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(_PHOTOMETRIC) == 0:
        grey = 255 - grey  # white is zero; Pillow inverts 8 bits only
    return Image.fromarray(grey)


def from_array(array: NDArray[Any]) -> Image.Image:
    """Return the image in an array. Raises ImageError for a shape or type that is not an image's."""
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ImageError(f"array of shape {array.shape}: give (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)")
    if array.dtype.kind == "f":
        if not (array.min() >= 0 and array.max() <= 1):  # false for NaN too
            raise ImageError("array of floats outside 0 to 1: divide by 255, or give uint8")
        array = np.rint(array.astype(np.float32) * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ImageError(f"array of {array.dtype}: give uint8, or floats from 0 to 1")
    return Image.fromarray(np.ascontiguousarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array))
