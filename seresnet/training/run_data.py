"""The data of a run: its images, their hashes, and the loaders of a rank."""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import Accelerator

from seresnet.common.progress import Progress
from seresnet.data.augment import TrainCrop
from seresnet.data.dataset import ImageSet, hold_out
from seresnet.data.decode import pixel_limit
from seresnet.data.exclude import leave_out
from seresnet.data.image_hashes import Hashes, image_hashes
from seresnet.data.loader import Loader
from seresnet.data.open_dataset import open_data
from seresnet.data.parallel import default_workers
from seresnet.errors import DataError
from seresnet.training.config import TrainConfig


def open_run_data(
    config: TrainConfig, data: str | Path, offline: bool | None, exclude: Path | None = None
) -> tuple[ImageSet, ImageSet]:
    """Return the training and the validation images, without those that the file ``exclude`` lists.

    Raises DataError where there is nothing to learn or to measure.
    """
    splits = open_data(data, offline)
    if exclude is not None:
        splits = leave_out(splits, exclude)
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


def create_loader(config: TrainConfig, images: ImageSet, crop: TrainCrop, accelerator: Accelerator) -> Loader:
    """Return the loader of this rank's part of ``images``."""
    world = accelerator.num_processes
    return Loader(
        samples=images.samples,
        crop=crop,
        batch_size=config.global_batch_size // world // config.grad_accum_steps,
        workers=config.workers if config.workers is not None else default_workers(),
        seed=config.seed,
        rank=accelerator.process_index,
        world=world,
        num_classes=len(images.classes) if images.multi_label else None,
        repeated_aug=config.repeated_aug,
        max_pixels=pixel_limit(config.max_megapixels),
    )


def fill_cache(loader: Loader, name: str, *, quiet: bool) -> None:
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
