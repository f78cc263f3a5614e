"""Names of files, classes and splits: which are equal, and their order."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from seresnet.common.text import printable
from seresnet.errors import DataError

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}
_SPLIT_OF = {name: split for split, names in SPLITS.items() for name in names}
_ENDS = "/."
_PIECES = re.compile("([0-9]+)|([/.])|([^0-9/.]+)")
_SUFFIX = re.compile(r"[ _-]?(set|data|images|imgs)$")  # training_set, test-images


def nfc(name: str) -> str:
    """Return a name in Unicode's composed form: macOS writes accents decomposed, others do not, and both mean one."""
    return unicodedata.normalize("NFC", name)


def natural_key(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Return what names and paths are sorted by: numbers in them as numbers, and a name before the longer ones.

    So cls, cls2, cls10, and a.jpg, a2.jpg, a10.jpg: the end of a name, of a folder or before a suffix comes first.
    """
    pieces = []
    for number, end, text in _PIECES.findall(name):
        digits = number.lstrip("0")
        pieces.append((1, len(digits), digits) if number else (0, _ENDS.index(end), "") if end else (2, 0, text))
    return pieces, name


def split_named(name: str) -> str | None:
    """Return the split that a folder, a column's cell or a data set's part is called by: "train" for ``Training``."""
    plain = name.strip().casefold()
    return _SPLIT_OF.get(plain) or _SPLIT_OF.get(_SUFFIX.sub("", plain))


def class_names(labels: Iterable[str]) -> tuple[str, ...]:
    """Return the different labels in natural order. Raises DataError where indices among them are negative."""
    names = sorted(set(labels), key=natural_key)
    negative = next((name for name in names if re.fullmatch("-[0-9]+", name)), None)
    if negative is not None and all(re.fullmatch("-?[0-9]+", name) for name in names):
        raise DataError(f"label {negative} is not a class, but marks a hidden or missing one; leave such images out")
    return tuple(names)


def alike(names: Iterable[str]) -> list[tuple[str, str]]:
    """Return pairs of names that differ in case, outer spaces or leading zeros alone: they may mean one class."""
    seen: dict[str, str] = {}
    pairs = []
    for name in names:
        plain = re.sub("(?<![0-9])0+(?=[0-9])", "", name.strip().casefold())
        if plain in seen:
            pairs.append((seen[plain], name))
        seen.setdefault(plain, name)
    return pairs


def shown(text: object, length: int = 60) -> str:
    """Return a cell or a name as messages show it: without control characters, and not longer than they need."""
    return printable(str(text)[:length]) + ("..." if len(str(text)) > length else "")


def few(names: Iterable[str]) -> str:
    """Return the first five names, and how many more there are."""
    known = [shown(name) for name in names]
    return ", ".join(known[:5]) + (f" and {len(known) - 5} more" if len(known) > 5 else "")
