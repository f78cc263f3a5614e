"""Two models on the same images: how their accuracies differ, and whether that can be chance (McNemar's test)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import exp, lgamma, log, sqrt
from typing import Any, NamedTuple

from seresnet.common.text import csv_text
from seresnet.errors import DataError
from seresnet.evaluation.result import Evaluation, Result
from seresnet.metrics.intervals import Interval, Z


class Difference(NamedTuple):
    """An image that one of two models predicts right and the other does not; ``first_is_right`` says which."""

    first: Result
    second: Result
    first_is_right: bool


@dataclass(frozen=True)
class Comparison:
    """Two evaluations of the same images.

    ``both``, ``only_first``, ``only_second`` and ``neither`` count the images that these models predict right; with
    several labels an image, all of its labels have to be right. ``p_value`` is of McNemar's exact two-sided test.
    """

    first: Evaluation[Any] = field(repr=False)
    second: Evaluation[Any] = field(repr=False)
    both: int
    only_first: int
    only_second: int
    neither: int
    differences: tuple[Difference, ...] = field(repr=False)

    @property
    def n(self) -> int:
        """The number of images."""
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def difference(self) -> float:
        """The accuracy of the second model minus that of the first, -1 to 1."""
        return (self.only_second - self.only_first) / self.n

    @property
    def interval(self) -> Interval:
        """The 95 % interval of the difference of paired proportions (Wald; A. Agresti, "Categorical Data Analysis")."""
        discordant, n = self.only_first + self.only_second, self.n
        half = Z * sqrt(max(0.0, discordant - n * self.difference**2)) / n
        return Interval(max(-1.0, self.difference - half), min(1.0, self.difference + half))

    @property
    def p_value(self) -> float:
        """How probable so different counts are where both models are equally accurate."""
        return mcnemar(self.only_first, self.only_second)

    def summary(self) -> dict[str, Any]:
        """Return the comparison as plain values, in the shape of ``comparison.json``."""
        counts = "both", "only_first", "only_second", "neither"
        return {
            "models": [self.first.model, self.second.model],
            "data": self.first.data,
            "images": self.n,
            "accuracy": [(self.both + self.only_first) / self.n, (self.both + self.only_second) / self.n],
            "difference": self.difference,
            "difference_interval_95": list(self.interval),
            **{name: getattr(self, name) for name in counts},
            "mcnemar_p_value": self.p_value,
        }

    def differences_csv(self) -> str:
        """Return a row for each image that one of the models alone predicts right."""
        return csv_text(self._rows())

    def _rows(self) -> Iterator[list[str]]:
        yield ["path", "true", "right", "first", "first_probability", "second", "second_probability"]
        for difference in self.differences:
            path, true, *first = difference.first.row(self.first.labels)
            second = difference.second.row(self.second.labels)[2:]
            yield [path, true, "first" if difference.first_is_right else "second", *first, *second]


def compare(first: Evaluation[Any], second: Evaluation[Any]) -> Comparison:
    """Compare the evaluations of two models on the same images. Raises DataError where the images are not the same."""
    paths = [[result.path for result in evaluation.results] for evaluation in (first, second)]
    if paths[0] != paths[1] or first.unreadable != second.unreadable:
        raise DataError("the two models were not evaluated on the same images, so that they cannot be compared")
    counts, differences = {(True, True): 0, (True, False): 0, (False, True): 0, (False, False): 0}, []
    for one, other in zip(first.results, second.results, strict=True):
        right = one.mistake(first.labels) is None, other.mistake(second.labels) is None
        counts[right] += 1
        if right[0] != right[1]:
            differences.append(Difference(one, other, right[0]))
    both, only_first, only_second, neither = counts.values()
    return Comparison(first, second, both, only_first, only_second, neither, tuple(differences))


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the p value of McNemar's exact two-sided test: a fair coin decides each image that only one has right.

    Source: Q. McNemar, "Note on the sampling error of the difference between correlated proportions", Psychometrika 12
    (1947).
    """
    n, fewer = only_first + only_second, min(only_first, only_second)
    if 2 * fewer == n:
        return 1.0
    terms = [lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1) - n * log(2) for k in range(fewer + 1)]
    return min(1.0, 2 * sum(exp(term) for term in terms))
