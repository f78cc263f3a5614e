"""An evaluation: figures, where they come from, and what reports and tables ask of both kinds of classifier."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from seresnet.data.dataset import StoredImage
from seresnet.metrics.base import Floats, Meter, Metrics


@dataclass(frozen=True)
class Published:
    """Accuracies that were published of named weights, between 0 and 1, and on what."""

    top1: float
    top5: float | None
    data: str


@dataclass(frozen=True)
class Result(ABC):
    """What the model said about one image.

    ``image`` is where its bytes are, if ``path`` is no file and they can be read again.
    """

    path: str | None
    image: StoredImage | None = field(default=None, kw_only=True)

    @property
    @abstractmethod
    def mistake(self) -> tuple[int, float] | None:
        """The class that the model was most sure and wrong about, and how sure; None where all is right."""


class Headline(NamedTuple):
    """One of the figures that people look at first."""

    name: str
    share: float
    published: float | None = None


class ByClass(NamedTuple):
    """A share of each class: its name in files and for people, and the values by class index."""

    key: str
    name: str
    values: Floats


class Score(NamedTuple):
    """The share that classes are ranked by, with its average over those that have images."""

    name: str
    values: Floats
    average: float


class Verdict(NamedTuple):
    """A mistake in words: what the model said, how sure it was, and what is true."""

    said: str
    confidence: float
    truth: str


@dataclass(frozen=True)
class Evaluation(Metrics, ABC):
    """`Metrics`, with where they come from: the result of each image, and the images that could not be read."""

    labels: tuple[str, ...] = ()  # by class index
    results: tuple[Any, ...] = ()  # a `Result` for each image
    unreadable: tuple[tuple[str, str], ...] = ()  # path, reason; not in the metrics
    model: str = ""
    engine: str = ""  # what computed, and in which precision
    data: str = ""
    notes: tuple[str, ...] = ()  # what a reader of the figures has to know
    published: Published | None = None  # what others reported of these weights

    meter: ClassVar[type[Meter]]

    @staticmethod
    @abstractmethod
    def result(path: str | None, target: Any, said: Any, probability: Any, image: StoredImage | None = None) -> Result:
        """Return the result of an image from its rows of what `Meter.update` took and returned."""

    @abstractmethod
    def figures(self) -> dict[str, float]:
        """Return the figures of ``metrics.json`` that are this kind's own."""

    @abstractmethod
    def headline(self) -> list[Headline]:
        """Return the figures that people look at first."""

    @property
    @abstractmethod
    def score(self) -> Score:
        """The share that classes are ranked by."""

    @abstractmethod
    def verdict(self, result: Any) -> Verdict:
        """Return the mistake of a result in words."""

    @abstractmethod
    def commonest_mistakes(self, count: int) -> list[tuple[str, int, int]]:
        """Return up to ``count`` kinds of mistake as (which, images, of how many), the commonest first."""

    @abstractmethod
    def predictions(self) -> tuple[Sequence[str], Iterable[Sequence[object]]]:
        """Return the header and the rows of ``predictions.csv``."""

    def by_class(self) -> list[ByClass]:
        """Return the shares of each class."""
        return [
            ByClass("precision", "precision", self.precision),
            ByClass("recall", "recall", self.recall),
            ByClass("f1", "F1", self.f1),
        ]

    def mistakes(self) -> list[Any]:
        """Return the results that are wrong, the most confident first."""
        wrong = [(result.mistake[1], result) for result in self.results if result.mistake is not None]
        return [result for _, result in sorted(wrong, key=lambda pair: -pair[0])]

    def summary(self) -> dict[str, Any]:
        """Return the figures as plain values, in the shape of ``metrics.json``; seven digits, as float32 has."""
        values = {
            "model": self.model,
            "engine": self.engine,
            "data": self.data,
            "images": self.n,
            "unreadable": len(self.unreadable),
            "classes": len(self.labels),
            "classes_with_images": int((self.support > 0).sum()),
            **self.figures(),
            "published": None if self.published is None else vars(self.published),
            "notes": list(self.notes),
            "unreadable_images": [{"path": path, "reason": reason} for path, reason in self.unreadable],
        }
        return {key: float(f"{v:.7g}") if isinstance(v, float) else v for key, v in values.items()}
