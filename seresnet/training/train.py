"""From settings and a data set to a trained model: everything around the loop."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs
from rich.console import Console
from rich.progress import Progress
from torch import nn

from seresnet.common.files import disk_full
from seresnet.data.augment import TrainCrop
from seresnet.data.dataset import ImageSet, hold_out
from seresnet.data.loader import Loader
from seresnet.data.open_dataset import open_data
from seresnet.data.parallel import default_workers
from seresnet.data.preprocess import Preprocess
from seresnet.errors import DiskFullError
from seresnet.models.blocks import Block, Bottleneck
from seresnet.models.resnet import SEResNet
from seresnet.training.auto_config import resolve_auto_settings
from seresnet.training.checkpoint import check_same_run, load_state
from seresnet.training.config import NO_SETTINGS, TrainConfig
from seresnet.training.losses import balanced_weights
from seresnet.training.ranks import COLLECTIVE_TIMEOUT, broadcast_from_rank0, dead_ranks_as_errors, on_main_rank
from seresnet.training.run_folder import RunFolder
from seresnet.training.trainer import Trainer
from seresnet.weights.load import create_model

log = logging.getLogger("seresnet")

PRECISIONS = {"bf16": "bfloat16", "no": "float32"}  # accelerate's names and ours


@dataclass(frozen=True)
class TrainResult:
    """The outcome of a run. ``last`` and ``best`` are model directories.

    ``best_score`` and ``last_score`` are between 0 and 1: validation top-1, or with several labels per image the mean
    average precision; ``score`` says which (``val_top1`` or ``val_map``).
    """

    out: Path
    last: Path
    best: Path
    score: str
    best_score: float
    last_score: float
    best_epoch: int
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

    ``data`` is what `seresnet.data.open_dataset.open_data` takes; without a validation folder, ``config.val_fraction``
    of each class is held out of the training images, and a test folder is never looked at. Raises SeresnetError for a
    setting, a data set or a checkpoint that does not fit, and TrainingStopped after SIGTERM or SIGINT.
    """
    torch.manual_seed(config.seed)
    accelerator = accelerator_for(config, device)
    try:
        with dead_ranks_as_errors(accelerator):
            result = run(config, data, Path(out), accelerator, resume=resume, exist_ok=exist_ok, offline=offline)
    except Exception as error:
        if not disk_full(error):
            raise
        whole = (Path(out) / "last" / "state.pt").exists()
        then = "go on with --resume: the last checkpoint is whole" if whole else "start again with --exist-ok"
        raise DiskFullError(f"{out}: no space left on the disk; free some, then {then}") from error
    finish(accelerator)
    return result


def run(
    config: TrainConfig,
    data: str | Path,
    out: Path,
    accelerator: Accelerator,
    *,
    resume: bool,
    exist_ok: bool,
    offline: bool | None,
) -> TrainResult:
    """Set the run up in this process, and go through it. As `train`."""
    splits = open_data(data, offline)
    train_set, val_set = splits.train, splits.validation
    if val_set is None:
        train_set, val_set = hold_out(splits.train, config.val_fraction, config.seed)
    checkpoint = broadcast_from_rank0(accelerator, lambda: load_state(out / "last" / "state.pt")) if resume else None
    model = network(config, train_set.classes, offline)
    model.multi_label = train_set.multi_label
    images, multi_label = len(train_set.samples), train_set.multi_label
    saved = checkpoint["config"] if checkpoint else None
    config = resolve_auto_settings(config, model, images, multi_label, accelerator, saved)
    weights = balanced_weights(train_set.counts(), images, multi_label) if config.class_weights else None
    train_data = loader(config, train_set, train_crop(config, model.preprocess), accelerator)
    val_data = loader(config, val_set, TrainCrop("center", model.preprocess), accelerator)
    fingerprint = {
        "model": config.model,
        "classes": list(train_set.classes),
        "data": train_set.fingerprint(),
        "input_size": list(model.preprocess.input_size),
        "train_size": train_data.crop.preprocess.input_size[1],
        "global_batch_size": config.global_batch_size,
    }
    if checkpoint:  # before anything of the run is touched
        check_same_run(checkpoint["fingerprint"], fingerprint, out / "last" / "state.pt")
    folder = on_main_rank(accelerator, lambda: RunFolder(out, resume=resume, exist_ok=exist_ok))
    try:
        trainer = Trainer(
            config,
            model,
            train_data,
            val_data,
            accelerator,
            folder,
            fingerprint,
            multi_label=multi_label,
            class_weights=weights,
        )
        if folder:
            precision = PRECISIONS[accelerator.mixed_precision]
            extras = dict(zip(NO_SETTINGS, (str(data), precision, config.peak_lr), strict=True))
            folder.write_config(config.to_dict() | extras)
            describe(config, trainer, train_set, val_set, accelerator)
        for each in (train_data, val_data):
            fill(each, quiet=folder is None)
        state = trainer.run(checkpoint)
        last_score = folder.rows[-1][trainer.score] if folder else state.best_score
    finally:
        if folder:
            folder.close()
    return TrainResult(
        out=out,
        last=out / "last",
        best=out / "best",
        score=trainer.score,
        best_score=state.best_score,
        last_score=last_score,
        best_epoch=state.best_epoch,
        epochs=state.epoch,
        seconds=state.seconds,
    )


def accelerator_for(config: TrainConfig, device: str | None) -> Accelerator:
    """Return the accelerator of this process, with the precision resolved."""
    precision = config.precision
    cpu = device == "cpu" or not torch.cuda.is_available()
    if precision == "auto":
        native = (
            torch.cpu._is_avx512_bf16_supported() if cpu else torch.cuda.is_bf16_supported(including_emulation=False)
        )
        precision = "bfloat16" if native else "float32"
    if not torch.distributed.is_initialized():  # accelerate keeps the settings of this process's first run otherwise
        AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(
        cpu=cpu,
        mixed_precision="bf16" if precision == "bfloat16" else "no",
        kwargs_handlers=[InitProcessGroupKwargs(timeout=COLLECTIVE_TIMEOUT)],
    )


def has_native_bfloat16(cpu: bool) -> bool:
    """Return whether the hardware multiplies bfloat16 itself; V100 and T4 only emulate it, slower than float32."""
    return torch.cpu._is_avx512_bf16_supported() if cpu else torch.cuda.is_bf16_supported(including_emulation=False)


def network(config: TrainConfig, classes: tuple[str, ...], offline: bool | None) -> SEResNet:
    """Return the network to train, with its classes and the preprocessing of the run."""
    overrides: dict[str, Any] = {"drop_path_rate": config.drop_path_rate}
    if config.drop_rate is not None:
        overrides["drop_rate"] = config.drop_rate
    model = create_model(
        config.model, pretrained=config.pretrained, num_classes=len(classes), offline=offline, **overrides
    )
    model.labels, model.label_ids = list(classes), []
    model.set_grad_checkpointing(config.grad_checkpointing)
    if not config.zero_init_last and not config.pretrained:
        init_last_norms_to_one(model)
    preprocess: Preprocess = model.preprocess
    if config.size:
        preprocess = replace(preprocess, input_size=(model.in_chans, config.size, config.size))
    for key in ("mean", "std", "crop_pct"):
        if (value := getattr(config, key)) is not None:
            preprocess = replace(preprocess, **{key: value})
    model.preprocess = preprocess
    return model


def init_last_norms_to_one(model: SEResNet) -> None:
    """Start the last batch norm of each block at one, as the authors of SENet did; by default it starts at zero."""
    for block in model.modules():
        if isinstance(block, Block):
            nn.init.ones_((block.bn3 if isinstance(block, Bottleneck) else block.bn2).weight)


def train_crop(config: TrainConfig, preprocess: Preprocess) -> TrainCrop:
    """Return what training does to an image where it is decoded."""
    if config.train_size:
        size = (preprocess.input_size[0], config.train_size, config.train_size)
        preprocess = replace(preprocess, input_size=size)
    return TrainCrop(
        config.crop,
        preprocess,
        config.crop_scale,
        rand_augment=config.rand_augment,
        pixel_noise=config.pixel_noise,
        random_interpolation=config.random_interpolation,
    )


def loader(config: TrainConfig, folder: ImageSet, crop: TrainCrop, accelerator: Accelerator) -> Loader:
    """Return the loader of this rank's part of ``folder``."""
    world = accelerator.num_processes
    return Loader(
        samples=folder.samples,
        crop=crop,
        batch_size=config.global_batch_size // world // config.grad_accum_steps,
        workers=config.workers if config.workers is not None else default_workers(),
        seed=config.seed,
        rank=accelerator.process_index,
        world=world,
        num_classes=len(folder.classes) if folder.multi_label else None,
        repeated_aug=config.repeated_aug,
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
    config: TrainConfig, trainer: Trainer, train_set: ImageSet, val_set: ImageSet, accelerator: Accelerator
) -> None:
    """Log what is about to happen."""
    sizes = [each.crop.preprocess.input_size[1] for each in (trainer.train_data, trainer.val_data)]
    log.info(
        "%s on %d images of %d classes, %d held out for validation; %s pixels, batch %d, %s on %s, learning rate %g",
        *(config.model, len(train_set.samples), len(train_set.classes), len(val_set.samples)),
        " and in validation ".join(str(size) for size in dict.fromkeys(sizes)),
        *(config.global_batch_size, PRECISIONS[accelerator.mixed_precision]),
        *(accelerator.device, config.peak_lr),
    )
    if config.grad_accum_steps > 1:
        log.info("each step in %d micro-batches", config.grad_accum_steps)
    if config.freeze_bn:
        log.info("batch-norm statistics frozen")
    weights = trainer.loss.class_weights
    if weights is not None:
        order = weights.argsort().tolist()
        ends = [f"{weights[i]:.2g} ({train_set.classes[i]})" for i in (order[0], order[-1])]
        log.info("class weights from %s to %s", *ends)


def finish(accelerator: Accelerator) -> None:
    """Leave the process group; in another order gloo aborts now and then."""
    accelerator.wait_for_everyone()
    accelerator.free_memory()
    accelerator.end_training()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
