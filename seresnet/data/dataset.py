"""The common form of all formats: images with their classes, in one order, and the splits of a data set."""

from __future__ import annotations

import hashlib
import os
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seresnet.data.walk import IMAGE_SUFFIXES, is_image_file, suffix_of
from seresnet.errors import DataError, ImageError

_EDGE = 16 * 1024  # bytes at each end of a file by which a change of it is seen


class StoredImage(ABC):
    """An image that is not a file of its own: a member of a shard, a row of a table. ``str`` names it for people."""

    __slots__ = ()
    lasts = True  # its bytes can be read again later, and are not held in memory

    @property
    @abstractmethod
    def key(self) -> str:
        """Its name within the data set, the same wherever the data set is."""

    @abstractmethod
    def read(self) -> bytes:
        """Return the bytes of the image file. Raises OSError or ImageError."""

    def state(self) -> str:
        """Return a text that changes with the image's content, as far as that is known without reading it."""
        return ""


@dataclass(frozen=True, slots=True)
class TarImage(StoredImage):
    """An image within an uncompressed tar file, read from its offset."""

    archive: Path
    member: str
    offset: int
    size: int

    @property
    def key(self) -> str:
        """The names of the archive and of the member."""
        return f"{self.archive.name}/{self.member}"

    def read(self) -> bytes:
        """Return its bytes; opened anew each time, so that threads and processes share no position."""
        with self.archive.open("rb", buffering=0) as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) < self.size:
            raise ImageError("truncated archive")
        return data

    def state(self) -> str:
        """Return its size and a hash of its beginning and end."""
        return _file_state(self.archive, self.offset, self.size)

    def __str__(self) -> str:
        return f"{self.archive}/{self.member}"


Target = int | tuple[int, ...]  # the index of its class; or, of a multi-label image, those of its classes
Sample = tuple[Path | StoredImage, Target]


class Stream(ABC):
    """Samples that only come one after the other: their number is known, their order follows from seed and epoch."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __iter__(self) -> Iterator[Sample]:
        """Yield each sample once, always in the same order."""

    @abstractmethod
    def shuffled(self, seed: int, epoch: int) -> Iterator[Sample]:
        """Yield each sample once, in an order that ``seed`` and ``epoch`` alone decide."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a hash of all that is known about the samples without reading them."""


@dataclass(frozen=True)
class ImageSet:
    """Images with their classes: ``classes`` by index, ``samples`` as ``(image, class index)`` in a fixed order.

    Where ``multi_label``, a target is the tuple of the indices of all classes of the image, which may be none.
    """

    root: Path | str
    classes: tuple[str, ...]
    samples: Sequence[Sample] | Stream
    multi_label: bool = False
    listed: Path | None = None  # the list that names the images, where there is one; ``root`` is then its folder
    split: str | None = field(
        default=None, compare=False
    )  # "train", "validation" or "test", where the data have splits

    def __str__(self) -> str:
        """Return where the data are, as messages name them."""
        return str(self.listed or self.root)

    def counts(self) -> list[int]:
        """Return the number of images in each class. Raises DataError where only a pass over the images would tell."""
        if isinstance(self.samples, Stream):
            raise DataError(
                f"{self}: streamed images cannot be counted by class; leave out stream, or set class_weights=none"
            )
        counts = [0] * len(self.classes)
        for _, target in self.samples:
            for index in (target,) if isinstance(target, int) else target:
                counts[index] += 1
        return counts

    def fingerprint(self, hashes: NDArray[np.uint64] | None = None) -> str:
        """Return a SHA-256 over class names, images and targets: the same for the same data in another place.

        Each image counts with its name and its content: its hash in ``hashes`` ``(N,)``, see `image_hashes`; where they
        are None, the size and the bytes at both ends of its file.
        """
        digest = hashlib.sha256("\0".join(self.classes).encode(errors="surrogateescape"))
        if isinstance(self.samples, Stream):
            digest.update(f"\0{self.samples.fingerprint()}".encode())
            return digest.hexdigest()
        for i, (image, target) in enumerate(self.samples):
            key = image.relative_to(self.root).as_posix() if isinstance(image, Path) else image.key
            if hashes is not None:
                state = str(hashes[i])
            else:
                state = _file_state(image) if isinstance(image, Path) else image.state()
            digest.update(f"\0{key}\0{target}\0{state}".encode(errors="surrogateescape"))
        return digest.hexdigest()


def _file_state(path: Path, offset: int = 0, size: int | None = None) -> str:
    """Return the size of a file (or of ``size`` bytes in it) and a hash of its ends; "" where it cannot be read."""
    try:
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size if size is None else size
            file.seek(offset)
            digest = hashlib.blake2b(file.read(min(size, 2 * _EDGE)), digest_size=8)
            if size > 2 * _EDGE:
                file.seek(offset + size - _EDGE)
                digest.update(file.read(_EDGE))
    except (OSError, ValueError):
        return ""
    return f"{size} {digest.hexdigest()}"


@dataclass(frozen=True)
class Splits:
    """The splits of a data set that training uses; ``validation`` is None where it has none."""

    train: ImageSet
    validation: ImageSet | None


def hold_out(images: ImageSet, fraction: float, seed: int) -> tuple[ImageSet, ImageSet]:
    """Split off ``fraction`` of each class (at least one image where it has two), the same ones for the same seed.

    A multi-label image counts for the rarest of its classes; files that are not images stay in the first. Raises
    DataError for a stream, and where no image is left to hold out.
    """
    if isinstance(images.samples, Stream):
        raise DataError(f"{images}: a streamed data set needs a validation split of its own; leave out stream")
    counts = images.counts()
    groups: list[list[int]] = [[] for _ in range(len(images.classes) + 1)]  # the last one: no class at all
    for position, (image, target) in enumerate(images.samples):
        if isinstance(image, Path) and suffix_of(image.name) not in IMAGE_SUFFIXES and not is_image_file(image):
            continue
        labels = (target,) if isinstance(target, int) else target
        groups[min(labels, key=lambda label: (counts[label], label), default=-1)].append(position)
    held: set[int] = set()
    rng = random.Random(seed)
    for positions in groups:
        if positions:
            count = min(len(positions) - 1, max(1, round(len(positions) * fraction)))
            held.update(rng.sample(positions, count))
    if not held:
        raise DataError(
            f"{images}: no image is left for validation, as no class has two; add images, or a validation split"
        )
    kept: list[Sample] = []
    taken: list[Sample] = []
    for position, sample in enumerate(images.samples):
        (taken if position in held else kept).append(sample)
    return replace(images, samples=tuple(kept)), replace(images, samples=tuple(taken))
