"""Metrics of several labels an image: average precision, F1, exact matches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from seresnet.data.dataset import Target
from seresnet.errors import DataError
from seresnet.metrics.base import Bools, ClassMetric, Confusion, Floats, Headline, Ints, Meter, Metrics, Score, rates

if TYPE_CHECKING:
    from torch import Tensor

THRESHOLD = 0.5  # labels above this probability are predicted


@dataclass(frozen=True)
class MultiLabelMetrics(Metrics):
    """`Metrics` where an image has any number of labels, and those more probable than ``THRESHOLD`` are predicted.

    ``average_precision`` is by class index, and NaN where no image has the label (see `average_precisions`);
    ``mean_average_precision`` is the mean of the others. ``micro_f1`` counts the predictions of all labels together,
    ``exact_match`` the images of which every label is right; ``nll`` is the mean over images and labels.
    ``false_negatives`` and ``false_positives`` count images by class.
    """

    mean_average_precision: float
    micro_f1: float
    exact_match: float
    average_precision: Floats
    false_negatives: Ints
    false_positives: Ints

    def summary(self) -> dict[str, float]:
        """Return averages of precision and F1, exact matches and likelihood."""
        return {
            "mean_average_precision": self.mean_average_precision,
            "micro_f1": self.micro_f1,
            "macro_precision": self.macro_precision,
            "macro_recall": self.macro_recall,
            "macro_f1": self.macro_f1,
            "exact_match": self.exact_match,
            "negative_log_likelihood": self.nll,
        }

    def headline(self) -> list[Headline]:
        """Return averages of precision and F1, and exact matches."""
        return [
            Headline("mean_average_precision", "mean average precision", self.mean_average_precision),
            Headline("micro_f1", "micro F1", self.micro_f1),
            Headline("macro_precision", "macro precision", self.macro_precision),
            Headline("macro_recall", "macro recall", self.macro_recall),
            Headline("macro_f1", "macro F1", self.macro_f1),
            Headline("exact_match", "exact match", self.exact_match),
        ]

    @property
    def score(self) -> Score:
        """Average precision."""
        return Score("average precision", self.average_precision, self.mean_average_precision)

    def per_class(self) -> list[ClassMetric]:
        """Return average precision, and precision, recall and F1 at the threshold."""
        return [ClassMetric("average_precision", "AP", self.average_precision), *super().per_class()]

    def most_frequent_confusions(self, labels: Sequence[str], count: int) -> list[Confusion]:
        """Return false negatives out of the images with the label, and false positives out of those without it."""
        kinds = []
        for i, label in enumerate(labels):
            has = int(self.support[i])
            kinds.append(Confusion(f"{label}: false negative", int(self.false_negatives[i]), has))
            kinds.append(Confusion(f"{label}: false positive", int(self.false_positives[i]), self.n - has))
        return [kind for kind in sorted(kinds, key=lambda kind: -kind.images) if kind.images][:count]


class MultiLabelMeter(Meter):
    """Count logits and labels; average precision needs all scores, which take five bytes a label and image."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self._scores: list[NDArray[np.float32]] = []
        self._labels: list[Bools] = []
        self._exact = 0
        self._nll = 0.0  # summed over images and labels
        # by class: predicted and there, predicted, there
        self._counts = np.zeros((3, num_classes), np.int64)

    def targets(self, labels: Sequence[Target]) -> Ints:
        """Return for each image a row that is 1 at its labels (N, num_classes)."""
        rows = np.zeros((len(labels), self.num_classes), np.int64)
        for row, indices in zip(rows, labels, strict=True):
            row[list(indices) if isinstance(indices, tuple) else indices] = 1
        return rows

    def update(self, logits: ArrayLike | Tensor, targets: ArrayLike | Tensor) -> tuple[Bools, Floats]:
        """Count logits with their targets, 0 or 1; return which labels are predicted, and all probabilities.

        All are (N, num_classes). Raises WeightsError for logits that are not finite, DataError for other targets.
        """
        scores, given = self._arrays(logits, targets, self.num_classes)
        if not np.isin(given, (0, 1)).all():
            raise DataError("targets of several labels an image are 0 or 1 for each label")
        labels, probabilities = given.astype(bool), _sigmoid(scores)
        predicted = probabilities > THRESHOLD
        if len(scores):
            self._counts += [(predicted & labels).sum(axis=0), predicted.sum(axis=0), labels.sum(axis=0)]
            self._exact += int((predicted == labels).all(axis=1).sum())
            self._nll += float(np.logaddexp(0, np.where(labels, -scores, scores)).sum())  # -log sigmoid of the truth
            self._scores.append(scores.astype(np.float32))
            self._labels.append(labels)
        return predicted, probabilities

    def compute(self) -> MultiLabelMetrics:
        """Return the metrics of everything counted so far. Raises DataError where no image has a label."""
        if not self._scores:
            raise DataError("no image to evaluate on")
        scores, labels = np.concatenate(self._scores), np.concatenate(self._labels)
        if not labels.any():
            raise DataError(f"none of the {len(labels)} images has a label: give images of which some have one")
        hits, predicted, support = self._counts
        precisions = average_precisions(scores, labels)
        return MultiLabelMetrics(
            **rates(hits, predicted, support),
            n=len(labels),
            nll=self._nll / labels.size,
            mean_average_precision=float(precisions[support > 0].mean()),
            micro_f1=float(2 * hits.sum() / (predicted.sum() + support.sum())),
            exact_match=self._exact / len(labels),
            average_precision=precisions,
            false_negatives=support - hits,
            false_positives=predicted - hits,
        )


def _sigmoid(scores: Floats) -> Floats:
    """Return 1 / (1 + exp(-scores)) without overflow."""
    return np.exp(-np.logaddexp(0, -scores))


def average_precisions(scores: NDArray[np.float32], labels: Bools) -> Floats:
    """Return the average precision of each label (C,) from scores and labels (N, C); NaN where no image has it.

    It is the mean, over the images with the label, of the precision among all images with at least their score (as in
    scikit-learn's ``average_precision_score``); images with equal scores count together.
    """
    found = np.full(labels.shape[1], np.nan)
    for index, (score, has) in enumerate(zip(scores.T, labels.T, strict=True)):
        if has.any():
            order = np.argsort(-score, kind="stable")
            ranked, hits = score[order], np.cumsum(has[order])
            last = np.searchsorted(-ranked, -ranked, side="right") - 1  # of the images with the same score
            found[index] = (hits[last] / (last + 1))[has[order]].mean()
    return found
