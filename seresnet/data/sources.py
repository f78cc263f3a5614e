"""From what a user names (files, folders, globs, a list on stdin) to the paths of images, lazily and in order."""

from __future__ import annotations

import glob
import io
import os
import sys
from collections.abc import Iterable, Iterator
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
    """Yield what a glob matches; ``**`` reaches into folders by itself, so the folders that it matches add nothing."""
    recursive, only_images = "**" in pattern, pattern.endswith("**")
    found = False
    for path in sorted(glob.iglob(pattern, recursive=True)):  # noqa: PTH207
        if recursive and (os.path.isdir(path) or (only_images and not _is_image(path))):  # noqa: PTH112
            continue
        found = True
        yield from _file_or_folder(path)
    if not found:
        yield pattern


def _file_or_folder(path: str) -> Iterator[str]:
    if not os.path.isdir(path):  # noqa: PTH112 (False, not an error, for a name that holds a NUL)
        yield path
        return
    found = False
    for image in images_below(path):
        found = True
        yield image
    if not found:
        yield path


def images_below(folder: str, above: tuple[tuple[int, int], ...] = ()) -> Iterator[str]:
    """Yield the images below ``folder`` in sorted order; a folder that cannot be listed is yielded itself.

    Links are followed, except to a folder ``above`` (device and inode), which would never end.
    """
    try:
        status = os.stat(folder)  # noqa: PTH116
        here = (status.st_dev, status.st_ino)
        if here in above:
            return
        with os.scandir(folder) as entries:
            names = sorted(
                entry.name + "/" * entry.is_dir()
                for entry in entries
                if not entry.name.startswith(".") and (_is_image(entry.name) or entry.is_dir())
            )
    except OSError:
        yield folder
        return
    for name in names:
        path = os.path.join(folder, name)  # noqa: PTH118 (Path would cost more than the listing)
        if name.endswith("/"):
            yield from images_below(path[:-1], (*above, here))
        else:
            yield path


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in EXTENSIONS  # noqa: PTH122
