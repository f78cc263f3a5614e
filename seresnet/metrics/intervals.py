"""Confidence intervals of metrics, at the level of 95 %."""

from __future__ import annotations

from math import sqrt
from typing import NamedTuple

import numpy as np

from seresnet.metrics.base import Floats, rates
from seresnet.metrics.single_label import SingleLabelMetrics

Z = 1.959964  # the 97.5 % quantile of the normal distribution
RESAMPLES = 1000


class Interval(NamedTuple):
    """The lower and the upper end of a 95 % confidence interval."""

    low: float
    high: float


def wilson(rate: float, n: int) -> Interval:
    """Return Wilson's score interval of a proportion ``rate``, 0 to 1, of ``n`` images, 1 or more.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    scale = 1 + Z * Z / n
    centre = (rate + Z * Z / (2 * n)) / scale
    half = Z / scale * sqrt(rate * (1 - rate) / n + Z * Z / (4 * n * n))
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def bootstrap(metrics: SingleLabelMetrics, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Interval]:
    """Return percentile bootstrap intervals of the macro averages and of the expected calibration error, by their keys.

    The macro averages depend on the images through the confusion matrix alone, so that drawing n images with
    replacement is drawing the cells of the matrix from a multinomial distribution: exact, and as fast for a million.
    Each resample averages over the classes that have images in it. For the calibration error the cells are the bins of
    confidence, each divided into right and wrong images, with the bin's mean confidence.
    """
    true, predicted = np.nonzero(metrics.confusion)
    shares = metrics.confusion[true, predicted] / metrics.n
    generator, classes = np.random.default_rng(seed), len(metrics.support)
    names = "macro_precision", "macro_recall", "macro_f1"
    drawn: Floats = np.empty((resamples, len(names) + 1))
    hit = true == predicted
    for row in drawn:
        counts = generator.multinomial(metrics.n, shares)
        hits, given, support = (
            np.bincount(places, counts * which, classes).astype(np.int64)
            for places, which in ((true, hit), (predicted, 1), (true, 1))
        )
        values = rates(hits, given, support)
        row[:-1] = [values[name] for name in names]
    right = metrics.bin_count * metrics.bin_accuracy
    bins = np.concatenate([right, metrics.bin_count - right]) / metrics.n
    for row in drawn:
        good, bad = generator.multinomial(metrics.n, bins / bins.sum()).reshape(2, -1)
        row[-1] = np.abs((good + bad) * metrics.bin_confidence - good).sum() / metrics.n
    ends = np.quantile(drawn, (0.025, 0.975), axis=0).T.tolist()
    return {name: Interval(*pair) for name, pair in zip((*names, "expected_calibration_error"), ends, strict=True)}
