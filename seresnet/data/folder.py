"""Labelled images as folders of classes: ``DATA/<class>/*.jpg``."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from seresnet.data.dataset import ImageSet, Sample
from seresnet.data.names import alike, class_names, few, nfc, split_named
from seresnet.data.walk import Walk, describe_side_files, is_image_file, list_folder, why_not_image
from seresnet.errors import DataError

log = logging.getLogger("seresnet")

_NUMBERED_SPLIT = re.compile("(train|val|valid|validation|test|fold|split|part|batch)[ _.-]?[0-9]+", re.IGNORECASE)
_PAIRED = frozenset("image images img imgs mask masks label labels annotation annotations gt groundtruth".split())  # noqa: SIM905
_PROBED = 100  # files of a folder that are looked into for an image


def image_folder(root: str | Path, classes: Sequence[str] | None = None, split: str | None = None) -> ImageSet:
    """List ``root/<class>/**/<image>``; classes are the folder names in natural order, or ``classes``.

    Raises DataError where there is no such folder, no class, a class that ``classes`` does not have, a class without an
    image, or a single folder that only wraps the class folders.
    """
    root = Path(root)
    folders = class_folders(root)
    if len(folders) == 1 and classes is None:
        _check_level(root, next(iter(folders)))
    _check_not_splits(root, folders)
    try:
        found_names = class_names(folders)
    except DataError as error:
        raise DataError(f"{root}: {error}") from None
    names = tuple(classes) if classes is not None else found_names
    unknown = [name for name in found_names if name not in names]
    if unknown:
        pairs = [pair for pair in alike([*names, *unknown]) if pair[1] in unknown]
        hint = f"; {pairs[0][1]!r} is {pairs[0][0]!r} there: rename one" if pairs else ""
        raise DataError(f"{root}: class folders that are not in the training split: {few(unknown)}{hint}")
    walk = Walk(root)
    found = {name: _images(walk, root, folders[name]) for name in names if name in folders}
    _note_what_is_ignored(root, walk, found, folders)
    if classes is None:
        _check_filled(root, folders, found)
    elif not any(found.values()):
        raise DataError(f"{root}: no images in its class folders ({few(folders)})")
    index = {name: i for i, name in enumerate(names)}
    samples: list[Sample] = [(path, index[name]) for name, paths in found.items() for path in paths]
    return ImageSet(root, names, tuple(samples), split=split)


def class_folders(root: Path) -> dict[str, list[str]]:
    """Return the folders of each class: more than one where their names differ in Unicode's form alone.

    Raises DataError where there is no such folder, or no folder in it.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give a folder with one sub-folder for each class")
    found: dict[str, list[str]] = {}
    seen: dict[str, str] = {}
    for name in list_folder(root).folders:
        real = os.path.realpath(root / name)
        if real in seen:
            raise DataError(f"{root}: {name} and {seen[real]} are the same folder, so not two classes; remove the link")
        seen[real] = name
        found.setdefault(nfc(name), []).append(name)
    if not found:
        raise DataError(_no_classes(root))
    return found


def has_images(folder: Path) -> bool:
    """Return whether images lie directly in a folder."""
    try:
        files = list_folder(folder).files
    except OSError:
        return False
    return any(is_image_file(folder / name) for name in files[:_PROBED])


def _check_not_splits(root: Path, folders: dict[str, list[str]]) -> None:
    """Raise DataError where every folder has the same folders in it, and these or those are called like splits.

    As classes, ``cat/train`` and ``cat/test`` would be trained on alike, and ``fold1/cat`` would be of class fold1.
    """
    if len(folders) < 2 or any(has_images(root / each[0]) for each in folders.values()):
        return
    inner = [tuple(list_folder(root / each[0]).folders) for each in folders.values()]
    if len(inner[0]) < 2 or len(set(inner)) > 1:
        return
    if all(map(split_named, inner[0])):
        first = next((name for name in inner[0] if split_named(name) == "train"), inner[0][0])
        raise DataError(
            f"{root}: each class has the splits {few(inner[0])} in it; put the splits above the classes, as "
            f"{root / first / next(iter(folders))}, or give a list (.csv) with a column split"
        )
    if all(map(_NUMBERED_SPLIT.fullmatch, folders)):
        raise DataError(
            f"{root}: {few(folders)} look like splits or folds, not classes, as each holds {few(inner[0])}; name them "
            "train and validation, or give one of them"
        )


def _images(walk: Walk, root: Path, folders: Iterable[str]) -> list[Path]:
    return [Path(path) for folder in folders for path in walk.images(root / folder)]


def _no_classes(root: Path) -> str:
    """Say what a folder without folders holds, and what to give instead."""
    files = list_folder(root).files
    packed = [
        name for name in files if name.lower().endswith((".zip", ".tar", ".tgz", ".gz", ".xz", ".bz2", ".rar", ".7z"))
    ]
    if packed and not list_folder(root).folders:
        return f"{root}: holds {few(packed)} and no class folders; unpack it, and give its folder"
    lists = [name for name in files if name.lower().endswith((".csv", ".tsv", ".parquet"))]
    if lists:
        return f"{root}: no class folders; to use the list in it, give {root / lists[0]}"
    if has_images(root):
        fix = "put the images of each class into a folder with its name, or give a list (.csv)"
        above = root.absolute().parent
        if len(list_folder(above).folders) > 1:
            fix = f"if {root.name} is one class, give the folder above, {above}; else {fix}"
        return f"{root}: has images directly in it and no class folders; {fix}"
    return f"{root}: no sub-folders; put the images of each class into a folder with its name"


def _check_level(root: Path, name: str) -> None:
    """Raise DataError where a single folder is not a class, but wraps the class folders."""
    below = root / name
    while not has_images(below) and len(inner := list_folder(below).folders) == 1:
        below = below / inner[0]
    inner = list_folder(below).folders
    if not has_images(below) and len(inner) > 1:
        raise DataError(
            f"{root}: holds one folder, {name}, and the images lie deeper, in {few(inner)}: one level too high; "
            f"give {below}"
        )


def _check_filled(root: Path, folders: dict[str, list[str]], found: dict[str, list[Path]]) -> None:
    """Raise DataError where a class has no file that begins as an image."""
    empty = [name for name, paths in found.items() if not any(map(is_image_file, paths))]
    if not empty:
        return
    if len(empty) == len(found):
        raise DataError(f"{root}: no images in its class folders ({few(folders)}){_example(found)}")
    example = _example({name: found[name] for name in empty})
    raise DataError(f"{root}: class folders without an image: {few(empty)}{example}; fill or remove them")


def _example(found: dict[str, list[Path]]) -> str:
    """Return the first file that is not an image with its reason, in brackets."""
    path = next((path for paths in found.values() for path in paths), None)
    return "" if path is None else f" ({path.name}: {why_not_image(path)})"


def _note_what_is_ignored(root: Path, walk: Walk, found: dict[str, list[Path]], folders: dict[str, list[str]]) -> None:
    """Say in one line each what lies in the folder and does not count, and what may be no classes."""
    for first, second in alike(found)[:1]:
        log.warning(
            "%s: the classes %r and %r differ in case, spaces or zeros alone; are they one?", root, first, second
        )
    if _PAIRED.issuperset(name.casefold() for name in found):
        log.warning("%s: the classes are the folders in it, %s; for other classes give other folders", root, few(found))
    beside = [name for name in list_folder(root).files if is_image_file(root / name)]
    if beside:
        log.warning("%s: ignored %d images beside the class folders: %s", root, len(beside), few(beside))
    if walk.side_files:
        log.warning("%s: ignored %s", root, describe_side_files(walk.side_files))
    deeper = [
        {path.relative_to(root).parts[1] for path in paths if len(path.relative_to(root).parts) > 2}
        for paths in found.values()
    ]
    direct = any(len(path.relative_to(root).parts) == 2 for paths in found.values() for path in paths)
    if len(found) > 1 and not direct and len(deeper[0]) > 1 and all(names == deeper[0] for names in deeper):
        log.warning(
            "%s: the classes are the folders in it, %s; each of them has the same folders, %s, which do not count",
            *(root, few(folders), few(sorted(deeper[0]))),
        )
