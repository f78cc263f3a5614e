"""Labelled photographs as folders of classes: ``DATA/train/<class>/*.jpg``, or ``DATA/<class>/*.jpg`` alone."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seresnet.errors import DataError

EXTENSIONS = frozenset([".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"])
SPLITS = {"train": ("train", "training"), "validation": ("validation", "val", "valid"), "test": ("test", "testing")}

Sample = tuple[Path, int]  # an image file, the index of its class


@dataclass(frozen=True)
class ImageFolder:
    """Image files with their classes: ``classes`` by index, ``samples`` as ``(path, class index)`` in sorted order."""

    root: Path
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]

    def counts(self) -> list[int]:
        """Return the number of images in each class."""
        counts = [0] * len(self.classes)
        for _, target in self.samples:
            counts[target] += 1
        return counts

    def fingerprint(self) -> str:
        """Return a SHA-256 over class names and relative paths: the same for the same folder in another place."""
        digest = hashlib.sha256("\0".join(self.classes).encode())
        for path, target in self.samples:
            digest.update(f"\0{path.relative_to(self.root).as_posix()}\0{target}".encode(errors="surrogateescape"))
        return digest.hexdigest()


@dataclass(frozen=True)
class Splits:
    """The parts of a data set; ``validation`` and ``test`` are None where there is no such folder."""

    train: ImageFolder
    validation: ImageFolder | None
    test: ImageFolder | None


def image_folder(root: str | Path, classes: Sequence[str] | None = None) -> ImageFolder:
    """List ``root/<class>/**/<image>``; classes are the folder names in sorted order, or as given.

    Raises DataError where there is no such folder, no class, a class that ``classes`` does not have, or no image.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give a folder with one sub-folder for each class")
    found = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not found:
        raise DataError(f"{root}: no sub-folders; put the images of each class into a folder with its name")
    names = tuple(classes) if classes is not None else tuple(found)
    unknown = [name for name in found if name not in names]
    if unknown:
        raise DataError(f"{root}: class folders that are not in the training set: {', '.join(unknown[:5])}")
    index = {name: i for i, name in enumerate(names)}
    samples = tuple(
        (path, index[name])
        for name in found
        for path in sorted((root / name).rglob("*"))
        if path.suffix.lower() in EXTENSIONS and path.is_file()
    )
    if not samples:
        raise DataError(f"{root}: no images in its class folders ({', '.join(found[:5])})")
    if classes is None:
        filled = {target for _, target in samples}
        empty = [name for i, name in enumerate(names) if i not in filled]
        if empty:
            raise DataError(f"{root}: class folders without an image: {', '.join(empty[:5])}; fill or remove them")
    return ImageFolder(root, names, samples)


def find_splits(root: str | Path) -> Splits:
    """Find ``train``, ``validation`` and ``test`` below ``root``; where there is none of them, all of it is train."""
    root = Path(root)
    folders = {split: next((root / n for n in names if (root / n).is_dir()), None) for split, names in SPLITS.items()}
    if folders["train"] is None:
        if folders["validation"] or folders["test"]:
            raise DataError(f"{root}: has no train folder beside its other parts; name it {root / 'train'}")
        return Splits(image_folder(root), None, None)
    train = image_folder(folders["train"])
    others = [image_folder(f, train.classes) if (f := folders[s]) else None for s in ("validation", "test")]
    return Splits(train, *others)


def hold_out(folder: ImageFolder, fraction: float, seed: int) -> tuple[ImageFolder, ImageFolder]:
    """Split off ``fraction`` of each class (at least one image where it has two), the same ones for the same seed."""
    by_class: list[list[Sample]] = [[] for _ in folder.classes]
    for sample in folder.samples:
        by_class[sample[1]].append(sample)
    held: set[Sample] = set()
    rng = random.Random(seed)
    for samples in by_class:
        count = min(len(samples) - 1, max(1, round(len(samples) * fraction)))
        held.update(rng.sample(samples, count))
    parts = [tuple(s for s in folder.samples if (s in held) == taken) for taken in (False, True)]
    return tuple(ImageFolder(folder.root, folder.classes, part) for part in parts)  # type: ignore[return-value]
