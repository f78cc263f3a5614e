"""``seresnet eval``: measure a model on labelled images."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from rich.text import Text

    from seresnet.evaluate import Evaluation

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
    model's classes, or their WordNet ids. A report holds metrics.json, per_class.csv, confusion.csv, predictions.csv,
    and pictures.
    """
    from seresnet.cli.progress import ImageProgress, announce
    from seresnet.data.open import open_labelled
    from seresnet.evaluate import evaluate as measure
    from seresnet.predict import DEFAULT_MODEL, exact_precision, load
    from seresnet.report import check_report_folder

    if report is not None:
        check_report_folder(report, exist_ok)
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
        evaluation.save(report, exist_ok=exist_ok)
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

    from seresnet.cli.text import printable

    yield Text.assemble(
        (printable(e.model), "bold"),
        f" on {printable(e.data)}: {e.n:,} images, ",
        f"{int((e.support > 0).sum()):,} classes",
    )
    if e.published:
        yield Text(f"{'':28}{'measured':>14}{'published':>14} ({e.published.data})", "dim")
    reported = (e.published.top1, e.published.top5) if e.published else (None, None)
    yield _figure("top-1 accuracy", e.top1, reported[0], style="bold green")
    if len(e.labels) > 5:
        yield _figure("top-5 accuracy", e.top5, reported[1])
    yield _figure("macro precision", e.macro_precision)
    yield _figure("macro recall", e.macro_recall)
    yield _figure("macro F1", e.macro_f1)
    yield _figure("expected calibration error", e.ece)
    yield Text(f"{'negative log likelihood':28}{e.nll:14.4f}")
    if e.unreadable:
        yield Text(f"{'could not be read':28}{len(e.unreadable):14,}", "red")
    for note in e.notes:
        yield Text(f"note: {printable(note)}", "dim")
    yield from _lowest(e)
    yield from _confused(e)


def _figure(name: str, share: float, published: float | None = None, style: str = "") -> Text:
    from rich.text import Text

    line = Text.assemble(f"{name:28}", (f"{100 * share:12.2f} %", style))
    return line.append(f"{100 * published:12.2f} %", "dim") if published is not None else line


def _lowest(e: Evaluation) -> Iterator[Text]:
    """Yield the classes that are recognised least."""
    from rich.text import Text

    rows = sorted((i for i in range(len(e.labels)) if e.support[i]), key=lambda i: e.f1[i])[:SHOWN]
    yield Text(f"\n{'lowest F1':28}{'precision':>14}{'recall':>12}{'F1':>12}{'images':>10}", "bold")
    for i in rows:
        shares = f"{100 * e.precision[i]:12.1f} %{100 * e.recall[i]:10.1f} %{100 * e.f1[i]:10.1f} %"
        yield _cell(e.labels[i], 28).append(f"{shares}{e.support[i]:10,}")


def _confused(e: Evaluation) -> Iterator[Text]:
    """Yield the commonest mistakes."""
    from rich.text import Text

    pairs = e.most_confused(SHOWN)
    if pairs:
        yield Text("\ncommonest mistakes", "bold")
    for i, j, count in pairs:
        yield _cell(f"{e.labels[i]} → {e.labels[j]}", 44).append(f"{count:8,} of {e.support[i]:,}")


def _cell(text: str, width: int) -> Text:
    """Return text of exactly ``width`` columns, cut where it is longer."""
    from rich.text import Text

    from seresnet.cli.text import printable

    cell = Text(printable(text))
    cell.truncate(width, overflow="ellipsis", pad=True)
    return cell
