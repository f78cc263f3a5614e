"""One pass over a data set: what is known of each image, and its embedding."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from seresnet.data.dataset import ImageSet, StoredImage
from seresnet.data.decode import decode, encoded
from seresnet.data.parallel import batched, default_workers, ordered_map
from seresnet.errors import DataError, ImageError
from seresnet.inference.classifier import Classifier

Array = NDArray[np.float32]
GRID = 16  # pixels of the sides of the picture whose gradients are compared


@dataclass(frozen=True)
class CheckedImage:
    """What is known of one image; without ``error`` all of it, with one nothing from ``digest`` on.

    - `digest`: of the file's bytes.
    - `gradients`: differences of neighbouring pixels of the picture at 16 x 16, grey, as a unit vector (480,); all 0
      for a picture of one colour.
    - `features`: the embedding, as a unit vector (num_features,).
    """

    image: Path | StoredImage
    split: str
    target: int
    error: str | None = None
    digest: bytes = b""
    size: tuple[int, int] = (0, 0)
    mode: str = ""
    gradients: Array | None = None
    features: Array | None = None

    def __str__(self) -> str:
        return str(self.image)


def check_images(
    sets: dict[str, ImageSet],
    clf: Classifier,
    progress: Callable[[str, str | None], object] = lambda path, error: None,
    workers: int | None = None,
) -> list[CheckedImage]:
    """Return what is known of each image of each split, in order; every image is decoded once.

    ``progress`` is called with the path of each image and the reason where it could not be read. Raises DataError where
    an image may have several labels.
    """
    if any(images.multi_label for images in sets.values()):
        raise DataError("images with several labels cannot be checked: give a data set with one label per image")

    def samples() -> Iterator[CheckedImage]:
        for split, images in sets.items():
            for image, target in images.samples:
                assert isinstance(target, int)
                yield CheckedImage(image, split, target)

    def read(sample: CheckedImage) -> tuple[CheckedImage, Any]:
        return _read(sample, clf)

    size = clf.engine.preferred_batch
    threads = default_workers() if workers is None else workers
    found = []
    for batch in batched(ordered_map(read, samples(), threads, ahead=2 * size), size):
        good = [pixels for _, pixels in batch if pixels is not None]
        rows = iter(clf.engine.embed(clf.preprocess.normalize(np.stack(good))) if good else ())
        for item, pixels in batch:
            found.append(item if pixels is None else _with_features(item, next(rows)))
            progress(str(item), item.error)
    return found


def _read(sample: CheckedImage, clf: Classifier) -> tuple[CheckedImage, Any]:
    try:
        data = encoded(sample.image)
        picture = decode(data, max_pixels=clf.max_pixels)
    except (ImageError, OSError) as error:
        return replace(sample, error=str(error)), None
    checked = replace(
        sample,
        digest=hashlib.blake2b(data, digest_size=16).digest(),
        size=picture.size,
        mode=_mode(data),
        gradients=gradients(picture),
    )
    return checked, clf.preprocess.pixels(picture)


def _with_features(item: CheckedImage, row: Array) -> CheckedImage:
    if not np.isfinite(row).all():
        return replace(item, error="the network's output is not finite", gradients=None)
    return replace(item, features=row / max(float(np.linalg.norm(row)), 1e-12))


def gradients(picture: Image.Image) -> Array:
    """Return the gradients of a picture, see `CheckedImage`."""
    grey = np.asarray(picture.convert("L").resize((GRID, GRID), Image.Resampling.BOX), np.float32)
    joined = np.concatenate([np.diff(grey, axis=1).ravel(), np.diff(grey, axis=0).ravel()])
    length = float(np.linalg.norm(joined))
    return np.divide(joined, length or 1, dtype=np.float32)


def _mode(data: bytes) -> str:
    """Return the format and the mode of an image file, such as "JPEG RGB"."""
    try:
        with Image.open(BytesIO(data)) as picture:
            return f"{picture.format} {picture.mode}"
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return "other"
