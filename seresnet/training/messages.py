"""The messages of a training run: one short line each, to stderr and ``log.txt``."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from seresnet.common.text import printable, short
from seresnet.data.dataset import ImageSet, Sample, Stream
from seresnet.data.image_hashes import Hashes
from seresnet.errors import SeresnetError
from seresnet.training.config import TrainConfig
from seresnet.training.state import TrainState
from seresnet.training.validation import SCORES

log = logging.getLogger("seresnet")

COLUMNS = 80  # of a terminal
LOOKED_AT = 32  # images whose size is read
REDUCED_BY = 3  # from here on the loss of detail is worth a line
AT_224 = "seresnet50.ra2_in1k"  # a good network for photographs, by timm's results
CHANCE_EPOCHS = 3  # without a better validation score than chance before the warning
SHORT_SCORES = {"val_top1": "top-1", "val_map": "mAP"}


def duration(seconds: float) -> str:
    """Return ``45 s``, ``12:05`` (minutes) or ``3:12:05``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


def count_epochs(epochs: int) -> str:
    """Return ``1 epoch`` or ``2 epochs``."""
    return f"{epochs} epoch{'' if epochs == 1 else 's'}"


def describe_run(
    config: TrainConfig, train_set: ImageSet, val_set: ImageSet, sizes: Sequence[int], precision: str, device: str
) -> None:
    """Log what is about to happen; ``sizes`` are the input sizes of training and validation."""
    start = "pretrained weights" if config.pretrained else "random weights"
    size = " and in validation ".join(f"{size}x{size}" for size in dict.fromkeys(sizes))
    log.info("model %s from %s, input %s pixels", printable(config.model), start, size)
    log.info(
        "%d training images of %d classes, %d held out for validation",
        *(len(train_set.samples), len(train_set.classes), len(val_set.samples)),
    )
    if config.epochs:
        describe_steps(config, precision, device)
    else:
        log.info("linear probe alone, on %s", device)
    warn_of_small_input(train_set.samples, sizes[0])


def describe_steps(config: TrainConfig, precision: str, device: str) -> None:
    """Log how the network is trained."""
    log.info(
        "batch %d, learning rate %g, %s on %s, %s%s",
        *(config.global_batch_size, config.peak_lr, precision, device),
        *("at most " if config.patience else "", count_epochs(config.epochs)),
    )
    if config.grad_accum_steps > 1:
        log.info("each step in %d micro-batches", config.grad_accum_steps)
    if config.freeze_bn:
        log.info("batch-norm statistics frozen")


def describe_class_weights(weights: Tensor, classes: Sequence[str]) -> None:
    """Log the smallest and the largest class weight."""
    order = weights.argsort().tolist()
    ends = [f"{weights[i]:.2g} ({printable(classes[i])})" for i in (order[0], order[-1])]
    log.info("class weights from %s to %s", *ends)


def warn_of_small_input(samples: Sequence[Sample] | Stream, size: int) -> None:
    """Log where typical images lose most of their pixels, and what keeps them."""
    if isinstance(samples, Stream):
        return
    edges = []
    for image, _ in samples[:: max(1, len(samples) // LOOKED_AT)]:
        try:
            with Image.open(image if isinstance(image, Path) else BytesIO(image.read())) as opened:
                edges.append(min(opened.size))  # from the header, without decoding
        except (OSError, ValueError, SeresnetError, Image.DecompressionBombError):
            continue
    if edges and (typical := round(median(edges))) >= REDUCED_BY * size:
        keep = f"--model {AT_224} keeps 224" if size < 224 else f"--size {min(2 * size, typical)} keeps more"
        log.info("photographs of about %d pixels are reduced to %d: %s", typical, size, keep)


def warn_of_duplicates(train_set: ImageSet, val_set: ImageSet, train: Hashes | None, val: Hashes | None) -> None:
    """Log how many validation images are in the training set as well, and name one pair."""
    if train is None or val is None or isinstance(train_set.samples, Stream) or isinstance(val_set.samples, Stream):
        return
    same = np.flatnonzero(np.isin(val, train[train != 0]))
    if len(same):
        twin = int(np.flatnonzero(train == val[same[0]])[0])
        pair = [_name(each.samples[i][0], each) for each, i in ((val_set, int(same[0])), (train_set, twin))]  # type: ignore[index]
        log.warning(
            "warning: %d of %d validation images %s in the training set as well (%s is %s): %s",
            *(len(same), len(val), "is" if len(same) == 1 else "are", *pair, "validation is too optimistic"),
        )


def _name(image: object, images: ImageSet) -> str:
    """Return the shortest name of an image that finds it."""
    if isinstance(image, Path) and image.is_relative_to(images.root):
        return short(str(image.relative_to(images.root)))
    return short(str(image))


def log_probe(weight_decay: float, seconds: float, score: str, value: float) -> None:
    """Log the linear probe."""
    log.info(
        "linear probe in %s: %s %.2f %% on validation, weight decay %g",
        *(duration(seconds), SHORT_SCORES[score], 100 * value, weight_decay),
    )


def log_epoch(
    row: dict[str, float],
    state: TrainState,
    config: TrainConfig,
    score: str,
    epoch_seconds: float,
    chance: float,
    stops_early: bool,
) -> None:
    """Log an epoch in one line, usually of at most 80 columns; warn where validation stays at chance."""
    left = 0.0 if stops_early else (config.epochs - state.epoch) * epoch_seconds
    log.info("%s", epoch_line(row, config.epochs, score, state.best_score, state.best_epoch, left))
    if state.epoch == min(CHANCE_EPOCHS, config.epochs) and state.best_score <= chance:
        log.warning(
            "warning: validation %s is no better than chance after %s (best %.1f %%): check the labels, or try %s",
            *(SCORES[score], count_epochs(state.epoch), 100 * state.best_score),
            "--set freeze_bn=false" if config.freeze_bn else "another --lr",
        )
    if stops_early:
        epochs = count_epochs(config.patience or 0)
        log.info("early stopping: no improvement for %s; best epoch %d", epochs, state.best_epoch)


def epoch_line(
    row: dict[str, float], epochs: int, score: str, best_score: float, best_epoch: int, seconds_left: float
) -> str:
    """Return the line of one epoch: at most `COLUMNS`, up to 999 epochs; a longer line has fewer spaces."""
    width = len(str(epochs))
    losses = [f"{loss:.3f}" if abs(loss) < 10 else f"{loss:.4g}" for loss in (row["train_loss"], row["val_loss"])]
    line = (
        f"epoch {row['epoch']:{width}}/{epochs} loss {losses[0]}  val {losses[1]} "
        f"{SHORT_SCORES[score]} {100 * row[score]:.2f} %  best {100 * best_score:.2f} % ({best_epoch})"
        + (f"  ETA {duration(seconds_left)}" if seconds_left > 0 else "")
    )
    return line if len(line) <= COLUMNS else line.replace(" %", "%").replace("  ", " ")


def log_resume(state: TrainState, saved: dict[str, Any], config: TrainConfig) -> None:
    """Log where a resumed run continues, and which settings have changed."""
    now = config.to_dict()
    changed = [f"{key} {saved.get(key)} -> {now[key]}" for key in now if saved.get(key) != now[key]]
    suffix = f" with {', '.join(changed)}" if changed else ""
    log.info("resumed at epoch %d, step %d%s", state.epoch + 1, state.step, suffix)


def chance_score(samples: Sequence[Sample] | Stream, multi_label: bool) -> float:
    """Return a validation score that needs no training: answering the most frequent class, with its standard error.

    With several labels it is the mean average precision of random scores, the mean frequency of the labels. 0 where
    all images are of one class, which measures nothing.
    """
    if isinstance(samples, Stream) or not samples:
        return 0.0
    counts = Counter(label for _, target in samples for label in ((target,) if isinstance(target, int) else target))
    frequencies = [count / len(samples) for count in counts.values()]
    if not frequencies:
        return 0.0
    p = sum(frequencies) / len(frequencies) if multi_label else max(frequencies)
    return 0.0 if p >= 1 else p + math.sqrt(p * (1 - p) / len(samples))
