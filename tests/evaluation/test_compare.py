"""Two models on the same images: counts by hand, McNemar's test and the interval against scipy's."""

import csv
import io
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from seresnet.errors import DataError
from seresnet.evaluation.compare import compare, mcnemar
from tests.evaluation.made import evaluation_of

LABELS = ["cat", "dog"]


def predicted(classes: str, true: str = "ccddcd"):
    """The evaluation of a model that predicts these classes, c or d, for six images."""
    logits = np.eye(2)[["cd".index(c) for c in classes]]
    e = evaluation_of(logits, np.array(["cd".index(c) for c in true]), LABELS)
    return replace(e, model=classes, results=tuple(replace(r, path=f"{i}.jpg") for i, r in enumerate(e.results)))


def test_the_counts_are_those_by_hand():
    c = compare(predicted("cdddcc"), predicted("ccdcdd"))
    assert (c.both, c.only_first, c.only_second, c.neither) == (2, 2, 2, 0)
    assert (c.difference, c.p_value, c.n) == (0, 1, 6)
    head, *rows = csv.reader(io.StringIO(c.differences_csv()))
    assert head == ["path", "true", "right", "first", "first_probability", "second", "second_probability"]
    assert [row[:4] + row[5:6] for row in rows] == [
        ["1.jpg", "cat", "second", "dog", "cat"],
        ["3.jpg", "dog", "first", "dog", "cat"],
        ["4.jpg", "cat", "first", "cat", "dog"],
        ["5.jpg", "dog", "second", "cat", "dog"],
    ]
    summary = c.summary()
    assert summary["models"] == ["cdddcc", "ccdcdd"] and summary["accuracy"] == [4 / 6, 4 / 6]


@pytest.mark.parametrize(("one", "other"), [(0, 0), (3, 3), (0, 9), (12, 30), (1000, 1100), (40_000, 39_000)])
def test_mcnemars_test_is_the_binomial_test(one, other):
    expected = binomtest(one, one + other).pvalue if one + other else 1.0
    assert mcnemar(one, other) == mcnemar(other, one) == pytest.approx(expected, rel=1e-6)


def test_the_interval_is_that_of_the_mean_of_paired_differences():
    first, second = predicted("cdddcc"), predicted("ccddcd")
    c, rows = compare(first, second), np.array([0, 1, 0, 0, 0, 1])
    half = 1.959964 * rows.std() / np.sqrt(6)
    assert c.interval == pytest.approx((rows.mean() - half, rows.mean() + half))


def test_different_images_are_refused():
    first, second = predicted("cdddcc"), predicted("ccdcdd")
    with pytest.raises(DataError, match="not evaluated on the same images"):
        compare(first, replace(second, results=second.results[1:]))
    with pytest.raises(DataError, match="not evaluated on the same images"):
        compare(first, replace(second, unreadable=(("x.jpg", "truncated"),)))
