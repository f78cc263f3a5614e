"""What a person sees while a run trains: a bar on a terminal, now and then a plain line elsewhere, on stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_SECONDS = 60.0  # between two plain lines


class EpochProgress:
    """Show how far a pass over the images is, its rate, and the time left."""

    def __init__(self, label: str, batches: int, done: int = 0, *, quiet: bool = False) -> None:
        self.label, self.batches, self.done = label, batches, done
        self.images, self.quiet = 0, quiet
        self.start = self.last_line = time.perf_counter()
        self._bar: Progress | None = None
        console = Console(stderr=True)
        if console.is_terminal and not quiet:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(30),
                MofNCompleteColumn(),
                TextColumn("{task.fields[info]}"),
                TimeRemainingColumn(),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task(label, total=batches, completed=done, info="")

    def __enter__(self) -> EpochProgress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar:
            self._bar.stop()

    @property
    def images_per_s(self) -> float:
        """Images a second since the start of the pass, of all processes."""
        return self.images / max(1e-9, time.perf_counter() - self.start)

    def advance(self, images: int, info: str = "") -> None:
        """Count one step of ``images``, over all processes."""
        self.done += 1
        self.images += images
        text = f"{self.images_per_s:.0f} images/s {info}"
        if self._bar:
            self._bar.update(self._task, completed=self.done, info=text)
        elif not self.quiet and time.perf_counter() - self.last_line > PLAIN_SECONDS:
            self.last_line = time.perf_counter()
            left = (self.batches - self.done) * (self.last_line - self.start) * images / max(1, self.images)
            print(f"{self.label} {self.done}/{self.batches} {text}, {left:.0f} s left", file=sys.stderr, flush=True)
