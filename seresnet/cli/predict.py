"""``seresnet predict``: classify images and stream the results."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from seresnet.cli.arguments import STDIN
from seresnet.common.text import printable
from seresnet.errors import ConfigError

if TYPE_CHECKING:
    from PIL.Image import Image

    from seresnet.cli.progress import ImageProgress
    from seresnet.inference.prediction import Prediction

SHEET_IMAGES = 48  # on a contact sheet, at most
SHEET_TYPES = (".png", ".jpg", ".jpeg", ".webp")
TABLE_PEEK = 32  # rows that decide how wide the columns of a table are


def predict(
    *sources: Annotated[
        str, Parameter(help="Image files, folders (searched recursively), globs, or - for a list on stdin.")
    ],
    model: Annotated[
        str | None, Parameter(help="A name (see seresnet models), a directory, a file, or hf-hub:user/repo.")
    ] = None,
    topk: Annotated[int, Parameter(help="Number of classes per image.")] = 5,
    format: Annotated[Literal["table", "json", "jsonl", "csv"], Parameter(help="Output format.")] = "table",
    out: Annotated[
        Path | None, Parameter(help="Write the results to this file instead of stdout (FILE.partial until complete).")
    ] = None,
    sheet: Annotated[
        Path | None, Parameter(help=f"Draw the first {SHEET_IMAGES} images with their classes (.png, .jpg or .webp).")
    ] = None,
    batch_size: Annotated[int | None, Parameter(help="Batch size (default: chosen for the device).")] = None,
    device: Annotated[str | None, Parameter(help="cpu, cuda, cuda:1 (default: a GPU if there is one).")] = None,
    engine: Annotated[
        Literal["auto", "openvino", "onnxruntime", "torch", "torch-compile"],
        Parameter(help="Inference engine (auto: openvino on CPUs, torch on GPUs)."),
    ] = "auto",
    precision: Annotated[
        Literal["auto", "float32", "bfloat16", "float16", "int8"],
        Parameter(help="Numeric precision (auto: the fastest that needs no calibration)."),
    ] = "auto",
    calibration: Annotated[
        Path | None, Parameter(help="Representative images for int8 calibration (about 300 are enough).")
    ] = None,
    workers: Annotated[int | None, Parameter(help="Threads that decode images (default: one per core).")] = None,
    offline: Annotated[bool, Parameter(help="Do not access the network.")] = False,
) -> int:
    """Classify images, from files, folders, globs, or a list on stdin.

    Results go to stdout, one per image and in order. The exit code is 1 if an image could not be read.
    """
    from seresnet.cli.output import check_out
    from seresnet.cli.progress import ImageProgress, announce
    from seresnet.data.paths import expand
    from seresnet.inference.classifier import DEFAULT_MODEL, load

    if not sources:
        raise ConfigError("no images: give files, folders or globs, or - for a list of files on stdin")
    for flag, path in (("--out", out), ("--sheet", sheet)):
        if path is not None:
            check_out(path, flag)
    if sheet is not None and sheet.suffix.lower() not in SHEET_TYPES:
        raise ConfigError(f"--sheet {sheet}: give a name that ends in {', '.join(SHEET_TYPES)}")
    given = ["-" if source == STDIN else source for source in sources]
    clf = load(
        model or DEFAULT_MODEL,
        engine=engine,
        precision=precision,
        device=device,
        offline=offline or None,
        calibration=calibration,
    )
    announce(clf, model)
    predictions = clf.stream(expand(given, sys.stdin), topk, batch_size, workers)
    countable = None if "-" in given else lambda: sum(1 for _ in expand(given))
    drawn: list[Prediction] = []
    with ImageProgress(bar=out is not None or not sys.stdout.isatty(), count=countable) as progress:
        rows = _keep(predictions, drawn, SHEET_IMAGES if sheet else 0)
        _write(rows, format, min(topk, clf.num_classes), out, progress)
    print(progress.summary(), file=sys.stderr)
    if sheet is not None and drawn:
        _draw(drawn, sheet, clf.model_name)
    return 1 if progress.unreadable else 0


def _keep(predictions: Iterator[Prediction], kept: list[Prediction], most: int) -> Iterator[Prediction]:
    """Yield each prediction, and append the first ``most`` to ``kept``."""
    for prediction in predictions:
        if len(kept) < most:
            kept.append(prediction)
        yield prediction


def _write(
    predictions: Iterator[Prediction], format: str, topk: int, out: Path | None, progress: ImageProgress
) -> None:
    """Write each prediction when it is ready; a table waits for a few, to find the widths of its columns."""
    from seresnet.cli.output import BarTable, results_to, rows_for

    first = list(islice(predictions, TABLE_PEEK if format == "table" else 1))
    with results_to(out) as stream:
        rows = rows_for(format, topk, first, stream)
        stream.write(rows.header)
        try:
            for prediction in chain(first, predictions):
                stream.write(rows.row(prediction))
                stream.flush()
                progress.advance(prediction.path, prediction.error, shown=isinstance(rows, BarTable))
        finally:
            stream.write(rows.footer)
            stream.flush()


def _draw(predictions: list[Prediction], sheet: Path, heading: str) -> None:
    """Draw the contact sheet from the files, which are read again: predictions keep no images."""
    from seresnet.data.decode import decode
    from seresnet.inference.contact_sheet import contact_sheet

    def rows() -> Iterator[tuple[Image | None, str, list[tuple[str, float]]]]:
        for prediction in predictions:
            title = printable(Path(prediction.path or "").name)
            if prediction.error is not None:
                yield None, title, [(prediction.error, 0.0)]
            elif prediction.path is not None:
                yield (
                    decode(prediction.path),
                    title,
                    list(zip(prediction.labels, prediction.probabilities, strict=True)),
                )

    contact_sheet(rows(), sheet, heading=heading)
    print(f"contact sheet: {sheet}", file=sys.stderr)
