"""Mixup and CutMix: training on mixtures of two images, with targets in proportion."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor


class Mixup:
    """Mix the first image of a batch with the last and so on: by mixup, CutMix, or with both one of them at random.

    ``mixup`` and ``cutmix`` are the alphas of the beta distribution of lam, the weight of the first image; 0 disables
    one. Everything random comes from the generator that is given.
    """

    def __init__(self, mixup: float, cutmix: float) -> None:
        self.mixup, self.cutmix = mixup, cutmix

    def __call__(self, x: Tensor, targets: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return images ``(N, C, H, W)`` and soft targets ``(N, num_classes)``, mixed."""
        if not (self.mixup or self.cutmix):
            return x, targets
        use_cutmix = rng.random() < 0.5 if self.mixup and self.cutmix else bool(self.cutmix)
        alpha = self.cutmix if use_cutmix else self.mixup
        lam = rng.beta(alpha, alpha)
        if use_cutmix:
            return cutmix(x, targets, lam, rng.random(), rng.random())
        return mixup(x, targets, lam)


def mixup(x: Tensor, targets: Tensor, lam: float) -> tuple[Tensor, Tensor]:
    """Return ``lam`` of each image and ``1 - lam`` of its partner (arXiv 1710.09412)."""
    return lam * x + (1 - lam) * x.flip(0), lam * targets + (1 - lam) * targets.flip(0)


def cutmix(x: Tensor, targets: Tensor, lam: float, center_y: float, center_x: float) -> tuple[Tensor, Tensor]:
    """Return each image with a box from its partner (arXiv 1905.04899).

    The box has ``1 - lam`` of the area, and its centre is at ``center_y`` and ``center_x``, fractions of height and
    width. The box is clipped to the image, and the targets follow the pixels that remain.
    """
    height, width = x.shape[-2:]
    half = math.sqrt(1 - lam) / 2
    top, bottom = (round(min(max(center_y + side, 0), 1) * height) for side in (-half, half))
    left, right = (round(min(max(center_x + side, 0), 1) * width) for side in (-half, half))
    mixed = x.clone()
    mixed[..., top:bottom, left:right] = x.flip(0)[..., top:bottom, left:right]
    lam = 1 - (bottom - top) * (right - left) / (height * width)
    return mixed, lam * targets + (1 - lam) * targets.flip(0)
