"""HTTP requests for weights files, through httpx2.

Libraries compared (2026-11): pooch checks hashes but needs requests, does not resume, and makes one attempt by default;
`torch.hub.download_url_to_file` does not resume, retry or time out; huggingface_hub's `http_get` resumes without
If-Range and is not public. httpx2 is the client that huggingface_hub itself uses, so that it is already installed: it
follows redirects, has time-outs for connecting and reading, and reads HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY,
SSL_CERT_FILE and SSL_CERT_DIR. Added here: requests' variables REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE, and a limit for
name resolution, which has none of its own. httpx2 is imported by the first request.
"""

from __future__ import annotations

import contextlib
import functools
import os
import queue
import re
import ssl
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from seresnet.common.text import one_line
from seresnet.errors import WeightsError
from seresnet.version import __version__

if TYPE_CHECKING:
    import httpx2

CONNECT_SECONDS = 1.8  # for all sources of a file together to accept a connection
READ_SECONDS = 20.0  # without a byte
TEMPORARY = (408, 425, 429, 500, 502, 503, 504)  # status codes after which the same request may succeed


class SourceError(WeightsError):
    """A source that did not provide the file. The message is the reason; ``temporary``: another attempt may succeed."""

    def __init__(self, reason: str, *, temporary: bool = False, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.temporary = temporary
        self.wait = wait  # seconds that the server asks to wait


def connect_timeout(default: float = CONNECT_SECONDS) -> float:
    """Return the seconds that a source has to accept a connection. Raises WeightsError.

    ``SERESNET_CONNECT_TIMEOUT`` sets them for a slow network.
    """
    given = os.environ.get("SERESNET_CONNECT_TIMEOUT")
    if not given:
        return default
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3600:
        raise WeightsError(f"SERESNET_CONNECT_TIMEOUT is {given!r}; it must be a number of seconds up to 3600")
    return seconds


@contextlib.contextmanager
def request(
    url: str, *, method: str = "GET", headers: Mapping[str, str] | None = None, connect_seconds: float = CONNECT_SECONDS
) -> Iterator[httpx2.Response]:
    """Yield the successful response to a request, its body still to be read. Raises SourceError in all other cases."""
    import httpx2

    try:
        with _client() as client:
            response = _send(client, client.build_request(method, url, headers=headers), connect_seconds)
            try:
                _check(response)
                yield response
            finally:
                response.close()
    except httpx2.TimeoutException:
        raise SourceError(f"no data within {READ_SECONDS:g} s", temporary=True) from None
    except httpx2.ConnectError as error:
        reason = re.sub(r"^\[Errno -?\d+\] ", "", one_line(error))
        raise SourceError(f"cannot be reached ({reason})") from None
    except httpx2.TooManyRedirects:
        raise SourceError("redirects without end") from None
    except (httpx2.UnsupportedProtocol, httpx2.InvalidURL):
        raise SourceError("is not an http(s) address") from None
    except httpx2.ProxyError as error:
        raise SourceError(f"the proxy refused ({one_line(error)})") from None
    except httpx2.TransportError as error:
        raise SourceError(f"the connection was cut ({one_line(error)})", temporary=True) from None


def _client() -> httpx2.Client:
    import httpx2

    timeout = httpx2.Timeout(READ_SECONDS, connect=10.0)
    headers = {"User-Agent": f"seresnet/{__version__}", "Accept-Encoding": "identity"}
    try:
        return httpx2.Client(follow_redirects=True, timeout=timeout, headers=headers, verify=_certificates())
    except (ImportError, OSError, ValueError) as error:  # a proxy or a CA file that the variables name wrongly
        raise SourceError(f"proxy or certificate settings do not work ({one_line(error)})") from None


def _certificates() -> ssl.SSLContext:
    """Return what certificates are checked with: httpx2's choice, or else requests' variables."""
    own = os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")
    bundle = None if own else os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    return _context(own, bundle)


@functools.cache
def _context(own: str | None, bundle: str | None) -> ssl.SSLContext:
    """Return an SSL context, made once for each value of the variables."""
    import httpx2

    if not bundle:
        return httpx2.create_ssl_context()
    is_folder = Path(bundle).is_dir()
    return ssl.create_default_context(cafile=None if is_folder else bundle, capath=bundle if is_folder else None)


def _send(client: httpx2.Client, message: httpx2.Request, seconds: float) -> httpx2.Response:
    """Send a request from a thread of its own, and give up where no connection is accepted within ``seconds``."""
    answers: queue.Queue[httpx2.Response | BaseException] = queue.Queue()
    progressed, given_up = threading.Event(), threading.Event()

    def trace(name: str, info: object) -> None:
        if name == "connection.connect_tcp.complete":
            progressed.set()

    def send() -> None:
        try:
            response = client.send(message, stream=True)
            if given_up.is_set():
                response.close()
            answers.put(response)
        except BaseException as error:
            answers.put(error)
        progressed.set()

    message.extensions["trace"] = trace
    threading.Thread(target=send, daemon=True, name="seresnet-download").start()
    if not progressed.wait(seconds):
        given_up.set()
        raise SourceError(f"cannot be reached within {seconds:.2g} s (SERESNET_CONNECT_TIMEOUT sets another limit)")
    answer = answers.get()
    if isinstance(answer, BaseException):
        raise answer
    return answer


def _check(response: httpx2.Response) -> None:
    status = response.status_code
    if status in (200, 206):
        return
    after = response.headers.get("Retry-After", "")
    wait = min(float(after), 30.0) if after.isascii() and after.isdigit() else 0.0
    raise SourceError(f"answers {status} {response.reason_phrase}".rstrip(), temporary=status in TEMPORARY, wait=wait)
