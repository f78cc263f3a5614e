"""Download one file: resumed after a break, its SHA-256 checked before it gets its name, nothing partial ever used.

The bytes go to ``NAME.part``, with the server's validator in ``NAME.part.json``, so that a process that was killed is
resumed by the next (Range, If-Range; RFC 9110, sections 13.1.5 and 14). A failure for good removes both. The caller
holds the lock. See `http_client` for why httpx2.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, BinaryIO

from seresnet.common.files import disk_full, flush_folder, write_text
from seresnet.errors import DiskFullError
from seresnet.weights.http_client import CONNECT_SECONDS, SourceError, request
from seresnet.weights.progress import DownloadProgress, size_text

if TYPE_CHECKING:
    import httpx2

RETRY_SECONDS = (0.5, 1.0, 2.0, 4.0)  # before each further attempt without a new byte
MAX_ATTEMPTS = 30  # in all
CHUNK_BYTES = 1 << 18
START_BYTES = 512  # enough to recognize a web page
PAGE_STARTS = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--", b"<script")


def is_web_page(head: bytes, content_type: str = "") -> bool:
    """Return whether a response is a page rather than a file, by its first bytes and its content type."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return text.startswith(PAGE_STARTS) or content_type.lower().startswith(("text/html", "application/xhtml"))


def download(url: str, path: Path, sha256_head: str | None = None, connect_seconds: float = CONNECT_SECONDS) -> str:
    """Download ``url`` to ``path`` and return the file's SHA-256, which is also written to ``PATH.sha256``.

    - ``sha256_head``: hexadecimal digits that the SHA-256 has to begin with. None: the length that the server declares
      decides whether the file is whole.
    - ``connect_seconds``: for the server to accept the first connection.

    Raises SourceError where the source does not provide the file, and DiskFullError; then nothing is kept.
    """
    part = PartialFile(path.with_name(f"{path.name}.part"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.opened(url), DownloadProgress(path.name) as progress:
            digest = _attempts(url, part, sha256_head, connect_seconds, progress)
        part.path.replace(path)
        part.facts.unlink(missing_ok=True)
        write_text(path.with_name(f"{path.name}.sha256"), f"{digest}  {path.name}\n")  # as sha256sum writes it
        flush_folder(path.parent)
        return digest
    except KeyboardInterrupt:  # the next call resumes
        raise
    except BaseException as error:
        part.remove()
        if disk_full(error) and not isinstance(error, DiskFullError):
            raise DiskFullError(
                f"{path}: no space left on the disk; free some, or set SERESNET_CACHE to another disk"
            ) from None
        raise


@dataclass
class PartialFile:
    """The bytes received so far, their hash, and what identifies the server's version of the file."""

    path: Path
    size: int = 0
    validator: str = ""  # a strong ETag or a date, for If-Range
    resumed: bool = False  # some bytes are of an earlier response, and may be of another version

    @property
    def facts(self) -> Path:
        """The file with the URL and the validator."""
        return self.path.with_name(f"{self.path.name}.json")

    @contextlib.contextmanager
    def opened(self, url: str) -> Iterator[None]:
        """Open the file for appending to what an earlier process received from this URL, or empty."""
        self.url = url
        known = _read_facts(self.facts)
        self.path.touch()
        with self.path.open("r+b") as self.file:
            self.hasher = hashlib.sha256()
            if known.get("url") == url:
                self.validator = known.get("validator", "")
                while chunk := self.file.read(CHUNK_BYTES):
                    self.hasher.update(chunk)
                    self.size += len(chunk)
                self.resumed = self.size > 0
            else:
                self.restart()
            yield
            self.file.flush()
            os.fsync(self.file.fileno())

    def restart(self) -> None:
        """Drop all bytes."""
        self.file.seek(0)
        self.file.truncate()
        self.hasher = hashlib.sha256()
        self.size, self.validator, self.resumed = 0, "", False

    def begin(self, validator: str) -> None:
        """Note the validator of the response that follows, before its bytes are written."""
        self.validator = validator
        write_text(self.facts, json.dumps({"url": self.url, "validator": validator}))

    def append(self, chunk: bytes) -> None:
        """Write bytes at the end."""
        self.file.write(chunk)
        self.hasher.update(chunk)
        self.size += len(chunk)

    def digest(self) -> str:
        """Return the SHA-256 of the bytes so far."""
        return self.hasher.copy().hexdigest()

    def remove(self) -> None:
        """Remove the file and its facts."""
        for path in (self.path, self.facts):
            with contextlib.suppress(OSError):
                path.unlink()


def _attempts(
    url: str, part: PartialFile, sha256_head: str | None, connect_seconds: float, progress: DownloadProgress
) -> str:
    """Request the file until it is whole; return its SHA-256. Raises SourceError."""
    fruitless = highest = restarts = 0
    for attempt in range(MAX_ATTEMPTS):
        failure: SourceError | None = None
        try:
            total = _receive(url, part, connect_seconds, progress)
        except SourceError as error:
            total, failure = None, error
        digest = part.digest()
        if sha256_head and part.size and digest.startswith(sha256_head):
            return digest
        if failure is None and sha256_head is None and (part.size == total or _is_whole(part)):
            return digest
        if failure is None and total is not None and part.size < total:
            failure = SourceError("the connection was cut", temporary=True)
        if failure is None and part.resumed and not restarts:  # its pieces may be of different versions
            restarts += 1
            part.restart()
            continue
        if failure is None and total is not None:
            raise SourceError(f"provides another file: its SHA-256 begins with {digest[:8]}, not {sha256_head}")
        failure = failure or SourceError("sent an incomplete file, or another one", temporary=True)
        fruitless, highest = (0 if part.size > highest else fruitless + 1), max(highest, part.size)
        if not (failure.temporary or attempt) or fruitless > len(RETRY_SECONDS):
            raise failure
        wait = max(RETRY_SECONDS[max(0, fruitless - 1)], failure.wait)
        progress.note(f"{failure}; next attempt in {wait:g} s")
        sleep(wait)
    raise SourceError(f"broke off {MAX_ATTEMPTS} times")


def _receive(url: str, part: PartialFile, connect_seconds: float, progress: DownloadProgress) -> int | None:
    """Append one response to the file; return the file's full size in bytes where the server declares it."""
    headers = {}
    if part.size:
        headers["Range"] = f"bytes={part.size}-"
        if part.validator:
            headers["If-Range"] = part.validator
    try:
        with request(url, headers=headers, connect_seconds=connect_seconds) as response:
            return _append(response, part, progress)
    except SourceError as error:
        if part.size and str(error).startswith("answers 416"):  # there is nothing beyond what is here
            part.resumed = True
            return part.size
        raise


def _append(response: httpx2.Response, part: PartialFile, progress: DownloadProgress) -> int | None:
    continued = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if response.status_code == 206 and continued and int(continued[1]) == part.size:
        part.resumed = part.size > 0
        total = int(continued[2]) if continued[2].isdigit() else None
    elif response.status_code == 206:
        part.restart()
        raise SourceError("answered with another range than the one asked for", temporary=True)
    else:  # the whole file, also where ranges are not supported
        part.restart()
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isascii() and length.isdigit() and not _is_encoded(response) else None
    if not part.size and is_web_page(b"", response.headers.get("Content-Type", "")):
        raise SourceError("answers with a web page, not the file (a login page of the network or of a proxy?)")
    _check_space(part, total)
    part.begin(_validator(response))
    progress.start(str(response.request.url.host), part.size, total)
    for chunk in _with_whole_start(response.iter_bytes(CHUNK_BYTES) if _is_encoded(response) else response.iter_raw()):
        if not part.size and is_web_page(chunk):
            raise SourceError("answers with a web page, not the file (a login page of the network or of a proxy?)")
        part.append(chunk)
        progress.update(part.size)
    return total


def _with_whole_start(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the chunks, the first ones joined to START_BYTES: a slow server may send a page's first line in pieces."""
    start = b""
    for chunk in chunks:
        start += chunk
        if len(start) >= START_BYTES:
            break
    yield start
    yield from chunks


def _is_encoded(response: httpx2.Response) -> bool:
    return response.headers.get("Content-Encoding", "identity").lower() not in ("", "identity")


def _validator(response: httpx2.Response) -> str:
    """Return what If-Range accepts: a strong ETag, or the date of the last change."""
    tag = response.headers.get("ETag", "")
    if _is_encoded(response):
        return ""
    return tag if tag.startswith('"') else response.headers.get("Last-Modified", "")


def _check_space(part: PartialFile, total: int | None) -> None:
    """Raise DiskFullError before the first byte where the file will not fit."""
    needed = (total or 0) - part.size
    free = shutil.disk_usage(part.path.parent).free
    if needed > free:
        raise DiskFullError(
            f"{part.path.parent}: {size_text(needed)} are needed and {size_text(free)} are free; free some space, or "
            "set SERESNET_CACHE to another disk"
        )


def _is_whole(part: PartialFile) -> bool:
    """Return whether the bytes are a safetensors file of just the size that its own header declares."""
    with contextlib.suppress(ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, OSError):
        part.file.flush()
        with part.path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(_bounded(file, length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        return bool(8 + length + max(ends) == part.size)
    return False


def _bounded(file: BinaryIO, length: int) -> bytes:
    if length > 16_000_000:
        raise ValueError("too long")
    return file.read(length)


def _read_facts(path: Path) -> dict[str, str]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {key: str(fact) for key, fact in value.items()} if isinstance(value, dict) else {}
