"""What a validation pass comes to: loss, accuracy, and with several labels an image the mean average precision."""

from __future__ import annotations

from itertools import chain

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from seresnet.train.losses import ImageLoss
from seresnet.train.processes import gathered

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
    """Return the average precision of each label from ``(N, C)``, averaged over those that some image has.

    Average precision is the mean, over the images with the label, of the precision among all images with at least
    their score (as in scikit-learn's ``average_precision_score``); images of one score are taken in together.
    """
    found = []
    for score, has in zip(scores.T, labels.T, strict=True):
        if not has.any():
            continue
        order = np.argsort(-score, kind="stable")
        ranked, hits = score[order], np.cumsum(has[order])
        last = np.searchsorted(-ranked, -ranked, side="right") - 1  # of the images with the same score
        found.append(float((hits[last] / (last + 1))[has[order]].mean()))
    return float(np.mean(found)) if found else 0.0
