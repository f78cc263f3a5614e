"""The calibration images of int8: those that its scales are set by."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seresnet.common.files import read_bounded
from seresnet.data.bounds import MAX_BYTES
from seresnet.data.paths import expand
from seresnet.data.preprocess import Preprocess
from seresnet.errors import DataError
from seresnet.inference.images import read_images, to_batch

IMAGES = 300  # more change nothing that could be measured (engines/openvino/int8.py)
BATCH = 8


@dataclass(frozen=True)
class Calibration:
    """Images of the kind that a model will see: paths, or whatever `seresnet.data.decode.decode` takes."""

    sources: tuple[Any, ...]

    @classmethod
    def of(cls, given: str | PathLike[str] | Iterable[Any]) -> Calibration:
        """Take a folder, a file, a glob, or images themselves; of many, `IMAGES` at equal distances, or the first.

        Raises DataError where there are none.
        """
        if isinstance(given, str | PathLike):
            found = list(expand([Path(given)]))
            taken: list[Any] = (
                [found[i * len(found) // IMAGES] for i in range(IMAGES)] if len(found) > IMAGES else found
            )
        else:
            taken = list(islice(given, IMAGES))
        if not taken:
            raise DataError("no images to calibrate with: give some of the kind that the model will see")
        return cls(tuple(taken))

    def digest(self) -> str | None:
        """Return a hash of the images' bytes; None where they are not all files or bytes, or one cannot be read."""
        total = hashlib.sha256()
        for source in self.sources:
            if not isinstance(source, str | PathLike | bytes):
                return None
            try:
                data = source if isinstance(source, bytes) else read_bounded(Path(source), MAX_BYTES)
            except (OSError, ValueError):
                return None
            total.update(hashlib.sha256(data).digest())
        return total.hexdigest()

    def batches(self, preprocess: Preprocess, workers: int | None = None) -> Iterator[NDArray[np.float32]]:
        """Yield the images as a network takes them, float32 (N, C, H, W). Raises DataError where none can be read."""
        read, reason = 0, ""
        for images in read_images(self.sources, preprocess, BATCH, workers):
            reason = next((image.error for image in images if image.error is not None), reason)
            batch = to_batch(images, preprocess)
            read += len(batch)
            if len(batch):
                yield batch
        if not read:
            raise DataError(f"none of the {len(self.sources)} images to calibrate with can be read: {reason}")
