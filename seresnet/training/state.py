"""How far a run is, what one step found, and the random state of a step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch


class StepTotals(NamedTuple):
    """The sums of one step over all ranks."""

    loss: float
    correct: float
    norm: float  # of gradients and batch-norm statistics: finite where all of them are
    images: float
    stop_signals: float

    @property
    def is_finite(self) -> bool:
        """Whether the loss, the gradients and the batch-norm statistics of every rank are finite."""
        return math.isfinite(self.loss) and math.isfinite(self.norm)


@dataclass
class TrainState:
    """How far a run is: everything in a checkpoint that is not a tensor."""

    epoch: int = 0  # completed epochs
    batch: int = 0  # completed steps of the current epoch
    step: int = 0  # completed steps of the run
    loss_sum: float = 0.0  # over the images of the current epoch
    correct: int = 0  # of the images of the current epoch
    images: int = 0  # of the current epoch so far
    seconds: float = 0.0  # spent on training, over all sessions
    best_score: float = -1.0  # of the validation metric that `best/` is chosen by
    best_epoch: int = 0  # when it was reached

    def add_step(self, totals: StepTotals) -> None:
        """Count a finished step, and its images where the step was finite."""
        if totals.is_finite:
            self.loss_sum += totals.loss
            self.correct += round(totals.correct)
            self.images += round(totals.images)
        self.batch, self.step = self.batch + 1, self.step + 1

    def start_from(self, loss: float, top1: float, metrics: dict[str, float], score: float) -> dict[str, float]:
        """Take the scores of the linear probe as the ones to improve on, and return its row in ``metrics.csv``."""
        self.best_score, self.best_epoch = score, 0
        row = {"epoch": 0, "step": 0, "lr": 0.0, "train_loss": loss, "train_top1": top1, **metrics}
        return row | {"images_per_s": 0.0, "seconds": self.seconds}

    def finish_epoch(self, lr: float, metrics: dict[str, float], score: float, images_per_s: float) -> dict[str, float]:
        """Go to the next epoch, and return the row of the finished one in ``metrics.csv``."""
        self.epoch, self.batch = self.epoch + 1, 0
        if score > self.best_score:
            self.best_score, self.best_epoch = score, self.epoch
        images = max(1, self.images)
        row = {"epoch": self.epoch, "step": self.step, "lr": lr, "train_loss": self.loss_sum / images}
        row |= {"train_top1": self.correct / images, **metrics}
        self.loss_sum, self.correct, self.images = 0.0, 0, 0
        return row | {"images_per_s": images_per_s, "seconds": self.seconds}


def seed_torch(seed: int, step: int, micro: int) -> None:
    """Seed torch by the step alone, the same on all ranks: each samples for the whole batch and takes its rows."""
    entropy = np.random.SeedSequence((seed, step, micro))
    torch.manual_seed(int(entropy.generate_state(1, np.uint64)[0]) >> 1)
