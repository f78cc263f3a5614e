"""One door for every format: from what a user names to images with their classes."""

from __future__ import annotations

import os
from pathlib import Path

from seresnet.data.archives import SUFFIXES as ARCHIVES
from seresnet.data.archives import is_archive, unpacked
from seresnet.data.dataset import ImageSet, Splits
from seresnet.data.folder import find_splits, folder_to_evaluate
from seresnet.data.hub import PREFIX, hub_parts
from seresnet.data.lists import SUFFIXES as LISTS
from seresnet.data.lists import list_parts
from seresnet.data.shards import find_shards, holds_shards, is_pattern, is_shard, shard_parts
from seresnet.errors import DataError


def open_data(source: str | os.PathLike[str], offline: bool | None = None) -> Splits:
    """Return the parts of a data set, whatever its format (docs/data.md): the one entry of training.

    ``source`` is a folder of class folders, a list (CSV, TSV, parquet), tar shards (a folder of them, or a pattern), an
    archive of a folder (zip, tar), or ``hf:NAME``, a data set that the library ``datasets`` knows; ``offline`` keeps
    the last from the network. Raises DataError where it is none of these, or has no training part.
    """
    parts = open_parts(source, offline)
    if "train" not in parts:
        raise DataError(f"{source}: has no training part, only {' and '.join(parts)}")
    return Splits(parts["train"], parts.get("validation"), parts.get("test"))


def open_parts(source: str | os.PathLike[str], offline: bool | None = None) -> dict[str, ImageSet]:
    """Return what `open_data` does, by the names ``train``, ``validation`` and ``test``, with or without the first."""
    parts = _parts(os.fspath(source), offline)
    if isinstance(parts, dict):
        return parts
    splits = find_splits(parts)
    return {"train": splits.train} | {
        name: part for name, part in (("validation", splits.validation), ("test", splits.test)) if part
    }


def open_labelled(source: str | os.PathLike[str], offline: bool | None = None) -> ImageSet:
    """Return the images of a data set to evaluate on: its test part, or else its validation part, or else all of it."""
    parts = _parts(os.fspath(source), offline)
    if not isinstance(parts, dict):
        return folder_to_evaluate(parts)
    return next(parts[split] for split in ("test", "validation", "train") if split in parts)


def _parts(source: str, offline: bool | None) -> dict[str, ImageSet] | Path:
    """Return the parts of a data set, or the folder of class folders that it is."""
    if source.startswith(PREFIX):
        return hub_parts(source, offline)
    path = Path(source)
    if is_pattern(source):
        return shard_parts(find_shards(source))
    if path.suffix.lower() in LISTS and path.is_file():
        return list_parts(path)
    if holds_shards(path):
        return shard_parts(find_shards(source))
    if is_archive(path):
        return shard_parts([path]) if path.suffix.lower() == ".tar" and is_shard(path) else unpacked(path)
    if path.is_file():
        raise DataError(
            f"{path}: give a folder, a list ({', '.join(LISTS)}), shards or an archive ({', '.join(ARCHIVES)})"
        )
    return path
