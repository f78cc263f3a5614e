"""What logits of one label an image are worth: accuracy, confusion, calibration; and the evaluation that holds them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from seresnet.data.dataset import StoredImage, Target
from seresnet.errors import DataError
from seresnet.evaluation.result import Evaluation, Headline, Result, Score, Verdict
from seresnet.metrics.base import Floats, Ints, Meter, Metrics, by_class, double, torchmetrics_parts

if TYPE_CHECKING:
    from torch import Tensor

BINS = 15  # of confidence, as in Guo et al., "On Calibration of Modern Neural Networks" (arXiv 1706.04599)

# torchmetrics has a bin of its own for a confidence of exactly 1, which belongs to the last one.
BELOW_ONE = 1 - 2**-24


@dataclass(frozen=True)
class SingleLabelMetrics(Metrics):
    """`Metrics` where each image has one class, and the most probable class is the answer.

    ``confusion[i, j]`` counts images of class i that were taken for j. ``ece``, the expected calibration error, is the
    mean distance between confidence and accuracy over ``BINS`` equal bins of confidence, of which ``bin_count``,
    ``bin_confidence`` and ``bin_accuracy`` tell the size and the means.
    """

    top1: float
    top5: float  # 1.0 where there are five classes or fewer
    ece: float
    confusion: Ints
    bin_count: Ints
    bin_confidence: Floats
    bin_accuracy: Floats


class SingleLabelMeter(Meter):
    """Collect logits and class indices, in memory that grows by a few bytes an image."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        parts = torchmetrics_parts()
        common: dict[str, Any] = {"num_classes": num_classes, "validate_args": False}
        self._counts = parts.MetricCollection(
            {
                "top1": parts.MulticlassAccuracy(average="micro", **common),
                "top5": parts.MulticlassAccuracy(average="micro", top_k=min(5, num_classes), **common),
                "precision": parts.MulticlassPrecision(average="none", **common),
                "recall": parts.MulticlassRecall(average="none", **common),
                "f1": parts.MulticlassF1Score(average="none", **common),
                "confusion": parts.MulticlassConfusionMatrix(**common),
            },
            # Found by itself, from equal counts after the first batch, a group may join top-1 and top-5 for good.
            compute_groups=[["top1"], ["top5"], ["precision", "recall", "f1"], ["confusion"]],
        )
        self._ece = parts.MulticlassCalibrationError(n_bins=BINS, norm="l1", **common)
        self._nll = parts.MeanMetric(nan_strategy="disable")
        self._nll.set_dtype(double())
        self._confidence: list[Floats] = []
        self._correct: list[NDArray[np.bool_]] = []

    def targets(self, labels: Sequence[Target]) -> ArrayLike:
        """Return the class index of each image (N,)."""
        return [label for label in labels if isinstance(label, int)]

    def update(self, logits: ArrayLike | Tensor, targets: ArrayLike | Tensor) -> tuple[Ints, Floats]:
        """Count logits (N, num_classes) with their class indices (N,); return the top classes and probabilities (N,).

        Raises WeightsError for logits that are not finite, DataError for a class index out of range.
        """
        scores, classes = self._tensors(logits, targets)
        if len(scores) == 0:
            return np.empty(0, np.int64), np.empty(0, np.float64)
        if not ((classes >= 0) & (classes < self.num_classes)).all():
            span = f"{int(classes.min())} to {int(classes.max())}"
            raise DataError(f"class indices from {span}: the model has classes 0 to {self.num_classes - 1}")
        log_probabilities = scores.log_softmax(dim=1)
        self._counts.update(scores, classes)
        self._ece.update(log_probabilities.exp().clamp(max=BELOW_ONE), classes)
        self._nll.update(-log_probabilities.gather(1, classes[:, None]))
        best, top = log_probabilities.max(dim=1)
        confidence = best.exp().numpy()
        self._confidence.append(confidence)
        self._correct.append((top == classes).numpy())
        return top.numpy(), confidence

    def compute(self) -> SingleLabelMetrics:
        """Return the metrics of everything counted so far. Raises DataError where that is nothing."""
        if not self._confidence:
            raise DataError("no image to evaluate on")
        found = {name: value.numpy() for name, value in self._counts.compute().items()}
        confusion = found["confusion"].astype(np.int64)
        support = confusion.sum(axis=1)
        n = int(support.sum())
        count, confidence, accuracy = self._bins()
        return SingleLabelMetrics(
            **by_class(found, support),
            n=n,
            nll=float(self._nll.compute()),
            top1=round(float(found["top1"]) * n) / n,  # torchmetrics divides the counts in float32
            top5=round(float(found["top5"]) * n) / n,
            ece=float(self._ece.compute()),
            confusion=confusion,
            bin_count=count,
            bin_confidence=confidence,
            bin_accuracy=accuracy,
        )

    def _bins(self) -> tuple[Ints, Floats, Floats]:
        """Return size, mean confidence and accuracy of each bin: torchmetrics' bins, which it keeps to itself."""
        confidence, correct = np.concatenate(self._confidence), np.concatenate(self._correct)
        edges = np.linspace(0, 1, BINS + 1, dtype=np.float32)
        index = np.minimum(np.digitize(confidence.astype(np.float32), edges) - 1, BINS - 1)
        count = np.bincount(index, minlength=BINS)
        confidences, hits = np.bincount(index, confidence, BINS), np.bincount(index, correct, BINS)
        return count, confidences / np.maximum(count, 1), hits / np.maximum(count, 1)


@dataclass(frozen=True)
class SingleLabelResult(Result):
    """What the model said about one image: class indices, and the probability of ``top1``."""

    target: int
    top1: int
    probability: float

    @property
    def mistake(self) -> tuple[int, float] | None:
        """The class that the image was taken for, and its probability; None where it is the image's own."""
        return None if self.top1 == self.target else (self.top1, self.probability)


@dataclass(frozen=True)
class SingleLabelEvaluation(Evaluation, SingleLabelMetrics):
    """`SingleLabelMetrics`, with where they come from; ``results`` are each a `SingleLabelResult`."""

    meter = SingleLabelMeter

    @staticmethod
    def result(path: str | None, target: Any, said: Any, probability: Any, image: StoredImage | None = None) -> Result:
        """Return the result of an image from its class index, the top class and its probability."""
        return SingleLabelResult(path, int(target), int(said), float(probability), image=image)

    def figures(self) -> dict[str, float]:
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
        """Return accuracies, beside those that were published, macro averages and calibration error."""
        top1, top5 = (self.published.top1, self.published.top5) if self.published else (None, None)
        return [
            Headline("top-1 accuracy", self.top1, top1),
            *([Headline("top-5 accuracy", self.top5, top5)] if len(self.labels) > 5 else []),
            Headline("macro precision", self.macro_precision),
            Headline("macro recall", self.macro_recall),
            Headline("macro F1", self.macro_f1),
            Headline("expected calibration error", self.ece),
        ]

    @property
    def score(self) -> Score:
        """F1."""
        return Score("F1", self.f1, self.macro_f1)

    def verdict(self, result: SingleLabelResult) -> Verdict:
        """Return the class that the image was taken for, its probability, and the image's own class."""
        return Verdict(self.labels[result.top1], result.probability, self.labels[result.target])

    def most_confused(self, count: int) -> list[tuple[int, int, int]]:
        """Return the ``count`` commonest mistakes as (class, taken for, images), the commonest first."""
        mistakes = self.confusion.copy()
        np.fill_diagonal(mistakes, 0)
        order = np.argsort(-mistakes, axis=None, kind="stable")[:count]
        pairs = zip(*np.unravel_index(order, mistakes.shape), strict=True)
        return [(int(i), int(j), int(mistakes[i, j])) for i, j in pairs if mistakes[i, j]]

    def commonest_mistakes(self, count: int) -> list[tuple[str, int, int]]:
        """Return `most_confused` in words, with the number of images of the class."""
        pairs = self.most_confused(count)
        return [(f"{self.labels[i]} → {self.labels[j]}", images, int(self.support[i])) for i, j, images in pairs]

    def predictions(self) -> tuple[Sequence[str], Iterable[Sequence[object]]]:
        """Return the image's class, the top class and its probability."""
        rows = (
            [r.path or "", self.labels[r.target], self.labels[r.top1], f"{r.probability:.6g}"] for r in self.results
        )
        return ["path", "target", "top1", "probability"], rows
