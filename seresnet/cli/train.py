"""``seresnet train``: train or fine-tune a model on a folder of labelled images."""

from __future__ import annotations

import logging
import os
import sys
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter


def train(
    data: Annotated[Path, Parameter(help="A folder with `train/<class>/*`, or with `<class>/*` alone.")],
    /,
    *,
    recipe: Annotated[
        str, Parameter(help="finetune, cifar10 or debug: where the other settings come from.")
    ] = "finetune",
    model: Annotated[str | None, Parameter(help="A name, a directory or a file; by default the recipe's.")] = None,
    out: Annotated[Path | None, Parameter(help="Folder of the run; by default a new one below runs/.")] = None,
    epochs: Annotated[int | None, Parameter(help="Passes over the training images.")] = None,
    batch_size: Annotated[int | None, Parameter(help="Images a step, over all processes.")] = None,
    lr: Annotated[float | None, Parameter(help="Highest learning rate.")] = None,
    set: Annotated[
        tuple[str, ...], Parameter(help="Any other setting as key=value; give it again for another one.", negative=())
    ] = (),
    seed: Annotated[int | None, Parameter(help="Decides all that is random.")] = None,
    device: Annotated[str | None, Parameter(help="cpu or cuda; by default a GPU where there is one.")] = None,
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"] | None, Parameter(help="What the convolutions compute in.")
    ] = None,
    workers: Annotated[int | None, Parameter(help="Threads that decode images; by default one a core.")] = None,
    resume: Annotated[bool, Parameter(help="Go on with the run in --out where it stopped.")] = False,
    exist_ok: Annotated[bool, Parameter(help="Overwrite the run in --out.")] = False,
    offline: Annotated[bool, Parameter(help="Use only what is already on this machine.")] = False,
) -> int:
    """Train or fine-tune a model on a folder of labelled images.

    The run's folder holds config.json, metrics.csv, log.txt, curves.png, TensorBoard events, and the models last/ and
    best/, which every other command takes as --model. Ctrl-C saves; the same command with --resume goes on.
    """
    from seresnet.errors import ConfigError
    from seresnet.recipes import recipe as find
    from seresnet.train.config import parse_settings
    from seresnet.train.run import train as run

    flags: dict[str, Any] = {
        "model": model,
        "epochs": epochs,
        "global_batch_size": batch_size,
        "lr": lr,
        "seed": seed,
        "precision": precision,
        "workers": workers,
    }
    given = {key: value for key, value in flags.items() if value is not None}
    config = find(recipe).updated(given | parse_settings(list(set)))
    if resume and out is None:
        raise ConfigError("--resume needs --out, the folder of the run to go on with")
    if resume and exist_ok:
        raise ConfigError("--resume goes on with a run and --exist-ok overwrites it: give one of them")
    speaks = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun starts
    logger = logging.getLogger("seresnet")
    logger.setLevel(logging.INFO)
    handler = logging.StreamHandler(sys.stderr) if speaks else logging.NullHandler()
    logger.addHandler(handler)
    try:
        result = run(
            config,
            data,
            out or new_run(Path("runs"), recipe),
            resume=resume,
            exist_ok=exist_ok,
            device=device,
            offline=offline or None,
        )
    finally:
        logger.removeHandler(handler)
    if not speaks:
        return 0
    print(
        f"{result.epochs} epochs in {result.seconds:.0f} s; validation top-1 {100 * result.last_top1:.2f} % "
        f"at the end, {100 * result.best_top1:.2f} % at best\n{result.last}\n{result.best}"
    )
    return 0


def new_run(folder: Path, name: str) -> Path:
    """Return ``folder/name``, or the first of ``folder/name-2``, ``-3``, ... that does not exist."""
    candidates = (folder / (name if number == 1 else f"{name}-{number}") for number in count(1))
    return next(path for path in candidates if not path.exists())
