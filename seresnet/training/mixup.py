"""Mixup and CutMix: training on mixtures of two images, with targets in proportion."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor


class Mix:
    """Mix the first image of a batch with the last and so on: mixup, CutMix, or by a toss one of them for all.

    ``mixup`` and ``cutmix`` are the alphas of the beta distribution of the first image's share; 0 leaves one out. All
    that is random comes from the generator that is given, three to four numbers a batch.
    """

    def __init__(self, mixup: float, cutmix: float) -> None:
        self.mixup, self.cutmix = mixup, cutmix

    def __call__(self, x: Tensor, targets: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return images ``(N, C, H, W)`` and targets ``(N, classes)``, mixed."""
        if not (self.mixup or self.cutmix):
            return x, targets
        cut = rng.random() < 0.5 if self.mixup and self.cutmix else bool(self.cutmix)
        alpha = self.cutmix if cut else self.mixup
        share = rng.beta(alpha, alpha)
        return cutmix(x, targets, share, rng.random(), rng.random()) if cut else mixup(x, targets, share)


def mixup(x: Tensor, targets: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Return ``share`` of each image and the rest of its partner (arXiv 1710.09412)."""
    return share * x + (1 - share) * x.flip(0), share * targets + (1 - share) * targets.flip(0)


def cutmix(x: Tensor, targets: Tensor, share: float, down: float, across: float) -> tuple[Tensor, Tensor]:
    """Return each image with a box from its partner (arXiv 1905.04899).

    The box has ``1 - share`` of the area and its middle ``down`` and ``across`` of the way; what lies outside the
    image is cut off, and the targets follow the pixels that are left.
    """
    height, width = x.shape[-2:]
    half = math.sqrt(1 - share) / 2
    top, bottom = (round(min(max(down + side, 0), 1) * height) for side in (-half, half))
    left, right = (round(min(max(across + side, 0), 1) * width) for side in (-half, half))
    mixed = x.clone()
    mixed[..., top:bottom, left:right] = x.flip(0)[..., top:bottom, left:right]
    kept = 1 - (bottom - top) * (right - left) / (height * width)
    return mixed, kept * targets + (1 - kept) * targets.flip(0)
