"""The metrics of a validation pass: loss, accuracy, and with several labels per image the mean average precision."""

from __future__ import annotations

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor

from seresnet.metrics.multi_label import average_precisions
from seresnet.training.losses import ImageLoss

SCORES = {"val_top1": "top-1", "val_map": "mean average precision"}  # what `best/` is chosen by, and its name


class ValidationMetrics:
    """Accumulate the metrics of one rank's images, batch by batch; `compute` returns those of all ranks.

    A prediction is correct where it is the image's class, or with several labels one of them.
    """

    def __init__(self, loss: ImageLoss, device: torch.device) -> None:
        self.loss = loss
        self.sums = torch.zeros(4, device=device, dtype=torch.float64)  # loss, top-1, top-5, images
        self.scores: list[Tensor] = []  # of images with several labels
        self.labels: list[Tensor] = []

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Add the logits and targets of a batch, both ``(N, num_classes)``."""
        correct = targets.gather(1, logits.topk(min(5, logits.shape[1])).indices) > 0  # (N, 5), the best answer first
        loss = self.loss(logits, targets).sum()
        self.sums[:3] += torch.stack([loss.double(), correct[:, 0].sum().double(), correct.any(1).sum().double()])
        self.sums[3] += len(targets)
        if self.loss.multi_label:
            self.scores.append(logits.float().cpu())
            self.labels.append((targets > 0).cpu())

    def compute(self, accelerator: Accelerator) -> dict[str, float]:
        """Return ``val_loss``, ``val_top1``, ``val_top5``, and with several labels ``val_map``, over all ranks."""
        loss, top1, top5, images = accelerator.reduce(self.sums, "sum").tolist()
        metrics = {"val_loss": loss / images, "val_top1": top1 / images, "val_top5": top5 / images}
        if self.loss.multi_label:
            own = [(s.numpy(), t.numpy()) for s, t in zip(self.scores, self.labels, strict=True)]
            scores, labels = (np.concatenate(parts) for parts in zip(*gather_object(own), strict=True))
            metrics["val_map"] = mean_average_precision(scores, labels)
        return metrics


def mean_average_precision(scores: NDArray[np.float32], labels: NDArray[np.bool_]) -> float:
    """Return `average_precisions` of ``(N, num_classes)``, averaged over the labels that some image has."""
    return float(np.nanmean(average_precisions(scores, labels))) if labels.any() else 0.0
