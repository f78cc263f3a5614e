"""What a validation pass comes to: loss, accuracy, and with several labels an image the mean average precision."""

from __future__ import annotations

from itertools import chain

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from seresnet.metrics.multi_label import average_precisions
from seresnet.training.losses import ImageLoss
from seresnet.training.ranks import gathered

SCORES = {"val_top1": "top-1", "val_map": "mean average precision"}  # what `best/` is chosen by, and its name


class Figures:
    """Add up what the images of one process say, batch by batch; `result` is of all processes.

    An answer is right where it is the image's class, or with several labels one of them.
    """

    def __init__(self, loss: ImageLoss) -> None:
        self.loss = loss
        self.sums = np.zeros(4)  # loss, top-1, top-5, images
        self.scores: list[NDArray[np.float32]] = []
        self.labels: list[NDArray[np.bool_]] = []

    def add(self, logits: Tensor, targets: Tensor) -> None:
        """Take in the logits and targets of a batch, both ``(N, C)``."""
        right = targets.gather(1, logits.topk(min(5, logits.shape[1])).indices) > 0  # (N, 5), the best answer first
        loss = self.loss(logits, targets).sum()
        self.sums += (loss.item(), right[:, 0].sum().item(), right.any(1).sum().item(), len(targets))
        if self.loss.multi_label:
            self.scores.append(logits.float().cpu().numpy())
            self.labels.append((targets > 0).cpu().numpy())

    def result(self, accelerator: Accelerator) -> dict[str, float]:
        """Return ``val_loss``, ``val_top1``, ``val_top5``, and with several labels ``val_map``, over all processes."""
        sums = torch.tensor(self.sums, device=accelerator.device)
        loss, top1, top5, images = accelerator.reduce(sums, "sum").tolist()
        figures = {"val_loss": loss / images, "val_top1": top1 / images, "val_top5": top5 / images}
        if self.loss.multi_label:
            pairs = chain.from_iterable(gathered(accelerator, list(zip(self.scores, self.labels, strict=True))))
            scores, labels = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
            figures["val_map"] = mean_average_precision(scores, labels)
        return figures


def mean_average_precision(scores: NDArray[np.float32], labels: NDArray[np.bool_]) -> float:
    """Return `average_precisions` of ``(N, C)``, averaged over the labels that some image has."""
    return float(np.nanmean(average_precisions(scores, labels))) if labels.any() else 0.0
