"""From what a user hands over as images to preprocessed batches, in order, with the reason for each that failed."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from os import PathLike, fsdecode
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from seresnet.data.dataset import StoredImage
from seresnet.data.decode import MAX_PIXELS, decode
from seresnet.data.parallel import batched, default_workers, ordered_map
from seresnet.data.paths import expand
from seresnet.data.preprocess import Preprocess
from seresnet.errors import ConfigError, ImageError
from seresnet.inference.web_images import WebImage, is_offline, is_url

Batch = NDArray[np.float32]
SOURCES = "a path, folder, glob or list of them, bytes, a file object, a Pillow image, an array or a tensor"


@dataclass(frozen=True)
class ReadImage:
    """One decoded image, cropped to the size that a network takes, or the reason why there is none."""

    path: str | None
    pixels: NDArray[np.uint8] | None = None  # (H, W, C)
    error: str | None = None


def read_images(
    sources: Iterable[Any],
    preprocess: Preprocess,
    batch_size: int,
    workers: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[list[ReadImage]]:
    """Decode and crop images in threads, up to two batches ahead of the one that is returned.

    - `sources`: paths, image bytes, open files, Pillow images, arrays (H, W, C) or tensors (C, H, W).
    - `workers`: threads, 0 or more; None takes one per core.
    - `max_pixels`: images with more are refused.
    """
    threads = default_workers() if workers is None else at_least(0, "workers", workers)

    def read(source: Any) -> ReadImage:
        path = path_of(source)
        try:
            return ReadImage(path, preprocess.pixels(decode(as_array(source), max_pixels=max_pixels)))
        except ImageError as error:
            return ReadImage(path, error=str(error))
        except MemoryError:
            return ReadImage(path, error="not enough memory to decode it")

    return batched(ordered_map(read, sources, threads, ahead=2 * batch_size), batch_size)


def to_batch(images: Iterable[ReadImage], preprocess: Preprocess) -> Batch:
    """Return the normalised batch, float32 (N, C, H, W), of those images that could be read."""
    channels, height, width = preprocess.input_size
    pixels = [image.pixels for image in images if image.pixels is not None]
    stacked = np.stack(pixels) if pixels else np.empty((0, height, width, channels), np.uint8)
    return preprocess.normalize(stacked)  # (N, H, W, C) -> (N, C, H, W)


def each_source(sources: Any, offline: bool | None = None, stdin: TextIO | None = None) -> Iterator[Any]:
    """Yield every image of the given sources: one of them or an iterable, folders, globs and lists expanded.

    An http(s) address becomes a `WebImage`; ``-`` is the list on ``stdin``, where that is given. Raises ConfigError for
    what holds no images by its type.
    """
    without_network = is_offline(offline)
    for paths, source in _runs(one_or_many(sources)):
        if not paths:
            yield WebImage(source, without_network) if isinstance(source, str) else source
            continue
        patterns = {path for path in paths if is_pattern(path)}
        given = paths if stdin is not None else ["./-" if path == "-" else path for path in paths]
        for image in expand(given, stdin):
            if not isinstance(image, str):
                yield image
            elif is_url(image):
                yield WebImage(image, without_network)
            else:
                yield UnmatchedPattern(image) if image in patterns else image


def _runs(sources: Iterable[Any]) -> Iterator[tuple[list[str], Any]]:
    """Yield the paths of a list together, for how a table among them is read depends on the others, and all else alone.

    Of an iterator each path is yielded alone, so that it is read no further than needed.
    """
    together = isinstance(sources, list | tuple)
    paths: list[str] = []
    for source in sources:
        name = fsdecode(source) if isinstance(source, str | PathLike) else None
        if name is not None and not is_url(name):
            paths.append(name)
            if together:
                continue
        if paths:
            yield paths, None
            paths = []
        if name is None or is_url(name):
            yield [], name or source
    if paths:
        yield paths, None


@dataclass(frozen=True, slots=True)
class UnmatchedPattern(StoredImage):
    """A glob that no file matches: an image that cannot be read, with that as the reason."""

    pattern: str

    @property
    def key(self) -> str:
        """The pattern."""
        return self.pattern

    def read(self) -> bytes:
        """Raise ImageError."""
        raise ImageError("no file matches this pattern")

    def __str__(self) -> str:
        return self.pattern


def is_pattern(name: str) -> bool:
    """Return whether a name is a glob, and not a file with such characters in its name."""
    return glob.has_magic(name) and not os.path.lexists(name)


def one_or_many(sources: Any) -> Iterable[Any]:
    """Return an iterable of sources, also for a single one. Raises ConfigError for what holds no images by its type."""
    if isinstance(sources, np.ndarray) or is_tensor(sources):
        return sources if sources.ndim == 4 else [sources]
    if isinstance(sources, str | PathLike | bytes | bytearray | memoryview | Image.Image) or hasattr(sources, "read"):
        return [sources]
    if isinstance(sources, Iterable) and not isinstance(sources, dict):
        return sources
    raise ConfigError(f"no images can be read from {type(sources).__name__}: give {SOURCES}")


def is_tensor(value: Any) -> bool:
    """Return whether a value is a torch tensor, without an import of torch."""
    return type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "detach")


def as_array(source: Any) -> Any:
    """Return a tensor (C, H, W) or (H, W) as an array (H, W, C) or (H, W); anything else as it is."""
    if not is_tensor(source):
        return source
    if source.ndim == 2:
        return source.detach().cpu().numpy()
    if source.ndim != 3 or source.shape[0] not in (1, 3, 4):
        raise ImageError(f"tensor of shape {tuple(source.shape)}: give (3, H, W) or (1, H, W)")
    return source.detach().cpu().permute(1, 2, 0).numpy()  # (C, H, W) -> (H, W, C)


def path_of(source: Any) -> str | None:
    """Return where an image lies; None for one from memory."""
    if isinstance(source, str | PathLike):
        return fsdecode(source)
    return str(source) if isinstance(source, StoredImage) else None


def at_least(least: int, name: str, value: int) -> int:
    """Return a setting, or raise ConfigError where it is not a whole number from ``least`` on."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name} must be a whole number, {least} or more, not {value!r}")
    return value
