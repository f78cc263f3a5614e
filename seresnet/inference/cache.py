"""Converted models on disk, so that a model's second use needs neither a conversion nor torch.

An entry is a folder named by the hash of all that decides what is in it. It is written under another name, flushed to
disk and renamed when it is whole: processes that make the same entry at once do not disturb each other, and the first
one's stays. An entry that is damaged in any way is deleted, and made anew by whoever wanted it. Where the cache cannot
be written, or others could write to it, everything works without it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seresnet.common.files import cache_folder, flush_folder, write_text
from seresnet.common.machine import usable_cores
from seresnet.common.text import one_line
from seresnet.errors import ConfigError

FORMAT = 3  # of an entry; part of every key
PART = 4 * 2**20  # bytes of a file that are hashed by one thread
LIMIT = 2 * 2**30  # bytes
LARGEST = 8 * 2**30  # bytes of a file that is hashed; a sparse file of 100 GB would take minutes
LEFT_BEHIND_SECONDS = 3600.0  # after which an unfinished entry counts as that of a dead process
ENTRY = "entry.json"
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}

log = logging.getLogger("seresnet")


@dataclass(frozen=True)
class Entry:
    """A folder of the cache, with what was noted of it when it was made."""

    folder: Path
    facts: dict[str, Any]
    digests: dict[str, str]  # of each file, by its name

    def is_whole(self) -> bool:
        """Return whether the folder holds the files that were written, and nothing else."""
        try:
            names = {path.name for path in self.folder.iterdir()} - {ENTRY}
            if names != set(self.digests):
                return False
            return all(digest_of(self.folder / name) == digest for name, digest in self.digests.items())
        except OSError:
            return False


class Cache:
    """A folder of entries, bounded in size: the ones that were not used for longest go first.

    ``folder`` and ``limit`` (bytes; 0 keeps nothing) are the environment's where they are not given.
    """

    def __init__(self, folder: Path | None = None, limit: int | None = None) -> None:
        base = cache_folder() if folder is None else folder
        self.folder = None if base is None else base / "models"
        self.limit = cache_limit() if limit is None else limit
        if self.folder is not None and (reason := not_ours(self.folder)):
            log.warning("the cache is not used: %s; set SERESNET_CACHE to a folder that only you can write to", reason)
            self.folder = None

    def find(self, key: str) -> Entry | None:
        """Return an entry, and note that it was used; None where there is none that can be read."""
        if self.folder is None or not self.limit:
            return None
        folder = self.folder / key
        try:
            entry = _read_notes(folder)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            self.discard(key)
            return None
        with contextlib.suppress(OSError):
            os.utime(folder / ENTRY)
        return entry

    def store(self, key: str, write: Callable[[Path], None], facts: Mapping[str, Any]) -> Entry | None:
        """Make an entry of the files that ``write`` puts into an empty folder; return it, or another process' own.

        None, with one line of warning, where it cannot be written, and without where it is larger than the cache.
        """
        if self.folder is None or not self.limit:
            return None
        try:
            make_private(self.folder)
            with tempfile.TemporaryDirectory(dir=self.folder, prefix=".new-", ignore_cleanup_errors=True) as temporary:
                made = Path(temporary, "entry")
                made.mkdir()
                write(made)
                if size_of(made) > self.limit:
                    log.info("a model of %d MB is larger than the cache", size_of(made) // 2**20)
                    return None
                seal(made, facts)
                self._take_in(made, key)
        except (OSError, RuntimeError) as error:  # OpenVINO has RuntimeError for a disk that is full
            reason = getattr(error, "strerror", None) or one_line(error)
            log.warning("the cache in %s cannot be written (%s): going on without it", self.folder, reason)
            return None
        self._trim(keep=key)
        return self.find(key)

    def _take_in(self, made: Path, key: str) -> None:
        """Give a finished folder its name, unless another process was quicker."""
        assert self.folder is not None
        try:
            made.rename(self.folder / key)
        except OSError:
            if self.find(key) is None:  # what stands there is no entry
                self.discard(key)
                made.rename(self.folder / key)
        flush_folder(self.folder)

    def discard(self, key: str) -> None:
        """Delete an entry; who is reading it may notice that files are missing, but never sees others."""
        assert self.folder is not None
        with contextlib.suppress(OSError):
            gone = Path(tempfile.mkdtemp(dir=self.folder, prefix=".old-"))
            with contextlib.suppress(OSError):
                (self.folder / key).rename(gone / key)
            shutil.rmtree(gone, ignore_errors=True)

    def entries(self) -> list[tuple[str, float, int]]:
        """Return key, time of the last use and size in bytes of each entry, the one not used for longest first."""
        found = []
        for folder in self._folders():
            with contextlib.suppress(OSError):
                found.append((folder.name, (folder / ENTRY).stat().st_mtime, size_of(folder)))
        return sorted(found, key=lambda row: row[1])

    def clear(self) -> int:
        """Delete every entry, and return how many there were."""
        keys = [key for key, _, _ in self.entries()]
        for key in keys:
            self.discard(key)
        self._remove_left_behind(0.0)
        return len(keys)

    def _folders(self, hidden: bool = False) -> Iterator[Path]:
        with contextlib.suppress(OSError):
            if self.folder is not None:
                yield from (path for path in self.folder.iterdir() if path.name.startswith(".") == hidden)

    def _trim(self, keep: str) -> None:
        """Discard what was not used for longest, until the rest is within the limit."""
        self._remove_left_behind(LEFT_BEHIND_SECONDS)
        rows = self.entries()
        total = sum(size for _, _, size in rows)
        for key, _, size in rows:
            if total > self.limit and key != keep:
                self.discard(key)
                total -= size

    def _remove_left_behind(self, seconds: float) -> None:
        for folder in self._folders(hidden=True):
            with contextlib.suppress(OSError):
                if folder.name.startswith((".new-", ".old-")) and time.time() - folder.stat().st_mtime > seconds:
                    shutil.rmtree(folder, ignore_errors=True)


def _read_notes(folder: Path) -> Entry:
    """Return an entry by what was noted of it. Raises ValueError, or another error, where the notes are damaged."""
    noted = json.loads((folder / ENTRY).read_text(encoding="utf-8"))
    if noted.pop("sha256") != _notes_digest(noted):
        raise ValueError("not what was written")
    return Entry(folder, dict(noted["facts"]), {str(k): str(v) for k, v in noted["digests"].items()})


def seal(folder: Path, facts: Mapping[str, Any]) -> None:
    """Note the facts and each file's hash in a folder, with the notes' own hash, and flush all of it to disk."""
    digests = {}
    for path in sorted(folder.iterdir()):
        digests[path.name] = digest_of(path)
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    noted = {"digests": digests, "facts": facts}
    write_text(folder / ENTRY, json.dumps({**noted, "sha256": _notes_digest(noted)}))


def _notes_digest(noted: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(noted, sort_keys=True).encode()).hexdigest()


def key_of(facts: Mapping[str, Any]) -> str:
    """Return the name of an entry: a hash of plain values that decide what is in it."""
    text = json.dumps({"format": FORMAT, **facts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def digest_of(path: Path) -> str:
    """Return a hash of a file: the SHA-256 of its parts' SHA-256s, computed on all cores. Raises OSError."""
    if (size := path.stat().st_size) > LARGEST:
        raise OSError(errno.EINVAL, "more bytes than any model's file", str(path))
    starts = range(0, size, PART)
    with ThreadPoolExecutor(usable_cores(), thread_name_prefix="seresnet-hash") as pool:
        parts = pool.map(lambda start: _digest_of_part(path, start), starts)
        return hashlib.sha256(b"".join(parts)).hexdigest()


def _digest_of_part(path: Path, start: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return hashlib.sha256(file.read(PART)).digest()


def make_private(folder: Path) -> None:
    """Create a folder, and those above it that are missing, for this user alone."""
    if not folder.is_dir():
        make_private(folder.parent)
        folder.mkdir(exist_ok=True, mode=0o700)


def not_ours(folder: Path) -> str | None:
    """Return why others could have written to a folder, or None: its owner, and who may write to it and above it.

    What does not exist yet is created for this user alone. Windows keeps a user's folders by other means.
    """
    if not hasattr(os, "geteuid"):
        return None
    for path in (folder, folder.parent):
        try:
            status = path.stat()
        except OSError:
            continue
        if status.st_uid not in (os.geteuid(), 0):
            return f"{path} belongs to another user (uid {status.st_uid})"
        if status.st_mode & stat.S_IWOTH:
            return f"{path} can be written to by all users"
    return None


def size_of(folder: Path) -> int:
    """Return the bytes of the files in a folder."""
    return sum(path.stat().st_size for path in folder.iterdir())


def cache_limit() -> int:
    """Return the bytes that the cache may take: ``$SERESNET_CACHE_LIMIT`` (such as 500M or 4G; 0: no cache)."""
    given = os.environ.get("SERESNET_CACHE_LIMIT", "").strip()
    if not given:
        return LIMIT
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:I?B)?", given.upper())
    if match is None:
        raise ConfigError(f"SERESNET_CACHE_LIMIT is {given!r}: give bytes, such as 500M or 4G, or 0 for no cache")
    return int(float(match[1]) * UNITS[match[2]])
