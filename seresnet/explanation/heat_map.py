"""A class activation map laid over its picture, at the picture's full size and where the network saw it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from seresnet.data.preprocess import Preprocess

Array = NDArray[np.float32]
Region = tuple[float, float, float, float]  # (left, top, right, bottom) in pixels of the picture

# Five colours of matplotlib's map "inferno" (CC0), evenly spread; between them it is linear.
INFERNO = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))
STRENGTH = 0.75  # of the hottest colour over the picture; 1 would hide it
OUTSIDE = 0.35  # brightness of what the network does not see
BAND = 256  # rows that are coloured at once, so that memory is bounded
HOT = 0.5  # of the maximum, from which on a place belongs to the hot region


def heat_map(cam: Array, region: Region, size: tuple[int, int], rows: range | None = None) -> Array:
    """Return the heat of each pixel of a picture, 0 to 1, and NaN where the network does not see it.

    - `cam`: the map (h, w), not negative.
    - `region`: the part of the picture that the map covers.
    - `size`: width and height of the picture.
    - `rows`: some of its rows; None: all.
    """
    left, top, right, bottom = region
    vertical = _interpolation(np.arange(size[1]) if rows is None else np.asarray(rows), top, bottom, cam.shape[0])
    horizontal = _interpolation(np.arange(size[0]), left, right, cam.shape[1])
    peak = float(cam.max())
    heat: NDArray[Any] = vertical @ (cam / np.float32(peak) if peak > 0 else cam) @ horizontal.T
    return heat


def overlay(image: Image.Image, cam: Array, region: Region) -> Image.Image:
    """Return a picture with its heat map over it, at full size; what the network does not see is darkened."""
    pixels = np.array(image.convert("RGB"))
    for start in range(0, len(pixels), BAND):
        band = pixels[start : start + BAND]
        heat = heat_map(cam, region, image.size, range(start, start + len(band)))[..., None]
        seen = np.isfinite(heat)
        heat = np.where(seen, heat, 0)
        alpha = STRENGTH * heat
        mixed = band * (1 - alpha) + colours(heat[..., 0]) * alpha
        band[:] = np.where(seen, mixed, OUTSIDE * band).round()
    return Image.fromarray(pixels)


def colours(values: Array) -> Array:
    """Return the colours of values from 0 to 1: (...) -> (..., 3), each from 0 to 255."""
    places = np.linspace(0, 1, len(INFERNO))
    return np.stack([np.interp(values, places, channel) for channel in zip(*INFERNO, strict=True)], axis=-1)


def hottest_box(cam: Array, region: Region, size: tuple[int, int], preprocess: Preprocess) -> list[int] | None:
    """Return the box (left, top, right, bottom) around the hottest place of a picture, in its pixels.

    It encloses the connected region around the maximum with at least half of it, at the resolution that the network
    sees. None where the map is 0 everywhere, or its hottest place lies beyond the edge.
    """
    _, height, width = preprocess.input_size
    heat = heat_map(cam, (0, 0, width, height), (width, height))
    if not heat.max() > 0:
        return None
    hot = _connected(heat >= HOT * heat.max(), np.unravel_index(int(heat.argmax()), heat.shape))
    rows, columns = np.flatnonzero(hot.any(axis=1)), np.flatnonzero(hot.any(axis=0))
    left, top, right, bottom = region
    across, down = (right - left) / width, (bottom - top) / height
    xs = _clipped((left + columns[0] * across, left + (columns[-1] + 1) * across), size[0])
    ys = _clipped((top + rows[0] * down, top + (rows[-1] + 1) * down), size[1])
    return [xs[0], ys[0], xs[1], ys[1]] if xs[0] < xs[1] and ys[0] < ys[1] else None


def _clipped(span: tuple[float, float], length: int) -> tuple[int, int]:
    return max(0, round(span[0])), min(length, round(span[1]))


def _connected(mask: NDArray[np.bool_], start: Sequence[np.intp]) -> NDArray[np.bool_]:
    """Return the part of a mask that is connected with a place in it, up, down, left and right."""
    found = np.zeros_like(mask)
    found[tuple(start)] = True
    count = 0
    while count != (count := int(found.sum())):
        grown = found.copy()
        grown[1:] |= found[:-1]
        grown[:-1] |= found[1:]
        grown[:, 1:] |= found[:, :-1]
        grown[:, :-1] |= found[:, 1:]
        found = grown & mask
    return found


def _interpolation(pixels: NDArray[np.int_], low: float, high: float, cells: int) -> Array:
    """Return the matrix (pixels, cells) of linear interpolation between the centres of cells from ``low`` to ``high``.

    The rows of pixels whose centre lies outside are NaN.
    """
    place = (pixels + 0.5 - low) / (high - low)
    inner = np.clip(place * cells - 0.5, 0, cells - 1)
    first = np.minimum(inner.astype(int), max(cells - 2, 0))
    fraction = inner - first
    matrix = np.zeros((len(pixels), cells), np.float32)
    rows = np.arange(len(pixels))
    matrix[rows, first] = 1 - fraction
    matrix[rows, np.minimum(first + 1, cells - 1)] += fraction
    matrix[(place < 0) | (place > 1)] = np.nan
    return matrix
