"""The faults of a data set: a kind, an image, what speaks for it, and how strongly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from seresnet.dataset_checks.images import Array, CheckedImage

# Of 522,753 pairs of different photographs of clothing the most similar have 0.892; copies that are reduced, saved as
# JPEG of quality 40 or made brighter by 30 % have 0.94 or more (docs/understand.md).
NEAR = 0.93
NEIGHBOURS = 5  # of an image in its class, whose mean distance tells an outlier
OUTLIER = 5.0  # robust standard deviations above the median of the class
LEAST_CLASS = 20  # images without which a class has no outliers
BLOCK = 1024  # rows that are compared at once


class Fault(NamedTuple):
    """A row of faults.csv; ``other`` is the image that ``detail`` names, if any."""

    image: CheckedImage
    kind: str  # unreadable, tiny, duplicate, near_duplicate, leak, conflict, label or outlier
    detail: str
    score: float
    other: CheckedImage | None = None


def unreadable(images: Sequence[CheckedImage]) -> Iterator[Fault]:
    """Yield the images that cannot be read."""
    return (Fault(image, "unreadable", image.error, 1.0) for image in images if image.error is not None)


def tiny(images: Sequence[CheckedImage], least: int) -> Iterator[Fault]:
    """Yield the images whose shorter side has less than ``least`` pixels; the score is the lacking part, 0 to 1."""
    for image in images:
        if image.error is None and min(image.size) < least:
            width, height = image.size
            yield Fault(image, "tiny", f"{width} x {height} pixels", 1 - min(image.size) / least)


def copies(images: Sequence[CheckedImage]) -> Iterator[Fault]:
    """Yield duplicates and near duplicates, leaks between splits, and pictures with two classes.

    The first image of equal ones is kept, the others are named. Of a leak the image of the training split is named,
    with that of the other split as detail. Of a conflict both are named: which label is right is not known.
    """
    readable = [image for image in images if image.error is None]
    first: dict[tuple[bytes, str, int], CheckedImage] = {}
    for image in readable:
        known = first.setdefault((image.digest, image.split, image.target), image)
        if known is not image:
            yield Fault(image, "duplicate", str(known), 1.0, known)
    kept = list(first.values())
    same: dict[bytes, list[CheckedImage]] = {}
    for image in kept:
        for known in same.setdefault(image.digest, []):
            yield from _pair(known, image, 1.0, exact=True)
        same[image.digest].append(image)
    for i, j, similarity in _near(kept):
        if kept[i].digest != kept[j].digest:
            yield from _pair(kept[i], kept[j], similarity, exact=False)


def _pair(known: CheckedImage, image: CheckedImage, score: float, exact: bool) -> Iterator[Fault]:
    if known.target != image.target:
        yield Fault(known, "conflict", str(image), score, image)
        yield Fault(image, "conflict", str(known), score, known)
    if known.split != image.split:
        named, other = (known, image) if known.split == "train" else (image, known)
        yield Fault(named, "leak", str(other), score, other)
    elif known.target == image.target:
        yield Fault(image, "duplicate" if exact else "near_duplicate", str(known), score, known)


def _near(images: Sequence[CheckedImage]) -> Iterator[tuple[int, int, float]]:
    """Yield the places of pairs with similar gradients, and their cosine; a picture of one colour is in none."""
    if not images:
        return
    matrix = np.stack([image.gradients for image in images if image.gradients is not None])
    for start in range(0, len(matrix), BLOCK):
        similar = matrix[start : start + BLOCK] @ matrix[start:].T
        for row, column in np.argwhere(np.triu(similar, 1) > NEAR).tolist():
            yield start + row, start + column, min(1.0, float(similar[row, column]))


def outliers(images: Sequence[CheckedImage]) -> Iterator[Fault]:
    """Yield the images that are far from their nearest neighbours in their class; the score is in deviations.

    The distance is the mean of 1 - cosine over the nearest embeddings; a deviation is 1.4826 times the median absolute
    deviation, that of a normal distribution.
    """
    for target in sorted({image.target for image in images}):
        members = [image for image in images if image.target == target and image.features is not None]
        if len(members) < LEAST_CLASS:
            continue
        distance = _distances(np.stack([image.features for image in members if image.features is not None]))
        middle = float(np.median(distance))
        deviation = 1.4826 * float(np.median(np.abs(distance - middle)))
        for image, value in zip(members, distance.tolist(), strict=True):
            score = (value - middle) / deviation if deviation > 0 else 0.0
            if score > OUTLIER:
                yield Fault(image, "outlier", f"{score:.1f} deviations from its class", score)


def _distances(features: Array) -> Array:
    rows = []
    for start in range(0, len(features), BLOCK):
        cosine = features[start : start + BLOCK] @ features.T
        cosine[np.arange(len(cosine)), start + np.arange(len(cosine))] = -np.inf  # not its own neighbour
        rows.append(1 - np.partition(cosine, -NEIGHBOURS, axis=1)[:, -NEIGHBOURS:].mean(axis=1))
    return np.concatenate(rows)
