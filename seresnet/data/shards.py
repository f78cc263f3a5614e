"""WebDataset shards: tar files in which the parts of a sample share a key (``000017.jpg``, ``000017.cls``).

A shard is read at random places, not from front to back: its index says where each image lies. So shards are shuffled,
dealt out to processes, counted and resumed image by image, like a folder. The index is written by `seresnet.data.pack`,
or found by one pass over the tar headers, which skips the images.
"""

from __future__ import annotations

import json
import logging
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from seresnet.common.files import read_bounded
from seresnet.data.dataset import ImageSet, Sample, Target, TarImage
from seresnet.data.layout import Found
from seresnet.data.names import SPLITS, class_names, few, natural_key, nfc, split_named
from seresnet.data.shard_files import TEXT_BYTES, index_path, read_json
from seresnet.data.tars import BoundedInfo
from seresnet.data.walk import IMAGE_SUFFIXES, is_hidden
from seresnet.errors import DataError

log = logging.getLogger("seresnet")

CLASS_NAMES = "classnames.txt"  # beside the shards, one class a line
MAX_CLASSES = 1_000_000
_LABEL_BYTES = 2**20  # no label is larger

Label = int | str  # a class index, or the name of a class


@dataclass
class Shard:
    """The images of one shard with their labels: one each, or of multi-label images a list."""

    path: Path
    images: list[TarImage] = field(default_factory=list)
    labels: list[Label | list[Label]] = field(default_factory=list)


def is_shard(path: Path) -> bool:
    """Return whether a tar file holds keyed samples, and not a folder of images, by its first members."""
    with _opened(path) as tar:
        return any(_key(member.name)[1] in ("cls", "json") for member in islice(tar, 64) if member.isreg())


def shard_splits(files: Sequence[Path]) -> Found:
    """Return the splits of a data set in shards, by the folders they lie in, or else by the names of the files.

    Labels are class indices (``.cls``, or ``label`` in a ``.json``), names (``label``), or lists of these (``labels``).
    The names of the indices are in ``classnames.txt`` beside the shards; without it they are the numbers. Raises
    DataError, naming shard and key, for what is missing, there twice, cut off, or compressed.
    """
    splits: dict[str, list[Path]] = {}
    by_folder = len({path.parent for path in files}) > 1
    for path in files:
        split = split_named(path.parent.name) if by_folder else None
        splits.setdefault(split or split_of(path), []).append(path)
    root = files[0].parent.parent if by_folder else files[0].parent
    named = [path for path in (files[0].parent / CLASS_NAMES, root / CLASS_NAMES) if path.is_file()]

    @cache
    def read(split: str) -> tuple[Shard, ...]:
        return tuple(read_index(path) or scan(path) for path in splits[split])

    def load(split: str, training: bool) -> ImageSet:
        known = "train" if "train" in splits else split
        classes = _named_classes(named[0]) if named else _classes(root, read(known))
        shards = read(split)
        multi_label = any(isinstance(label, list) for shard in shards[:1] for label in shard.labels[:1])
        return ImageSet(root, classes, tuple(_samples(shards, classes, multi_label)), multi_label, split=split)

    return Found(str(root), {split: partial(load, split) for split in splits})


def shard_images(files: Sequence[Path]) -> Iterator[TarImage]:
    """Yield the images of shards, with or without labels."""
    for path in files:
        yield from (read_index(path) or scan(path, labelled=False)).images


def split_of(path: Path) -> str:
    """Return the split that a shard belongs to by the words of its name; ``train`` where it says nothing."""
    words = re.split(r"[^a-z]+", path.name.lower())
    return next((split for split, names in SPLITS.items() if set(names) & set(words)), "train")


def read_index(path: Path) -> Shard | None:
    """Return a shard by the index beside it; None where there is none, it is of another file, or damaged."""
    size = path.stat().st_size
    index = read_json(index_path(path), max(TEXT_BYTES, size))
    if not isinstance(index, dict) or index.get("bytes") != size:
        if index is not None and not isinstance(index, dict):
            log.warning("%s: is not the index of a shard; the shard itself is read", index_path(path))
        return None
    shard = Shard(path)
    try:
        for member, offset, length, label in index["images"]:
            if not (type(offset) is type(length) is int and isinstance(member, str) and _is_label(label)):
                raise ValueError
            if not 0 <= offset <= offset + length <= size:
                raise ValueError
            shard.images.append(TarImage(path, member, offset, length))
            shard.labels.append(label)
    except (KeyError, TypeError, ValueError):
        log.warning("%s: is damaged; the shard itself is read", index_path(path))
        return None
    return shard


def _is_label(label: object) -> bool:
    if isinstance(label, list):
        return all(type(item) in (int, str) for item in label)
    return type(label) in (int, str)


def scan(path: Path, labelled: bool = True) -> Shard:
    """Find the images and labels of a shard by one pass over its headers. Raises DataError."""
    images: dict[str, TarImage] = {}
    labels: dict[str, Any] = {}
    with _opened(path) as tar:
        for member in tar:
            tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header otherwise
            _take(path, tar, member, images, labels)
    _check_end(path)
    for key in sorted(labels.keys() ^ images.keys(), key=natural_key) if labelled else ():
        lacks = "image" if key in labels else "label: neither a .cls nor a .json with label or labels"
        raise DataError(f"{path}/{key}: has no {lacks}")
    return Shard(path, list(images.values()), [labels.get(key) for key in images])  # type: ignore[misc]


def _take(path: Path, tar: tarfile.TarFile, member: tarfile.TarInfo, images: dict[str, Any], labels: Any) -> None:
    """Note a member of a shard as an image or a label; others are ignored."""
    key, suffix = _key(member.name)
    if not member.isreg() or any(map(is_hidden, member.name.split("/"))):
        return
    if f".{suffix}" in IMAGE_SUFFIXES:
        if key in images:
            raise DataError(f"{path}/{member.name}: a second image of the same key; give each image its own")
        images[key] = TarImage(path, member.name, member.offset_data, member.size)
    elif suffix == "cls" or (suffix == "json" and key not in labels):
        label = _label(f"{path}/{member.name}", suffix, tar, member)
        if label is not None:
            labels[key] = label


def _label(name: str, suffix: str, tar: tarfile.TarFile, member: tarfile.TarInfo) -> Label | list[Label] | None:
    """Return what a ``.cls`` or ``.json`` says; None for a ``.json`` that says nothing of labels."""
    file = tar.extractfile(member) if member.size <= _LABEL_BYTES else None
    try:
        text = file.read().decode() if file else ""
        value = json.loads(text) if suffix == "json" else int(text)
    except (ValueError, RecursionError):
        raise DataError(f"{name}: is not {'JSON' if suffix == 'json' else 'a class index'}") from None
    if suffix == "json":
        value = (value.get("label", value.get("labels"))) if isinstance(value, dict) else None
    kinds = {type(item) for item in value} if isinstance(value, list) else {type(value)}
    if not kinds <= {int, str, type(None)}:
        raise DataError(f"{name}: a label is a class index or a name, not {few(map(str, [value]))[:80]}")
    numbers = [x for x in (value if isinstance(value, list) else [value]) if isinstance(x, int)]
    if any(not 0 <= number < MAX_CLASSES for number in numbers):
        raise DataError(f"{name}: {numbers[0]} is not a class index from 0 to {MAX_CLASSES - 1:,}")
    return value


def _samples(shards: Sequence[Shard], classes: Sequence[str], multi_label: bool) -> Iterator[Sample]:
    """Yield images with class indices."""
    index = {name: i for i, name in enumerate(classes)}

    def find(image: TarImage, label: Label) -> int:
        number = index.get(nfc(label), -1) if isinstance(label, str) else label
        if not 0 <= number < len(classes):
            raise DataError(f"{image}: {label!r} is not one of the {len(classes)} classes of the training shards")
        return number

    for shard in shards:
        for image, label in zip(shard.images, shard.labels, strict=True):
            if isinstance(label, list) != multi_label:
                raise DataError(
                    f"{image}: has {'labels' if isinstance(label, list) else 'a label'}, unlike the first image"
                )
            target: Target = (
                tuple(sorted({find(image, x) for x in label})) if isinstance(label, list) else find(image, label)
            )
            yield image, target


def _named_classes(file: Path) -> tuple[str, ...]:
    """Return the names of the classes that stand beside the shards."""
    try:
        content = read_bounded(file, TEXT_BYTES)
    except OSError as error:
        raise DataError(f"{file}: cannot be read as a list of class names ({error.strerror})") from None
    text = content.decode("utf-8", "surrogateescape").removeprefix("\ufeff").replace("\r\n", "\n")
    return tuple(nfc(name) for name in text.removesuffix("\n").split("\n"))


def _classes(root: Path, shards: Iterable[Shard]) -> tuple[str, ...]:
    """Return the names of the classes by the labels themselves: of indices, the numbers up to the largest."""
    labels = chain.from_iterable(shard.labels for shard in shards)
    found = set(chain.from_iterable(label if isinstance(label, list) else [label] for label in labels))
    numbers = [label for label in found if isinstance(label, int)]
    if numbers and len(numbers) == len(found):
        if not 0 <= min(numbers) <= max(numbers) < MAX_CLASSES:
            raise DataError(f"{root}: class indices from {min(numbers)} to {max(numbers)} in its shards")
        return tuple(str(i) for i in range(max(numbers) + 1))
    if not found or numbers:
        raise DataError(f"{root}: {'labels are names here and numbers there' if found else 'no images in its shards'}")
    return class_names(nfc(str(label)) for label in found)


def _check_end(path: Path) -> None:
    """Raise DataError where a tar file lacks the two empty blocks at its end (POSIX.1-2017, pax): it was cut off."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 1024))
        if file.read().strip(b"\0"):
            raise DataError(f"{path}: the shard is cut off; fetch or write it again")


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(path, "r:", tarinfo=BoundedInfo) as tar:
            yield tar
    except (tarfile.TarError, ValueError, OverflowError) as error:
        with path.open("rb") as file:
            packed = file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"))
        reason = "a compressed shard has no random access; decompress it" if packed else f"damaged or cut off ({error})"
        raise DataError(f"{path}: {reason}") from None


def _key(name: str) -> tuple[str, str]:
    """Split ``a/b.c.d`` into the key ``a/b`` and the suffix ``c.d``, as the webdataset library does."""
    folder, slash, file = name.rpartition("/")
    stem, _, suffix = file.partition(".")
    return f"{folder}{slash}{stem}", suffix.lower()
