"""Find or download the file of a named weight.

In this order: a file that is already here (this package's cache, torch.hub's ``checkpoints`` folder, huggingface_hub's
cache), used in place; ``SERESNET_WEIGHTS_MIRROR``; the Hugging Face Hub, where the weight has a repository; the release
URL; other hosts of the release file. A release file is accepted by its SHA-256 alone, wherever it comes from.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from seresnet.common.files import cache_folder, locked
from seresnet.common.text import printable
from seresnet.errors import WeightsError
from seresnet.weights.http_client import CONNECT_SECONDS, SourceError, connect_timeout
from seresnet.weights.hub import cached_weights, fetch_weights, hub_url, is_offline
from seresnet.weights.index import Entry

log = logging.getLogger("seresnet")

HUB_FILE = "model.safetensors"
HUB_SECONDS = 1.4  # of CONNECT_SECONDS, for the Hub's answer where there is a release file too


@dataclass(frozen=True)
class Source:
    """One place that a weight can be downloaded from."""

    kind: str  # "mirror", "Hub", "release" or "other host"
    url: str
    file: str  # its path within a mirror and within this package's cache
    sha256_head: str | None = None  # None: the hash is not known in advance
    repo: str | None = None  # on the Hub

    @property
    def host(self) -> str:
        """The host's name, for messages."""
        return urlsplit(self.url).hostname or self.url


@dataclass
class Search:
    """One weight's way through the sources: why earlier ones were refused, and the seconds spent on silent ones."""

    entry: Entry
    refused: list[str] = field(default_factory=list)
    silent_seconds: float = 0.0

    def connect_seconds(self, num_left: int) -> float:
        """Return the seconds for the next of the sources left, so that all of them together take two at most."""
        return connect_timeout(max(0.2, (CONNECT_SECONDS - self.silent_seconds) / num_left))


def weights_file(entry: Entry, offline: bool | None = None) -> Path:
    """Return the file of a weight, found on this machine or downloaded, with the right SHA-256 where one is known.

    ``offline`` makes no request; None follows ``HF_HUB_OFFLINE``. A source that was refused is named in one line on
    stderr. Raises WeightsError, in one line, where no source provides the file, and DiskFullError.
    """
    search = Search(entry)
    path = _found(search)
    if path is None:
        path = _mirrored(search)
    if path is None:
        path = _downloaded(search, is_offline() if offline is None else offline)
    for reason in search.refused:
        log.warning("%s: %s", entry.name, reason)
    return path


def sources(entry: Entry) -> list[Source]:
    """Return the places that a weight can be downloaded from, the first to be tried first."""
    found = []
    base = mirror()
    if isinstance(base, str):
        for file, head in mirror_files(entry):
            found.append(Source("mirror", f"{base}/{quote(file)}", file, head))
    if entry.hub:
        found.append(Source("Hub", hub_url(entry.hub, HUB_FILE), f"{entry.hub}/{HUB_FILE}", repo=entry.hub))
    if entry.url and entry.release_file:
        found.append(Source("release", entry.url, entry.release_file, entry.sha256_head))
        for url in entry.mirrors:
            found.append(Source("other host", url, entry.release_file, entry.sha256_head))
    return found


def mirror() -> str | Path | None:
    """Return ``SERESNET_WEIGHTS_MIRROR``: a base URL without a slash at its end, a directory, or None."""
    given = os.environ.get("SERESNET_WEIGHTS_MIRROR", "").strip()
    if not given:
        return None
    scheme = urlsplit(given).scheme.lower() if "://" in given else ""
    if scheme in ("http", "https"):
        return given.rstrip("/")
    if scheme == "file":
        return Path(unquote(urlsplit(given).path))
    if scheme:
        raise WeightsError(f"SERESNET_WEIGHTS_MIRROR is {printable(given)}; give an http(s) address or a directory")
    return Path(given).expanduser()


def weights_folder() -> Path:
    """Return this package's folder of downloaded weights. Raises WeightsError where a user has none."""
    folder = cache_folder()
    if folder is None:
        raise WeightsError("there is no home folder for the weights cache: set SERESNET_CACHE to a folder")
    return folder / "weights"


def torch_hub() -> Path:
    """Return the folder of torch.hub's downloads, by the variables that torch.hub itself reads."""
    caches = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("TORCH_HOME", f"{caches}/torch")).expanduser() / "hub"


def local_files(entry: Entry) -> Iterator[tuple[Path, str | None]]:
    """Yield each file of a weight that is on this machine, unread, and what its SHA-256 has to begin with."""
    folder = cache_folder()
    for file, head in mirror_files(entry):
        if folder and (path := folder / "weights" / file).is_file():
            yield path, head
    if entry.release_file and (path := torch_hub() / "checkpoints" / entry.release_file).is_file():
        yield path, entry.sha256_head
    if entry.hub and (cached := cached_weights(entry.hub)):
        yield cached, None


def mirror_files(entry: Entry) -> Iterator[tuple[str, str | None]]:
    """Yield the path of each file of a weight within a mirror and within the cache, and its SHA-256's first digits."""
    if entry.hub:
        yield f"{entry.hub}/{HUB_FILE}", None
    if entry.release_file:
        yield entry.release_file, entry.sha256_head


def _found(search: Search) -> Path | None:
    return next((path for path, head in local_files(search.entry) if _is_right(path, head, search)), None)


def _mirrored(search: Search) -> Path | None:
    """Return the file within a mirror that is a directory."""
    base = mirror()
    if not isinstance(base, Path):
        return None
    there = [(base / file, head) for file, head in mirror_files(search.entry) if (base / file).is_file()]
    if not there:
        names = " or ".join(file for file, _ in mirror_files(search.entry))
        search.refused.append(f"SERESNET_WEIGHTS_MIRROR ({base}) has no {names}")
    return next((path for path, head in there if _is_right(path, head, search)), None)


def _is_right(path: Path, sha256_head: str | None, search: Search) -> bool:
    """Return whether a file has the right hash; note the reason where it has not."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest() if sha256_head else ""
    except OSError as error:
        search.refused.append(f"{path} cannot be read ({error.strerror})")
        return False
    if not digest.startswith(sha256_head or ""):
        begins = f"its SHA-256 begins with {digest[:8]}, not {sha256_head}"
        search.refused.append(f"{path} is damaged or another file ({begins}) and was not used")
        return False
    return True


def _downloaded(search: Search, offline: bool) -> Path:
    """Return the file from the first source that provides it. Raises WeightsError where none does."""
    if offline:
        search.refused.append("offline mode is on")
        raise _nothing(search)
    places = sources(search.entry)
    for i, source in enumerate(places):
        seconds = search.connect_seconds(len(places) - i)
        start = time.monotonic()
        try:
            if source.repo is None:
                return _from_url(source, search, seconds)
            answer_seconds = connect_timeout(min(HUB_SECONDS, CONNECT_SECONDS - search.silent_seconds))
            return fetch_weights(source.repo, offline=False, answer_seconds=answer_seconds)
        except WeightsError as error:
            reason = getattr(error, "reason", str(error))
            search.refused.append(reason if source.repo else f"{source.host} {reason}")
            search.silent_seconds += min(time.monotonic() - start, CONNECT_SECONDS)
    raise _nothing(search)


def _from_url(source: Source, search: Search, seconds: float) -> Path:
    """Download into the cache, or take what another process downloaded meanwhile."""
    from seresnet.weights.download import download

    path = weights_folder() / source.file
    try:
        with locked(path.with_name(f"{path.name}.lock"), f"waiting for another process that downloads {path.name}"):
            if path.is_file() and _is_right(path, source.sha256_head, Search(search.entry)):
                return path
            download(source.url, path, source.sha256_head, seconds)
            return path
    except SourceError:
        raise
    except OSError as error:
        if isinstance(error, WeightsError) or not error.strerror:
            raise
        why = f"{path.parent} cannot be written to ({error.strerror}; SERESNET_CACHE sets another folder)"
        raise WeightsError(f"was not asked, as {why}") from None


def _nothing(search: Search) -> WeightsError:
    """Return the error that names the file, why it is not here, and where to put it by hand."""
    entry = search.entry
    source = next(source for source in sources(entry) if source.kind != "mirror")
    facts = []
    if entry.file_size_bytes and not source.repo:
        facts.append(f"{entry.file_size_bytes:,} bytes")
    if source.sha256_head:
        facts.append(f"SHA-256 {source.sha256_head}...")
    known = f" ({', '.join(facts)})" if facts else ""
    return WeightsError(
        f"{entry.name} is not on this machine and cannot be downloaded ({'; '.join(search.refused)}): "
        f"download {source.url}{known} on another machine and save it as {weights_folder() / source.file}"
    )
