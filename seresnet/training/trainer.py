"""The training loop: read `Trainer.run` from top to bottom; one optimizer step is in `seresnet.training.step`.

Everything random follows from the seed and the step number alone, so an interrupted run continues as if it had never
stopped: there is no random state to lose.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from seresnet.common.progress import Progress
from seresnet.data.loader import Batch, Loader
from seresnet.data.parallel import batched
from seresnet.models.resnet import SEResNet
from seresnet.training.checkpoint import save_state
from seresnet.training.config import TrainConfig
from seresnet.training.device import to_device
from seresnet.training.linear_probe import linear_probe, set_classifier
from seresnet.training.losses import ImageLoss
from seresnet.training.messages import chance_score, log_epoch, log_probe, log_resume
from seresnet.training.network import freeze_batch_norm
from seresnet.training.non_finite import NonFiniteGuard, check_finite
from seresnet.training.optim import learning_rate
from seresnet.training.precise_bn import PreciseBatchNorm
from seresnet.training.ranks import sum_over_ranks
from seresnet.training.run_folder import RunFolder
from seresnet.training.signals import StopSignal, TrainingStopped
from seresnet.training.state import TrainState
from seresnet.training.step import TrainStep
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
        self.state = TrainState()
        self.guard = NonFiniteGuard()
        self.stop = StopSignal(second_exits=accelerator.num_processes == 1)
        self.stopping = False  # some rank was told to stop, and all of them know
        self.images_per_s = 0.0
        self.epoch_seconds: list[float] = []  # of the epochs of this session, with their validation
        # The training step, and what validation needs
        loss = ImageLoss(config, multi_label, class_weights).to(accelerator.device)
        self.train_step = TrainStep(config, model, train_data, accelerator, loss)
        self.model = self.train_step.model
        augment = self.train_step.augment
        precise = config.precise_bn and not config.freeze_bn
        self.precise_bn = PreciseBatchNorm(train_data, model, augment, accelerator) if precise else None
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
                    self.precise_bn.update(self.train_step.ema_model())
                metrics = self.validate(self.train_step.ema_model())
                self.epoch_seconds.append(time.perf_counter() - start)
                self.end_epoch(metrics)
        return self.state

    def fit_classifier(self) -> None:
        """Start from the linear probe, whose metrics are those of epoch 0: `best/` is never worse than it."""
        precision = self.config.precision
        losses = (self.train_step.loss, self.val_loss)
        result = linear_probe(self.model, self.train_data, self.val_data, *losses, self.accelerator, precision)
        for model in (self.model, self.train_step.ema_model()):
            set_classifier(model, result)
        self.state.seconds += result.seconds
        metrics = self.validate(self.train_step.ema_model())
        row = self.state.start_from(result.train_loss, result.train_top1, metrics, metrics[self.score])
        if self.folder:
            log_probe(result.weight_decay, result.seconds, self.score, metrics[self.score])
            self.write_models(self.folder, row, improved=True)
        self.save_checkpoint()
        self.accelerator.wait_for_everyone()

    def train_epoch(self) -> None:
        """Train on every image once, or after a resume on those that are left."""
        state, config, steps = self.state, self.config, self.train_step.steps_per_epoch
        self.train_step.network.train()
        if config.freeze_bn:
            freeze_batch_norm(self.model)
        batches = self.train_data.epoch(state.epoch, skip=state.batch * config.grad_accum_steps)
        start = last_save = time.perf_counter()
        before, images = state.seconds, 0
        with Progress(seconds=60) if self.folder else nullcontext() as progress:
            for group in batched(batches, config.grad_accum_steps):
                if state.batch == steps:
                    break
                images += self.step(group)
                now = time.perf_counter()
                state.seconds = before + now - start
                self.images_per_s = images / (now - start)
                if progress and state.batch < steps:
                    info = f"loss {state.loss_sum / max(1, state.images):.3f}, {self.images_per_s:.0f} images/s"
                    progress.update(f"epoch {state.epoch + 1}/{config.epochs}", state.batch, steps, info)
                if self.stopping or now - last_save > 60 * config.checkpoint_minutes:
                    self.save_checkpoint()
                    last_save = now
                self.exit_if_stopping()

    def step(self, group: Sequence[Batch]) -> int:
        """Take one optimizer step on the micro-batches of ``group``; return the number of images over all ranks."""
        state = self.state
        totals, own_loss = self.train_step.run(group, state.step, self.stop)
        state.add_step(totals)
        self.stopping = totals.stop_signals > 0
        self.guard.check(totals.is_finite, state.step, group, own_loss)
        return round(totals.images)

    # After each epoch

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """Return the metrics of the validation images, each counted once, over all ranks."""
        model.eval()
        step, metrics = self.train_step, ValidationMetrics(self.val_loss, self.accelerator.device)
        for batch in self.validation_batches():
            x = step.augment(to_device(batch.pixels, step.device))
            with self.accelerator.autocast():
                logits = model(x)
            metrics.update(logits.float(), step.targets(batch))
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
        lr = learning_rate(self.state.step - 1, self.train_step.steps_per_epoch, self.config)
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
        """Write a row of ``metrics.csv``, and the models."""
        folder.add_epoch(row)
        save(self.train_step.ema_model(), folder.out / "last")
        if improved:
            save(self.train_step.ema_model(), folder.out / "best")

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
        """Write everything that `restore` needs; the previous checkpoint stays until this one is complete."""
        if not self.folder:
            return
        step = self.train_step
        check_finite(self.model)
        checkpoint = {
            "fingerprint": self.fingerprint,
            "config": self.config.to_dict(),
            "state": asdict(self.state),
            "rows": self.folder.rows,
            "model": self.model.state_dict(),
            "ema": step.ema.module.state_dict() if step.ema else None,
            "optimizer": step.optimizer.state_dict(),
        }
        save_state(checkpoint, self.folder.out / "last" / "state.pt")

    def restore(self, checkpoint: dict[str, Any]) -> None:
        """Continue a run, which `check_same_run` has found to be this one, from where its checkpoint was written."""
        self.state = TrainState(**checkpoint["state"])
        self.model.load_state_dict(checkpoint["model"])
        self.train_step.optimizer.load_state_dict(checkpoint["optimizer"])
        if self.train_step.ema:
            self.train_step.ema.module.load_state_dict(checkpoint["ema"] or checkpoint["model"])
        if self.folder:
            self.folder.restore(checkpoint["rows"])
            log_resume(self.state, checkpoint["config"], self.config)
