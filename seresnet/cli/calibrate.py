"""``seresnet calibrate``: probabilities that agree with how often a model is right."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from seresnet.common.text import printable


def calibrate(
    data: Annotated[str, Parameter(help="Labelled images that the model was not trained on, as eval takes them.")],
    /,
    *,
    out: Annotated[Path, Parameter(help="Folder for the calibrated model.")],
    model: Annotated[
        str | None, Parameter(help="A name (see seresnet models), a directory, a file, or hf-hub:user/repo.")
    ] = None,
    split: Annotated[
        str | None, Parameter(help="train, validation or test (default: test, else validation, else train).")
    ] = None,
    format: Annotated[Literal["table", "json"], Parameter(help="Output format on stdout.")] = "table",
    batch_size: Annotated[int | None, Parameter(help="Batch size (default: chosen for the device).")] = None,
    device: Annotated[str | None, Parameter(help="cpu, cuda, cuda:1 (default: a GPU if there is one).")] = None,
    workers: Annotated[int | None, Parameter(help="Threads that decode images (default: one per core).")] = None,
    offline: Annotated[bool, Parameter(help="Do not access the network.")] = False,
    exist_ok: Annotated[bool, Parameter(help="Replace the folder --out, with all that is in it.")] = False,
) -> int:
    """Fit a temperature to labelled images, and save the model with it (temperature scaling).

    The logits are divided by the temperature, so that probabilities agree with how often the model is right; the
    predicted classes stay. Negative log likelihood and expected calibration error are reported before and after, on the
    images that the temperature was fitted to. Every use of the saved model has the temperature.
    """
    from seresnet.cli.output import to_json
    from seresnet.cli.progress import ImageProgress, note_trained_on, or_default
    from seresnet.data.open_dataset import open_labelled
    from seresnet.evaluation.calibrate import calibrate as fit

    name = or_default(model)
    images = open_labelled(data, offline or None, split)
    with ImageProgress(bar=True, count=lambda: len(images.samples)) as progress:
        found = fit(name, images, out, exist_ok, device, batch_size, workers, offline or None, progress.advance)
    print(progress.summary(), file=sys.stderr)
    note_trained_on(name, images, "these images are no measure of its confidence: calibrate on held-out ones")
    for note in found.notes:
        print(f"note: {printable(note)}", file=sys.stderr)
    if format == "json":
        print(to_json(found.summary() | {"out": str(out)}))
    else:
        print(f"{printable(name)} on {printable(found.data)}: {found.images:,} images")
        print(f"{'temperature':28}{found.temperature:14.4f}")
        print(f"{'':28}{'before':>14}{'after':>14}")
        print(f"{'negative log likelihood':28}{found.nll[0]:14.4f}{found.nll[1]:14.4f}")
        print(f"{'expected calibration error':28}{100 * found.ece[0]:12.2f} %{100 * found.ece[1]:12.2f} %")
        print(f"{'accuracy (stays)':28}{100 * found.top1:12.2f} %")
    print(f"calibrated model: {printable(str(out))}", file=sys.stderr)
    return 1 if found.unreadable else 0
