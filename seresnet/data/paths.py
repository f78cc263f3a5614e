"""From what a user names (files, folders, globs, a list on stdin) to the paths of images, lazily and in order."""

from __future__ import annotations

import glob
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path
from typing import TextIO

from seresnet.data.folder import EXTENSIONS


def expand(sources: Iterable[str | Path], stdin: TextIO | None = None) -> Iterator[str]:
    """Yield one path after another for ``sources``, each of them a file, a folder, a glob, or ``-``.

    A file is yielded whatever its name, a folder gives the images below it (by extension, in sorted order, hidden ones
    left out), a glob its sorted matches, ``-`` the paths that ``stdin`` lists, one a line, files or folders. Memory
    holds the names of one folder at each level, never the whole list. What does not exist, or holds no image, is
    yielded as it was named, so that decoding it fails with a reason and it is not lost.
    """
    for given in sources:
        source = os.fspath(given)
        if source == "-":
            for path in _lines(stdin if stdin is not None else sys.stdin):
                yield from _file_or_folder(path)
        elif glob.has_magic(source) and not os.path.lexists(source):
            yield from _matches(source)
        else:
            yield from _file_or_folder(source)


def _lines(stdin: TextIO) -> Iterator[str]:
    if isinstance(stdin, io.TextIOWrapper):
        stdin.reconfigure(errors="surrogateescape")  # file names need not be UTF-8
    for line in stdin:
        if path := line.rstrip("\r\n"):
            yield path


def _matches(pattern: str) -> Iterator[str]:
    """Yield what a glob matches, in sorted order, or the pattern itself where nothing does."""
    parts = pattern.split("/")
    if "**" in parts:
        found = _matches_at_any_depth(parts)
    else:
        found = chain.from_iterable(map(_file_or_folder, sorted(glob.iglob(pattern))))  # noqa: PTH207
    first = next(found, None)
    yield pattern if first is None else first
    yield from found


def _matches_at_any_depth(parts: list[str]) -> Iterator[str]:
    """Yield the files that match a pattern with ``**``, which stands for any number of folders (images, at the end)."""
    depth = parts.index("**")
    base, below = "/".join(parts[:depth]) or ("/" if depth else "."), parts[depth:]
    keep = _is_image if below[-1] == "**" else _is_any
    folders = sorted(glob.iglob(base)) if glob.has_magic(base) else [base]  # noqa: PTH207
    for folder in folders:
        start = "" if depth == 0 else os.path.join(folder, "")  # noqa: PTH118
        for path in files_below(folder, keep):
            shown = path[2:] if depth == 0 else path  # no "./" where the pattern had none
            if _fits(shown[len(start) :].split("/"), below) or os.path.isdir(shown):  # noqa: PTH112 (not listable)
                yield shown


def _fits(names: list[str], parts: list[str]) -> bool:
    """Tell whether the parts of a path match the parts of a pattern."""
    if not parts:
        return not names
    if parts[0] == "**":
        return parts == ["**"] or _fits(names, parts[1:]) or (bool(names) and _fits(names[1:], parts))
    return bool(names) and fnmatchcase(names[0], parts[0]) and _fits(names[1:], parts[1:])


def _file_or_folder(path: str) -> Iterator[str]:
    if not os.path.isdir(path):  # noqa: PTH112 (False, not an error, for a name that holds a NUL)
        yield path
        return
    found = False
    for image in files_below(path):
        found = True
        yield image
    if not found:
        yield path


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in EXTENSIONS  # noqa: PTH122


def _is_any(_: str) -> bool:
    return True


def files_below(
    folder: str, keep: Callable[[str], bool] = _is_image, above: tuple[tuple[int, int], ...] = ()
) -> Iterator[str]:
    """Yield the files below ``folder`` whose names ``keep`` accepts, in sorted order, without hidden ones.

    A folder that cannot be listed is yielded itself. Links are followed, except to a folder ``above`` (device and
    inode), which would never end.
    """
    try:
        status = os.stat(folder)  # noqa: PTH116
        here = (status.st_dev, status.st_ino)
        if here in above:
            return
        with os.scandir(folder) as entries:
            shown = (entry for entry in entries if not entry.name.startswith("."))
            marked = ((entry.name + "/") if entry.is_dir() else entry.name for entry in shown)
            names = sorted(name for name in marked if name.endswith("/") or keep(name))
    except OSError:
        yield folder
        return
    for name in names:
        path = os.path.join(folder, name)  # noqa: PTH118 (Path would cost more than the listing)
        if name.endswith("/"):
            yield from files_below(path[:-1], keep, (*above, here))
        else:
            yield path
