"""Metrics of one label an image: accuracy, confusion matrix, calibration; counted in memory that does not grow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from seresnet.data.dataset import Target
from seresnet.errors import DataError
from seresnet.metrics.base import Confusion, Floats, Headline, Ints, Meter, Metrics, Score, rates

if TYPE_CHECKING:
    from torch import Tensor

BINS = 15  # of confidence, as in Guo et al., "On Calibration of Modern Neural Networks" (arXiv 1706.04599)


@dataclass(frozen=True)
class SingleLabelMetrics(Metrics):
    """`Metrics` where each image has one class, and the most probable class is the prediction.

    ``confusion[i, j]`` counts images of class i that were predicted as j. ``ece``, the expected calibration error, is
    the mean distance between confidence and accuracy over ``BINS`` equal bins of confidence, of which ``bin_count``,
    ``bin_confidence`` and ``bin_accuracy`` are the sizes and the means.
    """

    top1: float
    top5: float  # 1.0 where there are five classes or fewer
    ece: float
    confusion: Ints
    bin_count: Ints
    bin_confidence: Floats
    bin_accuracy: Floats

    def summary(self) -> dict[str, float]:
        """Return accuracies, macro averages, likelihood and calibration error."""
        return {
            "top1": self.top1,
            "top5": self.top5,
            "macro_precision": self.macro_precision,
            "macro_recall": self.macro_recall,
            "macro_f1": self.macro_f1,
            "negative_log_likelihood": self.nll,
            "expected_calibration_error": self.ece,
        }

    def headline(self) -> list[Headline]:
        """Return accuracies, macro averages and calibration error."""
        return [
            Headline("top1", "top-1 accuracy", self.top1),
            *([Headline("top5", "top-5 accuracy", self.top5)] if len(self.support) > 5 else []),
            Headline("macro_precision", "macro precision", self.macro_precision),
            Headline("macro_recall", "macro recall", self.macro_recall),
            Headline("macro_f1", "macro F1", self.macro_f1),
            Headline("expected_calibration_error", "expected calibration error", self.ece),
        ]

    @property
    def score(self) -> Score:
        """F1."""
        return Score("F1", self.f1, self.macro_f1)

    def most_confused(self, count: int) -> list[tuple[int, int, int]]:
        """Return the ``count`` most frequent confusions as (class, predicted, images), the most frequent first."""
        errors = self.confusion.copy()
        np.fill_diagonal(errors, 0)
        order = np.argsort(-errors, axis=None, kind="stable")[:count]
        pairs = zip(*np.unravel_index(order, errors.shape), strict=True)
        return [(int(i), int(j), int(errors[i, j])) for i, j in pairs if errors[i, j]]

    def most_frequent_confusions(self, labels: Sequence[str], count: int) -> list[Confusion]:
        """Return `most_confused` by name, with the number of images of the class."""
        pairs = self.most_confused(count)
        return [Confusion(f"{labels[i]} → {labels[j]}", images, int(self.support[i])) for i, j, images in pairs]


class SingleLabelMeter(Meter):
    """Count logits and class indices."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self._confusion = np.zeros((num_classes, num_classes), np.int64)  # [class, predicted]
        self._in_top5 = 0
        self._nll = 0.0
        self._bins = np.zeros((3, BINS))  # images, sum of confidence, correct images

    def targets(self, labels: Sequence[Target]) -> Ints:
        """Return the class index of each image (N,)."""
        return np.array([label for label in labels if isinstance(label, int)], np.int64)

    def update(self, logits: ArrayLike | Tensor, targets: ArrayLike | Tensor) -> tuple[Ints, Floats]:
        """Count logits (N, num_classes) with their class indices (N,); return top classes and probabilities, both (N,).

        Raises WeightsError for logits that are not finite, DataError for a class index out of range.
        """
        scores, classes = self._arrays(logits, targets)
        if len(scores) == 0:
            return np.empty(0, np.int64), np.empty(0, np.float64)
        if classes.min() < 0 or classes.max() >= self.num_classes:
            span = f"{classes.min()} to {classes.max()}"
            raise DataError(f"class indices from {span}: the model has classes 0 to {self.num_classes - 1}")
        shifted = scores - scores.max(axis=1, keepdims=True)
        log_sum = np.log(np.exp(shifted).sum(axis=1))  # (N,); the top class has the log probability -log_sum
        top, confidence = scores.argmax(axis=1), np.exp(-log_sum)
        rows = np.arange(len(scores))
        np.add.at(self._confusion, (classes, top), 1)
        self._in_top5 += int((_top(scores, 5) == classes[:, None]).any(axis=1).sum())
        self._nll += float((log_sum - shifted[rows, classes]).sum())
        bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
        for total, weights in zip(self._bins, (None, confidence, top == classes), strict=True):
            total += np.bincount(bins, weights, BINS)
        return top, confidence

    def compute(self) -> SingleLabelMetrics:
        """Return the metrics of everything counted so far. Raises DataError where that is nothing."""
        n = int(self._confusion.sum())
        if n == 0:
            raise DataError("no image to evaluate on")
        hits = np.diagonal(self._confusion)
        count, confidence, correct = self._bins
        return SingleLabelMetrics(
            **rates(hits, self._confusion.sum(axis=0), self._confusion.sum(axis=1)),
            n=n,
            nll=self._nll / n,
            top1=int(hits.sum()) / n,
            top5=self._in_top5 / n,
            ece=float(np.abs(confidence - correct).sum() / n),
            confusion=self._confusion.copy(),
            bin_count=count.astype(np.int64),
            bin_confidence=confidence / np.maximum(count, 1),
            bin_accuracy=correct / np.maximum(count, 1),
        )


def _top(scores: Floats, k: int) -> NDArray[np.int64]:
    """Return the indices of the ``k`` highest scores of each row (N, min(k, C)), in no order."""
    if scores.shape[1] <= k:
        return np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    return np.argpartition(scores, -k, axis=1)[:, -k:]
