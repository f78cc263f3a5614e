"""Images at http(s) addresses that a user names: bounded in size, time and redirects, and none while offline."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from seresnet.data.dataset import StoredImage
from seresnet.errors import ImageError

MAX_BYTES = 100 * 2**20
SECONDS = 60.0  # for a whole image
CHUNK = 2**16


@dataclass(frozen=True, slots=True)
class WebImage(StoredImage):
    """An image at an address; it is fetched anew whenever it is read, and not kept."""

    url: str
    offline: bool = False

    @property
    def key(self) -> str:
        """The file's name in the address."""
        return unquote(urlsplit(self.url).path).rpartition("/")[2] or "image"

    def read(self) -> bytes:
        """Return the bytes of the image file. Raises ImageError."""
        if self.offline:
            raise ImageError("not fetched: the network is not accessed (--offline)")
        from seresnet.errors import WeightsError
        from seresnet.weights.http_client import request

        deadline, chunks, size = time.monotonic() + SECONDS, [], 0
        try:
            with request(self.url, connect_seconds=10.0) as response:
                if int(response.headers.get("Content-Length", "0")) > MAX_BYTES:
                    raise ImageError(f"more than {MAX_BYTES // 2**20} MB: over the limit for web addresses")
                for chunk in response.iter_raw(CHUNK):
                    chunks.append(chunk)
                    size += len(chunk)
                    if size > MAX_BYTES:
                        raise ImageError(f"more than {MAX_BYTES // 2**20} MB: over the limit for web addresses")
                    if time.monotonic() > deadline:
                        raise ImageError(f"not received within {SECONDS:.0f} s")
        except (WeightsError, ValueError) as error:
            raise ImageError(f"cannot be fetched: {error}") from None
        return b"".join(chunks)

    def __str__(self) -> str:
        return self.url


def is_url(text: str) -> bool:
    """Return whether a text is an http or https address."""
    return re.match(r"https?://", text, re.IGNORECASE) is not None


def is_offline(offline: bool | None) -> bool:
    """Return whether the network is not to be accessed; None follows ``HF_HUB_OFFLINE``."""
    if offline is not None:
        return offline
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
