"""An evaluation: its metrics, the result of each image, and where they come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, NamedTuple, Self, TypeVar

import numpy as np

from seresnet.data.dataset import StoredImage
from seresnet.metrics.base import Metrics

M = TypeVar("M", bound=Metrics, covariant=True)


@dataclass(frozen=True)
class Published:
    """Published accuracies of named weights, between 0 and 1, and the data they were measured on."""

    top1: float
    top5: float | None
    data: str


class Mistake(NamedTuple):
    """A wrong prediction in words: what was predicted, its probability, what is true; and the index of the class."""

    predicted: str
    confidence: float
    true: str
    class_index: int


@dataclass(frozen=True, slots=True)
class Result(ABC):
    """The prediction for one image.

    ``image`` says where its bytes are, if ``path`` is not a file and they can be read again.
    """

    path: str | None
    image: StoredImage | None = field(default=None, kw_only=True)

    COLUMNS: ClassVar[tuple[str, ...]]  # of predictions.csv

    @classmethod
    @abstractmethod
    def of(cls, path: str | None, target: Any, predicted: Any, probability: Any, image: StoredImage | None) -> Self:
        """Return the result of an image from its rows of what `Meter.update` took and returned."""

    @abstractmethod
    def mistake(self, labels: Sequence[str]) -> Mistake | None:
        """Return the most confident wrong prediction, or None where all is right."""

    @abstractmethod
    def row(self, labels: Sequence[str]) -> list[str]:
        """Return the cells of ``predictions.csv``."""


@dataclass(frozen=True, slots=True)
class SingleLabelResult(Result):
    """The prediction for one image of one class: class indices, and the probability of ``top1``."""

    target: int
    top1: int
    probability: float

    COLUMNS = ("path", "target", "top1", "probability")

    @classmethod
    def of(cls, path: str | None, target: Any, predicted: Any, probability: Any, image: StoredImage | None) -> Self:
        """Return the result of an image from its class index, the top class and its probability."""
        return cls(path, int(target), int(predicted), float(probability), image=image)

    def mistake(self, labels: Sequence[str]) -> Mistake | None:
        """Return the predicted class, its probability and the image's own class, or None where these are the same."""
        if self.top1 == self.target:
            return None
        return Mistake(labels[self.top1], self.probability, labels[self.target], self.top1)

    def row(self, labels: Sequence[str]) -> list[str]:
        """Return the image's class, the predicted class and its probability."""
        return [self.path or "", labels[self.target], labels[self.top1], f"{self.probability:.6g}"]


@dataclass(frozen=True, slots=True)
class MultiLabelResult(Result):
    """The prediction for one image of several labels: class indices, and the probabilities of both kinds of them."""

    targets: tuple[int, ...]
    predicted: tuple[int, ...]
    probabilities: Mapping[int, float]

    COLUMNS = ("path", "targets", "predicted", "probabilities")

    @classmethod
    def of(cls, path: str | None, target: Any, predicted: Any, probability: Any, image: StoredImage | None) -> Self:
        """Return the result of an image from its labels, the predicted ones, and all probabilities, (num_classes,)."""
        targets, above = (tuple(np.flatnonzero(row).tolist()) for row in (target, predicted))
        kept = {i: float(probability[i]) for i in sorted({*targets, *above})}
        return cls(path, targets, above, kept, image=image)

    def mistake(self, labels: Sequence[str]) -> Mistake | None:
        """Return the most confident false positive or false negative ("no ..."), with the image's own labels."""
        confidence = {i: self.probabilities[i] for i in self.predicted if i not in self.targets}
        confidence |= {i: 1 - self.probabilities[i] for i in self.targets if i not in self.predicted}
        if not confidence:
            return None
        worst = max(sorted(confidence), key=confidence.__getitem__)
        predicted = labels[worst] if worst in self.predicted else f"no {labels[worst]}"
        true = ", ".join(labels[i] for i in self.targets) or "none of them"
        return Mistake(predicted, confidence[worst], true, worst)

    def row(self, labels: Sequence[str]) -> list[str]:
        """Return the image's labels, the predicted ones and their probabilities, each separated by ``;``."""
        names = [";".join(labels[i] for i in indices) for indices in (self.targets, self.predicted)]
        return [self.path or "", *names, ";".join(f"{self.probabilities[i]:.6g}" for i in self.predicted)]


@dataclass(frozen=True)
class Evaluation(Generic[M]):
    """The evaluation of a model on a data set.

    ``results`` has one entry for each image that could be read; ``unreadable`` pairs of path and reason for the
    others, which no metric counts. ``notes`` say what a reader of the metrics has to know.
    """

    metrics: M
    labels: tuple[str, ...]  # by class index
    results: tuple[Result, ...] = ()
    unreadable: tuple[tuple[str, str], ...] = ()
    model: str = ""
    engine: str = ""  # and its precision
    data: str = ""
    notes: tuple[str, ...] = ()
    published: Published | None = None

    def mistakes(self) -> list[tuple[Result, Mistake]]:
        """Return the images with a wrong prediction, the most confident first."""
        found = [(result, mistake) for result in self.results if (mistake := result.mistake(self.labels)) is not None]
        return sorted(found, key=lambda pair: -pair[1].confidence)

    def summary(self) -> dict[str, Any]:
        """Return the metrics as plain values, in the shape of ``metrics.json``; seven digits, as float32 has."""
        values = {
            "model": self.model,
            "engine": self.engine,
            "data": self.data,
            "images": self.metrics.n,
            "unreadable": len(self.unreadable),
            "classes": len(self.labels),
            "classes_with_images": int((self.metrics.support > 0).sum()),
            **self.metrics.summary(),
            "published": None if self.published is None else vars(self.published),
            "notes": list(self.notes),
            "unreadable_images": [{"path": path, "reason": reason} for path, reason in self.unreadable],
        }
        return {key: float(f"{v:.7g}") if isinstance(v, float) else v for key, v in values.items()}
