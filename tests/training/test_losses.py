"""Losses against torch's own and sums by hand; class weights against scikit-learn; figures against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F

from seresnet.training.config import TrainConfig
from seresnet.training.device import create_accelerator
from seresnet.training.losses import ImageLoss, balanced_weights, soft_targets
from seresnet.training.validation import ValidationMetrics, mean_average_precision

CPU = torch.device("cpu")
CLASSES = 5


def numbers(n: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (
        3 * torch.randn(n, CLASSES, generator=generator),
        torch.randint(0, CLASSES, (n,), generator=generator),
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_classes_is_torchs(smoothing):
    logits, targets = numbers()
    loss = ImageLoss(TrainConfig(label_smoothing=smoothing), multi_label=False)
    expected = F.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="none")
    torch.testing.assert_close(loss(logits, soft_targets(targets, CLASSES)), expected)


def test_class_weights_weigh_as_torchs_do():
    logits, targets = numbers()
    weights = torch.tensor([0.5, 1.0, 2.0, 4.0, 8.0])
    loss = ImageLoss(TrainConfig(), multi_label=False, class_weights=weights)
    expected = F.cross_entropy(logits, targets, weights, reduction="none")
    torch.testing.assert_close(loss(logits, soft_targets(targets, CLASSES)), expected)


def test_cross_entropy_of_a_mixture_is_the_mixture_of_cross_entropies():
    logits, targets = numbers()
    one = soft_targets(targets, CLASSES)
    mixed = 0.3 * one + 0.7 * one.roll(1, 0)
    expected = 0.3 * F.cross_entropy(logits, targets, reduction="none")
    expected += 0.7 * F.cross_entropy(logits, targets.roll(1), reduction="none")
    torch.testing.assert_close(ImageLoss(TrainConfig(), multi_label=False)(logits, mixed), expected)


def test_binary_cross_entropy_by_hand():
    logits, targets = numbers()
    one = soft_targets(targets, CLASSES)
    mixed = 0.9 * one + 0.1 * one.roll(1, 0)
    config = TrainConfig(loss="bce", bce_threshold=0.2, label_smoothing=0.1)
    answers = (mixed > 0.2).double() * 0.9 + 0.1 / CLASSES  # a tenth of the other image is below the threshold
    p = logits.double().sigmoid()
    expected = -(answers * p.log() + (1 - answers) * (1 - p).log()).mean(1)
    torch.testing.assert_close(ImageLoss(config, multi_label=False)(logits, mixed), expected.float())


def test_several_labels_are_questions_of_their_own():
    logits, _ = numbers()
    labels = (torch.rand(12, CLASSES, generator=torch.Generator().manual_seed(1)) < 0.3).float()
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    loss = ImageLoss(TrainConfig(loss="bce"), multi_label=True, class_weights=weights)(logits, labels)
    p = logits.double().sigmoid()
    expected = -(weights * labels * p.log() + (1 - labels) * (1 - p).log()).sum(1)
    torch.testing.assert_close(loss, expected.float())


def test_balanced_weights_are_scikit_learns():
    targets = np.repeat(np.arange(4), (50, 5, 1, 144))
    expected = compute_class_weight("balanced", classes=np.arange(4), y=targets)
    weights = balanced_weights(np.bincount(targets).tolist(), len(targets), multi_label=False)
    np.testing.assert_allclose(weights.numpy(), expected, rtol=1e-6)
    assert weights.numpy()[targets].mean() == pytest.approx(1.0)


def test_weights_of_labels_balance_with_and_without():
    weights = balanced_weights([50, 10, 0], 100, multi_label=True)
    assert weights.tolist() == [1.0, 9.0, 99.0]


def test_metrics_count_correct_predictions_and_add_up_over_batches():
    accelerator = create_accelerator(TrainConfig(precision="float32"), "cpu")
    logits, targets = numbers(40)
    whole, parts = (ValidationMetrics(ImageLoss(TrainConfig(), False), CPU) for _ in range(2))
    whole.update(logits, soft_targets(targets, CLASSES))
    for i in range(0, 40, 7):
        parts.update(logits[i : i + 7], soft_targets(targets[i : i + 7], CLASSES))
    got = parts.compute(accelerator)
    assert got == pytest.approx(whole.compute(accelerator))
    assert got["val_top1"] == pytest.approx((logits.argmax(1) == targets).float().mean().item())
    assert got["val_loss"] == pytest.approx(F.cross_entropy(logits, targets).item(), rel=1e-6)
    assert got["val_top5"] == 1.0
    assert "val_map" not in got


def test_mean_average_precision_is_scikit_learns():
    rng = np.random.default_rng(0)
    for _ in range(20):
        labels = rng.random((60, 4)) < (0.02, 0.1, 0.5, 0.9)
        scores = rng.normal(labels, 1.0).round(1).astype(np.float32)  # rounded: many images have the same score
        shown = labels.any(0)
        expected = average_precision_score(labels[:, shown], scores[:, shown], average="macro")
        assert mean_average_precision(scores, labels) == pytest.approx(expected)
    assert mean_average_precision(scores, np.zeros_like(labels)) == 0.0


def test_a_prediction_is_correct_where_it_is_one_of_several_labels():
    metrics = ValidationMetrics(ImageLoss(TrainConfig(loss="bce"), multi_label=True), CPU)
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 1.0], [1.0, 0.0, 2.0]])
    metrics.update(logits, torch.tensor([[1.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    got = metrics.compute(create_accelerator(TrainConfig(precision="float32"), "cpu"))
    assert got["val_top1"] == pytest.approx(1 / 3)
    # First label: scores 3, 0, 1 of labels 1, 1, 0: (1/1 + 2/3) / 2. Third: scores 2, 1, 2 of 1, 0, 0: one of two.
    assert got["val_map"] == pytest.approx(((1 + 2 / 3) / 2 + 1 / 2) / 2)
