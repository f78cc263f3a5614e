"""One way in for every format: from what a user names to images with their classes."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from seresnet.data.archives import SUFFIXES as ARCHIVES
from seresnet.data.archives import is_archive, unpack
from seresnet.data.dataset import ImageSet, Splits
from seresnet.data.hub import PREFIX, hub_splits
from seresnet.data.layout import ORDER, Found, folder_splits
from seresnet.data.lists import SUFFIXES as LISTS
from seresnet.data.lists import list_splits
from seresnet.data.names import SPLITS, few, split_named
from seresnet.data.shard_files import find_shards, holds_shards, is_pattern
from seresnet.data.shards import is_shard, shard_splits
from seresnet.errors import DataError

log = logging.getLogger("seresnet")

Source = str | os.PathLike[str]


def open_data(source: Source, offline: bool | None = None) -> Splits:
    """Return the splits to train and validate on, whatever the format of a data set (docs/data.md).

    ``source`` is a folder of class folders, a list (CSV, TSV, parquet), tar shards (a folder of them, or a pattern), an
    archive of a folder (zip, tar), or ``hf:NAME``, a data set that the library ``datasets`` knows; ``offline`` keeps
    the last from the network. A test split is not read. Raises DataError where it is none of these, or has no training
    split, or only one class.
    """
    found = _find(os.fspath(source), offline)
    train = found.get("train", training=True)
    if train is None:
        raise DataError(f"{source}: {_lacks(found, 'train')}")
    if len(train.classes) == 1 and not train.multi_label:
        raise DataError(
            f"{train}: only one class, {train.classes[0]}, and training needs two or more; if it is one of several "
            "class folders, give the folder above them"
        )
    return Splits(train, found.get("validation", training=True))


def open_splits(source: Source, offline: bool | None = None) -> dict[str, ImageSet]:
    """Return every split of a data set by its name: ``train``, ``validation`` and ``test``, or some of them."""
    found = _find(os.fspath(source), offline)
    sets = {split: found.get(split, training=True) for split in SPLITS}
    named = {split: images for split, images in sets.items() if images is not None}
    if not named:
        raise DataError(f"{source}: {_lacks(found, 'train')}")
    return named


def open_labelled(source: Source, offline: bool | None = None, split: str | None = None) -> ImageSet:
    """Return the images of a data set to evaluate on: of ``split``, or of the test split, or validation, or train.

    Says which on the log, where the data set has splits. Raises DataError where there is no such split.
    """
    found = _find(os.fspath(source), offline)
    wanted = ORDER if split is None else (_known(split),)
    if split is not None and found.whole:
        raise DataError(f"{source}: has no splits; leave out split to evaluate on all its images")
    for name in wanted:
        images = found.get(name, training=False)
        if images is not None:
            if not found.whole:
                log.warning("%s: using the %s split", source, name)
            return images
    raise DataError(f"{source}: {_lacks(found, wanted[0])}")


def _known(split: str) -> str:
    name = split_named(split)
    if name is None:
        raise DataError(f"split {split!r} is not one of train, validation and test")
    return name


def _lacks(found: Found, split: str) -> str:
    """Say that a split is not there, and what is."""
    if split in found.left_out:
        return f"no {split} split that can be used: {found.left_out[split]}"
    return f"has no {split} split, only {few(found.load) or 'splits without labels'}"


def _find(source: str, offline: bool | None) -> Found:
    """Return the splits of a data set, to be read when they are asked for."""
    if source.startswith(PREFIX):
        return hub_splits(source, offline)
    path = Path(source)
    if is_pattern(source):
        return shard_splits(find_shards(source))
    if path.suffix.lower() in LISTS and path.is_file():
        return list_splits(path)
    if holds_shards(path):
        return shard_splits(find_shards(source))
    if is_archive(path):
        if path.suffix.lower() == ".tar" and is_shard(path):
            return shard_splits([path])
        return _find(os.fspath(unpack(path)), offline)
    if path.is_file():
        raise DataError(
            f"{path}: give a folder, a list ({', '.join(LISTS)}), shards or an archive ({', '.join(ARCHIVES)})"
        )
    return folder_splits(path)
