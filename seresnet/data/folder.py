"""Labelled photographs as folders of classes: ``DATA/train/<class>/*.jpg``, or ``DATA/<class>/*.jpg`` alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from seresnet.data.dataset import SPLITS, ImageSet, Splits
from seresnet.errors import DataError

EXTENSIONS = frozenset([".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"])


def image_folder(root: str | Path, classes: Sequence[str] | None = None) -> ImageSet:
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
    return ImageSet(root, names, samples)


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


def folder_to_evaluate(root: Path) -> ImageSet:
    """List the class folders of ``root``; or, where it holds only parts of a data set, those of its test part.

    Where there is no test part, the validation part is taken.
    """
    parts = {p.name: p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")} if root.is_dir() else {}
    known = [name for names in SPLITS.values() for name in names]
    if parts and set(parts) <= set(known):
        for name in (*SPLITS["test"], *SPLITS["validation"]):
            if name in parts:
                return image_folder(parts[name])
    return image_folder(root)
