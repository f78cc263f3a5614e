"""One door for every format: from what a user names to images with their classes."""

from __future__ import annotations

import os
from pathlib import Path

from seresnet.data.folder import find_splits, folder_to_evaluate
from seresnet.data.lists import SUFFIXES as LISTS
from seresnet.data.lists import list_parts
from seresnet.data.samples import ImageSet, Splits
from seresnet.errors import DataError

Parts = dict[str, ImageSet]  # by "train", "validation", "test"


def open_data(source: str | os.PathLike[str]) -> Splits:
    """Return the parts of a data set, whatever its format (docs/data.md): the one entry of training.

    ``source`` is a folder of class folders, a list (CSV, TSV, parquet), tar shards (a folder or a pattern of them), an
    archive of a folder (zip, tar), or ``hf:NAME``, a data set that the library ``datasets`` knows. Raises DataError
    where it is none of these, or has no training part.
    """
    parts = _parts(os.fspath(source))
    if isinstance(parts, Path):
        return find_splits(parts)
    if "train" not in parts:
        raise DataError(f"{source}: has no training part, only {' and '.join(parts)}")
    return Splits(parts["train"], parts.get("validation"), parts.get("test"))


def open_labelled(source: str | os.PathLike[str]) -> ImageSet:
    """Return the images of a data set to evaluate on: its test part, or else its validation part, or else all of it."""
    parts = _parts(os.fspath(source))
    if isinstance(parts, Path):
        return folder_to_evaluate(parts)
    return next(parts[split] for split in ("test", "validation", "train") if split in parts)


def _parts(source: str) -> Parts | Path:
    """Return the parts of a data set, or the folder of class folders that it is."""
    path = Path(source)
    if path.suffix.lower() in LISTS and path.is_file():
        return list_parts(path)
    return path
