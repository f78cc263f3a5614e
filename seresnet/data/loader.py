"""Batches of pixels for training: which images, in which order, is a pure function of the seed and the epoch.

Nothing here has a state to save: an interrupted epoch is taken up again by skipping the batches that are done, and
the crop of an image depends only on the seed, the epoch and the image, not on who decodes it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seresnet.data.augment import TrainCrop
from seresnet.data.folder import Sample
from seresnet.data.images import decode
from seresnet.data.parallel import batched, ordered_map
from seresnet.errors import DataError, ImageError

log = logging.getLogger("seresnet")

Pixels = NDArray[np.uint8]
CACHE_LIMIT = 2**30  # bytes of decoded pixels that are kept in memory


@dataclass(frozen=True)
class Batch:
    """Decoded images ``(N, H, W, C)``, their class indices ``(N,)`` and files; unreadable images are left out.

    ``positions`` ``(N,)`` are the images' places in the batch of all processes.
    """

    pixels: Pixels
    targets: NDArray[np.int64]
    paths: list[Path]
    positions: NDArray[np.int64]


@dataclass
class Loader:
    """Decode samples with threads, batch after batch.

    ``rank`` and ``world`` deal the images of each global batch out to processes. ``unreadable`` collects the files
    that could not be decoded, with their reasons.
    """

    samples: Sequence[Sample]
    crop: TrainCrop
    batch_size: int  # of this process
    workers: int
    seed: int = 0
    rank: int = 0
    world: int = 1
    unreadable: dict[Path, str] = field(default_factory=dict)
    _cache: list[Pixels | None] | None = None

    def fits_in_memory(self) -> bool:
        """Tell whether all images, cut to size, can be kept: then each file is decoded once."""
        channels, height, width = self.crop.preprocess.input_size
        return self.crop.kind == "center" and len(self.samples) * channels * height * width <= CACHE_LIMIT

    def fill_cache(self, on_image: Callable[[], None]) -> None:
        """Decode every image once and keep its pixels; ``on_image`` is called after each."""
        self._cache = []
        for pixels in ordered_map(lambda i: self._read(i, 0), range(len(self.samples)), self.workers, ahead=256):
            self._cache.append(pixels)
            on_image()
        self._require_some(any(p is not None for p in self._cache))

    def batches_per_epoch(self) -> int:
        """Return the number of full batches; the images left over differ from epoch to epoch."""
        return len(self.samples) // (self.batch_size * self.world)

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """Yield the shuffled full batches of ``epoch``, without the first ``skip``."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.samples))
        count = self.batches_per_epoch() * self.batch_size * self.world
        mine = order[:count][self.rank :: self.world][skip * self.batch_size :]
        yield from self._batches(mine, epoch)

    def in_order(self) -> Iterator[Batch]:
        """Yield this process's share of the images, each exactly once, in order; the last batch may be short."""
        yield from self._batches(np.arange(self.rank, len(self.samples), self.world), 0)

    def _batches(self, indices: NDArray[np.int64], epoch: int) -> Iterator[Batch]:
        ahead = 2 * self.batch_size
        if self._cache is not None:
            pixels: Iterator[Pixels | None] = (self._cache[i] for i in indices)
        else:
            pixels = ordered_map(lambda i: self._read(i, epoch), indices, self.workers, ahead)
        for pairs in batched(zip(indices, pixels, strict=True), self.batch_size):
            good = [(self.samples[i], p, place) for place, (i, p) in enumerate(pairs) if p is not None]
            self._require_some(bool(good))
            targets = np.array([target for (_, target), _, _ in good], np.int64)
            positions = self.rank + self.world * np.array([place for _, _, place in good], np.int64)
            yield Batch(np.stack([p for _, p, _ in good]), targets, [path for (path, _), _, _ in good], positions)

    def _read(self, index: int, epoch: int) -> Pixels | None:
        path = self.samples[index][0]
        rng = np.random.default_rng([self.seed, epoch, int(index)])
        try:
            return self.crop(decode(path), rng)
        except ImageError as error:
            if path not in self.unreadable:
                log.warning("skipped %s: %s", path, error)
            self.unreadable[path] = str(error)
            return None

    def _require_some(self, some: bool) -> None:
        if not some:
            path, reason = next(iter(self.unreadable.items()))
            raise DataError(f"no image of a whole batch can be read, among them {path}: {reason}; check the data set")
