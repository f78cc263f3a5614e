"""What the metrics of both kinds of classifier share: one label an image, or several."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from seresnet.data.dataset import Target
from seresnet.errors import DataError, WeightsError

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Headline(NamedTuple):
    """One of the metrics that people look at first; ``key`` is its name in ``metrics.json``."""

    key: str
    name: str
    value: float


class ClassMetric(NamedTuple):
    """A metric of each class: its name in files and for people, and its values by class index."""

    key: str
    name: str
    values: Floats


class Score(NamedTuple):
    """The metric that classes are ranked by, with its average over the classes that have images."""

    name: str
    values: Floats
    average: float


class Confusion(NamedTuple):
    """A kind of error: what was confused, in how many images, out of how many."""

    name: str
    images: int
    total: int


@dataclass(frozen=True)
class Metrics(ABC):
    """Metrics of a classifier over ``n`` images with known labels. Rates lie between 0 and 1.

    ``precision``, ``recall``, ``f1`` and ``support`` (the number of images) are by class index; a rate whose divisor
    is zero is 0. The macro averages are over the classes that have images. ``nll`` is the mean negative log likelihood
    in nats.
    """

    n: int
    nll: float
    macro_precision: float
    macro_recall: float
    macro_f1: float
    precision: Floats
    recall: Floats
    f1: Floats
    support: Ints

    @abstractmethod
    def summary(self) -> dict[str, float]:
        """Return the scalar metrics by their names in ``metrics.json``."""

    @abstractmethod
    def headline(self) -> list[Headline]:
        """Return the metrics that people look at first."""

    @property
    @abstractmethod
    def score(self) -> Score:
        """The metric that classes are ranked by."""

    @abstractmethod
    def most_frequent_confusions(self, labels: Sequence[str], count: int) -> list[Confusion]:
        """Return up to ``count`` kinds of error, the most frequent first."""

    def per_class(self) -> list[ClassMetric]:
        """Return the metrics of each class."""
        return [
            ClassMetric("precision", "precision", self.precision),
            ClassMetric("recall", "recall", self.recall),
            ClassMetric("f1", "F1", self.f1),
        ]


class Meter(ABC):
    """Collect logits batch by batch, and compute `Metrics` at the end."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes

    @abstractmethod
    def targets(self, labels: Sequence[Target]) -> NDArray[Any]:
        """Return what `update` takes for the labels of images, given as class indices."""

    @abstractmethod
    def update(self, logits: ArrayLike | Tensor, targets: ArrayLike | Tensor) -> tuple[NDArray[Any], Floats]:
        """Count logits (N, num_classes) with their targets; return what is predicted for each image, and how probably.

        Raises WeightsError for logits that are not finite, DataError for targets that do not fit.
        """

    @abstractmethod
    def compute(self) -> Metrics:
        """Return the metrics of everything counted so far. Raises DataError where that is nothing."""

    def _arrays(self, logits: ArrayLike | Tensor, targets: ArrayLike | Tensor, *each: int) -> tuple[Floats, Ints]:
        """Return logits in float64 and targets in int64, of which an image has a row of the shape ``each``."""
        scores, given = _array(logits).astype(np.float64), _array(targets).astype(np.int64)
        if scores.ndim != 2 or scores.shape[1] != self.num_classes or given.shape != (len(scores), *each):
            expected = f"(N, {self.num_classes}) and (N,{''.join(f' {size}' for size in each)})"
            raise DataError(f"logits {scores.shape}, targets {given.shape}: expected {expected}")
        if not np.isfinite(scores).all():
            raise WeightsError(
                "the model's logits are not finite numbers: its weights are damaged, or it needs precision float32"
            )
        return scores, given


def _array(values: ArrayLike | Tensor) -> NDArray[Any]:
    """Return an array of anything array-like, or of a tensor of any dtype on any device."""
    detach = getattr(values, "detach", None)
    return np.asarray(values if detach is None else detach().cpu().double().numpy())


def rates(true_positive: Ints, predicted: Ints, support: Ints) -> dict[str, Any]:
    """Return precision, recall and F1 by class, their macro averages over classes with images, and ``support``."""
    precision = true_positive / np.maximum(predicted, 1)
    recall = true_positive / np.maximum(support, 1)
    f1 = 2 * true_positive / np.maximum(predicted + support, 1)
    values = {"precision": precision, "recall": recall, "f1": f1}
    averages = {f"macro_{name}": float(value[support > 0].mean()) for name, value in values.items()}
    return {**values, **averages, "support": support}
