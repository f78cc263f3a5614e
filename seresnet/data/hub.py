"""Data sets that the library ``datasets`` knows: of the Hugging Face Hub, or on disk; whole, or as a stream."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seresnet.data.dataset import SPLITS, ImageSet, Sample, StoredImage, Stream, Target
from seresnet.data.lists import class_names
from seresnet.errors import DataError, ImageError

PREFIX = "hf:"
SHUFFLE_BUFFER = 2000  # encoded images of a stream among which the next one is drawn


@dataclass(frozen=True)
class HubSource:
    """What ``hf:NAME[:CONFIG][,image=COLUMN][,label=COLUMN][,stream]`` says."""

    name: str
    config: str | None = None
    image: str | None = None
    label: str | None = None
    stream: bool = False


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
        return _bytes_of(self.rows[self.index][self.column])

    def __str__(self) -> str:
        return f"{self.name}[{self.index}]"


@dataclass(frozen=True, eq=False)
class StreamedImage(StoredImage):
    """An image that has come out of a stream, named by its file where it has one."""

    cell: Mapping[str, Any]
    name: str

    lasts = False

    @property
    def key(self) -> str:
        """Its name."""
        return self.name

    def read(self) -> bytes:
        """Return its bytes."""
        return _bytes_of(self.cell)

    def __str__(self) -> str:
        return self.name


class HubStream(Stream):
    """The rows of a streamed part. The library draws their order from a seed, so that it is the same each time."""

    def __init__(self, rows: Any, count: int, image: str, label: str, name: str) -> None:
        self.rows, self.count, self.image, self.label, self.name = rows, count, image, label, name

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
            name = f"{self.name}[{cell.get('path') or number}]"
            yield StreamedImage(cell, name), tuple(sorted(set(label))) if isinstance(label, list) else int(label)


def parse(source: str) -> HubSource:
    """Read ``hf:user/name:config,label=fine_label,stream``. Raises DataError."""
    name, *options = source.removeprefix(PREFIX).split(",")
    path, colon, config = name.rpartition(":")
    known: dict[str, Any] = {}
    for option in options:
        key, sign, value = option.partition("=")
        if key == "stream" and not sign:
            known[key] = True
        elif key in ("image", "label") and value:
            known[key] = value
        else:
            raise DataError(f"{source}: {option!r} is none of image=COLUMN, label=COLUMN and stream")
    if not name:
        raise DataError(f"{source}: give a name after {PREFIX}, such as hf:uoft-cs/cifar10")
    return HubSource(path, config, **known) if colon and path else HubSource(name, **known)


def hub_parts(source: str, offline: bool | None = None) -> dict[str, ImageSet]:
    """Return the parts of a data set of ``datasets``: ``train``, ``validation``, ``test``, by the names of its splits.

    There has to be one column of images and one of labels (classes, or lists of them: multi-label); ``image=`` and
    ``label=`` choose among several. Classes are the names that the data set declares, or else the different labels of
    the training rows. With ``stream`` nothing is stored, and rows come in the data set's own pace: then it has to
    declare its classes and its number of rows. Rows without any label (of a hidden test set) are no part. Raises
    DataError.
    """
    spec = parse(source)
    tables = _load(source, spec, offline)
    features = next(iter(tables.values())).features
    image = _column(source, features, spec.image, ("Image",), ("image", "img"), "image")
    labelled = ("ClassLabel", "Value", "List", "Sequence", "LargeList")
    label = _column(source, features, spec.label, labelled, ("label", "labels"), "label")
    item = getattr(features[label], "feature", features[label])
    classes = tuple(getattr(item, "names", None) or ())
    from datasets import Image

    tables = {
        split: rows.select_columns([image, label]).cast_column(image, Image(decode=False))
        for split, rows in tables.items()
    }
    if spec.stream:
        return _streams(source, tables, image, label, classes, item is not features[label])
    labels = {split: rows.select_columns([label])[:][label] for split, rows in tables.items()}
    labels = {split: values for split, values in labels.items() if any(value not in (None, -1) for value in values)}
    return _image_sets(source, {split: tables[split] for split in labels}, labels, image, classes)


def _image_sets(
    source: str, tables: dict[str, Any], labels: dict[str, list[Any]], image: str, classes: tuple[str, ...]
) -> dict[str, ImageSet]:
    if not labels:
        raise DataError(f"{source}: no row has a label")
    multi_label = isinstance(next(iter(labels.values()))[0], list)
    known = labels.get("train") or [value for values in labels.values() for value in values]
    names = classes or class_names(str(x) for value in known for x in (value if multi_label else [value]))
    index: dict[Any, int] = {i: i for i in range(len(names))} if classes else {name: i for i, name in enumerate(names)}

    def find(split: str, row: int, value: Any) -> int:
        number = index.get(value if classes else str(value))
        if number is None:
            raise DataError(
                f"{source}: row {row} of {split} has the label {value!r}, which is no class of the training rows"
            )
        return number

    found = {}
    for split, rows in tables.items():
        samples: list[Sample] = []
        for row, value in enumerate(labels[split]):
            target: Target = (
                tuple(sorted({find(split, row, x) for x in value or ()})) if multi_label else find(split, row, value)
            )
            samples.append((RowImage(rows, image, row, f"{source}/{split}"), target))
        found[split] = ImageSet(source, names, tuple(samples), multi_label)
    return found


def _streams(
    source: str, tables: dict[str, Any], image: str, label: str, classes: tuple[str, ...], multi_label: bool
) -> dict[str, ImageSet]:
    if not classes:
        raise DataError(f"{source}: does not declare its classes, which a stream needs; leave out stream")
    found = {}
    for split, rows in tables.items():
        sizes = rows.info.splits or {}
        count = sizes[rows.split].num_examples if rows.split in sizes else None
        if not count:
            raise DataError(
                f"{source}: does not declare how many rows {split} has, which a stream needs; leave out stream"
            )
        stream = HubStream(rows, count, image, label, f"{source}/{split}")
        found[split] = ImageSet(source, classes, stream, multi_label)
    return found


def _load(source: str, spec: HubSource, offline: bool | None) -> dict[str, Any]:
    """Return the tables of the data set, by our names of its parts."""
    import datasets

    path = Path(spec.name).expanduser()
    try:
        with _offline(offline):
            if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
                loaded = datasets.load_from_disk(str(path))
            elif path.suffix == ".parquet":
                loaded = datasets.load_dataset("parquet", data_files=str(path), streaming=spec.stream)
            else:
                loaded = datasets.load_dataset(
                    str(path) if path.exists() else spec.name, spec.config, streaming=spec.stream
                )
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"{source}: {str(error).strip().splitlines()[0]}") from None
    if not isinstance(loaded, dict):
        return {"train": loaded}
    parts = {split: loaded[name] for split, names in SPLITS.items() for name in names if name in loaded}
    if not parts and len(loaded) == 1:
        return {"train": next(iter(loaded.values()))}
    if not parts:
        raise DataError(f"{source}: has the parts {', '.join(loaded)}, none of them train, validation or test")
    return parts


def _column(
    source: str,
    features: Mapping[str, Any],
    given: str | None,
    kinds: tuple[str, ...],
    usual: tuple[str, ...],
    what: str,
) -> str:
    """Return the column that was asked for; or the only one of a kind, or among several the one of the usual name."""
    fitting = [name for name, feature in features.items() if type(feature).__name__ in kinds]
    if what == "label" and any(type(features[name]).__name__ == "ClassLabel" for name in fitting):
        fitting = [name for name in fitting if type(features[name]).__name__ == "ClassLabel"]
    if given is not None:
        if given in fitting:
            return given
        raise DataError(f"{source}: {given!r} is no column of {what}s; there are {', '.join(features)}")
    named = [name for name in usual if name in fitting]
    if len(fitting) == 1 or named:
        return named[0] if named else fitting[0]
    raise DataError(f"{source}: add ,{what}=COLUMN, one of its columns {', '.join(fitting or features)}")


def _bytes_of(cell: Mapping[str, Any]) -> bytes:
    """Return the bytes of an undecoded cell: its own, or those of the file that it names."""
    if cell is None:
        raise ImageError("the row has no image")
    if cell.get("bytes") is not None:
        return bytes(cell["bytes"])
    import fsspec

    with fsspec.open(cell["path"], "rb") as file:
        return file.read()


@contextmanager
def _offline(offline: bool | None) -> Iterator[None]:
    """Keep ``datasets`` from the network where ``offline``; None follows ``HF_HUB_OFFLINE``."""
    import datasets
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    if offline is not None:
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = offline
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before
