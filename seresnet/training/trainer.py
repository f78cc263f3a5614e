"""The training loop: read `Trainer.run` from top to bottom.

Everything random in a step (augmentation, dropout, stochastic depth) follows from the seed and the step number alone,
so an interrupted run continues as if it had never stopped: there is no random state to lose.
"""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn

from seresnet.data.augment import BatchAugment, uniform_samples
from seresnet.data.loader import Batch, Loader
from seresnet.data.parallel import batched
from seresnet.errors import SeresnetError
from seresnet.models.resnet import SEResNet
from seresnet.training.checkpoint import save_state
from seresnet.training.config import TrainConfig
from seresnet.training.ema import ModelEma
from seresnet.training.losses import ImageLoss, soft_targets
from seresnet.training.mixup import Mixup
from seresnet.training.non_finite import DIVERGED, NonFiniteGuard, l1_norm
from seresnet.training.optim import create_optimizer, learning_rate, set_learning_rate
from seresnet.training.progress import EpochProgress
from seresnet.training.ranks import average_across_ranks
from seresnet.training.run_folder import RunFolder, draw_curves
from seresnet.training.signals import StopSignal, TrainingStopped
from seresnet.training.sync_batch_norm import convert_sync_batch_norm
from seresnet.training.validation import SCORES, ValidationMetrics
from seresnet.weights.save import save

log = logging.getLogger("seresnet")


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
        # The network, its average, and the optimizer
        self.model = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if config.sync_bn and self.distributed:
            convert_sync_batch_norm(self.model, self.device)
        for module in self.model.modules():
            if hasattr(module, "batch_shard"):
                module.batch_shard = (accelerator.process_index, accelerator.num_processes)
        self.ema = ModelEma(model, config.ema_decay) if config.ema_decay else None
        self.optimizer = create_optimizer(self.model, config)
        self.prepared: nn.Module = accelerator.prepare_model(self.model)
        self.network: nn.Module = torch.compile(self.prepared) if config.compile else self.prepared  # type: ignore[assignment]
        # What comes before and after the network
        self.augment = BatchAugment(
            train_data.crop.preprocess,
            **{key: getattr(config, key) for key in ("pad", "hflip", "rotation", "random_erasing_prob")},
        ).to(self.device)
        self.mixup = Mixup(config.mixup, config.cutmix)
        self.loss = ImageLoss(config, multi_label, class_weights).to(self.device)
        self.val_loss = ImageLoss(replace(config, label_smoothing=0.0, bce_threshold=None), multi_label)
        self.score = "val_map" if multi_label else "val_top1"  # the metric that `best/` is chosen by

    # The run

    def run(self, checkpoint: dict[str, Any] | None = None) -> TrainState:
        """Train to the last epoch, from the start or from a checkpoint."""
        if checkpoint:
            self.restore(checkpoint)
        with self.stop.listening():
            while self.state.epoch < self.config.epochs and not self.out_of_patience():
                self.train_epoch()
                self.end_epoch(self.validate(self.ema_model()))
        return self.state

    def train_epoch(self) -> None:
        """Train on every image once, or after a resume on those that are left."""
        state, config = self.state, self.config
        self.network.train()
        if config.freeze_bn:
            freeze_batch_norm(self.model)
        batches = self.train_data.epoch(state.epoch, skip=state.batch * config.grad_accum_steps)
        start = last_save = time.perf_counter()
        before = state.seconds
        with EpochProgress(self.label(), self.steps_per_epoch, state.batch, quiet=self.folder is None) as progress:
            for group in batched(batches, config.grad_accum_steps):
                if state.batch == self.steps_per_epoch:
                    break
                images = self.step(group)
                now = time.perf_counter()
                state.seconds = before + now - start
                progress.advance(images, f"loss {state.loss_sum / max(1, state.images):.3f}")
                if self.stopping or now - last_save > 60 * config.checkpoint_minutes:
                    self.save_checkpoint()
                    last_save = now
                self.exit_if_stopping()
        self.images_per_s = progress.images_per_s

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
            self.seed(micro)
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
        x = self.augment(self.to_device(batch.pixels), self.to_device(uniform))
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

    def to_device(self, array: NDArray[Any]) -> Tensor:
        """Return an array as a tensor on the device, without waiting for the copy."""
        tensor = torch.from_numpy(array)
        return (tensor.pin_memory() if self.device.type == "cuda" else tensor).to(self.device, non_blocking=True)

    def targets(self, batch: Batch) -> Tensor:
        """Return the soft targets of a batch, ``(N, num_classes)``, on the device."""
        return soft_targets(self.to_device(batch.targets), self.model.num_classes)

    def seed(self, micro: int) -> None:
        """Seed torch by the step alone, the same on all ranks: each samples for the whole batch and takes its rows."""
        entropy = (self.config.seed, self.state.step, micro)
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]) >> 1)

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
            x = self.augment(self.to_device(batch.pixels))
            with self.accelerator.autocast():
                logits = model(x)
            metrics.update(logits.float(), self.targets(batch))
        return metrics.compute(self.accelerator)

    def validation_batches(self) -> Iterator[Batch]:
        """Yield this rank's part of the validation images; exit where any rank was told to stop."""
        batches = self.val_data.in_order()
        while True:
            batch = next(batches, None)
            own = torch.tensor([bool(self.stop.number), batch is not None], dtype=torch.float64)
            stopping, left = (self.accelerator.reduce(own.to(self.device), "sum") if self.distributed else own).tolist()
            if stopping:
                self.stopping = True
                self.save_checkpoint()
                self.exit_if_stopping()
            if not left:
                return
            if batch is not None:
                yield batch

    def end_epoch(self, metrics: dict[str, float]) -> None:
        """Write the metrics of the epoch, the models and the checkpoint, and go to the next epoch."""
        state = self.state
        state.epoch, state.batch = state.epoch + 1, 0
        if improved := metrics[self.score] > state.best_score:
            state.best_score, state.best_epoch = metrics[self.score], state.epoch
        lr = learning_rate(state.step - 1, self.steps_per_epoch, self.config)
        images = max(1, state.images)
        row = {"epoch": state.epoch, "step": state.step, "lr": lr, "train_loss": state.loss_sum / images}
        row |= {"train_top1": state.correct / images, **metrics}
        row |= {"images_per_s": self.images_per_s, "seconds": state.seconds}
        state.loss_sum, state.correct, state.images = 0.0, 0, 0
        if self.folder:
            self.write_epoch(self.folder, row, improved)
        self.save_checkpoint()
        self.accelerator.wait_for_everyone()

    def write_epoch(self, folder: RunFolder, row: dict[str, float], improved: bool) -> None:
        """Log an epoch, and write its row and its models."""
        state = self.state
        log.info(
            "epoch %d/%d  loss %.4f  top-1 %.2f %%  validation: loss %.4f  %s %.2f %%  %.0f images/s",
            *(state.epoch, self.config.epochs, row["train_loss"], 100 * row["train_top1"]),
            *(row["val_loss"], SCORES[self.score], 100 * row[self.score], self.images_per_s),
        )
        folder.add_epoch(row)
        save(self.ema_model(), folder.out / "last")
        if improved:
            save(self.ema_model(), folder.out / "best")
        draw_curves(folder.rows, folder.out / "curves.png", self.config.model)
        if self.out_of_patience():
            epochs = f"{self.config.patience} epoch{'s' if self.config.patience != 1 else ''}"
            log.info("early stopping: no improvement for %s; best epoch %d", epochs, state.best_epoch)

    def out_of_patience(self) -> bool:
        """Return whether the validation metric has not improved for ``patience`` epochs."""
        return self.config.patience is not None and self.state.epoch - self.state.best_epoch >= self.config.patience

    def exit_if_stopping(self) -> None:
        """Raise TrainingStopped on all ranks where one was told to stop, once the checkpoint is written."""
        if self.stopping:
            self.accelerator.wait_for_everyone()  # torchrun ends all ranks when the first one exits
            raise TrainingStopped(self.stop.number or signal.SIGTERM)

    def label(self) -> str:
        """Return the name of the current epoch."""
        return f"epoch {self.state.epoch + 1}/{self.config.epochs}"

    # Checkpoints

    def save_checkpoint(self) -> None:
        """Write everything that `restore` needs; the previous checkpoint stays until this one is whole."""
        if not self.folder:
            return
        if not math.isfinite(l1_norm([v for v in self.model.state_dict().values() if v.is_floating_point()]).item()):
            raise SeresnetError(
                f"the weights are no longer finite; {DIVERGED}. The last checkpoint is from before that"
            )
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
        before, now = checkpoint["config"], self.config.to_dict()
        changed = [f"{key} {before.get(key)} -> {now[key]}" for key in now if before.get(key) != now[key]]
        self.state = TrainState(**checkpoint["state"])
        self.model.load_state_dict(checkpoint["model"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        if self.ema:
            self.ema.module.load_state_dict(checkpoint["ema"] or checkpoint["model"])
        if self.folder:
            self.folder.restore(checkpoint["rows"])
            suffix = f" with {changed}" if changed else ""
            log.info("resumed at epoch %d, step %d%s", self.state.epoch + 1, self.state.step, suffix)


def freeze_batch_norm(model: nn.Module) -> None:
    """Keep the running statistics of batch norm; its weights and biases are trained like the others."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
