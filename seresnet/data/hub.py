"""Data sets that the library ``datasets`` knows: of the Hugging Face Hub, or on disk; downloaded, or as a stream."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

from seresnet.data.dataset import ImageSet, Sample, Target
from seresnet.data.hub_images import HubStream, RowImage, is_hidden_label, outside_cell, own_places
from seresnet.data.layout import Found
from seresnet.data.names import class_names, few, nfc, split_named
from seresnet.errors import DataError

log = logging.getLogger("seresnet")

PREFIX = "hf:"
_PEEKED = 32  # rows of a streamed split that decide whether its labels are hidden


@dataclass(frozen=True)
class HubSource:
    """What ``hf:NAME[:CONFIG][,image=COLUMN][,label=COLUMN][,stream]`` says."""

    name: str
    config: str | None = None
    image: str | None = None
    label: str | None = None
    stream: bool = False


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
            raise DataError(f"{source}: {option!r} is not one of image=COLUMN, label=COLUMN and stream")
    if not name:
        raise DataError(f"{source}: give a name after {PREFIX}, such as hf:uoft-cs/cifar10")
    return HubSource(path, config, **known) if colon and path else HubSource(name, **known)


def hub_splits(source: str, offline: bool | None = None) -> Found:
    """Return the splits of a data set of ``datasets``: ``train``, ``validation``, ``test``, by the names of its splits.

    There has to be one column of images and one of labels (classes, or lists of them: multi-label); ``image=`` and
    ``label=`` choose among several. Classes are the names that the data set declares, or else the different labels of
    the training rows. With ``stream`` nothing is stored, and rows come in the data set's own pace: then it has to
    declare its classes and its number of rows. A split whose labels are hidden (-1 or none) is left out. Raises
    DataError.
    """
    spec = parse(source)
    tables, whole = _load(source, spec, offline)
    return HubData(source, spec, tables, offline).found(whole)


class HubData:
    """A loaded data set: its tables by split, and which columns hold images and labels."""

    def __init__(self, source: str, spec: HubSource, tables: dict[str, Any], offline: bool | None) -> None:
        from datasets import Image

        self.source, self.spec = source, spec
        self.places = own_places(spec.name, offline)
        features = next(iter(tables.values())).features
        self.image = _column(source, features, spec.image, ("Image",), ("image", "img"), "image")
        labelled = ("ClassLabel", "Value", "List", "Sequence", "LargeList")
        self.label = _column(source, features, spec.label, labelled, ("label", "labels"), "label")
        item = getattr(features[self.label], "feature", features[self.label])
        self.declared = tuple(map(nfc, getattr(item, "names", None) or ()))
        self.multi_label = item is not features[self.label]
        self.tables = {
            split: rows.select_columns([self.image, self.label]).cast_column(self.image, Image(decode=False))
            for split, rows in tables.items()
        }
        self._labels: dict[str, list[Any]] = {}

    def found(self, whole: bool) -> Found:
        """Return how each split is read; one without labels is left out."""
        found = Found(self.source, whole=whole)
        for split in self.tables:
            found.load[split] = partial(self.image_set, split)
            found.hidden[split] = partial(self.hidden, split)
        return found

    def hidden(self, split: str) -> str | None:
        """Return the reason why a split has no labels; None where it has some."""
        if self.spec.stream:
            values = [row[self.label] for row in islice(self.tables[split], _PEEKED)]
        else:
            values = self.labels(split)
        if values and all(map(is_hidden_label, values)):
            return f"its labels are hidden (all are {values[0]})"
        return None

    def labels(self, split: str) -> list[Any]:
        """Return the labels of a split, read once."""
        if split not in self._labels:
            self._labels[split] = self.tables[split].select_columns([self.label])[:][self.label]
        return self._labels[split]

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        if self.declared:
            return self.declared
        if self.spec.stream:
            raise DataError(f"{self.source}: does not declare its classes, which a stream needs; leave out stream")
        known = self.labels("train" if "train" in self.tables else next(iter(self.tables)))
        try:
            return class_names(nfc(str(x)) for value in known for x in (value or () if self.multi_label else [value]))
        except DataError as error:
            raise DataError(f"{self.source}: {error}") from None

    def image_set(self, split: str, training: bool) -> ImageSet:
        """Return the images of a split. Raises DataError."""
        name, classes = f"{self.source}/{split}", self.classes
        if self.spec.stream:
            stream = HubStream(self.tables[split], self._count(split), self.image, self.label, name, self.places)
            return ImageSet(self.source, classes, stream, self.multi_label, split=split)
        outside = outside_cell(self.tables[split], self.image, self.places)
        if outside is not None:
            raise DataError(f"{name}: an image cell names {outside!r}, outside the data set: it is not opened")
        samples: list[Sample] = [
            (RowImage(self.tables[split], self.image, row, name), self._target(split, row, value))
            for row, value in enumerate(self.labels(split))
        ]
        return ImageSet(self.source, classes, tuple(samples), self.multi_label, split=split)

    def _count(self, split: str) -> int:
        rows = self.tables[split]
        sizes = rows.info.splits or {}
        count = sizes[rows.split].num_examples if rows.split in sizes else None
        if not count:
            raise DataError(
                f"{self.source}: does not declare how many rows {split} has, which a stream needs; leave out stream"
            )
        return count

    def _target(self, split: str, row: int, value: Any) -> Target:
        if self.multi_label:
            return tuple(sorted({self._index(split, row, x) for x in value or ()}))
        return self._index(split, row, value)

    def _index(self, split: str, row: int, value: Any) -> int:
        if self.declared:
            number = value if type(value) is int and 0 <= value < len(self.declared) else None
        else:
            number = self._numbers.get(nfc(str(value)))
        if number is None:
            raise DataError(
                f"{self.source}: row {row} of {split} has the label {value!r}, which is not a class of the training "
                "rows"
            )
        return number

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.classes)}


def _load(source: str, spec: HubSource, offline: bool | None) -> tuple[dict[str, Any], bool]:
    """Return the tables of the data set by our names of its splits, and whether it has no splits at all."""
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
    except ImportError:
        raise
    except Exception as error:  # of files, tables, YAML and networks
        raise DataError(f"{source}: {(str(error).strip() or type(error).__name__).splitlines()[0]}") from None
    if not isinstance(loaded, dict):
        return {"train": loaded}, True
    tables: dict[str, Any] = {}
    for name in sorted(loaded, key=lambda name: split_named(name) != name):  # "validation" before "dev"
        if (split := split_named(name)) is not None:
            tables.setdefault(split, loaded[name])
    ignored = [name for name in loaded if not any(loaded[name] is table for table in tables.values())]
    if not tables and len(loaded) == 1:
        return {"train": next(iter(loaded.values()))}, True
    if not tables:
        raise DataError(f"{source}: has the splits {few(loaded)}, none of them train, validation or test")
    if ignored:
        log.warning("%s: ignored beside the splits: %s", source, few(ignored))
    return tables, False


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
        raise DataError(f"{source}: {given!r} is not a column of {what}s; there are {', '.join(features)}")
    named = [name for name in usual if name in fitting]
    if len(fitting) == 1 or named:
        return named[0] if named else fitting[0]
    raise DataError(f"{source}: add ,{what}=COLUMN, one of its columns {', '.join(fitting or features)}")


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
