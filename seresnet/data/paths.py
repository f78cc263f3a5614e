"""From what a user names (files, folders, globs, lists, archives, shards) to images, lazily and in order."""

from __future__ import annotations

import glob
import io
import os
import sys
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path
from typing import TextIO

from seresnet.data.archives import is_archive, unpack
from seresnet.data.dataset import StoredImage
from seresnet.data.lists import SUFFIXES as LISTS
from seresnet.data.lists import is_list, listed_images
from seresnet.data.names import natural_key
from seresnet.data.shard_files import find_shards, holds_shards, is_pattern
from seresnet.data.shards import is_shard, shard_images
from seresnet.data.tables import bounded_lines, decoded, is_separator_line, parse_table, split_header
from seresnet.data.walk import Walk, is_image_file

Image = str | StoredImage


def expand(sources: Iterable[str | Path], stdin: TextIO | None = None) -> Iterator[Image]:
    """Yield one image after another for ``sources``, each of them a file, a folder, a glob, a data set, or ``-``.

    A file is yielded whatever its name, unless it is a list (``.csv``, ``.tsv``, ``.parquet``), an archive or a shard:
    then the images in it are. A folder gives the images below it, as `seresnet.data.walk` lists them, or those of its
    shards; a glob its matches; ``-`` the paths that ``stdin`` lists, one a line, or in a column ``path``. Memory holds
    the names of one folder at each level, never the whole list. What does not exist, or holds no image, is yielded as
    it was named, so that decoding it fails with a reason and it is not lost.
    """
    names = [os.fspath(source) for source in sources]
    for source in names:
        if source == "-":
            for path in _lines(stdin if stdin is not None else sys.stdin):
                yield from _file_or_folder(path)
        elif glob.has_magic(source) and not os.path.lexists(source):
            yield from _matches(source)
        elif is_pattern(source):
            yield from shard_images(find_shards(source))
        else:
            yield from _opened(source, alone=len(names) == 1)


def _opened(source: str, alone: bool) -> Iterator[Image]:
    """Yield the images of a list, an archive or shards; else the file or the folder's images.

    Among other sources, as ``photos/*`` gives them, a table without paths is a file like others.
    """
    path = Path(source)
    try:
        kind = path.suffix.lower() if path.is_file() and not is_image_file(path) else ""
    except ValueError:  # a NUL in the name
        kind = ""
    if kind in LISTS and (alone or is_list(path)):
        yield from map(str, listed_images(path))
    elif kind and is_archive(path):
        if kind == ".tar" and is_shard(path):
            yield from shard_images([path])
        else:
            yield from _file_or_folder(os.fspath(unpack(path)))
    elif "\0" not in source and holds_shards(path):
        yield from shard_images(find_shards(source))
    else:
        yield from _file_or_folder(source)


def _lines(stdin: TextIO) -> Iterator[str]:
    """Yield the paths that a text lists: its lines, or where it begins with a header, the cells of column ``path``."""
    if isinstance(stdin, io.TextIOWrapper):
        text = decoded(stdin.buffer)
        try:
            yield from _listed(text)
        finally:
            text.detach()  # or the caller's stdin would be closed with it
    else:
        yield from _listed(stdin)


def _listed(text: TextIO) -> Iterator[str]:
    lines = bounded_lines("stdin", text)
    first = next(lines, "").removeprefix("\ufeff")
    if is_separator_line(first) and not os.path.lexists(first.strip()):
        first = next(lines, "")
    columns = split_header(first)[0]
    if "path" in columns and len(columns) > 1 and not os.path.lexists(first.strip()):
        for _, cells in parse_table("stdin", chain([first], lines))[1]:
            if path := cells.get("path"):
                yield _existing(path)
        return
    for line in chain([first], lines):
        if path := line.rstrip("\r\n"):
            yield _existing(path)


def _existing(path: str) -> str:
    """Return a path as it is, or where there is no such file, without quotes and spaces around it, and with slashes."""
    if os.path.lexists(path):
        return path
    plain = path.strip()
    if plain[:1] == plain[-1:] and plain[:1] in ("'", '"'):
        plain = plain[1:-1]
    for other in (plain, plain.replace("\\", "/")):
        if os.path.lexists(other):
            return other
    return path


def _matches(pattern: str) -> Iterator[Image]:
    """Yield what a glob matches, in natural order; or shards; or the pattern itself where nothing does."""
    parts = pattern.split("/")
    found: Iterator[Image]
    if "**" in parts:
        found = _matches_at_any_depth(parts)
    else:
        names = sorted(glob.iglob(pattern), key=natural_key)  # noqa: PTH207
        found = chain.from_iterable(map(_file_or_folder, names))
    first = next(found, None)
    if first is None and is_pattern(pattern):
        yield from shard_images(find_shards(pattern))
        return
    yield pattern if first is None else first
    yield from found


def _matches_at_any_depth(parts: list[str]) -> Iterator[str]:
    """Yield the files that match a pattern with ``**``, which stands for any number of folders (images, at the end)."""
    depth = parts.index("**")
    base, below = "/".join(parts[:depth]) or ("/" if depth else "."), parts[depth:]
    folders = sorted(glob.iglob(base), key=natural_key) if glob.has_magic(base) else [base]  # noqa: PTH207
    for folder in folders:
        start = "" if depth == 0 else os.path.join(folder, "")  # noqa: PTH118
        walk = Walk(folder)
        for path in walk.images(folder) if below[-1] == "**" else walk.files(folder):
            shown = path[2:] if depth == 0 else path  # no "./" where the pattern had none
            if _matches_parts(shown[len(start) :].split("/"), below) or os.path.isdir(shown):  # noqa: PTH112 (unlistable)
                yield shown


def _matches_parts(names: list[str], parts: list[str]) -> bool:
    """Return whether the parts of a path match the parts of a pattern."""
    if not parts:
        return not names
    if parts[0] == "**":
        return parts == ["**"] or _matches_parts(names, parts[1:]) or (bool(names) and _matches_parts(names[1:], parts))
    return bool(names) and fnmatchcase(names[0], parts[0]) and _matches_parts(names[1:], parts[1:])


def _file_or_folder(path: str) -> Iterator[str]:
    if not os.path.isdir(path):  # noqa: PTH112 (False, not an error, for a name that holds a NUL)
        yield path
        return
    found = False
    for image in Walk(path).images(path):
        found = True
        yield image
    if not found:
        yield path
