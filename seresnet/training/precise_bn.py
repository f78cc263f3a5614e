"""Batch-norm statistics of the model that is evaluated and saved, computed with its own weights.

The statistics that training accumulates belong to the weights of the last dozens of steps. Where weights change fast,
as in the first epochs on new images, these are other weights than those of the moving average: handwritten digits,
fine-tuned from photographs, were at 9.9 % after an epoch with the accumulated statistics and at 90.1 % with these
(`benchmarks/2026-11-25-few-images.md`). After "precise batch norm" in arXiv 2105.07576.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice

import torch
from accelerate import Accelerator
from torch import nn

from seresnet.data.augment import BatchAugment, TrainCrop
from seresnet.data.dataset import Stream
from seresnet.data.loader import Loader
from seresnet.models.resnet import SEResNet
from seresnet.training.device import to_device
from seresnet.training.ranks import average_across_ranks

MAX_IMAGES = 1024  # over all ranks: a third of an epoch's time at most, and less with more images
BATCH_SIZE = 64  # images of each batch whose statistics are averaged, over all ranks


class PreciseBatchNorm:
    """Compute batch-norm statistics from evenly spaced training images, cropped as in evaluation."""

    def __init__(self, train_data: Loader, model: SEResNet, augment: BatchAugment, accelerator: Accelerator) -> None:
        samples, world = train_data.samples, train_data.world
        if not isinstance(samples, Stream):
            samples = samples[:: math.ceil(len(samples) / MAX_IMAGES)]
        self.augment, self.accelerator = augment, accelerator
        self.data = replace(
            train_data,
            samples=samples,
            crop=TrainCrop("center", model.preprocess),
            batch_size=max(2, min(BATCH_SIZE, len(samples)) // world),
            repeated_aug=1,
            _cache=None,
        )

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Replace the running statistics of ``model`` by averages over the batches, the same ones on all ranks."""
        if self.data.batches_per_epoch() == 0:
            return
        if self.data._cache is None and self.data.fits_in_memory():
            self.data.fill_cache(lambda: None)
        norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        batches = islice(self.data.epoch(0), math.ceil(MAX_IMAGES / (self.data.batch_size * self.data.world)))
        with _statistics_of_batches(model, norms):
            for number, batch in enumerate(batches, 1):
                for norm in norms:
                    norm.momentum = 1 / number  # the mean of all batches so far
                with self.accelerator.autocast():
                    model(self.augment(to_device(batch.pixels, self.accelerator.device)))
        statistics = [x for norm in norms for x in (norm.running_mean, norm.running_var) if x is not None]
        if self.accelerator.num_processes > 1:
            average_across_ranks(self.accelerator, statistics)


@contextmanager
def _statistics_of_batches(model: nn.Module, norms: list[nn.modules.batchnorm._BatchNorm]) -> Iterator[None]:
    """Let batch norms alone be in training mode, not dropout or stochastic depth, and count no batches."""
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    model.eval()
    for norm in norms:
        norm.train()
        norm.num_batches_tracked = None
    try:
        yield
    finally:
        model.eval()
        for norm, (momentum, count) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
