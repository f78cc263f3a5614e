"""Bearer tokens from a file: compared in constant time, and read again on SIGHUP."""

from __future__ import annotations

import hashlib
import hmac
import logging
from pathlib import Path

from seresnet.errors import ConfigError

SHORTEST = 16  # characters of a key
MAX_BYTES = 2**20  # of the file

log = logging.getLogger("seresnet")


class ApiKeys:
    """The keys of a file, one a line; blank lines and lines that begin with ``#`` are ignored. Raises ConfigError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._digests = _read(path)

    def reload(self) -> None:
        """Read the file again; where that fails the keys stay as they are, with one line of warning."""
        try:
            self._digests = _read(self.path)
        except ConfigError as error:
            log.warning("the API keys stay as they are: %s", error)
        else:
            log.warning("API keys read again: %d", len(self._digests))

    def accept(self, header: str | None) -> bool:
        """Return whether an ``Authorization`` header has one of the keys; every key is compared, in constant time."""
        scheme, _, token = (header or "").partition(" ")
        given = _digest(token.strip()) if scheme.lower() == "bearer" else b""
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]
        return any(matches)


def _read(path: Path) -> list[bytes]:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise ConfigError(f"--api-key-file {path}: {reason.lower()}: give a text file with one key a line") from None
    if len(text) > MAX_BYTES:
        raise ConfigError(f"--api-key-file {path}: more than {MAX_BYTES // 2**20} MB: give a file with one key a line")
    digests = []
    for number, line in enumerate(text.splitlines(), 1):
        key = line.strip()
        if not key or key.startswith("#"):
            continue
        if len(key) < SHORTEST or not (key.isascii() and key.isprintable()) or " " in key:
            raise ConfigError(
                f"--api-key-file {path}: line {number}: a key needs {SHORTEST} or more ASCII characters without spaces"
            )
        digests.append(_digest(key))
    if not digests:
        raise ConfigError(f"--api-key-file {path}: holds no key: give one a line")
    return digests


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
