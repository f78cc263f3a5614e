"""The report of an evaluation: a folder with metrics (JSON), tables (CSV) and plots (PNG)."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from seresnet.common.files import atomic_file, check_output_folder, write_text
from seresnet.common.text import csv_text
from seresnet.evaluation.plots import draw_confusion, draw_mistakes, draw_per_class, draw_reliability
from seresnet.evaluation.result import Evaluation
from seresnet.metrics.base import Metrics
from seresnet.metrics.multi_label import MultiLabelMetrics
from seresnet.metrics.single_label import SingleLabelMetrics


def write_report(evaluation: Evaluation[Any], folder: Path, exist_ok: bool = False) -> Path:
    """Write the files of a report into ``folder`` and return it; each file is whole or not there.

    ``metrics.json`` holds the metrics, ``per_class.csv`` one row per class, ``predictions.csv`` one row per image. With
    one label an image, ``confusion.csv`` counts by true class (rows) and predicted class (columns). Pictures:
    ``per_class.png``; where there are image files and mistakes, ``mistakes.png``; and with one label an image
    ``confusion.png`` (of many classes the most frequent confusions) and ``reliability.png``. Raises ConfigError as
    `check_output_folder` does, and where matplotlib is missing.
    """
    check_output_folder(folder, exist_ok)
    contents = CONTENTS[type(evaluation.metrics)]
    write_text(folder / "metrics.json", json.dumps(evaluation.summary(), indent=2, allow_nan=False) + "\n")
    for name, table in contents.tables.items():
        write_text(folder / name, table(evaluation))
    written = set(contents.tables)
    for name, draw in contents.pictures.items():
        figure = draw(evaluation)
        if figure is None:
            continue
        with atomic_file(folder / name) as file, warnings.catch_warnings():
            # A script that the font does not have is drawn as boxes; that needs no warning for each letter.
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            figure.savefig(file, format="png", dpi=120)
        written.add(name)
    for other in CONTENTS.values():
        for name in {*other.tables, *other.pictures} - written:
            (folder / name).unlink(missing_ok=True)  # of the report that is overwritten
    return folder


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


class Contents(NamedTuple):
    """The files of a report, each with the function that makes it of an evaluation."""

    tables: Mapping[str, Callable[[Any], str]]
    pictures: Mapping[str, Callable[[Any], Any]]


_TABLES = {"per_class.csv": _per_class, "predictions.csv": _predictions}
_PICTURES = {"per_class.png": draw_per_class, "mistakes.png": draw_mistakes}

CONTENTS: dict[type[Metrics], Contents] = {
    MultiLabelMetrics: Contents(_TABLES, _PICTURES),
    SingleLabelMetrics: Contents(
        {**_TABLES, "confusion.csv": _confusion},
        {"confusion.png": draw_confusion, "reliability.png": draw_reliability, **_PICTURES},
    ),
}
