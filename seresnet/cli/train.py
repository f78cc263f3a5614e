"""``seresnet train``: train or fine-tune a model on a folder of labelled images."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from seresnet.training.config import TrainConfig
    from seresnet.training.train import TrainResult


IS_MAIN_RANK = os.environ.get("RANK", "0") == "0"  # of the ranks that torchrun starts: only it prints


def train(
    data: Annotated[
        str | None,
        Parameter(help="A folder of class folders, a list (.csv, .parquet), tar shards, an archive, or hf:NAME."),
    ] = None,
    /,
    *,
    recipe: Annotated[
        str | None,
        Parameter(
            help="Recipe: finetune (default), probe, imagenet-2018, imagenet-2018-paper, imagenet-modern, "
            "cifar10, cifar100, debug, or FILE.py:function (runs that file: use only files you trust)."
        ),
    ] = None,
    config: Annotated[
        Path | None, Parameter(help="config.json of a previous run to repeat, instead of a recipe.")
    ] = None,
    model: Annotated[str | None, Parameter(help="A name, a directory or a file (default: the recipe's).")] = None,
    out: Annotated[Path | None, Parameter(help="Folder of the run (default: a new one in runs/).")] = None,
    size: Annotated[int | None, Parameter(help="Input size in pixels (default: the model's).")] = None,
    epochs: Annotated[int | None, Parameter(help="Number of epochs.")] = None,
    patience: Annotated[
        int | None, Parameter(help="Early stopping after so many epochs without improvement (default: the recipe's).")
    ] = None,
    batch_size: Annotated[int | None, Parameter(help="Global batch size.")] = None,
    lr: Annotated[float | None, Parameter(help="Peak learning rate, not scaled with the batch size.")] = None,
    set: Annotated[tuple[str, ...], Parameter(help="Any other setting as key=value; repeatable.", negative=())] = (),
    seed: Annotated[int | None, Parameter(help="Random seed.")] = None,
    device: Annotated[str | None, Parameter(help="cpu or cuda (default: a GPU if there is one).")] = None,
    precision: Annotated[Literal["auto", "float32", "bfloat16"] | None, Parameter(help="Numeric precision.")] = None,
    max_megapixels: Annotated[float | None, Parameter(help="Skip larger images (default: 178.9).")] = None,
    workers: Annotated[int | None, Parameter(help="Threads that decode images (default: one per core).")] = None,
    exclude: Annotated[
        Path | None, Parameter(help="Leave out the images of this list, such as faults.csv of seresnet check.")
    ] = None,
    resume: Annotated[bool, Parameter(help="Resume the run in --out.")] = False,
    exist_ok: Annotated[bool, Parameter(help="Overwrite the run in --out.")] = False,
    offline: Annotated[bool, Parameter(help="Do not access the network.")] = False,
) -> int:
    """Train or fine-tune a model on a folder of labelled images.

    The run's folder holds config.json, metrics.csv, log.txt, curves.png, TensorBoard events, and the models last/ and
    best/, which every other command takes as --model. Ctrl-C saves; the same command with --resume continues.
    """
    from seresnet.errors import ConfigError
    from seresnet.training.signals import TrainingStopped
    from seresnet.training.train import train as run

    flags: dict[str, Any] = {
        "model": model,
        "size": size,
        "epochs": epochs,
        "patience": patience,
        "global_batch_size": batch_size,
        "lr": lr,
        "seed": seed,
        "precision": precision,
        "max_megapixels": max_megapixels,
        "workers": workers,
    }
    settings, previous = resolve_settings(recipe, config, flags, list(set))
    source = data or previous
    if source is None:
        raise ConfigError("which images? give DATA: a folder with train/<class>/*, or with <class>/* alone")
    if resume and out is None:
        raise ConfigError("--resume needs --out, the folder of the run to resume")
    if resume and exist_ok:
        raise ConfigError("--resume continues a run and --exist-ok overwrites it: give one of them")
    folder = out or new_run(Path("runs"), run_name(recipe, config))
    options: dict[str, Any] = {"device": device, "offline": offline or None, "exclude": exclude}
    with messages(IS_MAIN_RANK):
        try:
            result = run(settings, source, folder, resume=resume, exist_ok=exist_ok, **options)
        except TrainingStopped as stopped:  # the log says so already, and it is not an error
            return stopped.exit_code
    if IS_MAIN_RANK:
        print(summary(result))
    return 0


def resolve_settings(
    recipe: str | None, config: Path | None, flags: dict[str, Any], pairs: list[str]
) -> tuple[TrainConfig, str | None]:
    """Return the settings of a recipe or a previous run, changed by the flags, and the previous run's data set."""
    from seresnet.errors import ConfigError
    from seresnet.recipes import recipe as find
    from seresnet.training.config import parse_settings, read_config

    if recipe and config:
        raise ConfigError("--recipe and --config both bring all settings: give one of them")
    settings, previous = read_config(config) if config else (find(recipe or "finetune"), None)
    given = {key: value for key, value in flags.items() if value is not None}
    if "global_batch_size" in given:  # what is asked for is not adjusted
        given["auto_batch_size"] = False
    if "lr" in given:
        given["lr_reference_batch"] = None
    return settings.updated(given | parse_settings(pairs)), previous


@contextmanager
def messages(shown: bool) -> Iterator[None]:
    """Write the run's messages to stderr, where they are ``shown``."""
    logger = logging.getLogger("seresnet")
    logger.setLevel(logging.INFO)
    handler = logging.StreamHandler(sys.stderr) if shown else logging.NullHandler()
    if sys.stderr.isatty():
        handler.setFormatter(Wrapped())
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class Wrapped(logging.Formatter):
    """Break lines at words where they are wider than the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message in lines that fit the terminal; those after the first are indented."""
        width = shutil.get_terminal_size().columns
        return textwrap.fill(
            super().format(record), width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )


def summary(result: TrainResult) -> str:
    """Return the outcome of a run, and below it the folders of its models."""
    from seresnet.training.validation import SCORES

    score = SCORES[result.score]
    if result.epochs:
        best = f"best {100 * result.best_score:.2f} % (epoch {result.best_epoch})"
        length = f"{result.epochs} epoch{'s' if result.epochs != 1 else ''}"
        line = f"{length} in {result.seconds:.0f} s; validation {score} last {100 * result.last_score:.2f} %, {best}"
    else:
        line = f"linear probe in {result.seconds:.0f} s; validation {score} {100 * result.best_score:.2f} %"
    return f"{line}\n{result.last}\n{result.best}"


def run_name(recipe: str | None, config: Path | None) -> str:
    """Return what to call a run: its recipe, or the run that it repeats."""
    if config:
        return config.resolve().parent.name
    name = (recipe or "finetune").rpartition(":")
    return name[2] if not name[0] else f"{Path(name[0]).stem}-{name[2]}"


def new_run(folder: Path, name: str) -> Path:
    """Return ``folder/name``, or the first of ``folder/name-2``, ``-3``, ... that does not exist."""
    candidates = (folder / (name if number == 1 else f"{name}-{number}") for number in count(1))
    return next(path for path in candidates if not path.exists())
