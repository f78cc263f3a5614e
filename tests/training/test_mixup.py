"""Mixed images and targets, recomputed by hand."""

import numpy as np
import pytest
import torch

from seresnet.training.mixup import Mixup, cutmix, mixup


def batch(n: int = 6, classes: int = 4, size: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 3, size, size, generator=generator).contiguous(memory_format=torch.channels_last)
    return x, torch.eye(classes)[torch.randint(0, classes, (n,), generator=generator)]


def test_mixup_is_a_weighted_sum():
    x, targets = batch()
    mixed, soft = mixup(x, targets, 0.3)
    for i in range(len(x)):
        torch.testing.assert_close(mixed[i], 0.3 * x[i] + 0.7 * x[-1 - i])
        torch.testing.assert_close(soft[i], 0.3 * targets[i] + 0.7 * targets[-1 - i])
    torch.testing.assert_close(soft.sum(1), torch.ones(len(x)))


@pytest.mark.parametrize(
    ("share", "down", "across", "box"),
    [
        (0.75, 0.5, 0.5, (2, 8, 2, 8)),  # sqrt(0.25) / 2 = 0.25 either way: 2.5 and 7.5, to even
        (0.75, 0.0, 0.9, (0, 2, 6, 10)),  # cut off above and at the right
        (1.0, 0.3, 0.3, (3, 3, 3, 3)),  # nothing of the other image
        (0.0, 0.5, 0.5, (0, 10, 0, 10)),  # nothing of its own
    ],
)
def test_cutmix_pastes_a_box_and_counts_its_pixels(share, down, across, box):
    x, targets = batch()
    mixed, soft = cutmix(x, targets, share, down, across)
    top, bottom, left, right = box
    area = (bottom - top) * (right - left) / 100
    for i in range(len(x)):
        expected = x[i].clone()
        expected[:, top:bottom, left:right] = x[-1 - i][:, top:bottom, left:right]
        assert torch.equal(mixed[i], expected)
        torch.testing.assert_close(soft[i], (1 - area) * targets[i] + area * targets[-1 - i])
    torch.testing.assert_close(soft.sum(1), torch.ones(len(x)))


def test_the_generator_decides_all_and_both_kinds_come_up():
    x, targets = batch()[0], torch.eye(6)
    mix, kinds, weights = Mixup(0.4, 1.0), [], []
    for seed in range(200):
        mixed, soft = mix(x, targets, np.random.default_rng(seed))
        assert torch.equal(mixed, mix(x, targets, np.random.default_rng(seed))[0])
        torch.testing.assert_close(soft.sum(1), torch.ones(len(x)))
        from_batch = torch.isin(mixed, x).all()  # every value stands in an image already
        kinds.append(bool(from_batch))
        weights.append(soft[0].max().item())
    assert 70 < sum(kinds) < 130
    assert np.std(weights) > 0.1


def test_without_alphas_nothing_changes():
    x, targets = batch()
    mixed, soft = Mixup(0.0, 0.0)(x, targets, np.random.default_rng(0))
    assert mixed is x and soft is targets
    only_mixup = Mixup(0.4, 0.0)(x, targets, np.random.default_rng(0))[0]
    assert not torch.isin(only_mixup, x).all()


def test_the_share_of_mixup_follows_its_beta_distribution():
    """The mean square of Beta(a, a) about 1/2 is 1 / (4 (2 a + 1))."""
    x, targets = torch.zeros(2, 3, 4, 4), torch.eye(2)
    weights = [Mixup(0.5, 0.0)(x, targets, np.random.default_rng(seed))[1][0, 0].item() for seed in range(2000)]
    assert np.mean(weights) == pytest.approx(0.5, abs=0.03)
    assert np.var(weights) == pytest.approx(1 / 8, rel=0.1)
