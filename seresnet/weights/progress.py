"""Progress of a download on stderr: a bar on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

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
        self._bar: Any = None
        self._total: int | None = None
        self._started = False
        self._resumed_at = self._size = 0

    def __enter__(self) -> DownloadProgress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar:
            self._bar.stop()
        if self._started and kind is None:
            seconds = time.perf_counter() - self._start
            rate = (self._size - self._resumed_at) / max(1e-9, seconds)
            self._say(f"{self._name}: {size_text(self._size)} in {seconds:.1f} s ({size_text(rate)}/s)")

    def start(self, host: str, size: int, total: int | None) -> None:
        """Begin, or go on after a break, with ``size`` bytes already here."""
        self._total, self._size = total, size
        if not self._started:
            self._started = True
            self._start = self._last = time.perf_counter()
            self._resumed_at = size
            length = size_text(total) if total else "size unknown"
            resumed = f", resumed at {size_text(size)}" if size else ""
            self._say(f"downloading {self._name} ({length}) from {host}{resumed}")
            self._bar = _bar()
            if self._bar:
                self._task = self._bar.add_task(self._name, total=total, completed=size)
                self._bar.start()
        elif self._bar:
            self._bar.update(self._task, total=total, completed=size)

    def update(self, size: int) -> None:
        """Note that ``size`` bytes are here."""
        self._size = size
        if self._bar:
            self._bar.update(self._task, completed=size)
            return
        now = time.perf_counter()
        if now - self._last >= PLAIN_SECONDS:
            self._last = now
            rate = (size - self._resumed_at) / max(1e-9, now - self._start)
            left = f", {(self._total - size) / rate:.0f} s left" if self._total and rate > 0 else ""
            done = f"{size_text(size)} of {size_text(self._total)}" if self._total else size_text(size)
            self._say(f"{self._name}: {done}, {size_text(max(0.0, rate))}/s{left}")

    def note(self, text: str) -> None:
        """Print a line about a download that broke off; nothing where it had not begun."""
        if self._started:
            self._say(f"{self._name}: {text}")

    def _say(self, line: str) -> None:
        if self._bar:
            self._bar.console.print(line, soft_wrap=True, markup=False, highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)


def _bar() -> Any:
    """Return a bar where stderr is a terminal, else None."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        return None
    columns = BarColumn(36), DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn()
    return Progress(*columns, console=console, transient=True)
