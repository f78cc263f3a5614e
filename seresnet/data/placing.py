"""Files placed in folders under their own names: nothing is overwritten, and collisions get a number."""

from __future__ import annotations

import filecmp
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from seresnet.common.files import disk_full
from seresnet.data.decode import encoded
from seresnet.errors import ConfigError, DiskFullError

MOST_NAMES = 100_000  # that are tried for one file
LONGEST_NAME = 255  # bytes of a file's name on the usual file systems
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # by Windows


class Placer:
    """Places files, each under its own name or, where another file has it, with a number: ``cat (2).jpg``.

    A run that is repeated finds its files in place and adds none; two images of one run have two files, also where they
    are alike.
    """

    def __init__(self) -> None:
        self.placed: set[Path] = set()  # by this run

    def copy(self, source: Any, folder: Path, link: bool = False) -> Path:
        """Copy an image into a folder, or link to it; return its path there.

        Raises DiskFullError, ConfigError where the folder cannot be written to, ImageError for an image that is gone.
        """
        if not isinstance(source, str | os.PathLike):
            return self.write(folder, str(getattr(source, "key", "image")), encoded(source))
        original = Path(os.fspath(source))
        if link:
            target = original.absolute()
            return self._new(
                folder,
                original.name,
                lambda path: path.symlink_to(target),
                lambda path: path.is_symlink() and path.readlink() == target,
            )
        return self._new(
            folder,
            original.name,
            lambda path: _copy(original, path),
            lambda path: _is_file(path) and filecmp.cmp(original, path, shallow=False),
        )

    def write(self, folder: Path, name: str, content: bytes) -> Path:
        """Write a new file with a content into a folder, and return its path."""
        return self._new(
            folder,
            Path(name).name,
            lambda path: _write(content, path),
            lambda path: _is_file(path) and path.read_bytes() == content,
        )

    def _new(self, folder: Path, name: str, create: Callable[[Path], object], is_same: Callable[[Path], bool]) -> Path:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for path in _names(folder, name or "image"):
                try:
                    create(path)  # fails where something is there, also for a link to nowhere
                except FileExistsError:
                    if path in self.placed or not is_same(path):
                        continue
                self.placed.add(path)
                return path
        except OSError as error:
            raise _cannot_write(folder, error) from error
        raise ConfigError(f"{folder}: too many files are called {name}")


def folder_names(labels: Sequence[str], taken: Sequence[str] = ()) -> list[str]:
    """Return a folder's name for each class: its label without what file systems refuse, each name once."""
    used = {name.casefold() for name in taken}
    names = []
    for index, label in enumerate(labels):
        plain = shortened(re.sub(r'[\x00-\x1f\x7f-\x9f/\\:*?"<>|]', "_", label), 200).strip(" .")
        name = plain if plain and not RESERVED.fullmatch(plain) else f"class {index}"
        if name.casefold() in used:
            name = f"{name} ({index})"
        used.add(name.casefold())
        names.append(name)
    return names


def shortened(name: str, most: int) -> str:
    """Return a name of at most ``most`` bytes."""
    while len(os.fsencode(name)) > most:
        name = name[:-1]
    return name


def _names(folder: Path, name: str) -> Iterator[Path]:
    """Yield paths under which a file may be placed: its own name, then numbered ones."""
    stem, suffix = os.path.splitext(name)  # noqa: PTH122
    yield folder / shortened(name, LONGEST_NAME)
    for number in range(2, MOST_NAMES):
        ending = f" ({number}){suffix}"
        yield folder / (shortened(stem, LONGEST_NAME - len(os.fsencode(ending))) + ending)


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _copy(original: Path, path: Path) -> None:
    with original.open("rb") as source, path.open("xb") as copy:
        try:
            while block := source.read(2**20):
                copy.write(block)
            copy.flush()
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def _write(content: bytes, path: Path) -> None:
    with path.open("xb") as file:
        try:
            file.write(content)
            file.flush()
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def _cannot_write(folder: Path, error: OSError) -> ConfigError | DiskFullError:
    if disk_full(error):
        return DiskFullError(f"{folder}: no space left on the disk; free some, and run it again")
    return ConfigError(f"{error.filename or folder}: {(error.strerror or str(error)).lower()}: choose another folder")
