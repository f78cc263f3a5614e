"""The metrics against scikit-learn's, and against a calibration error written by hand."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn import metrics as truth

from seresnet.errors import DataError, WeightsError
from seresnet.metrics.single_label import BINS, SingleLabelMeter, SingleLabelMetrics


def scores(n: int, classes: int, seed: int = 0, scale: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are right more often than not, confidently and less so, and their classes, unevenly many."""
    rng = np.random.default_rng(seed)
    targets = rng.choice(classes, n, p=rng.dirichlet(np.full(classes, 2.0)))
    logits = rng.normal(size=(n, classes)) * scale
    logits[np.arange(n), targets] += rng.uniform(0, 2.5 * scale, n)
    return logits.astype(np.float32), targets


def probabilities(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def calibration_error(logits: np.ndarray, targets: np.ndarray, bins: int = 15) -> float:
    """Guo et al., arXiv 1706.04599, equation 3, one bin after the other."""
    shares = probabilities(logits)
    confidence, right = shares.max(axis=1), shares.argmax(axis=1) == targets
    error = 0.0
    for b in range(bins):
        inside = (confidence >= b / bins) & (confidence < (b + 1) / bins if b < bins - 1 else confidence <= 1)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return error


def metered(logits: np.ndarray, targets: np.ndarray, batch: int) -> SingleLabelMetrics:
    meter = SingleLabelMeter(logits.shape[1])
    for start in range(0, len(logits), batch):
        meter.update(logits[start : start + batch], targets[start : start + batch])
    return meter.compute()


@pytest.mark.parametrize(("n", "classes"), [(400, 2), (300, 3), (500, 7), (700, 30)])
def test_metrics_equal_scikit_learn(n: int, classes: int) -> None:
    logits, targets = scores(n, classes)
    found, top = metered(logits, targets, 64), logits.argmax(axis=1)
    labels = list(range(classes))
    assert found.n == n
    assert found.top1 == pytest.approx(truth.accuracy_score(targets, top), abs=1e-12)
    assert 0.2 < found.top1 < 0.95
    k = min(5, classes)
    in_top = (np.argsort(-logits, axis=1)[:, :k] == targets[:, None]).any(axis=1)
    assert found.top5 == pytest.approx(in_top.mean(), abs=1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that were never predicted
        expected = truth.precision_recall_fscore_support(targets, top, labels=labels, zero_division=0)
    for values, other in zip((found.precision, found.recall, found.f1, found.support), expected, strict=True):
        np.testing.assert_allclose(values, other, atol=1e-6)
    present = np.unique(targets)
    macro = truth.precision_recall_fscore_support(targets, top, labels=present, average="macro", zero_division=0)
    assert (found.macro_precision, found.macro_recall, found.macro_f1) == pytest.approx(macro[:3], abs=1e-6)
    np.testing.assert_array_equal(found.confusion, truth.confusion_matrix(targets, top, labels=labels))
    assert found.nll == pytest.approx(truth.log_loss(targets, probabilities(logits), labels=labels), rel=1e-6)
    assert found.ece == pytest.approx(calibration_error(logits, targets), abs=1e-6)


def test_the_bins_are_those_of_the_calibration_error() -> None:
    logits, targets = scores(900, 10)
    found = metered(logits, targets, 100)
    assert found.bin_count.sum() == 900 and len(found.bin_count) == BINS == 15
    gaps = np.abs(found.bin_accuracy - found.bin_confidence)
    assert (gaps * found.bin_count).sum() / 900 == pytest.approx(found.ece, abs=1e-6)
    edges = np.linspace(0, 1, BINS + 1)
    full = found.bin_count > 0
    assert (found.bin_confidence >= edges[:-1] - 1e-7)[full].all()
    assert (found.bin_confidence <= edges[1:] + 1e-7)[full].all()


def test_full_confidence_belongs_to_the_last_bin() -> None:
    """A probability that rounds to 1 shares the bin of 0.95, so that over- and underconfidence there cancel out."""
    logits = np.array([[np.log(0.95), np.log(0.05)]] * 10 + [[60.0, -60.0]] * 10)
    targets = np.array([0] * 10 + [0] * 9 + [1])
    found = metered(logits, targets, 20)
    assert found.bin_count[-1] == 20
    assert found.ece == pytest.approx(abs(19 / 20 - (0.95 + 1) / 2), abs=1e-6)
    assert found.ece == pytest.approx(calibration_error(logits, targets), abs=1e-6)


def test_logits_that_look_like_probabilities_are_still_logits() -> None:
    logits = np.random.default_rng(0).uniform(0, 1, (50, 4)).astype(np.float32)
    targets = np.arange(50) % 4
    found = metered(logits, targets, 50)
    assert found.ece == pytest.approx(calibration_error(logits, targets), abs=1e-6)
    assert found.nll == pytest.approx(truth.log_loss(targets, probabilities(logits)), rel=1e-6)


def test_a_wrong_answer_with_full_confidence_has_a_finite_likelihood() -> None:
    logits = np.array([[1000.0, 0.0], [0.0, 1000.0]])
    assert metered(logits, np.array([1, 1]), 2).nll == pytest.approx(500)


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_the_size_of_the_batches_does_not_matter(batch: int) -> None:
    logits, targets = scores(100, 6)
    whole, parts = metered(logits, targets, 100), metered(logits, targets, batch)
    for name, value in vars(whole).items():
        np.testing.assert_allclose(vars(parts)[name], value, rtol=1e-6, err_msg=name)


def test_a_class_without_images_does_not_count_in_the_averages() -> None:
    logits = np.eye(4)[[0, 1, 3, 3]] * 3
    found = metered(logits, np.array([0, 1, 3, 0]), 4)
    np.testing.assert_array_equal(found.support, [2, 1, 0, 1])
    assert found.macro_recall == pytest.approx((0.5 + 1 + 1) / 3)
    assert found.macro_precision == pytest.approx((1 + 1 + 0.5) / 3)


def test_top5_of_few_classes_is_whole() -> None:
    logits, targets = scores(50, 3)
    assert metered(logits, targets, 50).top5 == 1.0


def test_update_returns_the_top_classes_with_their_probabilities() -> None:
    logits, targets = scores(20, 5)
    tops, confidence = SingleLabelMeter(5).update(torch.from_numpy(logits), torch.from_numpy(targets))
    np.testing.assert_array_equal(tops, logits.argmax(axis=1))
    np.testing.assert_allclose(confidence, probabilities(logits).max(axis=1), rtol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused(bad: float) -> None:
    logits, targets = scores(8, 3)
    logits[3, 1] = bad
    with pytest.raises(WeightsError, match="not finite"):
        SingleLabelMeter(3).update(logits, targets)


@pytest.mark.parametrize(
    ("logits", "targets", "message"),
    [
        (np.zeros((4, 3)), np.zeros(4), r"expected \(N, 2\) and \(N,\)"),
        (np.zeros((4, 2)), np.zeros(3), r"targets \(3,\)"),
        (np.zeros((4, 2)), np.array([0, 1, 2, 0]), "from 0 to 2: the model has classes 0 to 1"),
        (np.zeros((4, 2)), np.array([0, -1, 1, 0]), "from -1 to 1"),
    ],
)
def test_shapes_and_classes_that_do_not_fit_are_refused(logits, targets, message) -> None:
    with pytest.raises(DataError, match=message):
        SingleLabelMeter(2).update(logits, targets)


def test_nothing_to_measure_is_an_error() -> None:
    meter = SingleLabelMeter(2)
    meter.update(np.empty((0, 2)), np.empty(0))
    with pytest.raises(DataError, match="no image"):
        meter.compute()


def test_memory_does_not_grow_with_the_images() -> None:
    logits, targets = scores(1000, 10)
    meter = SingleLabelMeter(10)
    meter.update(logits, targets)
    before = len(pickle.dumps(meter))
    for _ in range(50):
        meter.update(logits, targets)
    assert meter.compute().n == 51_000
    assert len(pickle.dumps(meter)) <= before + 64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_tensors_of_low_precision_are_taken(dtype: torch.dtype) -> None:
    logits, targets = scores(60, 4)
    low = torch.from_numpy(logits).to(dtype).requires_grad_()
    meter = SingleLabelMeter(4)
    meter.update(low, torch.from_numpy(targets))
    expected = metered(low.detach().double().numpy(), targets, 60)
    assert meter.compute().nll == pytest.approx(expected.nll, rel=1e-12)
