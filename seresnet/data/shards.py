"""WebDataset shards: tar files in which the parts of a sample share a key (``000017.jpg``, ``000017.cls``).

A shard is read at random places, not from front to back: its index says where each image lies. So shards are shuffled,
dealt out to processes, counted and resumed image by image, like a folder. The index is written by `seresnet.data.pack`,
or found by one pass over the tar headers, which skips the images.
"""

from __future__ import annotations

import glob
import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice, product
from pathlib import Path
from typing import Any

from seresnet.data.dataset import SPLITS, ImageSet, Sample, Target, TarImage
from seresnet.data.folder import EXTENSIONS
from seresnet.data.lists import class_names
from seresnet.errors import DataError

CLASS_NAMES = "classnames.txt"  # beside the shards, one class a line
PLAN = "pack.json"  # what `seresnet pack` set out to write
_LABEL_BYTES = 2**20  # no label is larger

Label = int | str  # a class index, or the name of a class


@dataclass
class Shard:
    """The images of one shard with their labels: one each, or of multi-label images a list."""

    path: Path
    images: list[TarImage] = field(default_factory=list)
    labels: list[Label | list[Label]] = field(default_factory=list)


def is_pattern(source: str) -> bool:
    """Tell whether a text stands for several shards: ``train-{000..127}.tar`` or ``train-*.tar``."""
    return ".tar" in source and bool(re.search(r"[{*?\[]", source)) and not Path(source).exists()


def is_shard(path: Path) -> bool:
    """Tell whether a tar file holds keyed samples, and not a folder of images, by its first members."""
    with _opened(path) as tar:
        return any(_key(member.name)[1] in ("cls", "json") for member in islice(tar, 64) if member.isreg())


def holds_shards(path: Path) -> bool:
    """Tell whether a folder holds shards, and no folders of images."""
    entries = [p for p in path.iterdir() if not p.name.startswith(".")] if path.is_dir() else []
    return any(p.suffix == ".tar" for p in entries) and not any(p.is_dir() for p in entries)


def find_shards(source: str) -> list[Path]:
    """Return the files that a pattern stands for, or the shards of a folder, in sorted order."""
    path = Path(source)
    if path.is_dir():
        _check_complete(path)
        return sorted(p for p in path.glob("*.tar") if not p.name.startswith("."))
    if path.is_file():
        return [path]
    files = []
    for name in _expand_braces(source):
        matches = sorted(glob.glob(name)) if glob.has_magic(name) else [name]  # noqa: PTH207 (the pattern has folders)
        files += [Path(match) for match in matches]
    missing = [path for path in files if not path.is_file()]
    if missing or not files:
        raise DataError(f"{missing[0] if missing else source}: no such shard")
    return files


def shard_parts(files: Sequence[Path]) -> dict[str, ImageSet]:
    """Return the parts of a data set in shards, ``train``, ``validation`` and ``test``, by the names of the files.

    Labels are class indices (``.cls``, or ``label`` in a ``.json``), names (``label``), or lists of these (``labels``).
    The names of the indices stand in ``classnames.txt`` beside the shards; without it they are the numbers. Raises
    DataError, naming shard and key, for what is missing, there twice, cut off, or compressed.
    """
    parts: dict[str, list[Shard]] = {}
    for path in files:
        parts.setdefault(split_of(path), []).append(read_index(path) or scan(path))
    root = files[0].parent
    known = parts["train"] if "train" in parts else chain.from_iterable(parts.values())
    labels = [label for shard in known for label in shard.labels]
    classes = _classes(root / CLASS_NAMES, chain.from_iterable(x if isinstance(x, list) else [x] for x in labels))
    multi_label = bool(labels) and isinstance(labels[0], list)
    return {
        split: ImageSet(root, classes, tuple(_samples(shards, classes, multi_label)), multi_label)
        for split, shards in parts.items()
    }


def split_of(path: Path) -> str:
    """Return the part that a shard belongs to by the words of its name; ``train`` where it says nothing."""
    words = re.split(r"[^a-z]+", path.name.lower())
    return next((split for split, names in SPLITS.items() if set(names) & set(words)), "train")


def index_path(shard: Path) -> Path:
    """Return the place of a shard's index."""
    return shard.with_suffix(".index.json")


def read_index(path: Path) -> Shard | None:
    """Return a shard by the index beside it; None where there is none, or it is of another file."""
    try:
        index = json.loads(index_path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if index.get("bytes") != path.stat().st_size:
        return None
    images = [TarImage(path, member, offset, size) for member, offset, size, _ in index["images"]]
    return Shard(path, images, [label for *_, label in index["images"]])


def scan(path: Path) -> Shard:
    """Find the images and labels of a shard by one pass over its headers. Raises DataError."""
    images: dict[str, TarImage] = {}
    labels: dict[str, Any] = {}
    with _opened(path) as tar:
        for member in tar:
            _take(path, tar, member, images, labels)
    _check_end(path)
    for key in sorted(labels.keys() ^ images.keys()):
        lacks = "image" if key in labels else "label: neither a .cls nor a .json with label or labels"
        raise DataError(f"{path}/{key}: has no {lacks}")
    return Shard(path, list(images.values()), [labels[key] for key in images])


def _take(path: Path, tar: tarfile.TarFile, member: tarfile.TarInfo, images: dict[str, Any], labels: Any) -> None:
    """Note a member of a shard as an image or a label; others are passed over."""
    key, suffix = _key(member.name)
    if not member.isreg():
        return
    if f".{suffix}" in EXTENSIONS:
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
    except ValueError:
        raise DataError(f"{name}: no {'JSON' if suffix == 'json' else 'class index'}") from None
    if suffix == "json":
        value = (value.get("label", value.get("labels"))) if isinstance(value, dict) else None
    kinds = {type(item) for item in value} if isinstance(value, list) else {type(value)}
    if not kinds <= {int, str, type(None)}:
        raise DataError(f"{name}: a label is a class index or a name, not {value!r}")
    return value


def _samples(shards: Sequence[Shard], classes: Sequence[str], multi_label: bool) -> Iterator[Sample]:
    """Yield images with class indices."""
    index = {name: i for i, name in enumerate(classes)}

    def find(image: TarImage, label: Label) -> int:
        number = index.get(label, -1) if isinstance(label, str) else label
        if not 0 <= number < len(classes):
            raise DataError(f"{image}: class {label!r} is none of the {len(classes)} of the training shards")
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


def _classes(file: Path, labels: Iterable[Label]) -> tuple[str, ...]:
    """Return the names of the classes: of ``classnames.txt``, or else of the labels themselves."""
    if file.is_file():
        return tuple(file.read_bytes().decode("utf-8", "surrogateescape").removesuffix("\n").split("\n"))
    found = set(labels)
    numbers = [label for label in found if isinstance(label, int)]
    if numbers and len(numbers) == len(found):
        return tuple(str(i) for i in range(max(numbers) + 1))
    if not found or numbers:
        raise DataError(
            f"{file.parent}: {'labels are names here and numbers there' if found else 'no images in its shards'}"
        )
    return class_names(str(label) for label in found)


def _check_end(path: Path) -> None:
    """Raise DataError where a tar file lacks the two empty blocks at its end (POSIX.1-2017, pax): it was cut off."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 1024))
        if file.read().strip(b"\0"):
            raise DataError(f"{path}: the shard is cut off; fetch or write it again")


def _check_complete(folder: Path) -> None:
    """Raise DataError where a folder holds the beginning of what `seresnet pack` was to write."""
    try:
        plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    missing = [name for name in plan["shards"] if not index_path(folder / name).is_file()]
    if missing:
        raise DataError(f"{folder}: {missing[0]} is not there yet; finish it with seresnet pack and --exist-ok")


def _expand_braces(pattern: str) -> Iterator[str]:
    """Yield the names that ``{000..127}`` and ``{a,b}`` stand for, as a shell does."""
    pieces = re.split(r"\{([^{}]*)\}", pattern)
    choices = []
    for text in pieces[1::2]:
        numbers = re.fullmatch(r"(\d+)\.\.(\d+)", text)
        if numbers:
            first, last = numbers.groups()
            width = len(first) if first.startswith("0") or len(first) == len(last) else 0
            choices.append([f"{i:0{width}d}" for i in range(int(first), int(last) + 1)])
        else:
            choices.append(text.split(","))
    for chosen in product(*choices):
        yield "".join(a + b for a, b in zip(pieces[::2], (*chosen, ""), strict=True))


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(path, "r:") as tar:
            yield tar
    except tarfile.TarError as error:
        with path.open("rb") as file:
            packed = file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"))
        reason = "a compressed shard has no random access; decompress it" if packed else f"damaged or cut off ({error})"
        raise DataError(f"{path}: {reason}") from None


def _key(name: str) -> tuple[str, str]:
    """Split ``a/b.c.d`` into the key ``a/b`` and the suffix ``c.d``, as the webdataset library does."""
    folder, slash, file = name.rpartition("/")
    stem, _, suffix = file.partition(".")
    return f"{folder}{slash}{stem}", suffix.lower()
