"""From settings and a data set to a trained model: everything around the loop."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from seresnet.common.files import disk_full
from seresnet.data.augment import TrainCrop
from seresnet.data.dataset import ImageSet
from seresnet.data.image_hashes import Hashes, write_hashes
from seresnet.data.loader import Loader
from seresnet.errors import DiskFullError
from seresnet.models.resnet import SEResNet
from seresnet.training.auto_config import resolve_auto_settings
from seresnet.training.checkpoint import check_resumable, load_state
from seresnet.training.config import NO_SETTINGS, TrainConfig
from seresnet.training.device import PRECISIONS, create_accelerator, device_name
from seresnet.training.losses import balanced_weights
from seresnet.training.messages import describe_class_weights, describe_run, warn_of_duplicates
from seresnet.training.network import create_network, train_crop
from seresnet.training.optim import create_optimizer
from seresnet.training.ranks import broadcast_from_rank0, dead_ranks_as_errors, on_main_rank
from seresnet.training.run_data import create_loader, fill_cache, hash_images, open_run_data
from seresnet.training.run_folder import RunFolder
from seresnet.training.state import TrainState
from seresnet.training.trainer import Trainer


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
    exclude: str | Path | None = None,
) -> TrainResult:
    """Train ``config.model`` on the folder ``data`` and write the run to ``out``.

    ``data`` is what `seresnet.data.open_dataset.open_data` takes; without a validation folder, ``config.val_fraction``
    of each class is held out of the training images, and a test folder is never looked at. ``exclude`` is a table with
    the column ``path``, of images that are left out (``seresnet check`` writes one). Raises SeresnetError for a
    setting, a data set or a checkpoint that does not fit, and TrainingStopped after SIGTERM or SIGINT.
    """
    torch.manual_seed(config.seed)
    accelerator = create_accelerator(config, device)
    try:
        with dead_ranks_as_errors(accelerator):
            left_out = None if exclude is None else Path(exclude)
            result = run(
                config,
                data,
                Path(out),
                accelerator,
                resume=resume,
                exist_ok=exist_ok,
                offline=offline,
                exclude=left_out,
            )
    except Exception as error:
        if not disk_full(error):
            raise
        has_checkpoint = (Path(out) / "last" / "state.pt").exists()
        then = (
            "continue with --resume: the last checkpoint is complete"
            if has_checkpoint
            else "start again with --exist-ok"
        )
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
    exclude: Path | None,
) -> TrainResult:
    """Set the run up on this rank, and go through it. As `train`."""
    state_file = out / "last" / "state.pt"
    # The data
    train_set, val_set = open_run_data(config, data, offline, exclude)
    hashes = broadcast_from_rank0(accelerator, lambda: hash_images(train_set, val_set))
    multi_label = train_set.multi_label
    # The checkpoint, the network and the settings
    checkpoint = broadcast_from_rank0(accelerator, lambda: load_state(state_file)) if resume else None
    model = create_network(config, train_set.classes, multi_label, offline)
    saved = checkpoint["config"] if checkpoint else None
    config = resolve_auto_settings(config, model, len(train_set.samples), multi_label, accelerator, saved)
    train_data = create_loader(config, train_set, train_crop(config, model.preprocess), accelerator)
    val_data = create_loader(config, val_set, TrainCrop("center", model.preprocess), accelerator)
    fingerprint = run_fingerprint(config, model, train_set, train_data, hashes[0])
    if checkpoint:  # before anything of the run is touched
        check_resumable(checkpoint, fingerprint, model, create_optimizer(model, config), state_file)
    # The run's folder, and the loop
    with on_main_rank(accelerator, lambda: RunFolder(out, resume, exist_ok)) or nullcontext() as folder:
        weights = (
            balanced_weights(train_set.counts(), len(train_set.samples), multi_label) if config.class_weights else None
        )
        parts = (config, model, train_data, val_data, accelerator, folder, fingerprint)
        trainer = Trainer(*parts, multi_label=multi_label, class_weights=weights)
        if folder:
            write_start(folder, trainer, str(data), (train_set, val_set), hashes)
        for loader, name in ((train_data, "training images"), (val_data, "validation images")):
            fill_cache(loader, name, quiet=folder is None)
        state = trainer.run(checkpoint)
        last_score = folder.rows[-1][trainer.score] if folder else state.best_score
        return create_result(out, trainer.score, state, last_score)


def run_fingerprint(
    config: TrainConfig, model: SEResNet, train_set: ImageSet, train_data: Loader, hashes: Hashes | None
) -> dict[str, Any]:
    """Return what a resumed run must have in common with the one that wrote the checkpoint."""
    return {
        "model": config.model,
        "classes": list(train_set.classes),
        "data": train_set.fingerprint(hashes),
        "input_size": list(model.preprocess.input_size),
        "train_size": train_data.crop.preprocess.input_size[1],
        "global_batch_size": config.global_batch_size,
    }


def write_start(
    folder: RunFolder,
    trainer: Trainer,
    data: str,
    splits: tuple[ImageSet, ImageSet],
    hashes: tuple[Hashes | None, Hashes | None],
) -> None:
    """Write the settings and the hashes of the training images, and log what is about to happen."""
    config, accelerator = trainer.config, trainer.accelerator
    precision = PRECISIONS[accelerator.mixed_precision]
    extras = dict(zip(NO_SETTINGS, (data, precision, config.peak_lr), strict=True))
    folder.write_config(config.to_dict() | extras)
    if hashes[0] is not None:
        write_hashes(folder.out, hashes[0])
    sizes = [loader.crop.preprocess.input_size[1] for loader in (trainer.train_data, trainer.val_data)]
    describe_run(config, *splits, sizes, precision, device_name(accelerator))
    weights = trainer.train_step.loss.class_weights
    if weights is not None:
        describe_class_weights(weights, splits[0].classes)
    warn_of_duplicates(*splits, *hashes)


def create_result(out: Path, score: str, state: TrainState, last_score: float) -> TrainResult:
    """Return the outcome of a run that reached ``state``."""
    return TrainResult(
        out=out,
        last=out / "last",
        best=out / "best",
        score=score,
        best_score=state.best_score,
        last_score=last_score,
        best_epoch=state.best_epoch,
        epochs=state.epoch,
        seconds=state.seconds,
    )


def finish(accelerator: Accelerator) -> None:
    """Leave the process group; in another order gloo aborts now and then."""
    accelerator.wait_for_everyone()
    accelerator.free_memory()
    accelerator.end_training()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
