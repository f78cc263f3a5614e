"""The training loop: read `Trainer.run` from top to bottom.

Everything random in a step (augmentation, dropout, stochastic depth) follows from the seed and the step number alone,
so an interrupted run continues as if it had never stopped: there is no random state to lose.
"""

from __future__ import annotations

import signal
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn

from seresnet.common.progress import Progress
from seresnet.data.augment import BatchAugment, uniform_samples
from seresnet.data.loader import Batch, Loader
from seresnet.data.parallel import batched
from seresnet.models.resnet import SEResNet
from seresnet.training.checkpoint import save_state
from seresnet.training.config import TrainConfig
from seresnet.training.device import to_device
from seresnet.training.ema import ModelEma
from seresnet.training.linear_probe import linear_probe, set_classifier
from seresnet.training.losses import ImageLoss, soft_targets
from seresnet.training.messages import chance_score, log_epoch, log_probe, log_resume
from seresnet.training.mixup import Mixup
from seresnet.training.network import freeze_batch_norm, shard_dropout
from seresnet.training.non_finite import NonFiniteGuard, check_finite, l1_norm
from seresnet.training.optim import create_optimizer, learning_rate, set_learning_rate
from seresnet.training.precise_bn import PreciseBatchNorm
from seresnet.training.ranks import average_across_ranks, sum_over_ranks
from seresnet.training.run_folder import RunFolder, draw_curves
from seresnet.training.signals import StopSignal, TrainingStopped
from seresnet.training.state import StepTotals, TrainState, seed_torch
from seresnet.training.sync_batch_norm import convert_sync_batch_norm
from seresnet.training.validation import ValidationMetrics
from seresnet.weights.save import save


class Trainer:
    """Train a model: the model, its data, the optimizer, and how far the run is.

    ``folder`` is None on every rank but the first; ``fingerprint`` is what a resumed run has to have in common.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: SEResNet,
        train_data: Loader,
        val_data: Loader,
        accelerator: Accelerator,
        folder: RunFolder | None,
        fingerprint: dict[str, Any],
        *,
        multi_label: bool = False,
        class_weights: Tensor | None = None,
    ) -> None:
        # The run
        self.config, self.folder, self.fingerprint, self.accelerator = config, folder, fingerprint, accelerator
        self.train_data, self.val_data = train_data, val_data
        self.device, self.distributed = accelerator.device, accelerator.num_processes > 1
        self.steps_per_epoch = train_data.batches_per_epoch() // config.grad_accum_steps
        self.state = TrainState()
        self.guard = NonFiniteGuard()
        self.stop = StopSignal(second_exits=not self.distributed)
        self.stopping = False  # some rank was told to stop, and all of them know
        self.images_per_s = 0.0
        self.epoch_seconds: list[float] = []  # of the epochs of this session, with their validation
        # The network, its average, and the optimizer
        self.model = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if config.sync_bn and self.distributed:
            convert_sync_batch_norm(self.model, self.device)
        shard_dropout(self.model, accelerator.process_index, accelerator.num_processes)
        self.ema = ModelEma(model, config.ema_decay) if config.ema_decay else None
        self.optimizer = create_optimizer(self.model, config)
        # Gradients of 1x1 convolutions in channels_last have other strides than DDP's buckets: a copy, and no fault.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        self.prepared: nn.Module = accelerator.prepare_model(self.model)
        self.network: nn.Module = torch.compile(self.prepared) if config.compile else self.prepared  # type: ignore[assignment]
        # What comes before and after the network
        self.augment = BatchAugment(
            train_data.crop.preprocess,
            **{key: getattr(config, key) for key in ("pad", "hflip", "rotation", "random_erasing_prob")},
        ).to(self.device)
        self.mixup = Mixup(config.mixup, config.cutmix)
        precise = config.precise_bn and not config.freeze_bn
        self.precise_bn = PreciseBatchNorm(train_data, model, self.augment, accelerator) if precise else None
        self.loss = ImageLoss(config, multi_label, class_weights).to(self.device)
        self.val_loss = ImageLoss(replace(config, label_smoothing=0.0, bce_threshold=None), multi_label)
        self.score = "val_map" if multi_label else "val_top1"  # the metric that `best/` is chosen by
        self.chance = chance_score(val_data.samples, multi_label)

    # The run

    def run(self, checkpoint: dict[str, Any] | None = None) -> TrainState:
        """Train to the last epoch, from the start or from a checkpoint."""
        if checkpoint:
            self.restore(checkpoint)
        with self.stop.listening():
            if self.config.linear_probe and self.state.best_score < 0:  # no epoch and no probe is in the checkpoint
                self.fit_classifier()
            while self.state.epoch < self.config.epochs and not self.out_of_patience():
                start = time.perf_counter()
                self.train_epoch()
                if self.precise_bn:
                    self.precise_bn.update(self.ema_model())
                metrics = self.validate(self.ema_model())
                self.epoch_seconds.append(time.perf_counter() - start)
                self.end_epoch(metrics)
        return self.state

    def fit_classifier(self) -> None:
        """Start from the linear probe, whose metrics are those of epoch 0: `best/` is never worse than it."""
        precision = self.config.precision
        losses = (self.loss, self.val_loss)
        result = linear_probe(self.model, self.train_data, self.val_data, *losses, self.accelerator, precision)
        for model in (self.model, self.ema_model()):
            set_classifier(model, result)
        self.state.seconds += result.seconds
        metrics = self.validate(self.ema_model())
        row = self.state.start_from(result.train_loss, result.train_top1, metrics, metrics[self.score])
        if self.folder:
            log_probe(result.weight_decay, result.seconds, self.score, metrics[self.score])
            self.write_models(self.folder, row, improved=True)
        self.save_checkpoint()
        self.accelerator.wait_for_everyone()

    def train_epoch(self) -> None:
        """Train on every image once, or after a resume on those that are left."""
        state, config = self.state, self.config
        self.network.train()
        if config.freeze_bn:
            freeze_batch_norm(self.model)
        batches = self.train_data.epoch(state.epoch, skip=state.batch * config.grad_accum_steps)
        start = last_save = time.perf_counter()
        before, images = state.seconds, 0
        with Progress(seconds=60) if self.folder else nullcontext() as progress:
            for group in batched(batches, config.grad_accum_steps):
                if state.batch == self.steps_per_epoch:
                    break
                images += self.step(group)
                now = time.perf_counter()
                state.seconds = before + now - start
                self.images_per_s = images / (now - start)
                if progress and state.batch < self.steps_per_epoch:
                    info = f"loss {state.loss_sum / max(1, state.images):.3f}, {self.images_per_s:.0f} images/s"
                    progress.update(f"epoch {state.epoch + 1}/{config.epochs}", state.batch, self.steps_per_epoch, info)
                if self.stopping or now - last_save > 60 * config.checkpoint_minutes:
                    self.save_checkpoint()
                    last_save = now
                self.exit_if_stopping()

    # A step

    def step(self, group: Sequence[Batch]) -> int:
        """Take one optimizer step on the micro-batches of ``group``; return the number of images over all ranks."""
        state = self.state
        set_learning_rate(self.optimizer, learning_rate(state.step, self.steps_per_epoch, self.config))
        statistics = [b for b in self.model.buffers() if b.is_floating_point()]  # of batch norm
        previous = torch._foreach_add(statistics, 0.0)  # a copy, to restore after a batch that is not finite
        sums = self.accumulate(group)
        totals = self.reduce(sums, statistics, sum(len(batch.targets) for batch in group))
        if totals.is_finite:
            self.update(statistics)
            state.loss_sum += totals.loss
            state.correct += round(totals.correct)
            state.images += round(totals.images)
        else:
            torch._foreach_copy_(statistics, previous)
        self.optimizer.zero_grad(set_to_none=True)
        state.batch, state.step = state.batch + 1, state.step + 1
        self.stopping = totals.stop_signals > 0
        self.guard.check(totals.is_finite, state.step, group, sums[0])
        return round(totals.images)

    def accumulate(self, group: Sequence[Batch]) -> Tensor:
        """Run forward and backward on each micro-batch; return this rank's loss and number of correct answers."""
        config, sums = self.config, torch.zeros(2, device=self.device, dtype=torch.float64)
        uniform = uniform_samples(config.seed, self.state.step, config.global_batch_size)
        for micro, batch in enumerate(group):
            seed_torch(config.seed, self.state.step, micro)
            first = micro * config.global_batch_size // config.grad_accum_steps
            is_last = micro + 1 == len(group)
            with nullcontext() if is_last else self.accelerator.no_sync(self.prepared):
                loss, correct = self.forward(batch, uniform[first + batch.positions], micro)
                # One divisor for all ranks and micro-batches: only so their gradients add up to the global batch's.
                self.accelerator.backward(loss / (len(group) * self.train_data.batch_size))
            sums += torch.stack([loss.detach().double(), correct.double()])
        return sums

    def forward(self, batch: Batch, uniform: NDArray[np.float32], micro: int) -> tuple[Tensor, Tensor]:
        """Return the summed loss of the images of one batch, and how many of them were classified correctly."""
        x = self.augment(to_device(batch.pixels, self.device), to_device(uniform, self.device))
        targets = self.targets(batch)
        x, targets = self.mixup(x, targets, np.random.default_rng([self.config.seed, self.state.step, micro, 1]))
        logits = self.network(x)
        correct = targets.gather(1, logits.argmax(1, keepdim=True)) > 0  # either class of a mixed image is correct
        return self.loss(logits, targets).sum(), correct.sum()

    def reduce(self, sums: Tensor, statistics: list[Tensor], images: int) -> StepTotals:
        """Add up what all ranks found, in one exchange; here, and only here, a step waits for the device."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        counts = torch.tensor([images, bool(self.stop.number)], dtype=torch.float64)
        own = torch.cat([sums, l1_norm(gradients + statistics)[None], counts.to(self.device, non_blocking=True)])
        totals: Tensor = self.accelerator.reduce(own, "sum")
        return StepTotals(*totals.tolist())

    def update(self, statistics: list[Tensor]) -> None:
        """Change the weights, and their moving average, by the gradients of the step."""
        if self.distributed and not self.config.sync_bn:
            average_across_ranks(self.accelerator, statistics)
        if self.config.clip_grad:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.clip_grad)
        self.optimizer.step()
        if self.ema:
            self.ema.update(self.model, self.state.step)

    def targets(self, batch: Batch) -> Tensor:
        """Return the soft targets of a batch, ``(N, num_classes)``, on the device."""
        return soft_targets(to_device(batch.targets, self.device), self.model.num_classes)

    # After each epoch

    def ema_model(self) -> SEResNet:
        """Return the model that is evaluated and saved: the moving average where there is one."""
        return self.ema.module if self.ema else self.model  # type: ignore[return-value]

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """Return the metrics of the validation images, each counted once, over all ranks."""
        model.eval()
        metrics = ValidationMetrics(self.val_loss, self.device)
        for batch in self.validation_batches():
            x = self.augment(to_device(batch.pixels, self.device))
            with self.accelerator.autocast():
                logits = model(x)
            metrics.update(logits.float(), self.targets(batch))
        return metrics.compute(self.accelerator)

    def validation_batches(self) -> Iterator[Batch]:
        """Yield this rank's part of the validation images; exit where any rank was told to stop."""
        batches = self.val_data.in_order()
        left: float = 1
        while left:
            batch = next(batches, None)
            stopping, left = sum_over_ranks(self.accelerator, bool(self.stop.number), batch is not None)
            if stopping:
                self.stopping = True
                self.save_checkpoint()
                self.exit_if_stopping()
            if batch is not None:
                yield batch

    def end_epoch(self, metrics: dict[str, float]) -> None:
        """Write the metrics of the epoch, the models and the checkpoint, and go to the next epoch."""
        lr = learning_rate(self.state.step - 1, self.steps_per_epoch, self.config)
        improved = metrics[self.score] > self.state.best_score
        row = self.state.finish_epoch(lr, metrics, metrics[self.score], self.images_per_s)
        if self.folder:
            self.write_epoch(self.folder, row, improved)
        self.save_checkpoint()
        self.accelerator.wait_for_everyone()

    def write_epoch(self, folder: RunFolder, row: dict[str, float], improved: bool) -> None:
        """Log an epoch, and write its row and its models."""
        seconds = sum(self.epoch_seconds) / max(1, len(self.epoch_seconds))
        log_epoch(row, self.state, self.config, self.score, seconds, self.chance, self.out_of_patience())
        self.write_models(folder, row, improved)

    def write_models(self, folder: RunFolder, row: dict[str, float], improved: bool) -> None:
        """Write a row of ``metrics.csv``, the curves, and the models."""
        folder.add_epoch(row)
        save(self.ema_model(), folder.out / "last")
        if improved:
            save(self.ema_model(), folder.out / "best")
        draw_curves(folder.rows, folder.out / "curves.png", self.config.model)

    def out_of_patience(self) -> bool:
        """Return whether the validation metric has not improved for ``patience`` epochs."""
        return self.config.patience is not None and self.state.epoch - self.state.best_epoch >= self.config.patience

    def exit_if_stopping(self) -> None:
        """Raise TrainingStopped on all ranks where one was told to stop, once the checkpoint is written."""
        if self.stopping:
            self.accelerator.wait_for_everyone()  # torchrun ends all ranks when the first one exits
            raise TrainingStopped(self.stop.number or signal.SIGTERM, self.state.epoch + 1, self.state.step)

    # Checkpoints

    def save_checkpoint(self) -> None:
        """Write everything that `restore` needs; the previous checkpoint stays until this one is whole."""
        if not self.folder:
            return
        check_finite(self.model)
        checkpoint = {
            "fingerprint": self.fingerprint,
            "config": self.config.to_dict(),
            "state": asdict(self.state),
            "rows": self.folder.rows,
            "model": self.model.state_dict(),
            "ema": self.ema.module.state_dict() if self.ema else None,
            "optimizer": self.optimizer.state_dict(),
        }
        save_state(checkpoint, self.folder.out / "last" / "state.pt")

    def restore(self, checkpoint: dict[str, Any]) -> None:
        """Continue a run, which `check_same_run` has found to be this one, from where its checkpoint was written."""
        self.state = TrainState(**checkpoint["state"])
        self.model.load_state_dict(checkpoint["model"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        if self.ema:
            self.ema.module.load_state_dict(checkpoint["ema"] or checkpoint["model"])
        if self.folder:
            self.folder.restore(checkpoint["rows"])
            log_resume(self.state, checkpoint["config"], self.config)
