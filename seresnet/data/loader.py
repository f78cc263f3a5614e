"""Batches of pixels for training: which images, in which order, is a pure function of the seed and the epoch.

Nothing here has a state to save: an interrupted epoch is taken up again by skipping the batches that are done, and
the crop of an image depends only on the seed, the epoch and the image, not on who decodes it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seresnet.data.augment import TrainCrop
from seresnet.data.dataset import Sample, StoredImage, Stream, Target
from seresnet.data.decode import MAX_PIXELS, decode
from seresnet.data.parallel import batched, ordered_map
from seresnet.errors import DataError, ImageError

log = logging.getLogger("seresnet")

Pixels = NDArray[np.uint8]
Targets = NDArray[np.int64] | NDArray[np.float32]
CACHE_LIMIT = 2**30  # bytes of decoded pixels that are kept in memory


@dataclass(frozen=True)
class Batch:
    """Decoded images ``(N, H, W, C)``, their targets and files; unreadable images are left out.

    ``targets`` are class indices ``(N,)``, or of multi-label images zeros and ones, float32 ``(N, num_classes)``.
    ``positions`` ``(N,)`` are the images' places in the batch of all processes.
    """

    pixels: Pixels
    targets: Targets
    paths: list[Path | StoredImage]
    positions: NDArray[np.int64]


@dataclass
class Loader:
    """Decode samples with threads, batch after batch.

    ``rank`` and ``world`` deal the images of each global batch out to processes. ``unreadable`` collects the files
    that could not be decoded, with their reasons.
    """

    samples: Sequence[Sample] | Stream
    crop: TrainCrop
    batch_size: int  # of this process
    workers: int
    seed: int = 0
    rank: int = 0
    world: int = 1
    num_classes: int | None = None  # of multi-label images
    max_pixels: int = MAX_PIXELS  # larger images are not decoded
    repeated_aug: int = 1  # of each image in a training batch, one after the other, each with a crop of its own
    unreadable: dict[Path | StoredImage, str] = field(default_factory=dict)
    _cache: list[Pixels | None] | None = None

    def fits_in_memory(self) -> bool:
        """Return whether all images, cut to size, can be kept: then each file is decoded once."""
        channels, height, width = self.crop.preprocess.input_size
        size = len(self.samples) * channels * height * width
        return self.crop.fixed and not isinstance(self.samples, Stream) and size <= CACHE_LIMIT

    def fill_cache(self, on_image: Callable[[], None]) -> None:
        """Decode every image once and keep its pixels; ``on_image`` is called after each."""
        cache: list[Pixels | None] = []
        items = self._each(range(len(self.samples)))
        for pixels in ordered_map(lambda item: self._read(item[0], item[1][0], 0), items, self.workers, ahead=256):
            cache.append(pixels)
            on_image()
        self._cache = cache
        self._require_some(any(p is not None for p in self._cache))

    def batches_per_epoch(self) -> int:
        """Return the number of full batches; the images left over differ from epoch to epoch."""
        return len(self.samples) // (self.batch_size * self.world)

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """Yield the shuffled full batches of ``epoch``, without the first ``skip``.

        With ``repeated_aug`` an epoch has as many batches, of as many fewer images (arXiv 1902.05509).
        """
        start, end = (
            self.rank + skip * self.batch_size * self.world,
            self.batches_per_epoch() * self.batch_size * self.world,
        )
        count, copies = len(self.samples), range(self.repeated_aug)
        if isinstance(self.samples, Stream):
            images = enumerate(self.samples.shuffled(self.seed, epoch))
            stream = ((i + copy * count, sample) for i, sample in images for copy in copies)
            yield from self._batches(islice(stream, start, end, self.world), epoch)
            return
        order = np.random.default_rng([self.seed, epoch]).permutation(count)
        order = (order[:, None] + np.arange(self.repeated_aug) * count).ravel()[start : end : self.world]
        yield from self._batches(self._each(map(int, order)), epoch)

    def in_order(self) -> Iterator[Batch]:
        """Yield this rank's part of the images, each exactly once, in order; the last batch may be short."""
        if isinstance(self.samples, Stream):
            yield from self._batches(islice(enumerate(self.samples), self.rank, None, self.world), 0)
        else:
            yield from self._batches(self._each(range(self.rank, len(self.samples), self.world)), 0)

    def _each(self, indices: Iterable[int]) -> Iterator[tuple[int, Sample]]:
        assert not isinstance(self.samples, Stream)
        return ((i, self.samples[i % len(self.samples)]) for i in indices)

    def _batches(self, items: Iterable[tuple[int, Sample]], epoch: int) -> Iterator[Batch]:
        def read(item: tuple[int, Sample]) -> tuple[Sample, Pixels | None]:
            index, sample = item
            if self._cache is not None:
                return sample, self._cache[index % len(self.samples)]
            return sample, self._read(index, sample[0], epoch)

        workers = 0 if self._cache is not None else self.workers
        for pairs in batched(ordered_map(read, items, workers, ahead=2 * self.batch_size), self.batch_size):
            good = [(*sample, pixels, place) for place, (sample, pixels) in enumerate(pairs) if pixels is not None]
            self._require_some(bool(good))
            images, targets, pixels, places = zip(*good, strict=True)
            positions = self.rank + self.world * np.array(places, np.int64)
            yield Batch(np.stack(pixels), self._targets(targets), list(images), positions)

    def _targets(self, targets: Sequence[Target]) -> Targets:
        """Return class indices (N,), or for multi-label images a row of zeros and ones each, (N, num_classes)."""
        if self.num_classes is None:
            return np.array(targets, np.int64)
        rows = np.zeros((len(targets), self.num_classes), np.float32)
        for row, indices in zip(rows, targets, strict=True):
            row[list(indices)] = 1  # type: ignore[arg-type]
        return rows

    def _read(self, index: int, image: Path | StoredImage, epoch: int) -> Pixels | None:
        seeds = self.seed, epoch, index
        original: list[tuple[int, int]] = []  # the original size of an image that was decoded at a reduced size

        def reduction(size: tuple[int, int]) -> int:
            factor = self.crop.reduction(size, seeds)
            original.extend([size] if factor > 1 else [])
            return factor

        try:
            picture = decode(image, max_pixels=self.max_pixels, reduction=reduction)
            return self.crop(picture, np.random.default_rng(seeds), *original)
        except ImageError as error:
            if image not in self.unreadable:
                log.warning("skipped %s: %s", image, error)
            self.unreadable[image] = str(error)
            return None

    def _require_some(self, some: bool) -> None:
        if not some:
            path, reason = next(iter(self.unreadable.items()))
            raise DataError(f"no image of a batch can be read, among them {path}: {reason}; check the data set")
