"""Which images of a data set a network is quantized on, and on which others it is compared."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

from seresnet.data.classes import match_classes
from seresnet.data.dataset import ImageSet, StoredImage, Stream
from seresnet.data.folder import has_images
from seresnet.data.open_dataset import open_labelled
from seresnet.data.walk import Walk, list_folder
from seresnet.errors import DataError
from seresnet.evaluation.evaluate import coverage

COMPARED = 2000  # images at most: a change of one percent is then known to about half a percent
SEED = 0

Image = str | Path | StoredImage
Labelled = tuple[Image, int | None]  # with the model's class index, where it is known


@dataclass(frozen=True)
class Chosen:
    """Images to calibrate on, and others to compare on."""

    data: str
    calibrate: tuple[Image, ...]
    compare: tuple[Labelled, ...]
    notes: tuple[str, ...] = ()


def choose_images(
    data: str | os.PathLike[str],
    images: int,
    labels: Sequence[str],
    label_ids: Sequence[str] = (),
    offline: bool | None = None,
) -> Chosen:
    """Choose up to ``images`` to calibrate on and up to `COMPARED` others, spread evenly over the classes.

    ``data`` is a folder of images, or a data set as `seresnet.data.open_dataset.open_data` takes it. Of one in parts,
    the images to calibrate on come from the training part, the others from the test part, or else the validation part;
    of any other, at most half of all are to calibrate on. The choice is always the same. Where none of the data's
    classes is one of the model's, or an image has several, the images are taken without classes. Raises DataError where
    there is no image, or where some classes are the model's and some are not.
    """
    root = Path(data)
    if root.is_dir() and _is_plain(root):
        pool: list[Labelled] = [(path, None) for path in Walk(root).images(os.fspath(root))]
        order = spread(pool)
        half = min(images, len(order) // 2)
        return Chosen(str(data), _paths(order[:half]), tuple(order[half : half + COMPARED]))
    train, held_out = _parts(data, offline)
    compared, notes = _with_targets(held_out, labels, label_ids)
    if train is None:
        half = min(images, len(compared) // 2)
        return Chosen(str(data), _paths(compared[:half]), tuple(compared[half : half + COMPARED]), notes)
    pool = [(image, target if isinstance(target, int) else None) for image, target in _listed(train)]
    return Chosen(str(data), _paths(spread(pool)[:images]), tuple(compared[:COMPARED]), notes)


def spread(samples: Sequence[Labelled]) -> list[Labelled]:
    """Return samples in an order in which the classes take turns, each in a random order of its own."""
    groups: dict[int | None, list[Labelled]] = {}
    for sample in samples:
        groups.setdefault(sample[1], []).append(sample)
    rng = random.Random(SEED)
    for group in groups.values():
        rng.shuffle(group)
    return [sample for sample in chain.from_iterable(zip_longest(*groups.values())) if sample is not None]


def _is_plain(folder: Path) -> bool:
    """Return whether a folder has images of its own, or nothing: then the folders in it are not classes."""
    listing = list_folder(folder)
    tars = any(name.lower().endswith(".tar") for name in listing.files)
    return not (tars or listing.folders) or has_images(folder)


def _parts(data: str | os.PathLike[str], offline: bool | None) -> tuple[ImageSet | None, ImageSet]:
    """Return the training split, where there is another one, and the images to compare on."""
    held_out = open_labelled(data, offline)
    if held_out.split in (None, "train"):
        return None, held_out
    try:
        return open_labelled(data, offline, "train"), held_out
    except DataError:  # it has none
        return None, held_out


def _with_targets(
    images: ImageSet, labels: Sequence[str], label_ids: Sequence[str]
) -> tuple[list[Labelled], tuple[str, ...]]:
    """Return images with the model's class of each, where the classes are the model's, and notes."""
    samples = _listed(images)
    without: list[Labelled] = [(image, None) for image, _ in samples]
    if images.multi_label:
        return spread(without), ("an image has several classes: judged by agreement with float32 alone",)
    try:
        indices, notes = match_classes(images.classes, labels, label_ids)
    except DataError:
        if any(_is_known(name, labels, label_ids) for name in images.classes):
            raise
        first = ", ".join(images.classes[:3])
        return spread(without), (f"{first}, ... are no classes of the model: judged by agreement with float32 alone",)
    known = spread([(image, indices[t]) for image, t in samples if isinstance(t, int)])
    covered = coverage(labels, set(indices))
    return known, tuple(note.partition(";")[0] for note in notes + covered)  # behind it, what holds for macro averages


def _is_known(name: str, labels: Sequence[str], label_ids: Sequence[str]) -> bool:
    try:
        match_classes([name], labels, label_ids)
    except DataError:
        return False
    return True


def _listed(images: ImageSet) -> Sequence[tuple[Path | StoredImage, int | tuple[int, ...]]]:
    if isinstance(images.samples, Stream):
        raise DataError(f"{images}: images to quantize on cannot be chosen from a stream; leave out stream")
    return images.samples


def _paths(samples: Sequence[Labelled]) -> tuple[Image, ...]:
    return tuple(image for image, _ in samples)
