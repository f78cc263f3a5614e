"""Which images are the same file: hashes by content, kept with a run so that an evaluation can recognize them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from seresnet.common.files import atomic_file
from seresnet.data.dataset import Sample, StoredImage, Stream
from seresnet.data.parallel import default_workers, ordered_map
from seresnet.errors import SeresnetError

Hashes = NDArray[np.uint64]

FILE = "train_images.npy"  # in a run's folder: the sorted hashes of the images that it was trained on
MAX_IMAGES = 200_000  # larger data sets are not hashed: it would take minutes
WHOLE = 2**20  # bytes; a file of at most this size is read completely
CHUNKS, CHUNK = 16, 2**14  # of a larger one, that many parts are read, evenly spread


def image_hash(image: Path | StoredImage) -> int:
    """Return 64 bits of the BLAKE2b hash of an image file's content and size; 0 where it cannot be read.

    Of a file of more than 1 MB, 16 evenly spread parts of 16 kB are read.
    """
    try:
        if isinstance(image, Path):
            with image.open("rb") as file:
                return _hash(file, os.fstat(file.fileno()).st_size)
        data = image.read()
        return _hash(BytesIO(data), len(data))
    except (OSError, ValueError, SeresnetError):
        return 0


def _hash(file: IO[bytes], size: int) -> int:
    digest = hashlib.blake2b(size.to_bytes(8, "little"), digest_size=8)
    if size <= WHOLE:
        digest.update(file.read(WHOLE))
    else:
        for part in range(CHUNKS):
            file.seek((size - CHUNK) * part // (CHUNKS - 1))
            digest.update(file.read(CHUNK))
    return int.from_bytes(digest.digest(), "little") or 1


def image_hashes(
    samples: Sequence[Sample] | Stream, on_image: Callable[[int], None] = lambda done: None
) -> Hashes | None:
    """Return the `image_hash` of each image ``(N,)``; None for a stream, or more than `MAX_IMAGES`.

    ``on_image`` is called with the number of images that are done.
    """
    if isinstance(samples, Stream) or len(samples) > MAX_IMAGES:
        return None
    found = np.zeros(len(samples), np.uint64)
    images = (image for image, _ in samples)
    for i, value in enumerate(ordered_map(image_hash, images, default_workers(), ahead=256)):
        found[i] = value
        on_image(i + 1)
    return found


def write_hashes(folder: Path, hashes: Hashes) -> None:
    """Write the hashes of a run's training images into its folder."""
    with atomic_file(folder / FILE) as file:
        np.save(file, np.unique(hashes[hashes != 0]), allow_pickle=False)


def read_hashes(model: Path) -> Hashes | None:
    """Return the hashes of the images that a model directory, or its run, was trained on; None if unknown."""
    for folder in (model, model.parent):
        path = folder / FILE
        if path.is_file() and path.stat().st_size <= 8 * MAX_IMAGES + 1024:
            try:
                hashes = np.load(path, allow_pickle=False)
            except (OSError, ValueError, EOFError):
                return None
            return hashes if hashes.dtype == np.uint64 and hashes.ndim == 1 else None
    return None


def count_trained_on(model: Path, images: Iterable[Path | StoredImage]) -> int | None:
    """Return how many of ``images`` a model directory was trained on, by their content; None where that is unknown."""
    known = read_hashes(model)
    if known is None:
        return None
    return int(np.isin([image_hash(image) for image in images], known).sum())
