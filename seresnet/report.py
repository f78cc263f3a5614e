"""The report of an evaluation: a folder with figures (JSON), tables (CSV) and pictures (PNG)."""

from __future__ import annotations

import csv
import io
import json
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from seresnet.errors import ConfigError
from seresnet.files import atomic_file, write_text
from seresnet.report_pictures import draw_confusion, draw_mistakes, draw_per_class, draw_reliability

if TYPE_CHECKING:
    from seresnet.evaluate import Evaluation

PICTURES = {
    "confusion.png": draw_confusion,
    "reliability.png": draw_reliability,
    "per_class.png": draw_per_class,
    "mistakes.png": draw_mistakes,
}


def check_report_folder(folder: Path, exist_ok: bool = False) -> None:
    """Raise ConfigError where a report cannot go into ``folder``: a file, or a folder with something in it."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file: give the report a folder")
    if not exist_ok and folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty: give the report another folder, or allow overwriting (--exist-ok)")


def write_report(evaluation: Evaluation, folder: Path, exist_ok: bool = False) -> Path:
    """Write the files of a report into ``folder`` and return it; each file is whole or not there.

    ``metrics.json`` holds the figures, ``per_class.csv`` one row a class, ``confusion.csv`` counts by class (rows) and
    what it was taken for (columns), ``predictions.csv`` one row an image. Pictures: ``confusion.png`` (of many classes
    the commonest mistakes), ``reliability.png``, ``per_class.png``, and, where there are image files and mistakes,
    ``mistakes.png``. Raises ConfigError as `check_report_folder` does, and where matplotlib is missing.
    """
    check_report_folder(folder, exist_ok)
    texts = {
        "metrics.json": json.dumps(evaluation.summary(), indent=2) + "\n",
        "per_class.csv": _per_class(evaluation),
        "confusion.csv": _confusion(evaluation),
        "predictions.csv": _predictions(evaluation),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    for name, draw in PICTURES.items():
        figure = draw(evaluation)
        if figure is None:
            (folder / name).unlink(missing_ok=True)  # of the report that is overwritten
            continue
        with atomic_file(folder / name) as file, warnings.catch_warnings():
            # A script that the font does not have is drawn as boxes; that needs no warning for each letter.
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            figure.savefig(file, format="png", dpi=120)
    return folder


def _per_class(e: Evaluation) -> str:
    columns = zip(e.labels, e.precision, e.recall, e.f1, e.support, strict=True)
    rows = ([label, *(f"{share:.6g}" for share in shares), support] for label, *shares, support in columns)
    return _csv(["class", "precision", "recall", "f1", "images"], rows)


def _confusion(e: Evaluation) -> str:
    rows = ([label, *counts] for label, counts in zip(e.labels, e.confusion.tolist(), strict=True))
    return _csv(["class \\ taken for", *e.labels], rows)


def _predictions(e: Evaluation) -> str:
    rows = ([r.path or "", e.labels[r.target], e.labels[r.top1], f"{r.probability:.6g}"] for r in e.results)
    return _csv(["path", "target", "top1", "probability"], rows)


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
