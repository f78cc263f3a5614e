"""Text for terminals: names from the file system made harmless."""

from __future__ import annotations

STDIN = "\0-"  # how a lone "-" reaches a verb; no argument of a process can hold a NUL


def printable(text: str) -> str:
    r"""Return one line without control characters: they become \n, \x1b, and undecodable bytes \xff.

    File names may hold line ends, terminal escape sequences, and bytes that are not UTF-8.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # os.fsdecode's stand-in for one undecodable byte
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
