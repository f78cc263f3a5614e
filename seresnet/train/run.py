"""From settings and a data set to a trained model: everything around the loop."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from rich.console import Console
from rich.progress import Progress

from seresnet.data.augment import TrainCrop
from seresnet.data.folder import ImageFolder, find_splits, hold_out
from seresnet.data.loader import Loader
from seresnet.errors import ConfigError
from seresnet.models.resnet import SEResNet
from seresnet.preprocess import Preprocess
from seresnet.train.checkpoint import load_state
from seresnet.train.config import TrainConfig
from seresnet.train.loop import Training
from seresnet.train.record import RunRecord
from seresnet.weights.load import create_model

log = logging.getLogger("seresnet")

PRECISIONS = {"bf16": "bfloat16", "no": "float32"}  # accelerate's names and ours


@dataclass(frozen=True)
class TrainResult:
    """What a run came to. ``last`` and ``best`` are model directories; accuracies are fractions of 1."""

    out: Path
    last: Path
    best: Path
    best_top1: float
    last_top1: float
    epochs: int
    seconds: float


def train(
    config: TrainConfig,
    data: str | Path,
    out: str | Path,
    *,
    resume: bool = False,
    exist_ok: bool = False,
    device: str | None = None,
    offline: bool | None = None,
) -> TrainResult:
    """Train ``config.model`` on the folder ``data`` and write the run to ``out``.

    ``data`` is laid out as ``seresnet.data.folder`` says; without a validation folder, ``config.val_fraction`` of
    each class is held out of the training images, and a test folder is never looked at. Raises SeresnetError for a
    setting, a data set or a checkpoint that does not fit, and TrainingStopped after SIGTERM or SIGINT.
    """
    out = Path(out)
    torch.manual_seed(config.seed)
    accelerator = accelerator_for(config, device)
    splits = find_splits(data)
    train_set, val_set = splits.train, splits.validation
    if val_set is None:
        train_set, val_set = hold_out(splits.train, config.val_fraction, config.seed)
    model = network(config, train_set.classes, offline)
    record = RunRecord(out, resume=resume, exist_ok=exist_ok) if accelerator.is_main_process else None
    try:
        crop = TrainCrop(config.crop, model.preprocess, config.crop_scale)
        train_data = loader(config, train_set, crop, accelerator)
        val_data = loader(config, val_set, TrainCrop("center", model.preprocess), accelerator)
        identity = {
            "model": config.model,
            "classes": list(train_set.classes),
            "data": train_set.fingerprint(),
            "input_size": list(model.preprocess.input_size),
            "global_batch_size": config.global_batch_size,
        }
        training = Training(config, model, train_data, val_data, accelerator, record, identity)
        state = load_state(out / "last" / "state.pt") if resume else None
        if record:
            record.config(
                config.to_dict() | {"data": str(data), "precision_used": PRECISIONS[accelerator.mixed_precision]}
            )
            describe(config, training, train_set, val_set, accelerator)
        for each in (train_data, val_data):
            fill(each, quiet=record is None)
        at = training.run(state)
        last_top1 = record.rows[-1]["val_top1"] if record else at.best_top1
    finally:
        if record:
            record.close()
    finish(accelerator)
    return TrainResult(out, out / "last", out / "best", at.best_top1, last_top1, at.epoch, at.seconds)


def accelerator_for(config: TrainConfig, device: str | None) -> Accelerator:
    """Return the accelerator of this process, with the precision resolved."""
    precision = config.precision
    cpu = device == "cpu" or not torch.cuda.is_available()
    if precision == "auto":
        native = torch.cpu._is_avx512_bf16_supported() if cpu else torch.cuda.is_bf16_supported()
        precision = "bfloat16" if native else "float32"
    if config.global_batch_size % (int(os.environ.get("WORLD_SIZE", "1")) * config.accumulate):
        raise ConfigError(
            f"global_batch_size {config.global_batch_size} is no multiple of processes times accumulate; change it"
        )
    if not torch.distributed.is_initialized():  # accelerate keeps the settings of this process's first run otherwise
        AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(cpu=cpu, mixed_precision="bf16" if precision == "bfloat16" else "no")


def network(config: TrainConfig, classes: tuple[str, ...], offline: bool | None) -> SEResNet:
    """Return the network to train, with its classes and the preprocessing of the run."""
    overrides: dict[str, Any] = {"drop_path_rate": config.drop_path_rate}
    if config.drop_rate is not None:
        overrides["drop_rate"] = config.drop_rate
    model = create_model(
        config.model, pretrained=config.pretrained, num_classes=len(classes), offline=offline, **overrides
    )
    model.labels, model.label_ids = list(classes), []
    preprocess: Preprocess = model.preprocess
    if config.size:
        preprocess = replace(preprocess, input_size=(model.in_chans, config.size, config.size))
    for key in ("mean", "std", "crop_pct"):
        if (value := getattr(config, key)) is not None:
            preprocess = replace(preprocess, **{key: value})
    model.preprocess = preprocess
    return model


def loader(config: TrainConfig, folder: ImageFolder, crop: TrainCrop, accelerator: Accelerator) -> Loader:
    """Return the loader of this process's share of ``folder``."""
    world = accelerator.num_processes
    return Loader(
        samples=folder.samples,
        crop=crop,
        batch_size=config.global_batch_size // world // config.accumulate,
        workers=config.workers if config.workers is not None else (os.cpu_count() or 1),
        seed=config.seed,
        rank=accelerator.process_index,
        world=world,
    )


def fill(loader: Loader, *, quiet: bool) -> None:
    """Decode the images once into memory, where they fit."""
    if not loader.fits_in_memory():
        return
    console = Console(stderr=True, quiet=quiet or not sys.stderr.isatty())
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("decoding", total=len(loader.samples))
        loader.fill_cache(lambda: progress.advance(task))


def describe(
    config: TrainConfig, training: Training, train_set: ImageFolder, val_set: ImageFolder, accelerator: Accelerator
) -> None:
    """Log what is about to happen."""
    preprocess = training.train_data.crop.preprocess
    log.info(
        "%s on %d images of %d classes, %d held for validation; %s pixels, batch %d, %s on %s, learning rate %g",
        *(config.model, len(train_set.samples), len(train_set.classes), len(val_set.samples)),
        "x".join(str(n) for n in preprocess.input_size[1:]),
        *(config.global_batch_size, PRECISIONS[accelerator.mixed_precision]),
        *(accelerator.device, config.lr),
    )


def finish(accelerator: Accelerator) -> None:
    """Leave the process group; in another order gloo aborts now and then."""
    accelerator.wait_for_everyone()
    accelerator.free_memory()
    accelerator.end_training()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
