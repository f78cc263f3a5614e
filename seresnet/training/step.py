"""One optimizer step in three parts: accumulate the gradients of micro-batches, reduce them over the ranks, update.

Everything random in a step (augmentation, dropout, stochastic depth) follows from the seed and the step number alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn

from seresnet.data.augment import BatchAugment, uniform_samples
from seresnet.data.loader import Batch, Loader
from seresnet.models.resnet import SEResNet
from seresnet.training.config import TrainConfig
from seresnet.training.device import to_device
from seresnet.training.ema import ModelEma
from seresnet.training.losses import ImageLoss, soft_targets
from seresnet.training.mixup import Mixup
from seresnet.training.network import shard_dropout
from seresnet.training.non_finite import l1_norm
from seresnet.training.optim import create_optimizer, learning_rate, set_learning_rate
from seresnet.training.ranks import average_across_ranks
from seresnet.training.signals import StopSignal
from seresnet.training.state import StepTotals, seed_torch
from seresnet.training.sync_batch_norm import convert_sync_batch_norm


class TrainStep:
    """A model with what trains it: augmentation, loss, optimizer and moving average. `run` takes one step.

    ``loss`` is the training loss, on the device of the run; ``train_data`` tells batch size and preprocessing.
    """

    def __init__(
        self, config: TrainConfig, model: SEResNet, train_data: Loader, accelerator: Accelerator, loss: ImageLoss
    ) -> None:
        self.config, self.accelerator, self.loss = config, accelerator, loss
        self.device, self.distributed = accelerator.device, accelerator.num_processes > 1
        self.batch_size = train_data.batch_size  # images in a micro-batch of one rank
        self.steps_per_epoch = train_data.batches_per_epoch() // config.grad_accum_steps
        # The network, its moving average, and the optimizer
        self.model = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if config.sync_bn and self.distributed:
            convert_sync_batch_norm(self.model, self.device)
        shard_dropout(self.model, accelerator.process_index, accelerator.num_processes)
        self.ema = ModelEma(model, config.ema_decay) if config.ema_decay else None
        self.optimizer = create_optimizer(self.model, config)
        # Gradients of 1x1 convolutions in channels_last have other strides than DDP's buckets: a copy, not an error.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        self.prepared: nn.Module = accelerator.prepare_model(self.model)
        self.network: nn.Module = torch.compile(self.prepared) if config.compile else self.prepared  # type: ignore[assignment]
        # What comes before the network
        self.augment = BatchAugment(
            train_data.crop.preprocess,
            **{key: getattr(config, key) for key in ("pad", "hflip", "rotation", "random_erasing_prob")},
        ).to(self.device)
        self.mixup = Mixup(config.mixup, config.cutmix)

    def run(self, group: Sequence[Batch], step: int, stop: StopSignal) -> tuple[StepTotals, Tensor]:
        """Take step ``step`` (from 0) on the micro-batches ``group``; where a value is not finite, change nothing.

        Returns the sums over all ranks, and the loss of this one.
        """
        set_learning_rate(self.optimizer, learning_rate(step, self.steps_per_epoch, self.config))
        statistics = [b for b in self.model.buffers() if b.is_floating_point()]  # of batch norm
        previous = torch._foreach_add(statistics, 0.0)  # a copy, to restore after a batch that is not finite
        sums = self.accumulate(group, step)
        images = sum(len(batch.targets) for batch in group)
        totals = self.reduce(sums, statistics, images, stop)
        if totals.is_finite:
            self.update(statistics, step)
        else:
            torch._foreach_copy_(statistics, previous)
        self.optimizer.zero_grad(set_to_none=True)
        return totals, sums[0]

    def accumulate(self, group: Sequence[Batch], step: int) -> Tensor:
        """Run forward and backward on each micro-batch; return this rank's loss and number of correct predictions."""
        config, sums = self.config, torch.zeros(2, device=self.device, dtype=torch.float64)
        uniform = uniform_samples(config.seed, step, config.global_batch_size)
        for micro, batch in enumerate(group):
            seed_torch(config.seed, step, micro)
            first = micro * config.global_batch_size // config.grad_accum_steps
            is_last = micro + 1 == len(group)
            with nullcontext() if is_last else self.accelerator.no_sync(self.prepared):
                loss, correct = self.forward(batch, uniform[first + batch.positions], step, micro)
                # One divisor for all ranks and micro-batches: only so their gradients add up to the global batch's.
                self.accelerator.backward(loss / (len(group) * self.batch_size))
            sums += torch.stack([loss.detach().double(), correct.double()])
        return sums

    def forward(self, batch: Batch, uniform: NDArray[np.float32], step: int, micro: int) -> tuple[Tensor, Tensor]:
        """Return the summed loss of the images of one batch, and how many of them were classified correctly."""
        x = self.augment(to_device(batch.pixels, self.device), to_device(uniform, self.device))
        targets = self.targets(batch)
        x, targets = self.mixup(x, targets, np.random.default_rng([self.config.seed, step, micro, 1]))
        logits = self.network(x)
        correct = targets.gather(1, logits.argmax(1, keepdim=True)) > 0  # either class of a mixed image is correct
        return self.loss(logits, targets).sum(), correct.sum()

    def reduce(self, sums: Tensor, statistics: list[Tensor], images: int, stop: StopSignal) -> StepTotals:
        """Add up the results of all ranks, in one exchange; here, and only here, a step waits for the device."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        counts = torch.tensor([images, bool(stop.number)], dtype=torch.float64)
        own = torch.cat([sums, l1_norm(gradients + statistics)[None], counts.to(self.device, non_blocking=True)])
        totals: Tensor = self.accelerator.reduce(own, "sum")
        return StepTotals(*totals.tolist())

    def update(self, statistics: list[Tensor], step: int) -> None:
        """Change the weights, and their moving average, by the gradients of the step."""
        if self.distributed and not self.config.sync_bn:
            average_across_ranks(self.accelerator, statistics)
        if self.config.clip_grad:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.clip_grad)
        self.optimizer.step()
        if self.ema:
            self.ema.update(self.model, step)

    def targets(self, batch: Batch) -> Tensor:
        """Return the soft targets of a batch, ``(N, num_classes)``, on the device."""
        return soft_targets(to_device(batch.targets, self.device), self.model.num_classes)

    def ema_model(self) -> SEResNet:
        """Return the model that is evaluated and saved: the moving average where there is one."""
        return self.ema.module if self.ema else self.model  # type: ignore[return-value]
