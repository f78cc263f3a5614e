"""``seresnet eval``: evaluate a model on labelled images."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from seresnet.common.text import printable
from seresnet.errors import SeresnetError

if TYPE_CHECKING:
    from rich.text import Text

    from seresnet.evaluation.compare import Comparison
    from seresnet.evaluation.result import Evaluation
    from seresnet.explanation.explain import Explainer
    from seresnet.inference.classifier import Classifier

SHOWN = 5  # lowest classes, and most frequent confusions, in the table


def evaluate(
    data: Annotated[
        str, Parameter(help="A folder of class folders, a list (.csv, .parquet), tar shards, an archive, or hf:NAME.")
    ],
    /,
    *,
    model: Annotated[
        str | None, Parameter(help="A name (see seresnet models), a directory, a file, or hf-hub:user/repo.")
    ] = None,
    split: Annotated[
        str | None, Parameter(help="train, validation or test (default: test, else validation, else train).")
    ] = None,
    labels: Annotated[
        str | None, Parameter(help="Class names in place of the model's: a file with one a line, or imagenet-1k.")
    ] = None,
    compare: Annotated[
        str | None, Parameter(help="Another model, evaluated on the same images: McNemar's test of the difference.")
    ] = None,
    report: Annotated[Path | None, Parameter(help="Write a page, metrics, tables and plots into this folder.")] = None,
    format: Annotated[Literal["table", "json"], Parameter(help="Output format on stdout.")] = "table",
    batch_size: Annotated[int | None, Parameter(help="Batch size (default: chosen for the device).")] = None,
    device: Annotated[str | None, Parameter(help="cpu, cuda, cuda:1 (default: a GPU if there is one).")] = None,
    engine: Annotated[
        Literal["auto", "openvino", "onnxruntime", "torch", "torch-compile"],
        Parameter(help="Inference engine (auto: openvino on CPUs, torch on GPUs)."),
    ] = "auto",
    precision: Annotated[
        Literal["auto", "float32", "bfloat16", "float16", "int8"] | None,
        Parameter(help="Numeric precision (default: float32, or int8 for a quantized model)."),
    ] = None,
    calibration: Annotated[
        Path | None, Parameter(help="Representative images for int8 calibration (about 300 are enough).")
    ] = None,
    workers: Annotated[int | None, Parameter(help="Threads that decode images (default: one per core).")] = None,
    max_megapixels: Annotated[
        float | None, Parameter(help="Refuse larger images (default: 178.96, the limit of Pillow).")
    ] = None,
    offline: Annotated[bool, Parameter(help="Do not access the network.")] = False,
    exist_ok: Annotated[bool, Parameter(help="Overwrite the report in --report.")] = False,
) -> int:
    """Evaluate a model on labelled images: accuracy, metrics of each class, confusion matrix, calibration.

    Each image counts once; the exit code is 1 if one could not be read. The folders of DATA have the names of the
    model's classes, or their WordNet ids. For several labels per image: average precision, F1, exact matches. A report
    contains report.html (one page with all of it), metrics.json, tables (.csv) and plots (.png).
    """
    from seresnet.cli.progress import ImageProgress, announce, note_trained_on
    from seresnet.common.files import check_output_folder
    from seresnet.data.decode import pixel_limit
    from seresnet.data.open_dataset import open_labelled
    from seresnet.evaluation.compare import compare as compare_evaluations
    from seresnet.evaluation.evaluate import evaluate as measure
    from seresnet.evaluation.report import write_report
    from seresnet.inference.classifier import DEFAULT_MODEL, exact_precision, load

    if report is not None:
        check_output_folder(report, exist_ok)
    max_pixels = pixel_limit(max_megapixels)
    images = open_labelled(data, offline or None, split)

    def measured(given: str | None, names: str | None) -> tuple[Classifier, Evaluation[Any]]:
        name = given or DEFAULT_MODEL
        common: dict[str, Any] = {
            "engine": engine,
            "device": device,
            "offline": offline or None,
            "calibration": calibration,
        }
        clf = load(name, precision=precision or exact_precision(name), labels=names, **common)
        clf.max_pixels = max_pixels
        announce(clf, given)
        with ImageProgress(bar=True, count=lambda: len(images.samples)) as progress:
            evaluation = measure(clf, images, batch_size, workers, progress.advance)
        print(progress.summary(), file=sys.stderr)
        note_trained_on(name, images)
        return clf, evaluation

    clf, evaluation = measured(model, labels)
    comparison = None if compare is None else compare_evaluations(evaluation, measured(compare, None)[1])
    if report is not None:
        write_report(evaluation, report, exist_ok, _explainer(clf), comparison)
        print(f"report in {report}", file=sys.stderr)
    _show(evaluation, comparison, format)
    return 1 if evaluation.unreadable else 0


def _explainer(clf: Classifier) -> Explainer | None:
    """Return what draws the heat maps of a report; None where the model's network is not at hand."""
    try:
        return clf.explainer()
    except SeresnetError as error:
        print(f"note: the report has no heat maps: {error}", file=sys.stderr)
        return None


def _show(evaluation: Evaluation[Any], comparison: Comparison | None, format: str) -> None:
    """Print the metrics to stdout."""
    if format == "json":
        from seresnet.cli.output import to_json

        compared = {} if comparison is None else {"comparison": comparison.summary()}
        print(to_json(evaluation.summary() | compared))
        return
    from rich.console import Console

    console = Console(highlight=False)
    for line in _table(evaluation):
        console.print(line, soft_wrap=True)
    if comparison is not None:
        for text in _compared(comparison):
            console.print(text, soft_wrap=True, markup=False)


def _compared(c: Comparison) -> Iterator[str]:
    """Yield the lines of a comparison."""
    yield "\ncompared on the same images"
    for evaluation, alone in ((c.first, c.only_first), (c.second, c.only_second)):
        yield f"{printable(evaluation.model):28}{100 * (c.both + alone) / c.n:12.2f} %, alone right: {alone:,}"
    low, high = (100 * end for end in c.interval)
    yield f"{'difference':28}{100 * c.difference:+12.2f} points (95 %: {low:+.2f} to {high:+.2f})"
    yield f"{'both right, neither right':28}{c.both:12,}, {c.neither:,}"
    yield f"{'p (McNemar, exact)':28}{c.p_value:12.2g}"


def _table(e: Evaluation[Any]) -> Iterator[Text]:
    """Yield the lines of the text report: metrics, lowest classes, most frequent confusions."""
    from rich.text import Text

    yield Text.assemble(
        (printable(e.model), "bold"),
        f" on {printable(e.data)}: {e.metrics.n:,} images, ",
        f"{int((e.metrics.support > 0).sum()):,} classes",
    )
    if e.published:
        yield Text(f"{'':28}{'measured':>14}{'published':>14} ({e.published.data})", "dim")
    for number, metric in enumerate(e.metrics.headline()):
        published = getattr(e.published, metric.key, None)
        yield _metric(metric.name, metric.value, published, style="" if number else "bold green")
    yield Text(f"{'negative log likelihood':28}{e.metrics.nll:14.4f}")
    if e.unreadable:
        yield Text(f"{'could not be read':28}{len(e.unreadable):14,}", "red")
    for note in e.notes:
        yield Text(f"note: {printable(note)}", "dim")
    yield from _lowest(e)
    yield from _confusions(e)


def _metric(name: str, value: float, published: float | None = None, style: str = "") -> Text:
    from rich.text import Text

    line = Text.assemble(f"{name:28}", (f"{100 * value:12.2f} %", style))
    return line.append(f"{100 * published:12.2f} %", "dim") if published is not None else line


def _lowest(e: Evaluation[Any]) -> Iterator[Text]:
    """Yield the classes with the lowest score."""
    from rich.text import Text

    metrics, score, support = e.metrics.per_class(), e.metrics.score, e.metrics.support
    rows = sorted((i for i in range(len(e.labels)) if support[i]), key=lambda i: score.values[i])[:SHOWN]
    heads = "".join(f"{metric.name:>12}" for metric in metrics)
    yield Text(f"\n{f'lowest {score.name}':30}{heads}{'images':>10}", "bold")
    for i in rows:
        values = "".join(f"{100 * metric.values[i]:10.1f} %" for metric in metrics)
        yield _cell(e.labels[i], 30).append(f"{values}{support[i]:10,}")


def _confusions(e: Evaluation[Any]) -> Iterator[Text]:
    """Yield the most frequent confusions."""
    from rich.text import Text

    confusions = e.metrics.most_frequent_confusions(e.labels, SHOWN)
    if confusions:
        yield Text("\nmost frequent confusions", "bold")
    for name, images, total in confusions:
        yield _cell(name, 44).append(f"{images:8,} of {total:,}")


def _cell(text: str, width: int) -> Text:
    """Return text of exactly ``width`` columns, cut where it is longer."""
    from rich.text import Text

    cell = Text(printable(text))
    cell.truncate(width, overflow="ellipsis", pad=True)
    return cell
