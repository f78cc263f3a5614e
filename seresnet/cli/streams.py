"""Standard streams and signals of a command: results stay complete, and messages are never mixed with them."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from seresnet.errors import ConfigError


class Terminated(KeyboardInterrupt):
    """SIGTERM, handled as an interrupt is."""


class ForgivingStderr(io.TextIOWrapper):
    """A stderr whose reader may leave, or whose disk may be full, without an end to the work."""

    def write(self, text: str) -> int:
        """Write text, as far as that is possible."""
        with contextlib.suppress(OSError, ValueError):
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, as far as that is possible."""
        with contextlib.suppress(OSError, ValueError):
            super().flush()


def prepare() -> None:
    """Prepare this process' streams: a closed one is replaced, so that no other file gets its number.

    Without that, a file that is opened later would become stdout or stderr, and libraries would write into it.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BytesIO())
    if sys.stdout is None:
        sys.stdout = ClosedStdout(io.BytesIO())
    errors: Any = sys.stderr
    binary = io.BufferedWriter(io.FileIO(2, "w", closefd=False)) if errors is None else errors.detach()
    encoding = "utf-8" if errors is None else errors.encoding
    sys.stderr = ForgivingStderr(binary, encoding, "backslashreplace", line_buffering=True)


class ClosedStdout(io.TextIOWrapper):
    """In place of a stdout that was closed before the process began; what is written to it is lost."""


def check_stdout() -> None:
    """Raise ConfigError where results would go to a closed stdout."""
    if isinstance(sys.stdout, ClosedStdout):
        raise ConfigError("stdout is closed: give --out FILE for the results")


class _State:
    """Whether a row is being written, and the signal that came meanwhile."""

    writing = False
    pending: int | None = None


@contextlib.contextmanager
def handled_signals() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into KeyboardInterrupt and `Terminated`; what the caller ignores stays ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    taken = {number: old for number, old in before.items() if old not in (signal.SIG_IGN, None)}
    for number in taken:
        signal.signal(number, _on_signal)
    try:
        yield
    finally:
        for number, old in taken.items():
            signal.signal(number, old)


@contextlib.contextmanager
def whole_row() -> Iterator[None]:
    """Write a row to its end before a signal counts; a second signal does not wait."""
    _State.writing = True
    try:
        yield
    finally:
        _State.writing = False
        number, _State.pending = _State.pending, None
        if number is not None:
            _raise(number)


def _on_signal(number: int, frame: FrameType | None) -> None:
    if _State.writing and _State.pending is None:
        _State.pending = number
    else:
        _raise(number)


def _raise(number: int) -> None:
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
