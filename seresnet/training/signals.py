"""SIGTERM, SIGINT and SIGUSR1 end a run cleanly: after the current step, with a checkpoint."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from seresnet.errors import SeresnetError

# Slurm sends SIGUSR1 ahead of a time limit where it is asked to; Windows has none.
STOPS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)]

REPEAT_SECONDS = 2.0  # a signal may come again within these, from a terminal and from what started this process


class TrainingStopped(SeresnetError):
    """A signal stopped the run after its checkpoint was written; ``exit_code`` is the shell's for that signal."""

    def __init__(self, signum: int, epoch: int, step: int) -> None:
        super().__init__(
            f"stopped by {signal.Signals(signum).name} in epoch {epoch}, after step {step}; "
            "continue with the same command and --resume"
        )
        self.exit_code = 128 + signum


class StopSignal:
    """The first signal to stop that came to this process, if any."""

    def __init__(self, second_exits: bool) -> None:
        self.number: int | None = None
        self.came = 0.0
        self.second_exits = second_exits  # a later second signal ends the process at once; torchrun repeats the first

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Record signals within the block. Python delivers none outside of the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(signum: int, frame: FrameType | None) -> None:
            now = time.monotonic()
            if self.number is None:
                self.number, self.came = signum, now
            elif self.second_exits and now - self.came > REPEAT_SECONDS:
                os._exit(128 + signum)

        previous = {number: signal.signal(number, note) for number in STOPS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
