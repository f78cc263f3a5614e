"""The report of an evaluation: a folder with one page (HTML), metrics (JSON), tables (CSV) and plots (PNG)."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from seresnet.common.files import atomic_file, check_output_folder, write_text
from seresnet.common.text import csv_text
from seresnet.evaluation.compare import Comparison
from seresnet.evaluation.coverage import coverage_at, coverage_curve
from seresnet.evaluation.page import report_page
from seresnet.evaluation.plots import draw_confusion, draw_coverage, draw_mistakes, draw_per_class, draw_reliability
from seresnet.evaluation.result import Evaluation
from seresnet.metrics.base import Metrics
from seresnet.metrics.multi_label import MultiLabelMetrics
from seresnet.metrics.single_label import SingleLabelMetrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from seresnet.explanation.explain import Explainer


def write_report(
    evaluation: Evaluation[Any],
    folder: Path,
    exist_ok: bool = False,
    explainer: Explainer | None = None,
    comparison: Comparison | None = None,
) -> Path:
    """Write the files of a report into ``folder`` and return it; each file is whole or not there.

    ``report.html`` is one page that needs no other file: the metrics with 95 % intervals, the pictures, the classes,
    and the most confident mistakes, with their heat maps where ``explainer`` is given (`Classifier.explainer`).
    ``metrics.json`` holds the metrics, ``per_class.csv`` one row per class, ``predictions.csv`` one row per image. With
    one label an image, ``confusion.csv`` counts by true class (rows) and predicted class (columns), and
    ``coverage.csv`` says how many images a threshold on the confidence leaves, and how many of these are right.
    Pictures: ``per_class.png``; where there are image files and mistakes, ``mistakes.png``; and with one label an image
    ``confusion.png`` (of many classes the most frequent confusions), ``reliability.png`` and ``coverage.png``. With a
    ``comparison``, ``comparison.json`` and ``differences.csv``. Raises ConfigError as `check_output_folder` does, and
    where matplotlib is missing.
    """
    check_output_folder(folder, exist_ok)
    contents = CONTENTS[type(evaluation.metrics)]
    texts = {"metrics.json": json.dumps(evaluation.summary(), indent=2, allow_nan=False) + "\n"}
    texts |= {name: table(evaluation) for name, table in contents.tables.items()}
    if comparison is not None:
        texts["comparison.json"] = json.dumps(comparison.summary(), indent=2, allow_nan=False) + "\n"
        texts["differences.csv"] = comparison.differences_csv()
    figures = {name: draw(evaluation) for name, draw in contents.pictures.items()}
    pictures = {name: _png(figure) for name, figure in figures.items() if figure is not None}
    texts["report.html"] = "".join(report_page(evaluation, pictures, explainer, comparison))
    for name, content in texts.items():
        write_text(folder / name, content)
    for name, png in pictures.items():
        with atomic_file(folder / name) as file:
            file.write(png)
    for name in ALL_FILES - {*texts, *pictures}:
        (folder / name).unlink(missing_ok=True)  # of the report that is overwritten
    return folder


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A script that the font does not have is drawn as boxes; that needs no warning for each letter.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def _per_class(e: Evaluation[Any]) -> str:
    """Return a row for each class; the metrics of one without images are empty."""
    metrics = e.metrics.per_class()
    rows = (
        [label, *(f"{metric.values[i]:.6g}" if images else "" for metric in metrics), images]
        for i, (label, images) in enumerate(zip(e.labels, e.metrics.support.tolist(), strict=True))
    )
    return csv_text([["class", *(metric.key for metric in metrics), "images"], *rows])


def _confusion(e: Evaluation[SingleLabelMetrics]) -> str:
    rows = ([label, *counts] for label, counts in zip(e.labels, e.metrics.confusion.tolist(), strict=True))
    return csv_text([["true \\ predicted", *e.labels], *rows])


def _predictions(e: Evaluation[Any]) -> str:
    header = e.results[0].COLUMNS if e.results else ()
    return csv_text(chain([header], (result.row(e.labels) for result in e.results)))


def _coverage(e: Evaluation[SingleLabelMetrics]) -> str:
    rows = (
        [f"{row.threshold:g}", f"{row.coverage:.6g}", "" if row.accuracy is None else f"{row.accuracy:.6g}"]
        for row in coverage_at(coverage_curve(e))
    )
    return csv_text([["threshold", "coverage", "accuracy"], *rows])


class Contents(NamedTuple):
    """The files of a report, each with the function that makes it of an evaluation."""

    tables: Mapping[str, Callable[[Any], str]]
    pictures: Mapping[str, Callable[[Any], Any]]


_TABLES = {"per_class.csv": _per_class, "predictions.csv": _predictions}
_PICTURES = {"per_class.png": draw_per_class, "mistakes.png": draw_mistakes}

CONTENTS: dict[type[Metrics], Contents] = {
    MultiLabelMetrics: Contents(_TABLES, _PICTURES),
    SingleLabelMetrics: Contents(
        {**_TABLES, "confusion.csv": _confusion, "coverage.csv": _coverage},
        {
            "confusion.png": draw_confusion,
            "reliability.png": draw_reliability,
            "coverage.png": draw_coverage,
            **_PICTURES,
        },
    ),
}
ALL_FILES = {"comparison.json", "differences.csv"}.union(*({*c.tables, *c.pictures} for c in CONTENTS.values()))
