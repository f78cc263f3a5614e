"""Files that are whole or not there: written under a temporary name, flushed to disk, renamed."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``path`` that takes its place when the block ends well, and goes when it fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o666 & ~_umask())  # mkstemp makes files that only the owner can read
        Path(temporary).replace(path)
        flush_folder(path.parent)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text; the previous file stays until the new one is whole."""
    with atomic_file(path) as file:
        file.write(text.encode("utf-8", "surrogateescape"))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def flush_folder(folder: Path) -> None:
    """Flush the folder's own entry, so that the rename survives a power cut; Windows has no such call."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def cache_folder() -> Path | None:
    """Return ``$SERESNET_CACHE``, or this platform's place for caches; None where a user has no home."""
    if given := os.environ.get("SERESNET_CACHE"):
        return Path(given).expanduser()
    try:
        if sys.platform == "win32":
            return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "seresnet" / "cache"
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches" / "seresnet"
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "seresnet"
    except RuntimeError:
        return None
