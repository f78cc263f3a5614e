"""The loss of each image, from logits and soft targets."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seresnet.training.config import TrainConfig


class ImageLoss(nn.Module):
    """Return the loss of each image ``(N,)`` from logits and targets, both ``(N, C)``.

    Targets are soft targets that sum to 1, or with ``multi_label`` 0 or 1 for each label. ``cross_entropy`` is torch's.
    ``bce`` is binary cross-entropy per class: the mean over the classes (arXiv 2110.00476, section 3.1), with several
    labels their sum, so that the gradient of a label does not shrink as labels are added.

    ``class_weights`` ``(C,)`` multiply an image's loss by its class's weight; with several labels they are torch's
    ``pos_weight``.
    """

    def __init__(self, config: TrainConfig, multi_label: bool, class_weights: Tensor | None = None) -> None:
        super().__init__()
        self.kind, self.threshold = config.loss, config.bce_threshold
        self.smoothing, self.multi_label = config.label_smoothing, multi_label
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return ``(N,)``, in float32."""
        logits, weights = logits.float(), self.class_weights
        if self.multi_label:
            smoothed = targets * (1 - self.smoothing) + self.smoothing / 2  # each label is a binary question
            losses = F.binary_cross_entropy_with_logits(logits, smoothed, pos_weight=weights, reduction="none")
            return losses.sum(1)
        if self.kind == "bce":
            present = targets if self.threshold is None else (targets > self.threshold).float()
            smoothed = present * (1 - self.smoothing) + self.smoothing / targets.shape[1]
            losses = F.binary_cross_entropy_with_logits(logits, smoothed, reduction="none").mean(1)
        else:
            losses = F.cross_entropy(logits, targets, label_smoothing=self.smoothing, reduction="none")
        return losses if weights is None else losses * (targets @ weights)


def balanced_weights(counts: list[int], images: int, multi_label: bool) -> Tensor:
    """Return the weight of each class ``(C,)`` from its number of images, so that all classes count the same.

    One label an image: ``images / (classes * count)``, whose mean over the images is 1. Several: images without the
    label for each one with it, as torch's ``pos_weight`` means it. A class without an image counts as having one.
    """
    present = torch.tensor(counts, dtype=torch.float64).clamp(min=1)
    weights = (images - present).clamp(min=1) / present if multi_label else images / (len(counts) * present)
    return weights.float()


def soft_targets(targets: Tensor, num_classes: int) -> Tensor:
    """Return class indices ``(N,)`` one-hot encoded as ``(N, num_classes)``; multi-label rows stay as they are."""
    return targets.float() if targets.ndim == 2 else F.one_hot(targets, num_classes).float()
