"""Rows of a list as people save them: CSV of any common form, from a file or stdin, and parquet."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BufferedReader, TextIOWrapper
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from seresnet.data.names import few
from seresnet.errors import DataError

DELIMITERS = (",", ";", "\t", "|")
_LINE = 2**20  # characters of a line; a file without line ends is not read into memory

Row = tuple[int, dict[str, Any]]  # the line (of parquet: the row) and its cells by column


@contextmanager
def read_table(path: Path) -> Iterator[tuple[list[str], Iterator[Row]]]:
    """Open a list: yield the names of its columns, in lower case, and its rows. Raises DataError.

    Text may be UTF-8 or UTF-16, with or without a byte order mark, separated by commas, semicolons, tabs or bars,
    with quoted cells and spaces around them.
    """
    if path.suffix.lower() == ".parquet":
        yield _parquet(path)
        return
    try:
        with path.open("rb") as file:
            yield parse_table(str(path), bounded_lines(str(path), decoded(file)))
    except UnicodeError as error:
        raise DataError(f"{path}: is not text ({error}); save the list as UTF-8") from None
    except OSError as error:
        raise DataError(f"{path}: {(error.strerror or str(error)).lower()}") from None


def decoded(file: BinaryIO) -> TextIOWrapper:
    """Return the text of a binary file that begins with a byte order mark, or is UTF-16 without one, or UTF-8.

    Bytes that are not UTF-8 stay as they are, since names of files may hold them (PEP 383).
    """
    if not hasattr(file, "peek"):
        file = BufferedReader(file)  # type: ignore[type-var]
    head = file.peek(64)[:64]
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return TextIOWrapper(file, "utf-16", newline="")
    if len(head) > 3 and head[0] and not any(head[1::2]):
        return TextIOWrapper(file, "utf-16-le", newline="")
    if len(head) > 3 and head[1] and not any(head[::2]):
        return TextIOWrapper(file, "utf-16-be", newline="")
    return TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")


def bounded_lines(name: str, file: TextIO) -> Iterator[str]:
    """Yield the lines of a text, none longer than a megabyte. Raises DataError."""
    number = 0
    while line := file.readline(_LINE):
        number += 1
        if len(line) == _LINE:
            raise DataError(f"{name}: line {number}: more than {_LINE:,} characters; is this a list?")
        yield line


def parse_table(name: str, lines: Iterable[str]) -> tuple[list[str], Iterator[Row]]:
    """Return the columns of a text table, and its rows. Raises DataError."""
    numbered = enumerate(lines, 1)
    header, start = "", 0
    for start, header in numbered:  # noqa: B007 (used below)
        if header.strip() and not is_separator_line(header):
            break
    columns, delimiter = split_header(header)
    twice = next((column for column in columns if column and columns.count(column) > 1), None)
    if twice is not None:
        raise DataError(f"{name}: line {start}: two columns {twice!r}; keep one")
    return columns, _rows(name, start, columns, (line for _, line in numbered), delimiter)


def is_separator_line(line: str) -> bool:
    """Return whether a line is ``sep=;``, which Excel writes above the header."""
    return line.lower().startswith("sep=") and len(line.strip()) <= len("sep=;")


def split_header(line: str) -> tuple[list[str], str]:
    """Return the names of the columns in a header, and the delimiter: of several, the one that gives a path."""
    found = []
    for delimiter in DELIMITERS:
        try:
            cells = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])
        except csv.Error:
            cells = []
        columns = [cell.strip().strip("\ufeff\"'").strip().casefold() for cell in cells]
        found.append((columns, delimiter))
    return max(found, key=lambda item: ("path" in item[0], len(item[0])))


def _rows(name: str, start: int, columns: list[str], lines: Iterator[str], delimiter: str) -> Iterator[Row]:
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    while True:
        line = start + reader.line_num + 1
        try:
            cells = [cell.strip() for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            hint = "; is a quotation mark missing?" if "limit" in str(error) else ""
            raise DataError(f"{name}: line {line}: {error}{hint}") from None
        if len(cells) > len(columns) and any(cells[len(columns) :]):
            raise DataError(
                f"{name}: line {line}: {len(cells)} cells where the header has {len(columns)} ({few(cells)}); quote a "
                f"cell that holds {delimiter!r}"
            )
        if any(cells):
            yield line, dict(zip(columns, cells, strict=False))


def _parquet(path: Path) -> tuple[list[str], Iterator[Row]]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        table = ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a parquet file ({str(error).splitlines()[0]})") from None
    names = {name.strip().casefold(): name for name in table.schema_arrow.names}
    wanted = {known: names[known] for known in ("path", "label", "labels", "split") if known in names}

    def rows() -> Iterator[Row]:
        number = 0
        try:
            for batch in table.iter_batches(columns=list(wanted.values())):
                for row in batch.to_pylist():
                    number += 1
                    yield number, {known: row[name] for known, name in wanted.items()}
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{path}: damaged after row {number} ({str(error).splitlines()[0]})") from None

    return list(names), rows()
