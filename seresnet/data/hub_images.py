"""Images in the rows of a table of ``datasets``, and the bound on where their bytes may come from.

A cell holds the bytes of an image, or the name of a file. Whoever wrote a table may write any name into it: only files
of the data set itself, and of the library's cache, are opened, and addresses only where they are the data set's own.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seresnet.data.dataset import Sample, StoredImage, Stream
from seresnet.errors import DataError, ImageError

SHUFFLE_BUFFER = 2000  # encoded images of a stream among which the next one is drawn


@dataclass(frozen=True)
class Places:
    """Where the files of a data set are: folders, and the beginnings of its own addresses."""

    folders: tuple[str, ...]
    addresses: tuple[str, ...] = ()

    def holds(self, path: object) -> bool:
        """Return whether a path or an address belongs to the data set."""
        if not isinstance(path, str) or "\0" in path:
            return False
        address = path.rpartition("::")[2]  # zip://a.jpg::hf://datasets/user/name@main/a.zip
        if "://" in address:
            return address.startswith(self.addresses) and ".." not in address.split("/") if self.addresses else False
        if "://" in path:
            return False
        real = os.path.realpath(path)
        return any(real.startswith(os.path.join(folder, "")) for folder in self.folders)  # noqa: PTH118


def own_places(name: str, offline: bool | None) -> Places:
    """Return where the files of the data set ``name`` lie."""
    import datasets
    from huggingface_hub import constants

    path = Path(name).expanduser()
    caches = (datasets.config.HF_DATASETS_CACHE, datasets.config.DOWNLOADED_DATASETS_PATH, constants.HF_HUB_CACHE)
    folders = [path if path.is_dir() else path.parent] if path.exists() else [Path(cache) for cache in caches]
    remote = not path.exists() and not offline and not constants.HF_HUB_OFFLINE
    addresses = tuple(f"hf://datasets/{name}{mark}" for mark in "@/") if remote else ()
    return Places(tuple(os.path.realpath(folder) for folder in folders), addresses)


def outside_cell(rows: Any, column: str, places: Places) -> str | None:
    """Return the first path in a column of images that has no bytes and is not of the data set; None where all are."""
    for chunk in rows.data.column(column).chunks:
        if not hasattr(chunk.type, "get_field_index") or chunk.type.get_field_index("path") < 0:
            continue
        paths = chunk.field("path")
        if chunk.type.get_field_index("bytes") >= 0:
            paths = paths.filter(chunk.field("bytes").is_null())
        for path in paths:
            if path.is_valid and not places.holds(path.as_py()):
                return str(path.as_py())
    return None


def is_hidden_label(value: object) -> bool:
    """Return whether a label is kept back: none, or a negative index."""
    return value is None or (isinstance(value, int | float) and (value < 0 or value != value))


@dataclass(frozen=True, eq=False)
class RowImage(StoredImage):
    """An image in a row of a table of ``datasets``."""

    rows: Any
    column: str
    index: int
    name: str

    @property
    def key(self) -> str:
        """The number of the row."""
        return str(self.index)

    def read(self) -> bytes:
        """Return its bytes."""
        return bytes_of(self.rows[self.index][self.column])

    def __str__(self) -> str:
        return f"{self.name}[{self.index}]"


@dataclass(frozen=True, eq=False)
class StreamedImage(StoredImage):
    """An image that has come out of a stream, named by its file where it has one."""

    cell: Mapping[str, Any]
    name: str
    places: Places

    lasts = False

    @property
    def key(self) -> str:
        """Its name."""
        return self.name

    def read(self) -> bytes:
        """Return its bytes."""
        return bytes_of(self.cell, self.places)

    def __str__(self) -> str:
        return self.name


class HubStream(Stream):
    """The rows of a streamed split. The library draws their order from a seed, so that it is the same each time."""

    def __init__(self, rows: Any, count: int, image: str, label: str, name: str, places: Places) -> None:
        self.rows, self.count, self.image, self.label, self.name = rows, count, image, label, name
        self.places = places

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Sample]:
        return self._samples(self.rows)

    def shuffled(self, seed: int, epoch: int) -> Iterator[Sample]:
        """Yield the rows, shards in random order and each row out of a buffer of ``SHUFFLE_BUFFER``."""
        number = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
        return self._samples(self.rows.shuffle(seed=number, buffer_size=SHUFFLE_BUFFER))

    def fingerprint(self) -> str:
        """Return a hash of the name, the columns and the number of rows."""
        facts = f"{self.name}\0{self.count}\0{self.rows.features}"
        return hashlib.sha256(facts.encode()).hexdigest()

    def _samples(self, rows: Any) -> Iterator[Sample]:
        for number, row in enumerate(rows):
            cell, label = row[self.image], row[self.label]
            name = f"{self.name}[{(cell or {}).get('path') or number}]"
            wrong = next((x for x in (label if isinstance(label, list) else [label]) if is_hidden_label(x)), 0)
            if wrong != 0:
                raise DataError(f"{name}: has the label {wrong}, which is not a class; leave out stream, or such rows")
            target = tuple(sorted(set(label))) if isinstance(label, list) else int(label)
            yield StreamedImage(cell, name, self.places), target


def bytes_of(cell: Mapping[str, Any] | None, places: Places | None = None) -> bytes:
    """Return the bytes of an undecoded cell: its own, or those of the file that it names, which ``places`` bounds."""
    if cell is None or (cell.get("bytes") is None and cell.get("path") is None):
        raise ImageError("the row has no image")
    if cell.get("bytes") is not None:
        return bytes(cell["bytes"])
    if places is not None and not places.holds(cell["path"]):
        raise ImageError("the cell names a file or an address outside the data set, which is not opened")
    import fsspec

    with fsspec.open(cell["path"], "rb") as file:
        return file.read()
