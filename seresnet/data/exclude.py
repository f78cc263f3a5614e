"""Images that a list leaves out of a data set."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

from seresnet.data.dataset import ImageSet, Splits, Stream
from seresnet.data.names import few
from seresnet.data.tables import read_table
from seresnet.errors import DataError

log = logging.getLogger("seresnet")


def leave_out(splits: Splits, path: Path) -> Splits:
    """Return the splits without the images that a table lists in its column ``path``, as ``seresnet check`` writes it.

    Says how many on the log. Raises DataError for a stream, where none of the images is in the data, and where a class
    would have no training image.
    """
    listed = _read(path)
    before = [images for images in (splits.train, splits.validation) if images is not None]
    after = [_without(images, listed) for images in before]
    gone = sum(len(a.samples) - len(b.samples) for a, b in zip(before, after, strict=True))
    if listed and not gone:
        raise DataError(
            f"{path}: none of its {len(listed):,} images is in the data; its paths are relative to this folder"
        )
    log.info("%s: left out %d images", path, gone)
    train = after[0]
    if not train.multi_label and (empty := [c for c, n in zip(train.classes, train.counts(), strict=True) if not n]):
        raise DataError(f"{path}: leaves no training image of {few(empty)}; take some of its rows out")
    return Splits(train, after[1] if len(after) > 1 else None)


def _read(path: Path) -> frozenset[str]:
    with read_table(path) as (columns, rows):
        if "path" not in columns:
            raise DataError(f"{path}: has no column path")
        return frozenset(_key(str(cells["path"])) for _, cells in rows if cells.get("path"))


def _without(images: ImageSet, listed: frozenset[str]) -> ImageSet:
    if isinstance(images.samples, Stream):
        raise DataError(f"{images}: images of a stream cannot be excluded; leave out stream")
    return replace(images, samples=tuple(sample for sample in images.samples if _key(str(sample[0])) not in listed))


def _key(path: str) -> str:
    return os.path.abspath(path)  # noqa: PTH100 (links stay what they are)
