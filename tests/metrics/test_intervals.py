"""Confidence intervals against scipy's, and against a bootstrap that draws the images themselves."""

import numpy as np
import pytest
from scipy.stats import binomtest

from seresnet.metrics.intervals import bootstrap, wilson
from seresnet.metrics.single_label import SingleLabelMeter


@pytest.mark.parametrize(("right", "n"), [(0, 7), (7, 7), (1, 3), (298, 341), (88_020, 100_000)])
def test_wilson_is_scipys(right, n):
    expected = binomtest(right, n).proportion_ci(0.95, "wilson")
    assert wilson(right / n, n) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_the_bootstrap_of_the_matrix_is_that_of_the_images():
    generator = np.random.default_rng(3)
    targets = generator.integers(0, 4, 240)
    targets[targets == 3] = np.where(generator.random((targets == 3).sum()) < 0.9, 0, 3)  # a rare class
    logits = generator.normal(size=(240, 4))
    logits[np.arange(240), targets] += 1.2

    def metrics(rows):
        meter = SingleLabelMeter(4)
        meter.update(logits[rows], targets[rows])
        return meter.compute()

    names = "macro_precision", "macro_recall", "macro_f1", "expected_calibration_error"
    drawn = [metrics(generator.integers(0, 240, 240)).summary() for _ in range(2000)]
    intervals = bootstrap(metrics(np.arange(240)), resamples=2000)
    for name in names:
        expected = np.quantile([row[name] for row in drawn], (0.025, 0.975))
        assert intervals[name] == pytest.approx(expected, abs=0.015), name
