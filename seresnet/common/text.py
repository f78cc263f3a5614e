"""Text on one line: names from the file system and errors of libraries, made harmless for terminals and logs."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Iterable

LONGEST_ERROR = 160  # characters of another library's message


def printable(text: str) -> str:
    r"""Return one line without control characters: they become \n, \x1b, and undecodable bytes \xff.

    File names and labels may hold line ends, terminal escape sequences, characters that turn the direction of text,
    and bytes that are not UTF-8.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or unicodedata.category(c) == "Zs" else _escaped(c) for c in text)


def one_line(error: BaseException, longest: int = LONGEST_ERROR) -> str:
    """Return the message of an error on one line, cut to ``longest`` characters; its class where it has none."""
    return short(str(error), longest) or type(error).__name__


def short(text: str, longest: int = 80) -> str:
    """Return text on one printable line, cut to ``longest`` characters."""
    text = printable(" ".join(text[: 4 * longest].split()))
    return text if len(text) <= longest else text[: longest - 1] + "…"


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Return rows as CSV (RFC 4180, but with line feeds)."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # os.fsdecode's stand-in for one undecodable byte
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
