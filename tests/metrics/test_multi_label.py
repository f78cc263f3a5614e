"""Metrics of several labels an image, against loops in plain NumPy."""

import numpy as np
import pytest

from seresnet.errors import DataError, WeightsError
from seresnet.metrics.multi_label import MultiLabelMeter
from seresnet.training.validation import mean_average_precision

LABELS = ["cat", "dog", "sofa", "tree", "unicorn"]


def scores(n: int = 60, digits: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are often right, of one digit many of them equal, and labels of which no image has the last."""
    rng = np.random.default_rng(0)
    labels = rng.random((n, 5)) < (0.05, 0.3, 0.5, 0.8, 0.0)
    return rng.normal(2 * labels - 1, 1.5).round(digits).astype(np.float32), labels.astype(int)


def f1_of(labels: np.ndarray, said: np.ndarray) -> tuple[float, float, float]:
    """Precision, recall and F1 of answers, one after the other."""
    hits = sum(1 for has, is_said in zip(labels, said, strict=True) if has and is_said)
    precision = hits / said.sum() if said.sum() else 0.0
    recall = hits / labels.sum() if labels.sum() else 0.0
    return precision, recall, 2 * precision * recall / (precision + recall) if hits else 0.0


def average_precision(score: np.ndarray, labels: np.ndarray) -> float:
    """The sum over thresholds of precision times the recall that is won, as an integral is defined."""
    total, before = 0.0, 0.0
    for threshold in sorted(set(score.tolist()), reverse=True):
        taken = score >= threshold
        recall = labels[taken].sum() / labels.sum()
        total += (recall - before) * labels[taken].mean()
        before = recall
    return total


@pytest.mark.parametrize("batch", [60, 7, 1])
def test_metrics_equal_loops(batch):
    logits, labels = scores()
    meter = MultiLabelMeter(5)
    for start in range(0, 60, batch):
        meter.update(logits[start : start + batch], labels[start : start + batch])
    found = meter.compute()

    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    said = probabilities > 0.5
    by_class = np.array([f1_of(labels[:, c], said[:, c]) for c in range(5)])
    np.testing.assert_allclose(np.transpose([found.precision, found.recall, found.f1]), by_class, atol=1e-6)
    macro = found.macro_precision, found.macro_recall, found.macro_f1
    assert macro == pytest.approx(by_class[:4].mean(axis=0), abs=1e-6)
    assert found.micro_f1 == pytest.approx(f1_of(labels.ravel(), said.ravel())[2], abs=1e-6)

    precisions = [average_precision(logits[:, c], labels[:, c]) for c in range(4)]
    np.testing.assert_allclose(found.average_precision, [*precisions, np.nan])
    assert found.mean_average_precision == pytest.approx(np.mean(precisions))
    assert found.mean_average_precision == pytest.approx(mean_average_precision(logits, labels > 0))  # of training

    rows = [bool((said[i] == labels[i]).all()) for i in range(60)]
    assert found.exact_match == sum(rows) / 60 and 0.1 < found.exact_match < 0.9
    likelihood = np.where(labels > 0, probabilities, 1 - probabilities)
    assert found.nll == pytest.approx(-np.log(likelihood).mean(), rel=1e-9)
    np.testing.assert_array_equal(found.support, labels.sum(axis=0))
    np.testing.assert_array_equal(found.false_negatives, (labels & ~said).sum(axis=0))
    np.testing.assert_array_equal(found.false_positives, (said & (labels == 0)).sum(axis=0))
    assert found.n == 60 and found.false_positives[4] > 0  # a label that no image has, and that was said


def test_logits_that_look_like_probabilities_are_still_logits():
    meter = MultiLabelMeter(2)
    said, probabilities = meter.update([[0.1, 0.9], [0.0, 0.2]], [[1, 0], [0, 1]])
    np.testing.assert_array_equal(said, [[True, True], [False, True]])
    assert probabilities[0, 1] == pytest.approx(1 / (1 + np.exp(-0.9)))
    assert (meter.compute().recall.tolist(), meter.compute().precision.tolist()) == ([1.0, 1.0], [1.0, 0.5])


def test_sure_answers_keep_their_order_and_a_finite_likelihood():
    """All these probabilities round to 1, and the image with the label has the highest score of them."""
    meter = MultiLabelMeter(1)
    meter.update([[300.0], [200.0], [100.0]], [[1], [0], [0]])
    found = meter.compute()
    assert found.mean_average_precision == 1.0
    assert found.nll == pytest.approx(100.0)
    assert (found.micro_f1, found.exact_match) == (pytest.approx(0.5), pytest.approx(1 / 3))


@pytest.mark.parametrize(
    ("logits", "targets", "error", "message"),
    [
        (np.zeros((4, 3)), np.zeros((4, 2)), DataError, r"expected \(N, 3\) and \(N, 3\)"),
        (np.zeros((4, 3)), np.zeros(4), DataError, r"targets \(4,\)"),
        (np.zeros((2, 3)), [[0, 1, 2], [0, 0, 0]], DataError, "are 0 or 1 for each label"),
        (np.full((2, 3), np.nan), np.zeros((2, 3)), WeightsError, "not finite"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(logits, targets, error, message):
    with pytest.raises(error, match=message):
        MultiLabelMeter(3).update(logits, targets)


def test_nothing_to_average_is_an_error():
    meter = MultiLabelMeter(2)
    meter.update(np.empty((0, 2)), np.empty((0, 2)))
    with pytest.raises(DataError, match="no image to evaluate on"):
        meter.compute()
    meter.update(np.ones((3, 2)), np.zeros((3, 2)))
    with pytest.raises(DataError, match="none of the 3 images has a label"):
        meter.compute()
