"""What a threshold on the confidence would do: on how many images the model answers, and how often it is right then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from seresnet.evaluation.result import Evaluation, SingleLabelResult
from seresnet.metrics.base import Floats
from seresnet.metrics.single_label import SingleLabelMetrics

THRESHOLDS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


class Coverage(NamedTuple):
    """One place of the curve: fractions, 0 to 1; ``accuracy`` is None where no image is left."""

    threshold: float
    coverage: float  # images with at least this confidence, of all images
    accuracy: float | None  # of these images


class Curve(NamedTuple):
    """Coverage and accuracy (N,) when only the k most confident images are answered, for k = 1 to N."""

    confidence: Floats  # of the k-th image
    coverage: Floats
    accuracy: Floats


def coverage_curve(e: Evaluation[SingleLabelMetrics]) -> Curve:
    """Return the curve of an evaluation; images of equal confidence count together."""
    singles = (result for result in e.results if isinstance(result, SingleLabelResult))
    rows = np.array([(r.probability, r.top1 == r.target) for r in singles], np.float64).reshape(-1, 2)
    rows = rows[np.argsort(-rows[:, 0], kind="stable")]
    confidence, count = rows[:, 0], np.arange(1, len(rows) + 1)
    last = np.append(confidence[1:] != confidence[:-1], True)  # of the images of the same confidence
    curve = confidence, count / max(1, len(rows)), np.cumsum(rows[:, 1]) / count
    return Curve(*(values[last] for values in curve))


def coverage_at(curve: Curve, thresholds: Sequence[float] = THRESHOLDS) -> list[Coverage]:
    """Return coverage and accuracy where only a confidence of at least ``threshold`` is answered."""
    found = []
    for threshold in thresholds:
        answered = int((curve.confidence >= threshold).sum())
        last = answered - 1
        found.append(
            Coverage(threshold, float(curve.coverage[last]), float(curve.accuracy[last]))
            if answered
            else Coverage(threshold, 0.0, None)
        )
    return found
