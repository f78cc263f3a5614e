"""Labelled images from a list: CSV, TSV or parquet with the columns ``path`` and ``label`` or ``labels``."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from seresnet.data.dataset import SPLITS, ImageSet, Sample
from seresnet.errors import DataError

SUFFIXES = (".csv", ".tsv", ".parquet")
_PROBED = 100  # files of each part that are looked for before anything else starts

Row = tuple[Path, tuple[str, ...]]  # an image file, the names of its classes


def list_parts(path: Path) -> dict[str, ImageSet]:
    """Read a list into its parts, ``train``, ``validation`` and ``test``; without a column ``split`` all is ``train``.

    Paths are relative to the list's folder, and stay within it. ``label`` holds the name of one class; ``labels`` any
    number of names, separated by ``;`` (in parquet also as a list), which makes the data multi-label. The classes are
    those of the training rows in sorted order. Raises DataError for a column that is missing, an image that is listed
    twice, a path that leads out of the folder, a class that the training rows do not have, or a list without images.
    """
    columns, table = _table(path)
    for missing in [name for name in ("path",) if name not in columns]:
        hint = f"; for images within the table, give hf:{path}" if "image" in columns else ""
        raise DataError(f"{path}: has no column {missing!r}, only {', '.join(columns[:8]) or 'nothing'}{hint}")
    if ("label" in columns) == ("labels" in columns):
        raise DataError(f"{path}: needs one column 'label' (a class) or 'labels' (classes, separated by ;)")
    multi_label = "labels" in columns
    parts: dict[str, list[Row]] = {}
    seen: set[Path] = set()
    for number, row in enumerate(table, 1):
        image = _image_path(path, row["path"], number)
        if image in seen:
            raise DataError(f"{path}: {row['path']} is listed twice; keep one row for each image")
        seen.add(image)
        labels = _labels(row["labels"]) if multi_label else (_label(path, row["label"], number),)
        parts.setdefault(_split(path, row.get("split")), []).append((image, labels))
    if not parts:
        raise DataError(f"{path}: lists no images")
    return _image_sets(path, parts, multi_label)


def class_names(labels: Iterable[str]) -> tuple[str, ...]:
    """Return the different labels in sorted order: of numbers where all are whole numbers, or else of texts."""
    names = set(labels)
    if all(re.fullmatch(r"-?\d+", name) for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def _table(path: Path) -> tuple[list[str], Iterator[dict[str, Any]]]:
    """Return the names of the columns, and the rows."""
    if path.suffix.lower() == ".parquet":
        return _parquet(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not UTF-8 text; save the list as UTF-8") from None
    reader = csv.DictReader(io.StringIO(text), delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    return list(reader.fieldnames or []), iter(reader)


def _parquet(path: Path) -> tuple[list[str], Iterator[dict[str, Any]]]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        table = ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path}: no parquet file ({error})") from None
    names = list(table.schema_arrow.names)
    wanted = [name for name in ("path", "label", "labels", "split") if name in names]
    return names, (row for batch in table.iter_batches(columns=wanted) for row in batch.to_pylist())


def _image_path(path: Path, text: object, number: int) -> Path:
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{path}: row {number} has no path")
    image = os.path.normpath(text)
    if os.path.isabs(image):  # noqa: PTH117
        image = os.path.relpath(image, path.parent)
    if image.startswith("..") and image[2:3] in ("", os.sep):
        raise DataError(f"{path}: {text} leads out of the list's folder; put the list above its images")
    return path.parent / image


def _label(path: Path, value: object, number: int) -> str:
    text = "" if value is None else str(value).strip()
    if not text:
        raise DataError(f"{path}: row {number} has no label")
    return text


def _labels(value: object) -> tuple[str, ...]:
    """Return the names in a cell, each once."""
    names = value if isinstance(value, list) else str(value or "").split(";")
    return tuple(dict.fromkeys(name for name in (str(n).strip() for n in names) if name))


def _split(path: Path, value: object) -> str:
    if value is None or not str(value).strip():
        return "train"
    for split, names in SPLITS.items():
        if str(value).strip().lower() in names:
            return split
    raise DataError(f"{path}: split {value!r} is none of train, validation and test")


def _image_sets(path: Path, parts: dict[str, list[Row]], multi_label: bool) -> dict[str, ImageSet]:
    rows = parts.get("train") or [row for part in parts.values() for row in part]
    classes = class_names(label for _, labels in rows for label in labels)
    if not classes:
        raise DataError(f"{path}: no image of the training part has a label")
    index = {name: i for i, name in enumerate(classes)}
    found = {}
    for split, part in parts.items():
        if not any(image.is_file() for image, _ in part[:_PROBED]):
            raise DataError(
                f"{path}: {part[0][0]} does not exist, nor do those after it; paths start at the list's folder"
            )
        unknown = sorted({label for _, labels in part for label in labels} - index.keys())
        if unknown:
            raise DataError(f"{path}: classes of {split} that the training rows do not have: {', '.join(unknown[:5])}")
        samples: list[Sample] = []
        for image, labels in part:
            targets = tuple(sorted(index[label] for label in labels))
            samples.append((image, targets if multi_label else targets[0]))
        found[split] = ImageSet(path.parent, classes, tuple(samples), multi_label, path)
    return found
