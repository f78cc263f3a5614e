"""From settings and a data set to a trained model: everything around the loop."""

from __future__ import annotations

import functools
import hashlib
import itertools
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator

from seresnet.common.files import disk_full
from seresnet.common.progress import Progress
from seresnet.data.augment import TrainCrop
from seresnet.data.dataset import ImageSet, hold_out
from seresnet.data.image_hashes import Hashes, image_hashes, write_hashes
from seresnet.data.loader import Loader
from seresnet.data.open_dataset import open_data
from seresnet.data.parallel import default_workers
from seresnet.errors import DataError, DiskFullError
from seresnet.training.auto_config import resolve_auto_settings
from seresnet.training.checkpoint import check_same_optimizer, check_same_run, check_same_tensors, load_state
from seresnet.training.config import NO_SETTINGS, TrainConfig
from seresnet.training.device import PRECISIONS, create_accelerator
from seresnet.training.losses import balanced_weights
from seresnet.training.messages import describe_class_weights, describe_run, warn_of_duplicates
from seresnet.training.network import create_network, train_crop
from seresnet.training.optim import create_optimizer
from seresnet.training.ranks import broadcast_from_rank0, dead_ranks_as_errors, on_main_rank
from seresnet.training.run_folder import RunFolder
from seresnet.training.signals import TrainingStopped
from seresnet.training.trainer import Trainer

log = logging.getLogger("seresnet")


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
    accelerator = create_accelerator(config, device)
    try:
        with dead_ranks_as_errors(accelerator):
            result = run(config, data, Path(out), accelerator, resume=resume, exist_ok=exist_ok, offline=offline)
    except Exception as error:
        if not disk_full(error):
            raise
        whole = (Path(out) / "last" / "state.pt").exists()
        then = "continue with --resume: the last checkpoint is whole" if whole else "start again with --exist-ok"
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
    """Set the run up on this rank, and go through it. As `train`."""
    # The data
    train_set, val_set = open_splits(config, data, offline)
    images, multi_label = len(train_set.samples), train_set.multi_label
    hashes = broadcast_from_rank0(accelerator, lambda: hash_images(train_set, val_set))
    # The checkpoint, the network and the settings
    checkpoint = broadcast_from_rank0(accelerator, lambda: load_state(out / "last" / "state.pt")) if resume else None
    model = create_network(config, train_set.classes, multi_label, offline)
    saved = checkpoint["config"] if checkpoint else None
    config = resolve_auto_settings(config, model, images, multi_label, accelerator, saved)
    train_data = loader(config, train_set, train_crop(config, model.preprocess), accelerator)
    val_data = loader(config, val_set, TrainCrop("center", model.preprocess), accelerator)
    fingerprint = {
        "model": config.model,
        "classes": list(train_set.classes),
        "data": train_set.fingerprint(),
        "images": None if hashes[0] is None else hashlib.sha256(hashes[0].tobytes()).hexdigest(),
        "input_size": list(model.preprocess.input_size),
        "train_size": train_data.crop.preprocess.input_size[1],
        "global_batch_size": config.global_batch_size,
    }
    if checkpoint:  # before anything of the run is touched
        check_same_run(checkpoint["fingerprint"], fingerprint, out / "last" / "state.pt")
        check_same_tensors(checkpoint, model, out / "last" / "state.pt")
        check_same_optimizer(checkpoint, create_optimizer(model, config), out / "last" / "state.pt")
    # The run's folder, and the loop
    folder = on_main_rank(accelerator, lambda: RunFolder(out, resume=resume, exist_ok=exist_ok))
    try:
        weights = balanced_weights(train_set.counts(), images, multi_label) if config.class_weights else None
        trainer = Trainer(
            *(config, model, train_data, val_data, accelerator, folder, fingerprint),
            multi_label=multi_label,
            class_weights=weights,
        )
        if folder:
            precision = PRECISIONS[accelerator.mixed_precision]
            extras = dict(zip(NO_SETTINGS, (str(data), precision, config.peak_lr), strict=True))
            folder.write_config(config.to_dict() | extras)
            if hashes[0] is not None:
                write_hashes(out, hashes[0])
            sizes = [each.crop.preprocess.input_size[1] for each in (train_data, val_data)]
            describe_run(config, train_set, val_set, sizes, precision, device_name(accelerator))
            if weights is not None:
                describe_class_weights(weights, train_set.classes)
            warn_of_duplicates(train_set, val_set, *hashes)
        for each, name in ((train_data, "training images"), (val_data, "validation images")):
            fill(each, name, quiet=folder is None)
        state = trainer.run(checkpoint)
        last_score = folder.rows[-1][trainer.score] if folder else state.best_score
    except BaseException as error:
        if folder and isinstance(error, TrainingStopped):
            log.info("%s", error)
        elif folder:
            folder.log_end(error)
        raise
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


def open_splits(config: TrainConfig, data: str | Path, offline: bool | None) -> tuple[ImageSet, ImageSet]:
    """Return the training and the validation images. Raises DataError where there is nothing to learn or to measure."""
    splits = open_data(data, offline)
    train_set, val_set = splits.train, splits.validation
    if len(train_set.classes) < 2 and not train_set.multi_label:
        raise DataError(
            f"{train_set}: has one class only ({train_set.classes[0]}); training needs two or more: "
            "give the folder that holds one sub-folder for each class"
        )
    if val_set is None:
        train_set, val_set = hold_out(splits.train, config.val_fraction, config.seed)
    if len(val_set.samples) == 0:
        raise DataError(
            f"{train_set}: no image is left for validation, since no class has two images; "
            "add images, or a validation folder beside the training folder"
        )
    return train_set, val_set


def hash_images(train_set: ImageSet, val_set: ImageSet) -> tuple[Hashes | None, Hashes | None]:
    """Return the content hashes of the training and the validation images."""
    found: list[Hashes | None] = []
    for name, images in (("training", train_set), ("validation", val_set)):
        with progress_on(True) as show:
            on_image = functools.partial(show, f"hashing {name} images", total=len(images.samples))
            found.append(image_hashes(images.samples, on_image))
    return found[0], found[1]


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


def fill(loader: Loader, name: str, *, quiet: bool) -> None:
    """Decode the images once into memory, where they fit."""
    if not loader.fits_in_memory():
        return
    total, done = len(loader.samples), itertools.count(1)
    with progress_on(not quiet) as show:
        loader.fill_cache(lambda: show(f"decoding {name}", next(done), total))


@contextmanager
def progress_on(shown: bool) -> Iterator[Callable[..., None]]:
    """Yield what shows progress: a stage, what is done, and of how much; a bar on a terminal, else nothing."""
    if not shown or not sys.stderr.isatty():
        yield lambda stage, done, total: None
        return
    with Progress() as progress:
        yield lambda stage, done, total: progress.update(stage, done, total)


def device_name(accelerator: Accelerator) -> str:
    """Return the device as messages name it: the ranks of a CPU are all on the same one."""
    return "cpu" if accelerator.device.type == "cpu" else str(accelerator.device)


def finish(accelerator: Accelerator) -> None:
    """Leave the process group; in another order gloo aborts now and then."""
    accelerator.wait_for_everyone()
    accelerator.free_memory()
    accelerator.end_training()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
