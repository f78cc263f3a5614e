"""Ask each source of a weight for the headers of its file, without downloading it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from seresnet.errors import WeightsError
from seresnet.weights.download import is_web_page
from seresnet.weights.fetch import Source, mirror, mirror_files, sources
from seresnet.weights.http_client import SourceError, connect_timeout, request
from seresnet.weights.index import Entry

if TYPE_CHECKING:
    import httpx2

CONNECT_SECONDS = 5.0
PARALLEL_REQUESTS = 8


@dataclass(frozen=True)
class SourceCheck:
    """What one source of one weight answered."""

    name: str  # of the weight
    kind: str  # "mirror", "Hub", "release" or "other host"
    url: str
    problem: str | None  # None: the file is there
    size: int | None = None  # bytes
    sha256_head: str | None = None  # announced by the Hub, or known from the index


def check_sources(entries: Iterable[Entry]) -> Iterator[SourceCheck]:
    """Yield what each source of each weight answers, in the index's order; bundled weights have no source."""
    asked = [(entry, source) for entry in entries if not entry.bundled for source in _all(entry)]
    with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
        yield from pool.map(lambda pair: _check(*pair), asked)


def _all(entry: Entry) -> list[Source]:
    """Return the sources of an entry, a mirror's directory among them."""
    base = mirror()
    if not isinstance(base, Path):
        return sources(entry)
    return [*(Source("mirror", str(base / file), file, head) for file, head in mirror_files(entry)), *sources(entry)]


def _check(entry: Entry, source: Source) -> SourceCheck:
    if source.kind == "mirror" and isinstance(mirror(), Path):
        path = Path(source.url)
        problem = None if path.is_file() else "no such file"
        size = path.stat().st_size if problem is None else None
        return SourceCheck(entry.name, source.kind, source.url, problem, size, source.sha256_head)
    try:
        size, announced = _headers(source.url)
    except WeightsError as error:
        return SourceCheck(entry.name, source.kind, source.url, str(error), None, source.sha256_head)
    return SourceCheck(entry.name, source.kind, source.url, None, size, source.sha256_head or announced)


def _headers(url: str) -> tuple[int | None, str | None]:
    """Return the size and, where the Hub announces it, the first digits of the SHA-256. Raises SourceError."""
    seconds = connect_timeout(CONNECT_SECONDS)
    try:
        with request(url, method="HEAD", connect_seconds=seconds) as response:
            return _facts(response)
    except SourceError as error:
        if not re.match(r"answers (400|403|405|501)", str(error)):  # signed storage and old servers refuse HEAD
            raise
    with request(url, headers={"Range": "bytes=0-0"}, connect_seconds=seconds) as response:
        return _facts(response)


def _facts(response: httpx2.Response) -> tuple[int | None, str | None]:
    if is_web_page(b"", response.headers.get("Content-Type", "")):
        raise SourceError("answers with a web page, not the file")
    whole = re.fullmatch(r"bytes \d+-\d+/(\d+)", response.headers.get("Content-Range", ""))
    size, digest = (whole[1] if whole else response.headers.get("Content-Length")), None
    for step in (*response.history, response):  # the Hub announces both before it redirects to its storage
        size = step.headers.get("X-Linked-Size", size)
        digest = step.headers.get("X-Linked-Etag", digest)
    known = re.fullmatch(r'"?([0-9a-f]{64})"?', digest or "")
    return int(size) if size and size.isdigit() else None, known[1][:8] if known else None
