"""What a server is told: its address, its limits, and what it waits for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from seresnet.errors import ConfigError

# Each setting's least and greatest value, checked once, where it enters.
BOUNDS = {
    "port": (0, 65_535),
    "max_batch": (1, 1024),
    "max_wait_ms": (0, 1000),
    "max_queue": (1, 100_000),
    "timeout_s": (0.05, 3600),
    "max_body_mb": (0.01, 2048),
    "max_megapixels": (0.001, 1000),
    "max_connections": (1, 100_000),
    "read_timeout_s": (0.1, 3600),
    "drain_s": (0, 3600),
}
ORIGIN = re.compile(r"https?://[^/\s?#@]+|\*")


@dataclass(frozen=True)
class ServeSettings:
    """The settings of a server. Raises ConfigError for a value that is out of its range, with the range.

    - `host`, `port`: the address to listen on; port 0 takes a free one.
    - `max_batch`: images that run together, 1 to 1024.
    - `max_wait_ms`: how long an image waits for others to share its batch, 0 to 1000 milliseconds.
    - `max_queue`: images of one model that are admitted and not yet answered; more are refused with 503.
    - `timeout_s`: seconds after which an admitted request is answered with 504.
    - `max_body_mb`: size of a request's body in megabytes (1e6 bytes).
    - `max_megapixels`: size of a decoded image.
    - `max_connections`: open connections; more are refused with 503.
    - `read_timeout_s`: seconds within which a request's body has to arrive.
    - `drain_s`: seconds that SIGTERM waits for admitted requests.
    - `api_key_file`: a file with one bearer token a line; None: no key is needed.
    - `cors`: origins, such as ``https://example.org``, whose pages may call the API.
    - `log_format`: "text" or "json".
    """

    host: str = "127.0.0.1"
    port: int = 8000
    max_batch: int = 32
    max_wait_ms: float = 5.0
    max_queue: int = 128
    timeout_s: float = 10.0
    max_body_mb: float = 20.0
    max_megapixels: float = 50.0
    max_connections: int = 1000
    read_timeout_s: float = 30.0
    drain_s: float = 30.0
    api_key_file: Path | None = None
    cors: tuple[str, ...] = ()
    log_format: str = "text"

    def __post_init__(self) -> None:
        for name, (least, most) in BOUNDS.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise ConfigError(f"{flag(name)} must lie between {least:g} and {most:g}, not {value:g}")
        for origin in self.cors:
            if not ORIGIN.fullmatch(origin):
                raise ConfigError(f"--cors {origin}: give an origin such as https://example.org, without a path")

    @property
    def max_body(self) -> int:
        """The greatest body of a request in bytes."""
        return int(self.max_body_mb * 1e6)

    @property
    def max_held(self) -> int:
        """The greatest sum of all bodies that are being received or decoded, in bytes."""
        return max(4 * self.max_body, 256_000_000)


def flag(name: str) -> str:
    """Return the flag of the command line that sets a value."""
    return "--" + name.replace("_", "-")
