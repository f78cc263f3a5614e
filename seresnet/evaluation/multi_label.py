"""What logits of several labels an image are worth: average precision, F1, exact matches; and their evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from seresnet.data.dataset import StoredImage, Target
from seresnet.errors import DataError
from seresnet.evaluation.result import ByClass, Evaluation, Headline, Result, Score, Verdict
from seresnet.metrics.base import Floats, Ints, Meter, Metrics, by_class, double, torchmetrics_parts

if TYPE_CHECKING:
    from torch import Tensor

THRESHOLD = 0.5  # an image is said to have the labels that are more probable


@dataclass(frozen=True)
class MultiLabelMetrics(Metrics):
    """`Metrics` where an image has any number of labels, and is said to have those above ``THRESHOLD``.

    ``average_precision`` is by class index, and NaN where no image has the label (see `average_precisions`);
    ``mean_average_precision`` is the mean of the others. ``micro_f1`` counts the answers of all labels together,
    ``exact_match`` the images of which every label is right; ``nll`` is the mean over images and labels. ``missed``
    counts by class the images whose label was not said, ``mistaken`` those that were said to have it and do not.
    """

    mean_average_precision: float
    micro_f1: float
    exact_match: float
    average_precision: Floats
    missed: Ints
    mistaken: Ints


class MultiLabelMeter(Meter):
    """Collect logits and labels, in memory that grows by five bytes a label and image: ranks need all the scores."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        parts = torchmetrics_parts()
        common: dict[str, Any] = {"num_labels": num_classes, "validate_args": False}
        self._counts = parts.MetricCollection(
            {
                "precision": parts.MultilabelPrecision(average="none", **common),
                "recall": parts.MultilabelRecall(average="none", **common),
                "f1": parts.MultilabelF1Score(average="none", **common),
                "micro_f1": parts.MultilabelF1Score(average="micro", **common),
                "exact_match": parts.MultilabelExactMatch(**common),
                "confusion": parts.MultilabelConfusionMatrix(**common),
            },
            compute_groups=[["precision", "recall", "f1", "micro_f1"], ["exact_match"], ["confusion"]],
        )
        self._nll = parts.MeanMetric(nan_strategy="disable")
        self._nll.set_dtype(double())
        self._scores: list[NDArray[np.float32]] = []
        self._labels: list[NDArray[np.bool_]] = []

    def targets(self, labels: Sequence[Target]) -> ArrayLike:
        """Return for each image a row that is 1 at its labels (N, num_classes)."""
        rows = np.zeros((len(labels), self.num_classes), np.int64)
        for row, indices in zip(rows, labels, strict=True):
            row[list(indices) if isinstance(indices, tuple) else indices] = 1
        return rows

    def update(self, logits: ArrayLike | Tensor, targets: ArrayLike | Tensor) -> tuple[NDArray[np.bool_], Floats]:
        """Count logits with their targets, 0 or 1; return which labels are said, and all probabilities.

        All are (N, num_classes). Raises WeightsError for logits that are not finite, DataError for other targets.
        """
        from torch.nn.functional import binary_cross_entropy_with_logits

        scores, labels = self._tensors(logits, targets, self.num_classes)
        if not ((labels == 0) | (labels == 1)).all():
            raise DataError("targets of several labels an image are 0 or 1 for each label")
        probabilities = scores.sigmoid()
        said = probabilities > THRESHOLD
        if len(scores):
            self._counts.update(said.long(), labels)  # as probabilities, they might be taken for logits
            self._nll.update(binary_cross_entropy_with_logits(scores, labels.double(), reduction="none"))
            self._scores.append(scores.float().numpy())
            self._labels.append(labels.bool().numpy())
        return said.numpy(), probabilities.numpy()

    def compute(self) -> MultiLabelMetrics:
        """Return the metrics of everything counted so far. Raises DataError where no image has a label."""
        if not self._scores:
            raise DataError("no image to evaluate on")
        scores, labels = np.concatenate(self._scores), np.concatenate(self._labels)
        if not labels.any():
            raise DataError(f"none of the {len(labels)} images has a label: give images of which some have one")
        found = {name: value.numpy() for name, value in self._counts.compute().items()}
        confusion = found["confusion"].astype(np.int64)  # (num_classes, has the label, is said to have it)
        precisions, support = average_precisions(scores, labels), confusion[:, 1].sum(axis=1)
        return MultiLabelMetrics(
            **by_class(found, support),
            n=len(labels),
            nll=float(self._nll.compute()),
            mean_average_precision=float(precisions[support > 0].mean()),
            micro_f1=float(found["micro_f1"]),
            exact_match=round(float(found["exact_match"]) * len(labels)) / len(labels),
            average_precision=precisions,
            missed=confusion[:, 1, 0],
            mistaken=confusion[:, 0, 1],
        )


def average_precisions(scores: NDArray[np.float32], labels: NDArray[np.bool_]) -> Floats:
    """Return the average precision of each label (C,) from scores and labels (N, C); NaN where no image has it.

    It is the mean, over the images with the label, of the precision among all images with at least their score (as in
    scikit-learn's ``average_precision_score``); images of one score are taken in together.
    """
    found = np.full(labels.shape[1], np.nan)
    for index, (score, has) in enumerate(zip(scores.T, labels.T, strict=True)):
        if has.any():
            order = np.argsort(-score, kind="stable")
            ranked, hits = score[order], np.cumsum(has[order])
            last = np.searchsorted(-ranked, -ranked, side="right") - 1  # of the images with the same score
            found[index] = (hits[last] / (last + 1))[has[order]].mean()
    return found


@dataclass(frozen=True)
class MultiLabelResult(Result):
    """What the model said about one image: class indices, and the probabilities of ``targets`` and ``predicted``."""

    targets: tuple[int, ...]
    predicted: tuple[int, ...]
    probabilities: dict[int, float]

    @property
    def mistake(self) -> tuple[int, float] | None:
        """The wrong label that was the most probable, or the missed one that was the least, and how sure that was."""
        wrong = sorted(set(self.targets) ^ set(self.predicted))
        sure = [(i, self.probabilities[i] if i in self.predicted else 1 - self.probabilities[i]) for i in wrong]
        return max(sure, key=lambda pair: pair[1], default=None)


@dataclass(frozen=True)
class MultiLabelEvaluation(Evaluation, MultiLabelMetrics):
    """`MultiLabelMetrics`, with where they come from; ``results`` are each a `MultiLabelResult`."""

    meter = MultiLabelMeter

    @staticmethod
    def result(path: str | None, target: Any, said: Any, probability: Any, image: StoredImage | None = None) -> Result:
        """Return the result of an image from its labels, those that were said, and all probabilities (num_classes,)."""
        targets, predicted = (tuple(np.flatnonzero(row).tolist()) for row in (target, said))
        kept = sorted({*targets, *predicted})
        return MultiLabelResult(path, targets, predicted, {i: float(probability[i]) for i in kept}, image=image)

    def figures(self) -> dict[str, float]:
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
            Headline("mean average precision", self.mean_average_precision),
            Headline("micro F1", self.micro_f1),
            Headline("macro precision", self.macro_precision),
            Headline("macro recall", self.macro_recall),
            Headline("macro F1", self.macro_f1),
            Headline("all labels right", self.exact_match),
        ]

    @property
    def score(self) -> Score:
        """Average precision."""
        return Score("average precision", self.average_precision, self.mean_average_precision)

    def by_class(self) -> list[ByClass]:
        """Return average precision, and precision, recall and F1 at the threshold."""
        return [ByClass("average_precision", "AP", self.average_precision), *super().by_class()]

    def verdict(self, result: MultiLabelResult) -> Verdict:
        """Return the label that was wrongly said, or "no ..." where one was missed, and the image's own labels."""
        assert result.mistake is not None
        index, confidence = result.mistake
        said = self.labels[index] if index in result.predicted else f"no {self.labels[index]}"
        return Verdict(said, confidence, ", ".join(self._names(result.targets)) or "none of them")

    def commonest_mistakes(self, count: int) -> list[tuple[str, int, int]]:
        """Return labels that were missed, of how many, and labels that were said, of how many images without them."""
        rows = []
        for label, has, missed, mistaken in zip(self.labels, self.support, self.missed, self.mistaken, strict=True):
            rows.append((f"{label}: missed", int(missed), int(has)))
            rows.append((f"{label}: said, and not there", int(mistaken), int(self.n - has)))
        return [row for row in sorted(rows, key=lambda row: -row[1]) if row[1]][:count]

    def predictions(self) -> tuple[Sequence[str], Iterable[Sequence[object]]]:
        """Return the image's labels, those that were said and their probabilities, each separated by ``;``."""
        rows = (
            [
                r.path or "",
                ";".join(self._names(r.targets)),
                ";".join(self._names(r.predicted)),
                ";".join(f"{r.probabilities[i]:.6g}" for i in r.predicted),
            ]
            for r in self.results
        )
        return ["path", "targets", "predicted", "probabilities"], rows

    def _names(self, indices: Iterable[int]) -> list[str]:
        return [self.labels[i] for i in indices]
