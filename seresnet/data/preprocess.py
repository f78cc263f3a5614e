"""The evaluation transform that belongs to a weight: resize, crop, normalise. NumPy and Pillow, no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from seresnet.errors import ConfigError, ImageError

if TYPE_CHECKING:
    import torch

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "lanczos": Image.Resampling.LANCZOS,
}
CROP_MODES = ("center", "squash", "border")

# Beyond this many pixels a resized picture is cropped before it is resized, see `_resize_region`.
_MAX_RESIZED_PIXELS = 2**26


@dataclass(frozen=True)
class Preprocess:
    """An evaluation transform, equal to timm's pixel for pixel and float for float.

    ``input_size`` is (channels, height, width); pictures become grey where channels is 1. The picture is resized so
    that the crop covers ``crop_pct`` of it: ``center`` fits the shorter edge, ``squash`` both edges (aspect ratio
    lost), ``border`` the longer edge (mean colour fills the rest). Pixels become ``(x / 255 - mean) / std``.
    Raises ConfigError where a value is out of its range.
    """

    input_size: tuple[int, int, int] = (3, 224, 224)
    interpolation: str = "bilinear"
    crop_pct: float = 0.875
    crop_mode: str = "center"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        object.__setattr__(self, "input_size", _input_size(self.input_size))
        if self.interpolation not in tuple(INTERPOLATIONS):
            raise ConfigError(f"interpolation must be one of {', '.join(INTERPOLATIONS)}, not {self.interpolation!r}")
        if self.crop_mode not in CROP_MODES:
            raise ConfigError(f"crop_mode must be one of {', '.join(CROP_MODES)}, not {self.crop_mode!r}")
        crop_pct = _numbers("crop_pct", [self.crop_pct])[0]
        if not 0.01 <= crop_pct <= 1:
            raise ConfigError(f"crop_pct must lie between 0.01 and 1, not {self.crop_pct}")
        object.__setattr__(self, "crop_pct", crop_pct)
        for name in ("mean", "std"):
            values = _numbers(name, getattr(self, name))
            if len(values) != self.input_size[0]:
                raise ConfigError(f"{name} needs one number for each of the {self.input_size[0]} channels: {values}")
            object.__setattr__(self, name, values)
        if min(self.std) < 1e-6:
            raise ConfigError(f"std must be at least 1e-6, not {self.std}")

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Return a picture as a float32 tensor (C, H, W), ready for the network."""
        import torch

        return torch.from_numpy(self.array(image))

    def array(self, image: Image.Image) -> NDArray[np.float32]:
        """Return a picture as a float32 array (C, H, W), ready for the network."""
        return self.normalize(self.pixels(image))

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """Resize and crop a picture, without normalising it: uint8 (H, W, C).

        Raises ImageError for anything but a Pillow image. Modes other than RGB go through Pillow's plain ``convert``,
        which drops alpha and clips 16 bits: ``seresnet.data.decode.decode`` treats those with care, so use it first.
        """
        if not isinstance(image, Image.Image):
            raise ImageError(f"a Pillow image is needed, not {type(image).__name__}: decode it first")
        channels, height, width = self.input_size
        if channels not in (1, 3):
            raise ConfigError(
                f"a picture has 1 or 3 channels, this model takes {channels}: give it arrays, not pictures"
            )
        image = _convert(image, "L" if channels == 1 else "RGB")
        resized = self._resize(image)
        fill = tuple(round(255 * value) for value in self.mean) if self.crop_mode == "border" else (0,) * channels
        return np.array(_center_crop(resized, width, height, fill)).reshape(height, width, channels)

    def normalize(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Turn uint8 pixels (H, W, C) or (N, H, W, C) into the network's float32 (C, H, W) or (N, C, H, W)."""
        channels = self.input_size[0]
        if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or pixels.shape[-1] != channels:
            shape = f"{pixels.dtype} {pixels.shape}"
            raise ImageError(f"pixels must be uint8 (H, W, {channels}) or (N, H, W, {channels}), not {shape}")
        table = _table(self.mean, self.std)
        out = np.empty((*pixels.shape[:-3], channels, *pixels.shape[-3:-1]), np.float32)
        for channel in range(channels):
            out[..., channel, :, :] = table[channel][pixels[..., channel]]
        return out

    def with_channels(self, in_chans: int) -> Preprocess:
        """Return the transform for a network with another number of input channels.

        One channel takes the average of the means and of the deviations; more channels repeat them in turn, as a first
        convolution that was adapted from three channels repeats its kernels.
        """
        channels, height, width = self.input_size
        if in_chans == channels:
            return self
        mean: tuple[float, ...]
        std: tuple[float, ...]
        if in_chans == 1:
            mean, std = (sum(self.mean) / channels,), (sum(self.std) / channels,)
        else:
            mean = tuple(self.mean[i % channels] for i in range(in_chans))
            std = tuple(self.std[i % channels] for i in range(in_chans))
        return replace(self, input_size=(in_chans, height, width), mean=mean, std=std)

    @classmethod
    def from_timm(cls, cfg: Mapping[str, Any]) -> Preprocess:
        """Read timm's ``pretrained_cfg``; what it leaves out gets timm's defaults (bicubic, 0.875, ImageNet's mean)."""
        channels, height, width = _input_size(cfg.get("input_size") or (3, 224, 224))
        mean, std = _numbers("mean", cfg.get("mean") or IMAGENET_MEAN), _numbers("std", cfg.get("std") or IMAGENET_STD)
        transform = cls(
            input_size=(len(mean), height, width),
            interpolation=cfg.get("interpolation") or "bicubic",
            crop_pct=cfg.get("crop_pct") or 0.875,
            crop_mode=cfg.get("crop_mode") or "center",
            mean=mean,
            std=std,
        )
        return transform.with_channels(channels)  # timm keeps three means when it changes the channels

    def to_timm(self) -> dict[str, Any]:
        """Return the same facts under timm's keys, as plain numbers, strings and lists (fit for JSON and YAML)."""
        return {
            "input_size": list(self.input_size),
            "interpolation": self.interpolation,
            "crop_pct": self.crop_pct,
            "crop_mode": self.crop_mode,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    def region(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Return the part of a picture that the network sees: (left, top, right, bottom) in the picture's own pixels.

        ``size`` is its (width, height). The region reaches beyond the picture where that is filled up or very small.
        """
        _, height, width = self.input_size
        edges = []
        for length, resized, crop in zip(size, self._resized_size(size), (width, height), strict=True):
            start = _crop_start(resized, crop)
            edges.append((start * length / resized, (start + crop) * length / resized))
        (left, right), (top, bottom) = edges
        return left, top, right, bottom

    def _resized_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return (width, height) of a resized picture for the crop mode, with torchvision's and timm's roundings."""
        target_w, target_h = self._target_size()
        image_w, image_h = size
        if self.crop_mode == "squash":
            return target_w, target_h
        if self.crop_mode == "center" and target_w == target_h:
            if image_w <= image_h:
                return target_w, int(target_w * image_h / image_w)
            return int(target_w * image_w / image_h), target_w
        ratios = image_h / target_h, image_w / target_w
        ratio = max(ratios) if self.crop_mode == "border" else min(ratios)
        return max(1, round(image_w / ratio)), max(1, round(image_h / ratio))

    def _target_size(self) -> tuple[int, int]:
        """Return the (width, height) of which the crop covers ``crop_pct``."""
        _, height, width = self.input_size
        return math.floor(width / self.crop_pct), math.floor(height / self.crop_pct)

    def _resize(self, image: Image.Image) -> Image.Image:
        """Resize for the crop mode."""
        size = self._resized_size(image.size)
        resample = INTERPOLATIONS[self.interpolation]
        if size == image.size:
            return image
        if size[0] * size[1] > _MAX_RESIZED_PIXELS:
            return _resize_region(image, size, self._target_size(), resample)
        return image.resize(size, resample)


def _convert(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)


def _center_crop(image: Image.Image, width: int, height: int, fill: tuple[int, ...]) -> Image.Image:
    """Cut the middle out; where the picture is smaller, centre it on a canvas of the colour ``fill``."""
    image_w, image_h = image.size
    if image_w < width or image_h < height:
        canvas = Image.new(image.mode, (max(image_w, width), max(image_h, height)), fill if len(fill) > 1 else fill[0])
        canvas.paste(image, (-min(_crop_start(image_w, width), 0), -min(_crop_start(image_h, height), 0)))
        image, (image_w, image_h) = canvas, canvas.size
    left, top = _crop_start(image_w, width), _crop_start(image_h, height)
    return image.crop((left, top, left + width, top + height))


def _crop_start(length: int, crop: int) -> int:
    """Return where a centred crop begins in ``length`` pixels; a negative number where they are fewer than ``crop``."""
    return (
        round((length - crop) / 2) if length >= crop else -((crop - length) // 2)
    )  # half to even, as torchvision does


def _resize_region(
    image: Image.Image, size: tuple[int, int], keep: tuple[int, int], resample: Image.Resampling
) -> Image.Image:
    """Resize only the middle of a very long picture: a strip of 65,535 x 1 pixels would become 4 gigapixels otherwise.

    The result holds the middle ``keep`` pixels of the resized picture; rounding may move a value by one level.
    """
    box, out = [0.0, 0.0, float(image.width), float(image.height)], list(size)
    for axis in (0, 1):
        out[axis] = min(size[axis], keep[axis])
        scale = image.size[axis] / size[axis]
        start = round((size[axis] - out[axis]) / 2)
        box[axis], box[axis + 2] = start * scale, min((start + out[axis]) * scale, image.size[axis])
    return image.resize((out[0], out[1]), resample, box=(box[0], box[1], box[2], box[3]))


@lru_cache(maxsize=64)
def _table(mean: tuple[float, ...], std: tuple[float, ...]) -> NDArray[np.float32]:
    """Return the normalised value of each of the 256 levels: float32 (C, 256), in torchvision's order of operations."""
    levels = np.arange(256, dtype=np.float32) / np.float32(255)
    return (levels - np.array(mean, np.float32)[:, None]) / np.array(std, np.float32)[:, None]


def _input_size(values: Sequence[float]) -> tuple[int, int, int]:
    size = _numbers("input_size", values)
    if len(size) != 3 or any(value != int(value) or not 1 <= value <= 8192 for value in size):
        raise ConfigError(f"input_size must be (channels, height, width), integers from 1 to 8192, not {values!r}")
    return int(size[0]), int(size[1]), int(size[2])


def _numbers(name: str, values: Sequence[float]) -> tuple[float, ...]:
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        raise ConfigError(f"{name} must be numbers, not {values!r}") from None
    if not all(math.isfinite(value) for value in numbers):
        raise ConfigError(f"{name} must be finite, not {values!r}")
    return numbers
