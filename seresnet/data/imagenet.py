"""ImageNet as it is published: photographs of the validation split in one folder, their classes in a file elsewhere.

The layouts are those of the Kaggle copy (``ILSVRC/Data/CLS-LOC`` and ``LOC_val_solution.csv`` above it) and of
image-net.org (``ILSVRC2012_devkit_t12/data`` with ground truth and ``meta.mat``); and that of Tiny ImageNet
(``val/images`` and ``val/val_annotations.txt``).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from seresnet.common.files import read_bounded
from seresnet.data.dataset import ImageSet, Sample
from seresnet.data.names import class_names
from seresnet.data.walk import list_folder, suffix_of
from seresnet.errors import DataError

SOLUTION = "LOC_val_solution.csv"
MAX_BYTES = 64_000_000  # of a file with the labels; LOC_val_solution.csv of 50,000 photographs has 1.9 MB
ANNOTATIONS = "val_annotations.txt"  # of Tiny ImageNet
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
_PLACES = ("", "devkit/data", "ILSVRC2012_devkit_t12/data", "ILSVRC2012_devkit_t12", "data")
_IMAGE = re.compile(r"ILSVRC2012_val_([0-9]{8})\.jpe?g", re.IGNORECASE)
_SEARCHED = 5  # folders from the photographs upwards, in which the classes are looked for


def find_imagenet(root: Path) -> Path | None:
    """Return the folder with the splits where ``root`` is one of the upper folders of a copy of ImageNet."""
    for below in ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "CLS-LOC"):
        if (root / below / "train").is_dir() or (root / below / "val").is_dir():
            return root / below
    return None


def is_flat_validation(folder: Path) -> bool:
    """Return whether a folder holds ImageNet's validation photographs without class folders."""
    return any(_IMAGE.fullmatch(name) for name in list_folder(folder).files[:100])


def find_truth(folder: Path) -> Path | None:
    """Return the file that says which class each validation photograph is of, looked for from ``folder`` upwards."""
    for base in (folder, *folder.absolute().parents)[:_SEARCHED]:
        for place in _PLACES:
            for name in (SOLUTION, GROUND_TRUTH):
                if (base / place / name).is_file():
                    return base / place / name
    return None


def validation_set(folder: Path, truth: Path, classes: Sequence[str] | None) -> ImageSet:
    """Return ImageNet's validation split: its classes are WordNet ids, ``classes`` or those in ``truth``.

    Raises DataError for a photograph that ``truth`` does not name.
    """
    known = {SOLUTION: _solution, ANNOTATIONS: _annotations, GROUND_TRUTH: _ground_truth}[truth.name](truth)
    names = tuple(classes) if classes is not None else class_names(known.values())
    index = {name: i for i, name in enumerate(names)}
    samples: list[Sample] = []
    for name in list_folder(folder).files:
        if suffix_of(name) not in (".jpeg", ".jpg"):
            continue
        wordnet_id = known.get(name.rpartition(".")[0])
        if wordnet_id is None or wordnet_id not in index:
            what = (
                "is not named" if wordnet_id is None else f"is of {wordnet_id}, which the training split does not have"
            )
            raise DataError(f"{folder / name}: {what} in {truth}" if wordnet_id is None else f"{folder / name}: {what}")
        samples.append((folder / name, index[wordnet_id]))
    return ImageSet(folder, names, tuple(samples), split="validation")


def _solution(path: Path) -> dict[str, str]:
    """Return the WordNet id of each photograph; its rows are ``ILSVRC2012_val_00048981,n03995372 85 1 499 272``."""
    try:
        lines = read_bounded(path, MAX_BYTES).decode("utf-8-sig").splitlines()
        rows = {row["ImageId"]: row["PredictionString"].split()[0] for row in csv.DictReader(lines)}
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except (KeyError, IndexError, AttributeError, TypeError, ValueError, csv.Error):
        raise DataError(f"{path}: not the solution file of Kaggle's copy, with ImageId and PredictionString") from None
    return rows


def _annotations(path: Path) -> dict[str, str]:
    """Return the WordNet id of each photograph; its lines are ``val_0.JPEG``, ``n03444034`` and a box, with tabs."""
    lines = [line.split() for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines()]
    if any(len(cells) == 1 for cells in lines):
        raise DataError(f"{path}: not the annotations of Tiny ImageNet, a file name and a WordNet id in each line")
    return {cells[0].rpartition(".")[0]: cells[1] for cells in lines if cells}


def _ground_truth(path: Path) -> dict[str, str]:
    """Return the WordNet id of each photograph, by line: a number that ``meta.mat`` beside it explains."""
    meta = path.with_name("meta.mat")
    if not meta.is_file():
        raise DataError(f"{path}: needs meta.mat of the development kit beside it, or {SOLUTION} in its place")
    try:
        from scipy.io import loadmat  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        raise DataError(
            f'{meta}: scipy is not installed: run pip install "seresnet[hub-data]", or add {SOLUTION}'
        ) from None
    try:
        synsets = loadmat(meta, squeeze_me=True)["synsets"]
        ids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
        numbers = [int(line) for line in read_bounded(path, MAX_BYTES).decode("ascii").split()]
        return {f"ILSVRC2012_val_{i:08d}": ids[number] for i, number in enumerate(numbers, 1)}
    except Exception as error:  # the reader of MATLAB files raises many kinds
        raise DataError(f"{path}: does not fit {meta} ({type(error).__name__}: {error})") from None


def flat_validation(folder: Path) -> Callable[[Sequence[str] | None], ImageSet] | str | None:
    """Return how to read a flat folder of ImageNet's validation photographs, or what is missing for it.

    None where the folder holds other images.
    """
    if (folder / ANNOTATIONS).is_file() and list_folder(folder).folders in ([], ["images"]):
        images = folder / "images" if (folder / "images").is_dir() else folder
        return lambda classes: validation_set(images, folder / ANNOTATIONS, classes)
    if not is_flat_validation(folder):
        return None
    truth = find_truth(folder)
    if truth is None:
        return f"{folder} has no class folders; put {SOLUTION} above it for its labels"
    return lambda classes: validation_set(folder, truth, classes)
