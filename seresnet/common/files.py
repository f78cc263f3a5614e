"""Files that are whole or not there: written under a temporary name, flushed to disk, renamed."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import BinaryIO

from seresnet.errors import ConfigError, DiskFullError

log = logging.getLogger("seresnet")

FULL = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name)}


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``path`` that takes its place when the block ends well, and goes when it fails.

    Raises DiskFullError where there is no space for it.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o666 & ~_umask())  # mkstemp makes files that only the owner can read
        Path(temporary).replace(path)
        flush_folder(path.parent)
    except BaseException as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        if disk_full(error):
            raise DiskFullError(f"{path}: no space left on the disk; free some, and do it again") from error
        raise


@contextlib.contextmanager
def growing_file(path: Path) -> Iterator[BinaryIO]:
    """Open ``<name>.<random>.partial`` beside ``path``, which takes its place when the block ends well.

    It stays when the block is cut short, for what is in it; its path is the file's ``name``. Each writer creates its
    own, so that of several with one ``path`` the last one's file is there in the end, whole. A link at ``path`` is
    replaced, not followed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.", suffix=".partial")
    os.close(handle)
    with Path(temporary).open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    Path(temporary).chmod(0o666 & ~_umask())  # mkstemp makes files that only the owner can read
    Path(temporary).replace(path)
    flush_folder(path.parent)


def read_bounded(path: Path, most: int) -> bytes:
    """Return the content of a regular file of at most ``most`` bytes.

    Raises OSError with the reason for what is missing, larger, or not a regular file: a pipe would wait without end,
    and a device such as /dev/zero would fill the memory.
    """
    with open(path, "rb", opener=_opened_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        content = file.read(most + 1)
    if len(content) > most:
        limit = f"{most // 10**6} MB" if most >= 10**6 else f"{most // 1000} kB"
        raise OSError(errno.EINVAL, f"larger than {limit}", str(path))
    return content


def _opened_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def disk_full(error: BaseException | None) -> bool:
    """Return whether a lack of space is behind an error; libraries that write hide it behind errors of their own."""
    while error is not None:
        if isinstance(error, DiskFullError) or (isinstance(error, OSError) and error.errno in FULL):
            return True
        error = error.__cause__ or error.__context__
    return False


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of writers that were killed."""
    for path in folder.glob(".*.tmp"):
        if path.is_file():
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside ``path`` that takes its place when the block ends well, and goes when it fails.

    What is at ``path`` is replaced, with all that is in it.
    """
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
    old = temporary.with_suffix(".old")
    try:
        yield temporary
        for file in temporary.iterdir():
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())
        temporary.chmod(0o777 & ~_umask())
        flush_folder(temporary)
        if path.exists():
            path.rename(old)
        temporary.rename(path)
        flush_folder(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        if old.exists() and not path.exists():
            old.rename(path)
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def check_output_folder(folder: Path, exist_ok: bool = False) -> None:
    """Raise ConfigError where output cannot go into ``folder``: a file, or a folder with something in it."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file: give a folder to write to")
    if not exist_ok and folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty: give another folder, or allow overwriting (--exist-ok)")


def json_text(value: object) -> str:
    """Return indented JSON in UTF-8; names that are not UTF-8 are escaped, so that every reader takes the file."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2)
    return text + "\n"


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


_given_cache: ContextVar[Path | None] = ContextVar("cache_folder", default=None)


@contextlib.contextmanager
def using_cache(folder: str | os.PathLike[str] | None) -> Iterator[None]:
    """Let `cache_folder` return ``folder`` in this block, unless it is None."""
    token = _given_cache.set(_given_cache.get() if folder is None else Path(folder).expanduser())
    try:
        yield
    finally:
        _given_cache.reset(token)


def given_cache() -> Path | None:
    """Return the folder of `using_cache`, or None outside of such a block."""
    return _given_cache.get()


def cache_folder() -> Path | None:
    """Return ``$SERESNET_CACHE``, or the platform's folder for caches; None where a user has no home."""
    if (chosen := given_cache()) is not None:
        return chosen
    if given := os.environ.get("SERESNET_CACHE"):
        return Path(given).expanduser()
    import platformdirs

    try:
        folder = Path(platformdirs.user_cache_dir("seresnet", appauthor=False))
    except RuntimeError:
        return None
    return folder if folder.is_absolute() else None


@contextlib.contextmanager
def locked(path: Path, waiting: str | None = None) -> Iterator[None]:
    """Hold the lock of the file ``path``, which is created; ``waiting`` is logged where another process holds it."""
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if waiting:
            log.warning("%s", waiting)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
