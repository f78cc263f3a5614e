"""The training loop: read `Training.run` from top to bottom.

All that is random in a step (augmentation, dropout, stochastic depth) follows from the seed and the number of the step
alone, so an interrupted run continues as if it had never stopped: there is no random state to lose.
"""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn

from seresnet.data.augment import BatchAugment, draws
from seresnet.data.loader import Batch, Loader
from seresnet.data.parallel import batched
from seresnet.errors import SeresnetError
from seresnet.models.resnet import SEResNet
from seresnet.training.checkpoint import save_state
from seresnet.training.config import TrainConfig
from seresnet.training.ema import ModelEma
from seresnet.training.losses import ImageLoss, shares
from seresnet.training.mixup import Mix
from seresnet.training.non_finite import DIVERGED, BadSteps, all_finite
from seresnet.training.optim import learning_rate, optimizer_for, set_learning_rate
from seresnet.training.progress import EpochProgress
from seresnet.training.ranks import average
from seresnet.training.run_folder import RunRecord, draw_curves
from seresnet.training.signals import StopSignal, TrainingStopped
from seresnet.training.sync_batch_norm import synchronize
from seresnet.training.validation import SCORES, Figures
from seresnet.weights.save import save

log = logging.getLogger("seresnet")


@dataclass
class Position:
    """Where a run is: all of it that is not a tensor."""

    epoch: int = 0  # epochs that are complete
    batch: int = 0  # steps done within the epoch
    step: int = 0  # steps done in all
    loss_sum: float = 0.0  # over the images of this epoch
    correct: int = 0
    seen: int = 0
    seconds: float = 0.0  # spent on training, over all sessions
    best_score: float = -1.0  # of the validation figure that `best/` is chosen by
    best_epoch: int = 0  # when it was reached


class Training:
    """A run: a model, its data, an optimizer, and where it stands."""

    def __init__(
        self,
        config: TrainConfig,
        model: SEResNet,
        train_data: Loader,
        val_data: Loader,
        accelerator: Accelerator,
        record: RunRecord | None,
        identity: dict[str, Any],
        *,
        multi_label: bool = False,
        class_weights: Tensor | None = None,
    ) -> None:
        self.config, self.record, self.identity, self.accelerator = config, record, identity, accelerator
        self.train_data, self.val_data = train_data, val_data
        self.model = model.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.several = accelerator.num_processes > 1
        if config.sync_bn and self.several:
            synchronize(self.model, accelerator.device)
        for module in self.model.modules():
            if hasattr(module, "batch_shard"):
                module.batch_shard = (accelerator.process_index, accelerator.num_processes)
        self.ema = ModelEma(model, config.ema_decay) if config.ema_decay else None
        self.optimizer = optimizer_for(self.model, config)
        self.loss = ImageLoss(config, multi_label, class_weights).to(accelerator.device)
        self.plain_loss = ImageLoss(replace(config, label_smoothing=0.0, bce_threshold=None), multi_label)
        self.score = "val_map" if multi_label else "val_top1"  # the figure that `best/` is chosen by
        self.mix = Mix(config.mixup, config.cutmix)
        preprocess = train_data.crop.preprocess
        self.augment = BatchAugment(
            preprocess, pad=config.pad, hflip=config.hflip, rotation=config.rotation, erase=config.erase
        ).to(accelerator.device)
        self.steps_per_epoch = train_data.batches_per_epoch() // config.accumulate
        self.at = Position()
        self.bad_steps = BadSteps(accelerator)
        self.stop = StopSignal(impatient=accelerator.num_processes == 1)
        self.stopping = False  # a signal came to some process, and all of them know

    # The run

    def run(self, state: dict[str, Any] | None = None) -> Position:
        """Train to the last epoch, from the start or from the state of a checkpoint."""
        if state:
            self.restore(state)
        self.prepared: nn.Module = self.accelerator.prepare_model(self.model)
        self.network: nn.Module = torch.compile(self.prepared) if self.config.compile else self.prepared  # type: ignore[assignment]
        with self.stop.listening():
            while self.at.epoch < self.config.epochs and not self.out_of_patience():
                self.train_epoch()
                self.end_epoch(self.validate(self.averaged()))
        return self.at

    def train_epoch(self) -> None:
        """Go through the training images once, or through what is left of them after a resume."""
        at, config = self.at, self.config
        self.network.train()
        if config.freeze_bn:
            freeze_statistics(self.model)
        batches = self.train_data.epoch(at.epoch, skip=at.batch * config.accumulate)
        start = last_save = time.perf_counter()
        before = at.seconds
        with EpochProgress(self.label(), self.steps_per_epoch, at.batch, quiet=self.record is None) as progress:
            for group in batched(batches, config.accumulate):
                if at.batch == self.steps_per_epoch:
                    break
                images = self.step(group)
                now = time.perf_counter()
                at.seconds = before + now - start
                progress.advance(images, f"loss {at.loss_sum / max(1, at.seen):.3f}")
                if self.stopping or now - last_save > 60 * config.checkpoint_minutes:
                    self.save_checkpoint()
                    last_save = now
                self.leave_if_stopping()
        self.images_per_s = progress.images_per_s

    def step(self, group: Sequence[Batch]) -> int:
        """Take one optimizer step on the batches of ``group``; return the number of images of all processes."""
        at, config = self.at, self.config
        set_learning_rate(self.optimizer, learning_rate(at.step, self.steps_per_epoch, config))
        statistics = [b for b in self.model.buffers() if b.is_floating_point()]
        kept = torch._foreach_add(statistics, 0.0)  # a copy: a batch that goes wrong must not spoil batch norm
        loss_sum = torch.zeros((), device=self.accelerator.device)
        correct = torch.zeros((), device=self.accelerator.device, dtype=torch.long)
        numbers = draws(config.seed, at.step, config.global_batch_size)
        for micro, batch in enumerate(group):
            self.seed(micro)
            first = micro * config.global_batch_size // config.accumulate
            with nullcontext() if micro + 1 == len(group) else self.accelerator.no_sync(self.prepared):
                loss, right = self.forward(batch, numbers[first + batch.positions], micro)
                # One divisor for all processes and micro-batches: only so do their gradients add up to the whole's.
                self.accelerator.backward(loss / (len(group) * self.train_data.batch_size))
            loss_sum += loss.detach()
            correct += right
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        own = loss_sum.item() if all_finite(gradients + statistics) else math.nan
        seen = sum(len(batch.targets) for batch in group)
        total, hits, images, stopping = self.summed(own, correct.item(), seen, bool(self.stop.number))
        finite, self.stopping = math.isfinite(total), stopping > 0
        if finite:
            if self.several and not config.sync_bn:
                average(statistics)
            if config.clip_grad:
                self.accelerator.clip_grad_norm_(self.model.parameters(), config.clip_grad)
            self.optimizer.step()
            if self.ema:
                self.ema.update(self.model, at.step)
            at.loss_sum, at.correct, at.seen = at.loss_sum + total, at.correct + round(hits), at.seen + round(images)
        else:
            torch._foreach_copy_(statistics, kept)
        self.optimizer.zero_grad(set_to_none=True)
        at.batch, at.step = at.batch + 1, at.step + 1
        self.bad_steps.count(at.step, finite, group, loss_sum.item())
        return round(images)

    def forward(self, batch: Batch, numbers: NDArray[np.float32], micro: int) -> tuple[Tensor, Tensor]:
        """Return the summed loss of the images of one batch, and how many of them were classified rightly."""
        device = self.accelerator.device
        x = self.augment(
            torch.from_numpy(batch.pixels).to(device, non_blocking=True),
            torch.from_numpy(numbers).to(device, non_blocking=True),
        )
        targets = self.targets(batch)
        x, targets = self.mix(x, targets, np.random.default_rng([self.config.seed, self.at.step, micro, 1]))
        logits = self.network(x)
        right = targets.gather(1, logits.argmax(1, keepdim=True)) > 0  # a mixed image has several right answers
        return self.loss(logits, targets).sum(), right.sum()

    def targets(self, batch: Batch) -> Tensor:
        """Return what the network should answer for a batch: ``(N, C)`` on the device."""
        return shares(torch.from_numpy(batch.targets).to(self.accelerator.device), self.model.num_classes)

    def seed(self, micro: int) -> None:
        """Set torch's random state from the seed and the step alone; a process draws for all, and takes its share."""
        numbers = (self.config.seed, self.at.step, micro)
        torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1)

    def summed(self, *values: float) -> list[float]:
        """Return the sums of ``values`` over all processes; a NaN in one of them is a NaN in all."""
        if self.accelerator.num_processes == 1:
            return list(values)
        own = torch.tensor(values, device=self.accelerator.device, dtype=torch.float64)
        return self.accelerator.reduce(own, "sum").tolist()

    # After each epoch

    def averaged(self) -> SEResNet:
        """Return the model that counts: the moving average where there is one."""
        return self.ema.module if self.ema else self.model  # type: ignore[return-value]

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """Return the figures of the validation images, each counted once, over all processes."""
        model.eval()
        figures = Figures(self.plain_loss)
        for batch in self.validation_batches():
            x = self.augment(torch.from_numpy(batch.pixels).to(self.accelerator.device))
            with self.accelerator.autocast():
                logits = model(x)
            figures.add(logits.float(), self.targets(batch))
        return figures.result(self.accelerator)

    def validation_batches(self) -> Iterator[Batch]:
        """Yield this process's share of the validation images; leave where any process was told to stop."""
        batches = self.val_data.in_order()
        while True:
            batch = next(batches, None)
            stopping, left = self.summed(bool(self.stop.number), batch is not None)
            if stopping:
                self.stopping = True
                self.save_checkpoint()
                self.leave_if_stopping()
            if not left:
                return
            if batch is not None:
                yield batch

    def end_epoch(self, figures: dict[str, float]) -> None:
        """Write the figures of the epoch, the models and the checkpoint, and go to the next one."""
        at = self.at
        at.epoch, at.batch = at.epoch + 1, 0
        if better := figures[self.score] > at.best_score:
            at.best_score, at.best_epoch = figures[self.score], at.epoch
        row = {"epoch": at.epoch, "step": at.step, "lr": learning_rate(at.step - 1, self.steps_per_epoch, self.config)}
        row |= {"train_loss": at.loss_sum / max(1, at.seen), "train_top1": at.correct / max(1, at.seen)}
        row |= {**figures, "images_per_s": self.images_per_s, "seconds": at.seconds}
        at.loss_sum, at.correct, at.seen = 0.0, 0, 0
        if self.record:
            log.info(
                "epoch %d/%d  loss %.4f  top-1 %.2f %%  validation: loss %.4f  %s %.2f %%  %.0f images/s",
                *(at.epoch, self.config.epochs, row["train_loss"], 100 * row["train_top1"]),
                *(row["val_loss"], SCORES[self.score], 100 * row[self.score], self.images_per_s),
            )
            self.record.epoch(row)
            save(self.averaged(), self.record.out / "last")
            if better:
                save(self.averaged(), self.record.out / "best")
            draw_curves(self.record.rows, self.record.out / "curves.png", self.config.model)
            if self.out_of_patience():
                log.info("no better %s for %d epochs: stopped", SCORES[self.score], self.config.patience)
        self.save_checkpoint()
        self.accelerator.wait_for_everyone()

    def out_of_patience(self) -> bool:
        """Tell whether the validation figure has not got better for ``patience`` epochs."""
        return self.config.patience is not None and self.at.epoch - self.at.best_epoch >= self.config.patience

    def leave_if_stopping(self) -> None:
        """Raise TrainingStopped in all processes where one was told to stop, once the checkpoint is written."""
        if self.stopping:
            self.accelerator.wait_for_everyone()  # torchrun ends all when the first one leaves
            raise TrainingStopped(self.stop.number or signal.SIGTERM)

    def label(self) -> str:
        """Return the name of the epoch under way."""
        return f"epoch {self.at.epoch + 1}/{self.config.epochs}"

    # Stopping and going on

    def save_checkpoint(self) -> None:
        """Write all that `restore` needs; the previous checkpoint stays until this one is whole."""
        if not self.record:
            return
        if not all_finite([value for value in self.model.state_dict().values() if value.is_floating_point()]):
            raise SeresnetError(
                f"the weights are no longer finite; {DIVERGED}. The last checkpoint is from before that"
            )
        state = {
            "identity": self.identity,
            "config": self.config.to_dict(),
            "position": asdict(self.at),
            "rows": self.record.rows,
            "model": self.model.state_dict(),
            "ema": self.ema.module.state_dict() if self.ema else None,
            "optimizer": self.optimizer.state_dict(),
        }
        save_state(state, self.record.out / "last" / "state.pt")

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a run, which `check_same_run` knows for this one, where its checkpoint was written."""
        before, now = state["config"], self.config.to_dict()
        changed = [f"{key} {before.get(key)} -> {now[key]}" for key in now if before.get(key) != now[key]]
        self.at = Position(**state["position"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema:
            self.ema.module.load_state_dict(state["ema"] or state["model"])
        if self.record:
            self.record.restore(state["rows"])
            log.info(
                "resumed at epoch %d, step %d%s", self.at.epoch + 1, self.at.step, f" with {changed}" if changed else ""
            )


def freeze_statistics(model: nn.Module) -> None:
    """Let batch norm go on with the statistics it has; its weights and biases are trained like the others."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
