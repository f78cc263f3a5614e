"""Progress of a download on stderr: a bar on a terminal, plain lines otherwise."""

from __future__ import annotations

import time
from types import TracebackType

from seresnet.common.progress import Progress

PLAIN_SECONDS = 10.0  # between two plain lines


def size_text(num_bytes: float) -> str:
    """Return a size as text, such as "107.4 MiB"."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if num_bytes >= scale:
            return f"{num_bytes / scale:,.1f} {unit}"
    return f"{num_bytes:.0f} bytes"


class DownloadProgress:
    """Show size, rate and time left of one file. Nothing is shown before its first byte."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._shown: Progress | None = None
        self._total: int | None = None
        self._resumed_at = self._size = 0

    def __enter__(self) -> DownloadProgress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._shown:
            self._shown.__exit__()
            if kind is None:
                size, seconds = size_text(self._size), time.perf_counter() - self._start
                self._shown.say(f"{self._name}: {size} in {seconds:.1f} s ({size_text(self._rate())}/s)")

    def start(self, host: str, size: int, total: int | None) -> None:
        """Begin, or go on after a break, with ``size`` bytes already here."""
        if self._shown is None:
            self._start, self._resumed_at = time.perf_counter(), size
            self._shown = Progress(seconds=PLAIN_SECONDS, in_bytes=True)
            length = size_text(total) if total else "size unknown"
            resumed = f", resumed at {size_text(size)}" if size else ""
            self._shown.say(f"downloading {self._name} ({length}) from {host}{resumed}")
            self._shown.__enter__()
        self._total = total
        self.update(size)

    def update(self, size: int) -> None:
        """Note that ``size`` bytes are here."""
        self._size = size
        if self._shown and self._shown.has_bar:
            self._shown.update(self._name, size, self._total)
        elif self._shown and self._shown.is_due():
            rate = self._rate()
            left = f", {(self._total - size) / rate:.0f} s left" if self._total and rate > 0 else ""
            done = f"{size_text(size)} of {size_text(self._total)}" if self._total else size_text(size)
            self._shown.say(f"{self._name}: {done}, {size_text(rate)}/s{left}")

    def note(self, text: str) -> None:
        """Print a line about a download that broke off; nothing where it had not begun."""
        if self._shown:
            self._shown.say(f"{self._name}: {text}")

    def _rate(self) -> float:
        """Bytes per second since the first one."""
        return max(0, self._size - self._resumed_at) / max(1e-9, time.perf_counter() - self._start)
