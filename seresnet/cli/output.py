"""Rows of predictions as a table, JSON, JSON lines or CSV, written one at a time."""

from __future__ import annotations

import io
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from seresnet.common.files import disk_full, growing_file
from seresnet.common.text import csv_text, printable
from seresnet.errors import ConfigError, DiskFullError
from seresnet.inference.prediction import Prediction

BAR_WIDTH = 24
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a cell begins with that spreadsheets take for a formula (OWASP)


class JsonLines:
    """JSON lines: one object per image."""

    header = footer = ""

    def row(self, prediction: Prediction) -> str:
        """Return one line."""
        return to_json(_rounded(prediction)) + "\n"


class JsonArray(JsonLines):
    """One JSON array of all images; it is closed, and can be parsed, even where the run was cut short."""

    header, footer = "[", "\n]\n"

    def __init__(self) -> None:
        self._separator = "\n"

    def row(self, prediction: Prediction) -> str:
        """Return one element, with the comma in front of it."""
        before, self._separator = self._separator, ",\n"
        return before + to_json(_rounded(prediction))


class Csv:
    """``path,label_1,probability_1,...,error``; the classes are empty where there is an error.

    ``terminal``: control characters are escaped; ``spreadsheet``: cells that would be formulas get an apostrophe.
    """

    footer = ""

    def __init__(self, topk: int, terminal: bool = False, spreadsheet: bool = False) -> None:
        self._width = 2 * topk
        self._terminal, self._spreadsheet = terminal, spreadsheet
        columns = [name for k in range(1, topk + 1) for name in (f"label_{k}", f"probability_{k}")]
        self.header = csv_text([["path", *columns, "error"]])

    def row(self, prediction: Prediction) -> str:
        """Return one line, quoted where it has to be."""
        pairs = zip(prediction.labels, prediction.probabilities, strict=True)
        cells = [cell for label, probability in pairs for cell in (label, f"{probability:.6g}")]
        cells += [""] * (self._width - len(cells))
        return csv_text([[self._cell(cell) for cell in (prediction.path or "", *cells, prediction.error or "")]])

    def _cell(self, cell: str) -> str:
        cell = printable(cell) if self._terminal else cell
        return f"'{cell}" if self._spreadsheet and cell.startswith(FORMULA) else cell


class PlainTable:
    """One aligned line per image, for logs and pipes. The ``first`` predictions set the column widths."""

    header = footer = ""

    def __init__(self, first: Sequence[Prediction]) -> None:
        self._path = _width((p.path or "" for p in first), 60)
        self._label = _width((label for p in first for label in p.labels), 24)

    def row(self, prediction: Prediction) -> str:
        """Return one line."""
        path = _padded(prediction.path or "", self._path)
        if prediction.error is not None:
            return f"{path}  error: {printable(prediction.error)}\n"
        pairs = zip(prediction.labels, prediction.probabilities, strict=True)
        cells = (f"{_padded(label, self._label)} {percent(probability)}" for label, probability in pairs)
        return "  ".join((path, *cells)) + "\n"


class BarTable:
    """One line per class with its probability as a bar, for terminals."""

    header = footer = ""

    def __init__(self, first: Sequence[Prediction], console: Console) -> None:
        self._console = console
        self._path = _width((p.path or "" for p in first), max(16, console.width * 2 // 5))
        self._label = _width((label for p in first for label in p.labels), max(12, console.width // 4))
        self._spaced = any(len(p.labels) > 1 for p in first)

    def row(self, prediction: Prediction) -> str:
        """Return the lines of one image, with colours, and an empty line where there are several of an image."""
        path = fitted(prediction.path or "", self._path)
        lines = []
        if prediction.error is not None:
            lines = [Text.assemble((path, "bold"), "  ", (printable(prediction.error), "red"))]
        for label, probability in zip(prediction.labels, prediction.probabilities, strict=True):
            first = not lines
            lines.append(
                Text.assemble(
                    (path if first else " " * self._path, "bold"),
                    ("  " + fitted(label, self._label), "bold green" if first else ""),
                    ("  " + percent(probability), "" if first else "dim"),
                    ("  " + bar(probability, BAR_WIDTH), "green" if first else "cyan"),
                )
            )
        return "".join(self._rendered(line) for line in lines) + ("\n" if self._spaced else "")

    def _rendered(self, line: Text) -> str:
        line.rstrip()
        line.truncate(self._console.width)
        with self._console.capture() as capture:
            self._console.print(line, soft_wrap=True)
        return capture.get()


Rows = JsonLines | Csv | PlainTable | BarTable


def rows_for(format: str, topk: int, first: Sequence[Prediction], stream: TextIO, spreadsheet: bool = False) -> Rows:
    """Return the writer of a format; a table is drawn with bars where the stream is a terminal."""
    if format == "json":
        return JsonArray()
    if format == "jsonl":
        return JsonLines()
    if format == "csv":
        return Csv(topk, stream.isatty(), spreadsheet)
    return BarTable(first, Console(file=stream)) if stream.isatty() else PlainTable(first)


@contextmanager
def results_to(out: Path | None) -> Iterator[TextIO]:
    """Open where results go, as UTF-8: stdout, or a file that appears under its name once it is complete.

    Until then the rows are in ``<name>.<random>.partial`` beside it, which stays when the run is cut short. File names
    that are not UTF-8 go out as the bytes that they are.
    """
    if out is None:
        if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.isatty():
            sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
        yield sys.stdout
    elif out.exists() and not out.is_file():  # a device or a pipe, which no file can take the place of
        with out.open("wb") as file, _opened(out, file) as stream:
            yield stream
    else:
        with _kept_when_cut_short(out) as stream:
            yield stream


@contextmanager
def _kept_when_cut_short(out: Path) -> Iterator[TextIO]:
    partial: str | None = None
    try:
        with growing_file(out) as file:
            partial = file.name
            with _opened(out, file) as stream:
                yield stream
    except BaseException as error:
        if partial is not None:
            print(f"seresnet: cut short; the results up to here are in {printable(partial)}", file=sys.stderr)
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError | DiskFullError):
            raise _cannot_write(out, error) from None
        raise


@contextmanager
def _opened(out: Path, file: BinaryIO) -> Iterator[TextIO]:
    """Write text to a binary file, which stays open for whoever opened it where the text ends well."""
    stream = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
    try:
        yield stream
        stream.flush()
    except OSError as error:
        if isinstance(error, BrokenPipeError) or error.filename is not None:  # of another file
            raise
        raise _cannot_write(out, error) from None
    finally:
        with suppress(OSError, ValueError):
            stream.detach()


def _cannot_write(out: Path, error: OSError) -> ConfigError | DiskFullError:
    reason = f"--out {out}: {(error.strerror or str(error)).lower()}"
    return (
        DiskFullError(f"{reason}; free some space")
        if disk_full(error)
        else ConfigError(f"{reason}; choose another place")
    )


def check_out(out: Path, flag: str) -> None:
    """Raise ConfigError where nothing can be written to ``out``; make its folder where it is not there."""
    if out.is_dir():
        raise ConfigError(f"{flag} {out} is a folder: give the name of a file")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{flag} {out}: {error.strerror}: choose another place") from None
    if not os.access(out.parent, os.W_OK):
        raise ConfigError(f"{flag} {out}: its folder cannot be written to: choose another place")


def same_place(first: TextIO, second: TextIO) -> bool:
    """Return whether two streams write to the same terminal or file."""
    try:
        return os.path.sameopenfile(first.fileno(), second.fileno())
    except (OSError, ValueError):
        return False


def to_json(value: object) -> str:
    r"""Return one line of JSON that is valid UTF-8, and safe on a terminal.

    Control characters, those that turn the direction of text, and stand-ins for undecodable bytes become escapes
    such as \u202e, which every reader of JSON turns back.
    """
    text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False)
    return text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def _finite(value: Any) -> Any:
    """Return a value with None for the numbers that JSON does not have: NaN and the infinities."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def percent(probability: float) -> str:
    """Return a probability as a percentage, seven characters wide."""
    return f"{100 * probability:5.1f} %"


def bar(fraction: float, width: int) -> str:
    """Return a horizontal bar of ``width`` cells for 1.0, drawn to an eighth of a cell."""
    eighths = round(fraction * width * 8)
    return "█" * (eighths // 8) + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[eighths % 8]


def fitted(text: str, width: int) -> str:
    """Return exactly ``width`` cells of a terminal: the text and spaces, or its end behind an ellipsis."""
    text = printable(text)
    if cell_len(text) > width:
        while cell_len(text) > width - 1:
            text = text[1:]
        text = "…" + text
    return set_cell_size(text, width)


def _padded(text: str, width: int) -> str:
    text = printable(text)
    return text + " " * (width - cell_len(text))


def _rounded(prediction: Prediction) -> dict[str, object]:
    """Return the shape of a JSON row, with the six digits that a float32 is good for."""
    value = prediction.to_dict()
    for row in value["predictions"]:
        row["probability"] = float(f"{row['probability']:.6g}")
    return value


def _width(texts: Iterator[str], most: int) -> int:
    return min(max((cell_len(printable(text)) for text in texts), default=0), most)
