"""The one walk over folders: which files count, in which order, and that it ends.

Folders of classes, `predict`, `pack`, archives and calibration images are all listed by it, so that all see the same
images. Hidden files and those that operating systems leave behind are ignored at every depth. A file with the suffix of
a plain side file (notes, lists, annotations) counts only where its content is an image; every other file counts as an
image, and where it is none, decoding it says so. Links are followed, each real folder is visited once.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from seresnet.data.names import natural_key
from seresnet.data.sniff import HEAD_BYTES, identify
from seresnet.errors import ImageError

# Suffixes of files that are images as a rule (content decides), and of notes, lists and annotations beside them.
IMAGE_SUFFIXES = frozenset(
    f".{x}"
    for x in "jpg jpeg jpe jfif png webp gif bmp tif tiff avif ppm pgm pbm pnm".split()  # noqa: SIM905
)
SIDE_SUFFIXES = frozenset(
    f".{x}"
    for x in "txt md csv tsv json xml yaml yml html htm log py pdf db".split()  # noqa: SIM905
)
# What macOS, Windows, Synology, QNAP, Linux and Python leave behind.
_SYSTEM = frozenset(
    {"__macosx", "icon\r", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "$recycle.bin"}
    | {"system volume information", "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot"}
    | {"lost+found", "__pycache__"}
)
_PREFIXES = (".", "SYNOFILE_THUMB", "SYNOPHOTO_THUMB", "~$")


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is hidden, or an operating system's own."""
    return name.startswith(_PREFIXES) or name.casefold() in _SYSTEM


def suffix_of(name: str) -> str:
    """Return the suffix of a file's name in lower case."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 (Path would cost more than the listing)


def is_side_file(path: str) -> bool:
    """Return whether a file lies beside images without being one, by its suffix and its content."""
    return suffix_of(path) in SIDE_SUFFIXES and not is_image_file(path)


def is_image_file(path: str | os.PathLike[str]) -> bool:
    """Return whether a file begins as an image that can be decoded."""
    return why_not_image(path) is None


def why_not_image(path: str | os.PathLike[str]) -> str | None:
    """Return the reason why the first bytes of a file are not those of an image; None where they are."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 (opening a pipe would wait)
            return "not a regular file"
        with Path(path).open("rb", buffering=0) as file:
            identify(file.read(HEAD_BYTES))
    except ImageError as error:
        return str(error)
    except (OSError, ValueError) as error:
        return (getattr(error, "strerror", None) or str(error)).lower()
    return None


@dataclass
class Listing:
    """What lies directly in a folder, in natural order: names without what is hidden."""

    folders: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)


def list_folder(folder: str | os.PathLike[str]) -> Listing:
    """List a folder. Raises OSError."""
    found = Listing()
    with os.scandir(folder) as entries:
        for entry in entries:
            if not is_hidden(entry.name):
                (found.folders if entry.is_dir() else found.files).append(entry.name)
    found.folders.sort(key=natural_key)
    found.files.sort(key=natural_key)
    return found


class Walk:
    """One pass over folders below ``root``; ``side_files`` counts those that were ignored, by suffix."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.path.realpath(root)
        self.side_files: Counter[str] = Counter()
        self._seen: set[tuple[int, int]] = set()
        for above in Path(self.root).parents:  # a link to a folder above would bring the whole walk again
            self._enter(os.fspath(above))

    def images(self, folder: str | os.PathLike[str] | None = None) -> Iterator[str]:
        """Yield the files that count as images below ``folder`` (all of the root), in natural order of their paths.

        A folder that cannot be listed, and a link to nothing, are yielded too: decoding them gives the reason.
        """
        return self.files(folder, self._is_candidate)

    def files(
        self, folder: str | os.PathLike[str] | None = None, keep: Callable[[str], bool] | None = None
    ) -> Iterator[str]:
        """Yield the files below ``folder`` that ``keep`` accepts by their paths, in natural order."""
        start = self.root if folder is None else os.fspath(folder)
        stack = [iter([start.rstrip("/") + "/"])]
        while stack:
            path = next(stack[-1], None)
            if path is None:
                stack.pop()
            elif not path.endswith("/"):
                if keep is None or keep(path):
                    yield path
            elif self._enter(path):
                try:
                    stack.append(iter(self._entries(path)))
                except OSError:
                    yield path.rstrip("/") or "/"

    def _entries(self, folder: str) -> list[str]:
        """Return the paths in a folder, those of folders with a slash at the end."""
        with os.scandir(folder) as entries:
            shown = [entry for entry in entries if not is_hidden(entry.name)]
        marked = [(entry.name + "/" if entry.is_dir() else entry.name, entry) for entry in shown]
        marked.sort(key=lambda item: natural_key(item[0]))
        return [folder + name for name, entry in marked if not (name.endswith("/") and self._is_inner_link(entry))]

    def _is_inner_link(self, entry: os.DirEntry[str]) -> bool:
        """Return whether a folder is a link to one that the walk reaches by its own name."""
        if not entry.is_symlink():
            return False
        target = os.path.realpath(entry.path)
        below = os.path.relpath(target, self.root)
        return below == "." or not any(is_hidden(part) for part in Path(below).parts)

    def _enter(self, folder: str) -> bool:
        """Note a folder as visited; return whether it is new."""
        try:
            status = os.stat(folder)  # noqa: PTH116
        except (OSError, ValueError):
            return True  # listing it gives the reason
        key = status.st_dev, status.st_ino
        new = key not in self._seen
        self._seen.add(key)
        return new

    def _is_candidate(self, path: str) -> bool:
        if not is_side_file(path):
            return True
        self.side_files[suffix_of(path)] += 1
        return False


def describe_side_files(count: Counter[str]) -> str:
    """Return "3 side files (.txt, .xml)"."""
    total = sum(count.values())
    return f"{total:,} side file{'' if total == 1 else 's'} ({', '.join(sorted(count))})"
