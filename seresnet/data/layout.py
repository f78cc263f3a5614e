"""How a folder is laid out: class folders alone, splits with class folders in them, or ImageNet as it is published."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

from seresnet.data.dataset import ImageSet
from seresnet.data.folder import class_folders, has_images, image_folder
from seresnet.data.imagenet import find_imagenet, flat_validation, is_flat_validation
from seresnet.data.names import class_names, few, split_named
from seresnet.data.walk import Walk, is_image_file, list_folder
from seresnet.errors import DataError

log = logging.getLogger("seresnet")

ORDER = ("test", "validation", "train")  # in which evaluation looks for a split


Loader = Callable[[bool], ImageSet]  # told whether its classes have to be those of train


@dataclass
class Found:
    """The splits of a data set, each read when it is asked for.

    ``left_out`` gives the reason why a split cannot be used, ``hidden`` finds it where that takes a look into the data;
    ``whole`` says that there are no splits at all.
    """

    name: str
    load: dict[str, Loader] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    hidden: dict[str, Callable[[], str | None]] = field(default_factory=dict)
    whole: bool = False

    def get(self, split: str, training: bool) -> ImageSet | None:
        """Return a split, or None where there is none; say so where it was left out."""
        if split in self.hidden and (reason := self.hidden.pop(split)()):
            self.left_out[split] = reason
        if split in self.left_out:
            log.warning("%s: the %s split is left out: %s", self.name, split, self.left_out[split])
            return None
        return self.load[split](training) if split in self.load else None


def folder_splits(root: Path) -> Found:
    """Find the splits of a folder by the names of its folders, in any case: ``train``, ``val``, ``Testing``.

    A folder with the name of a split, alone among class folders and with images directly in it, is a class. Raises
    DataError where it cannot be told what is a split and what is a class.
    """
    root = find_imagenet(root) or root
    folders = [root / name for name in list_folder(root).folders] if root.is_dir() else []
    named = [folder for folder in folders if split_named(folder.name)]
    others = [folder for folder in folders if not split_named(folder.name)]
    if not named or _is_class(named, others):
        return Found(str(root), {"train": lambda _: image_folder(root)}, whole=True)
    _check_splits(root, named, others)
    splits: dict[str, Path] = {}
    for folder in named:
        split = split_named(folder.name) or ""
        if split in splits:
            raise DataError(f"{root}: {splits[split].name} and {folder.name} are both the {split} split; rename one")
        splits[split] = folder
    if others:
        log.warning("%s: ignored beside the splits: %s", root, few(folder.name for folder in others))
    return _Folders(root, splits).found()


def _is_class(named: list[Path], others: list[Path]) -> bool:
    """Return whether the only folder called like a split is a class: it has images directly in it, beside classes."""
    return len(named) == 1 and has_images(named[0]) and any(map(_holds_images, others))


def _holds_images(folder: Path) -> bool:
    """Return whether there are images at any depth of a folder, among the first files."""
    return any(map(is_image_file, islice(Walk(folder).images(), 100)))


def _check_splits(root: Path, named: list[Path], others: list[Path]) -> None:
    """Raise DataError where folders called like splits may also be classes, or have no classes in them."""
    names, beside = few(folder.name for folder in named), few(folder.name for folder in others)
    if len(named) == 1 and sum(map(has_images, others)) > 1:
        raise DataError(f"{root}: is {names} a split, or a class as {beside}? Rename it, or move {beside} elsewhere")
    if all(not list_folder(folder).folders for folder in named) and not any(map(is_flat_validation, named)):
        example = named[0] / "cat" / "1.jpg"
        fix = f"put the images of each class into a folder of its own, as {example}, or give a list (.csv)"
        if any(map(has_images, others)):
            fix = f"where these are classes as {beside}, rename them"
        raise DataError(f"{root}: no class folders in {names}; {fix}")


@dataclass
class _Folders:
    """Splits that are folders; classes are those of the training split."""

    root: Path
    splits: dict[str, Path]
    _inner: dict[str, Path] = field(default_factory=dict)

    def found(self) -> Found:
        """Return how each split is read, and which have no labels."""
        found = Found(str(self.root))
        for split, folder in self.splits.items():
            flat = flat_validation(folder) if split == "validation" else None
            if callable(flat):
                found.load[split] = partial(self.photographs, flat)
            elif only := self.unlabelled(split):
                found.left_out[split] = f"its images lie in one folder, {only}, which is not a class of the train split"
            elif list_folder(folder).folders:
                found.load[split] = partial(self.labelled, split)
            else:
                found.left_out[split] = flat or f"{folder} has no class folders, so its images have no labels"
        return found

    def unlabelled(self, split: str) -> str | None:
        """Return the only folder of a test split where it is not a class, as ``test/images`` and ``test/unknown``."""
        folders = list_folder(self.inner(split)).folders
        classes = self.train_classes() or ()
        return folders[0] if split == "test" and len(folders) == 1 and folders[0] not in classes and classes else None

    def photographs(self, read: Callable[[tuple[str, ...] | None], ImageSet], training: bool) -> ImageSet:
        """Return ImageNet's validation split."""
        return read(self.train_classes())

    def labelled(self, split: str, training: bool) -> ImageSet:
        """Return a split with class folders."""
        folder = self.inner(split)
        if split == "train":
            return image_folder(folder, split=split)
        classes = self.train_classes()
        if classes is not None and not training and not set(class_folders(folder)) <= set(classes):
            classes = None  # to evaluate, a test split may have classes of its own
        return image_folder(folder, classes, split)

    def train_classes(self) -> tuple[str, ...] | None:
        """Return the classes of the training split; None where it has none."""
        if "train" not in self.splits:
            return None
        try:
            return class_names(class_folders(self.inner("train")))
        except DataError:
            return None

    def inner(self, split: str) -> Path:
        """Step into ``train/train`` where nothing else is in ``train``: some archives wrap each split once more."""
        if split not in self._inner:
            folder = self._inner[split] = self.splits[split]
            folders = list_folder(folder).folders
            wrapped = len(folders) == 1 and split_named(folders[0]) == split and not has_images(folder)
            if wrapped and not has_images(folder / folders[0]):
                self._inner[split] = folder / folders[0]
                log.warning("%s: its class folders lie in %s", folder, folder / folders[0])
        return self._inner[split]
