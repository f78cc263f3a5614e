"""Labelled images from a list: CSV, TSV or parquet with the columns ``path`` and ``label`` or ``labels``."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from seresnet.data.dataset import ImageSet, Sample
from seresnet.data.layout import Found
from seresnet.data.names import alike, class_names, few, nfc, shown, split_named
from seresnet.data.tables import read_table
from seresnet.errors import DataError

log = logging.getLogger("seresnet")

SUFFIXES = (".csv", ".tsv", ".parquet")
_PROBED = 100  # files of each split that are looked for before anything else starts
_SEPARATORS = re.compile("[;|]")  # between the labels in a cell
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


@dataclass(frozen=True, slots=True)
class ListRow:
    """One row: its line number, its image, and the cell with its label or labels."""

    line: int
    image: Path
    cell: Any


@dataclass
class ImageList:
    """What a list says, before the labels are read."""

    path: Path
    multi_label: bool
    splits: dict[str, list[ListRow]] = field(default_factory=dict)

    def error(self, line: int, what: str) -> DataError:
        """Return the error that names a line."""
        unit = "row" if self.path.suffix.lower() == ".parquet" else "line"
        return DataError(f"{self.path}: {unit} {line}: {shown(what, 300)}")


def list_splits(path: Path) -> Found:
    """Read a list into its splits; without a column ``split`` all is ``train``.

    Paths are relative to the list's folder, and stay within it. ``label`` holds the name of one class; ``labels`` any
    number of names, separated by ``;`` or ``|`` (in parquet also as a list), which makes the data multi-label. The
    classes are those of the training rows in natural order; numbers may be written 3, 3.0 or 03. Raises DataError,
    naming the line, for a column that is missing, an image that is listed twice, a path that leads out of the folder,
    a class that the training rows do not have, or a list without images.
    """
    images = _read(path)
    found = Found(str(path), whole=list(images.splits) == ["train"])
    known = {str(row.cell).strip().casefold() for row in images.splits.get("train", ())}
    for split, rows in images.splits.items():
        if split != "train" and not images.multi_label and all(_is_hidden(row, known) for row in rows):
            found.left_out[split] = f"its {len(rows):,} rows have no labels, only {rows[0].cell!r}"
        else:
            found.load[split] = partial(_image_set, images, split)
    return found


def is_list(path: Path) -> bool:
    """Return whether a table has a column of paths."""
    try:
        with read_table(path) as (columns, _):
            return "path" in columns
    except DataError:
        return False


def listed_images(path: Path) -> Iterator[Path]:
    """Yield the images of a list in its order, labelled or not. Raises DataError."""
    with read_table(path) as (columns, rows):
        images = ImageList(path, multi_label=False)
        _require_path(path, columns)
        find = _PathFinder(images)
        for line, cells in rows:
            yield find(line, cells.get("path"))


def _read(path: Path) -> ImageList:
    with read_table(path) as (columns, rows):
        _require_path(path, columns)
        if ("label" in columns) == ("labels" in columns):
            raise DataError(
                f"{path}: needs one column 'label' (a class) or 'labels' (classes, separated by ; or |), and has "
                f"{few(columns)}"
            )
        images = ImageList(path, "labels" in columns)
        column = "labels" if images.multi_label else "label"
        find, seen = _PathFinder(images), set()
        for line, cells in rows:
            image = find(line, cells.get("path"))
            if image in seen:
                raise images.error(line, f"{cells['path']} is listed twice; keep one row for each image")
            seen.add(image)
            split = _split(images, line, cells.get("split"))
            images.splits.setdefault(split, []).append(ListRow(line, image, cells.get(column)))
    if not images.splits:
        raise DataError(f"{path}: lists no images")
    return images


def _require_path(path: Path, columns: list[str]) -> None:
    if "path" not in columns:
        hint = f"; for images within the table, give hf:{path}" if "image" in columns else ""
        if any((path.parent / column.replace("\\", "/")).is_file() for column in columns if column):
            hint = "; is the header missing? Let the first line be path,label"
        raise DataError(f"{path}: has no column 'path', only {few(columns) or 'nothing'}{hint}")


class _PathFinder:
    """From the cells of the column ``path`` to files below the list's folder."""

    def __init__(self, images: ImageList) -> None:
        self.images = images
        self.folder = images.path.parent
        self.real = os.path.realpath(self.folder)

    def __call__(self, line: int, text: object) -> Path:
        if not isinstance(text, str) or not text.strip():
            raise self.images.error(line, f"has no path (its cell is {text!r})")
        if "\0" in text:
            raise self.images.error(line, f"{text!r} is not a path")
        image = self._below(line, text)
        if image.is_file():
            return image
        for other in _spellings(text):
            if (candidate := self._below(line, other)).is_file():
                return candidate
        if any("\udc80" <= character <= "\udcff" for character in text):
            raise self.images.error(line, f"{text!r} is not UTF-8; save the list as UTF-8")
        return image

    def _below(self, line: int, text: str) -> Path:
        """Return a path below the list's folder; an absolute one may lead there through links."""
        if _DRIVE.match(text):
            raise self.images.error(line, f"{text} is a path of Windows; write it relative to the list's folder")
        path = os.path.normpath(text)
        if os.path.isabs(path):  # noqa: PTH117
            for folder, given in ((os.path.abspath(self.folder), path), (self.real, os.path.realpath(path))):  # noqa: PTH100
                below = os.path.relpath(given, folder)
                if not _leads_out(below):
                    return self.folder / below
        if os.path.isabs(path) or _leads_out(path):  # noqa: PTH117
            raise self.images.error(line, f"{text} leads out of the list's folder; put the list above its images")
        return self.folder / path


def _leads_out(path: str) -> bool:
    return path == ".." or path.startswith(".." + os.sep)


def _spellings(text: str) -> Iterator[str]:
    """Yield other ways to write the path of an image: with slashes, and in Unicode's other forms."""
    import unicodedata

    slashes = text.replace("\\", "/")
    for path in (text, slashes):
        for form in ("NFC", "NFD"):
            if (other := unicodedata.normalize(form, path)) != text:
                yield other
    yield slashes


def _split(images: ImageList, line: int, value: object) -> str:
    if value is None or not str(value).strip():
        return "train"
    split = split_named(str(value))
    if split is None:
        raise images.error(line, f"split {value!r} is not one of train, validation and test")
    return split


def _is_empty(cell: object) -> bool:
    return cell is None or cell != cell or not str(cell).strip()  # NaN differs from itself


def _is_hidden(row: ListRow, known: set[str]) -> bool:
    """Return whether a row has no label: its cell is empty, or says that the label is kept back."""
    text = "" if _is_empty(row.cell) else str(row.cell).strip().casefold()
    return text in ("", "-1", "-1.0", "none", "nan", "null", "unknown", "?") and text not in known


def _image_set(images: ImageList, split: str, training: bool) -> ImageSet:
    """Read the labels of a split. The classes are those of the training rows, or of all rows where there are none."""
    known = images.splits.get("train") or images.splits[split]
    rows = images.splits[split]
    labels = {row.line: _labels(images, row) for row in (*known, *rows)}
    renamed = numbers_as_written({name for names in labels.values() for name in names})
    labels = {line: tuple(dict.fromkeys(renamed.get(n, n) for n in names)) for line, names in labels.items()}
    try:
        classes = class_names(name for row in known for name in labels[row.line])
    except DataError as error:
        raise DataError(f"{images.path}: {error}") from None
    if not classes:
        raise DataError(f"{images.path}: no image of the training split has a label")
    if not any(row.image.is_file() for row in rows[:_PROBED]):
        missing = f"{rows[0].image} does not exist, nor do those after it; paths start at the list's folder"
        raise images.error(rows[0].line, missing)
    for first, second in alike(classes)[:1]:
        log.warning(
            "%s: the classes %r and %r differ in case, spaces or zeros alone; are they one?", images.path, first, second
        )
    for note in (*_number_notes(renamed), *_combined(images.multi_label, classes)):
        log.warning("%s: %s", images.path, note)
    samples = tuple(_samples(images, split, classes, labels))
    whole = len(images.splits) == 1
    return ImageSet(images.path.parent, classes, samples, images.multi_label, images.path, None if whole else split)


def _samples(
    images: ImageList, split: str, classes: tuple[str, ...], labels: dict[int, tuple[str, ...]]
) -> Iterator[Sample]:
    index = {name: i for i, name in enumerate(classes)}
    for row in images.splits[split]:
        unknown = [name for name in labels[row.line] if name not in index]
        if unknown:
            raise images.error(
                row.line, f"{unknown[0]!r} of the {split} split is not a class of the training rows ({few(classes)})"
            )
        targets = tuple(sorted(index[name] for name in labels[row.line]))
        yield row.image, targets if images.multi_label else targets[0]


def _labels(images: ImageList, row: ListRow) -> tuple[str, ...]:
    """Return the names in the cell of a row, each once."""
    if images.multi_label:
        cells = (
            row.cell if isinstance(row.cell, list) else _SEPARATORS.split("" if _is_empty(row.cell) else str(row.cell))
        )
        return tuple(dict.fromkeys(name for cell in cells if (name := nfc(str(cell).strip()))))
    if _is_empty(row.cell):
        raise images.error(row.line, f"has no label (its cell is {row.cell!r})")
    label = nfc(str(row.cell).strip())
    if any("\udc80" <= character <= "\udcff" for character in label) and not row.image.is_file():
        raise images.error(row.line, f"{label!r} is not UTF-8; save the list as UTF-8")
    return (label,)


def numbers_as_written(labels: set[str]) -> dict[str, str]:
    """Return the names of labels that are numbers in other spellings: 3.0 is 3, and so is 03 where there is a 3 too.

    Nothing is renamed where a label is not an integer.
    """
    parsed = {label: re.fullmatch(r"(-?)0*([0-9]+?)(?:\.0*)?", label) for label in labels}
    numbers = {label: match[1] + match[2] for label, match in parsed.items() if match}
    if len(numbers) < len(labels):
        return {}
    plain = {label: label.partition(".")[0] for label in labels}
    spelled_twice = len(set(plain.values())) > len(set(numbers.values()))
    names = numbers if spelled_twice else plain
    return {label: name for label, name in names.items() if name != label}


def _number_notes(renamed: dict[str, str]) -> Iterator[str]:
    if renamed:
        label, name = min(renamed.items())
        yield f"labels are numbers in more than one form: {label} is read as {name}" + (
            f", and {len(renamed) - 1} more" if len(renamed) > 1 else ""
        )


def _combined(multi_label: bool, classes: tuple[str, ...]) -> Iterator[str]:
    """Warn where the name of a class looks like the names of several."""
    known = set(classes)
    for name in classes:
        for separator in ";|" if not multi_label else ", /+&":
            parts = [part.strip() for part in name.split(separator)]
            if len(parts) > 1 and all(parts) and (separator in ";|" or known.issuperset(parts)):
                fix = "separate them by ; or |" if multi_label else "name the column 'labels'"
                yield f"{name!r} looks like several labels and counts as one class; {fix}"
                return
        if not multi_label and "," in name and known.issuperset(part.strip() for part in name.split(",")):
            yield f"{name!r} looks like several labels and counts as one class; separate them by ; in a column 'labels'"
            return
