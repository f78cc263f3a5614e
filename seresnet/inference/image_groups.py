"""The images of a data set in preprocessed batches, each batch with the groups of its images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, tee
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seresnet.data.dataset import ImageSet
from seresnet.data.decode import MAX_PIXELS
from seresnet.data.folder import has_images
from seresnet.data.open_dataset import open_labelled
from seresnet.data.paths import expand
from seresnet.data.preprocess import Preprocess
from seresnet.errors import DataError
from seresnet.inference.images import Batch, read_images, to_batch

Progress = Callable[[str, str | None], object]  # a path, and the reason where it could not be read
ALL = "all"  # the one group of images without classes
BATCH = 64


def open_groups(data: str | os.PathLike[str], offline: bool | None = None, split: str | None = None) -> ImageSet:
    """Open a labelled data set, see `open_labelled`; a folder that has images of its own is one group, "all".

    Raises DataError where an image has several labels.
    """
    folder = Path(data)
    if split is None and folder.is_dir() and has_images(folder):
        return ImageSet(folder, (ALL,), [(Path(path), 0) for path in expand([folder]) if isinstance(path, str)])
    images = open_labelled(data, offline, split)
    if images.multi_label:
        raise DataError(f"an image of {images} has several labels: give images in the folder of one class each")
    return images


@dataclass
class GroupedBatches:
    """Reads all images of a set as often as it is iterated over: float32 (N, C, H, W) and their groups (N,).

    Images that cannot be read are left out, and ``unreadable`` counts those of the last pass.
    """

    images: ImageSet
    preprocess: Preprocess
    workers: int | None = None
    batch_size: int = BATCH
    max_pixels: int = MAX_PIXELS
    progress: Progress = lambda path, error: None
    unreadable: int = 0

    def __iter__(self) -> Iterator[tuple[Batch, NDArray[np.int64]]]:
        self.unreadable = 0
        given, samples = tee(self.images.samples)
        sources = (image for image, _ in given)
        for read in read_images(sources, self.preprocess, self.batch_size, self.workers, self.max_pixels):
            groups = [target for _, target in islice(samples, len(read))]
            for image in read:
                self.unreadable += image.error is not None
                self.progress(str(image.path), image.error)
            kept = [group for group, image in zip(groups, read, strict=True) if image.error is None]
            if kept:
                yield to_batch(read, self.preprocess), np.array(kept, np.int64)
