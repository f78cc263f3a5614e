"""Images copied or linked into folders by their predicted class. Nothing is overwritten, and names are kept."""

from __future__ import annotations

import filecmp
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from seresnet.common.files import disk_full
from seresnet.data.decode import encoded
from seresnet.errors import ConfigError, DiskFullError
from seresnet.inference.prediction import Prediction

UNKNOWN = "unknown"  # the folder of images whose best probability is below the threshold
MOST_NAMES = 100_000  # that are tried for one image
LONGEST_NAME = 255  # bytes of a file's name on the usual file systems
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # by Windows


class ImageSorter:
    """Puts each image into the folder of its most probable class.

    - `folder`: where the class folders are made.
    - `threshold`: the least probability, 0 to 1; below it an image goes into ``unknown``.
    - `link`: make symbolic links in place of copies.
    """

    def __init__(self, folder: Path, labels: Sequence[str], threshold: float | None = None, link: bool = False) -> None:
        if threshold is not None and not 0 <= threshold <= 1:
            raise ConfigError(f"threshold must lie between 0 and 1, not {threshold}")
        self.folder, self.threshold, self.link = folder, threshold, link
        self.names = folder_names(labels, (UNKNOWN,) if threshold is not None else ())
        self.counts: dict[str, int] = {}

    def put(self, source: Any, prediction: Prediction) -> Path | None:
        """Copy or link an image, and return where; None for one without a prediction."""
        if prediction.error is not None:
            return None
        below = self.threshold is not None and prediction.probabilities[0] < self.threshold
        name = UNKNOWN if below else self.names[prediction.indices[0]]
        self.counts[name] = self.counts.get(name, 0) + 1
        return place(source, self.folder / name, link=self.link)


def folder_names(labels: Sequence[str], taken: Sequence[str] = ()) -> list[str]:
    """Return a folder's name for each class: its label without what file systems refuse, each name once."""
    used = {name.casefold() for name in taken}
    names = []
    for index, label in enumerate(labels):
        plain = re.sub(r'[\x00-\x1f\x7f-\x9f/\\:*?"<>|]', "_", label).strip(" .")
        name = shortened(plain, 200) if plain and not RESERVED.fullmatch(plain) else f"class {index}"
        if name.casefold() in used:
            name = f"{name} ({index})"
        used.add(name.casefold())
        names.append(name)
    return names


def place(source: Any, folder: Path, link: bool = False) -> Path:
    """Copy or link an image into a folder under its own name; return its path there.

    Where another file has that name, a number is added: ``cat (2).jpg``. The same image is there only once. Raises
    DiskFullError, and ConfigError where nothing can be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(source, str | os.PathLike):
            return _place_file(Path(os.fspath(source)), folder, link)
        return write_new(folder, str(getattr(source, "key", "image")), encoded(source))
    except OSError as error:
        raise cannot_write(folder, error) from error


def write_new(folder: Path, name: str, content: bytes) -> Path:
    """Write a file that is not there yet, under its name or with a number added; the same content is not repeated."""
    for path in _names(folder, Path(name).name):
        try:
            with path.open("xb") as file:  # fails where something is there, also for a link to nowhere
                try:
                    file.write(content)
                    file.flush()
                except BaseException:
                    path.unlink(missing_ok=True)
                    raise
            return path
        except FileExistsError:
            if path.is_file() and not path.is_symlink() and path.read_bytes() == content:
                return path
    raise ConfigError(f"{folder}: too many files are called {name}")


def _place_file(source: Path, folder: Path, link: bool) -> Path:
    for path in _names(folder, source.name):
        try:
            if link:
                path.symlink_to(source.absolute())
                return path
            return _copied(source, path)
        except FileExistsError:
            if _is_same(source, path, link):
                return path
    raise ConfigError(f"{folder}: too many files are called {source.name}")


def _copied(source: Path, path: Path) -> Path:
    with source.open("rb") as original, path.open("xb") as copy:
        try:
            while block := original.read(2**20):
                copy.write(block)
            copy.flush()
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    return path


def _is_same(source: Path, path: Path, link: bool) -> bool:
    if link or path.is_symlink():
        return link and path.is_symlink() and path.readlink() == source.absolute()
    return path.is_file() and filecmp.cmp(source, path, shallow=False)


def _names(folder: Path, name: str) -> Iterator[Path]:
    """Yield paths under which a file may be placed: its own name, then numbered ones."""
    stem, suffix = os.path.splitext(name or "image")  # noqa: PTH122
    yield folder / shortened(name or "image", LONGEST_NAME)
    for number in range(2, MOST_NAMES):
        ending = f" ({number}){suffix}"
        yield folder / (shortened(stem, LONGEST_NAME - len(os.fsencode(ending))) + ending)


def shortened(name: str, most: int) -> str:
    """Return a name of at most ``most`` bytes."""
    while len(os.fsencode(name)) > most:
        name = name[:-1]
    return name


def cannot_write(folder: Path, error: OSError) -> ConfigError | DiskFullError:
    """Return the error for a folder that cannot be written to."""
    if isinstance(error, DiskFullError) or disk_full(error):
        return DiskFullError(f"{folder}: no space left on the disk; free some, and run it again")
    return ConfigError(f"{error.filename or folder}: {(error.strerror or str(error)).lower()}: choose another folder")
