"""``seresnet eval``: measure a model on labelled images."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from rich.text import Text

    from seresnet.evaluation.result import Evaluation

SHOWN = 5  # lowest classes, and commonest mistakes, in the table


def evaluate(
    data: Annotated[
        str, Parameter(help="A folder of class folders, a list (.csv, .parquet), tar shards, an archive, or hf:NAME.")
    ],
    /,
    *,
    model: Annotated[
        str | None, Parameter(help="A name (see seresnet models), a directory, a file, or hf-hub:user/repo.")
    ] = None,
    report: Annotated[Path | None, Parameter(help="Write figures, tables and pictures into this folder.")] = None,
    format: Annotated[Literal["table", "json"], Parameter(help="Form of the figures on stdout.")] = "table",
    batch_size: Annotated[int | None, Parameter(help="Images at once; by default what suits the device.")] = None,
    device: Annotated[str | None, Parameter(help="cpu, cuda, cuda:1; by default a GPU where there is one.")] = None,
    engine: Annotated[
        Literal["auto", "openvino", "onnxruntime", "torch", "torch-compile"],
        Parameter(help="What runs the network: openvino on CPUs, torch on GPUs."),
    ] = "auto",
    precision: Annotated[
        Literal["auto", "float32", "bfloat16", "float16", "int8"] | None,
        Parameter(help="What the convolutions compute in; by default float32, or int8 for a quantized model."),
    ] = None,
    calibration: Annotated[
        Path | None, Parameter(help="Folder of images to set the scales of int8 by, of the kind to come; 300 will do.")
    ] = None,
    workers: Annotated[int | None, Parameter(help="Threads that decode images; by default one a core.")] = None,
    offline: Annotated[bool, Parameter(help="Use only what is already on this machine.")] = False,
    exist_ok: Annotated[bool, Parameter(help="Overwrite the report in --report.")] = False,
) -> int:
    """Measure a model on labelled images: accuracy, figures of each class, confusion, calibration.

    Each image counts once; the exit code is 1 if one could not be read. The folders of DATA have the names of the
    model's classes, or their WordNet ids. Where an image has several labels: average precision, F1, exact matches. A
    report holds metrics.json, per_class.csv, predictions.csv, with one label an image confusion.csv, and pictures.
    """
    from seresnet.cli.progress import ImageProgress, announce
    from seresnet.common.files import check_report_folder
    from seresnet.data.open_dataset import open_labelled
    from seresnet.evaluation.evaluate import evaluate as measure
    from seresnet.evaluation.report import write_report
    from seresnet.inference.classifier import DEFAULT_MODEL, exact_precision, load
    from seresnet.metrics.base import torchmetrics_parts

    if report is not None:
        check_report_folder(report, exist_ok)
    torchmetrics_parts()  # seconds, which are not the images'; and where it is missing, say so first
    images = open_labelled(data, offline or None)
    name = model or DEFAULT_MODEL
    clf = load(
        name,
        engine=engine,
        precision=precision or exact_precision(name),
        device=device,
        offline=offline or None,
        calibration=calibration,
    )
    announce(clf, model)
    with ImageProgress(bar=True, count=lambda: len(images.samples)) as progress:
        evaluation = measure(clf, images, batch_size, workers, progress.advance)
    print(progress.summary(), file=sys.stderr)
    if report is not None:
        write_report(evaluation, report, exist_ok=exist_ok)
        print(f"report in {report}", file=sys.stderr)
    _show(evaluation, format)
    return 1 if evaluation.unreadable else 0


def _show(evaluation: Evaluation, format: str) -> None:
    """Print the figures to stdout."""
    if format == "json":
        from seresnet.cli.output import to_json

        print(to_json(evaluation.summary()))
        return
    from rich.console import Console

    console = Console(highlight=False)
    for line in _table(evaluation):
        console.print(line, soft_wrap=True)


def _table(e: Evaluation) -> Iterator[Text]:
    """Yield the lines for people: figures, then the lowest classes and the commonest mistakes."""
    from rich.text import Text

    from seresnet.common.text import printable

    yield Text.assemble(
        (printable(e.model), "bold"),
        f" on {printable(e.data)}: {e.n:,} images, ",
        f"{int((e.support > 0).sum()):,} classes",
    )
    if e.published:
        yield Text(f"{'':28}{'measured':>14}{'published':>14} ({e.published.data})", "dim")
    for number, figure in enumerate(e.headline()):
        yield _figure(*figure, style="" if number else "bold green")
    yield Text(f"{'negative log likelihood':28}{e.nll:14.4f}")
    if e.unreadable:
        yield Text(f"{'could not be read':28}{len(e.unreadable):14,}", "red")
    for note in e.notes:
        yield Text(f"note: {printable(note)}", "dim")
    yield from _lowest(e)
    yield from _commonest(e)


def _figure(name: str, share: float, published: float | None = None, style: str = "") -> Text:
    from rich.text import Text

    line = Text.assemble(f"{name:28}", (f"{100 * share:12.2f} %", style))
    return line.append(f"{100 * published:12.2f} %", "dim") if published is not None else line


def _lowest(e: Evaluation) -> Iterator[Text]:
    """Yield the classes that are recognised least."""
    from rich.text import Text

    shares, score = e.by_class(), e.score
    rows = sorted((i for i in range(len(e.labels)) if e.support[i]), key=lambda i: score.values[i])[:SHOWN]
    heads = "".join(f"{share.name:>12}" for share in shares)
    yield Text(f"\n{f'lowest {score.name}':30}{heads}{'images':>10}", "bold")
    for i in rows:
        figures = "".join(f"{100 * share.values[i]:10.1f} %" for share in shares)
        yield _cell(e.labels[i], 30).append(f"{figures}{e.support[i]:10,}")


def _commonest(e: Evaluation) -> Iterator[Text]:
    """Yield the commonest mistakes."""
    from rich.text import Text

    mistakes = e.commonest_mistakes(SHOWN)
    if mistakes:
        yield Text("\ncommonest mistakes", "bold")
    for which, images, total in mistakes:
        yield _cell(which, 44).append(f"{images:8,} of {total:,}")


def _cell(text: str, width: int) -> Text:
    """Return text of exactly ``width`` columns, cut where it is longer."""
    from rich.text import Text

    from seresnet.common.text import printable

    cell = Text(printable(text))
    cell.truncate(width, overflow="ellipsis", pad=True)
    return cell
