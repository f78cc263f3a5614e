"""What people see on stderr: which model answers, and how far it is, as a bar or now and then as a plain line."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from seresnet.common.text import printable

if TYPE_CHECKING:
    from seresnet.inference.classifier import Classifier

PLAIN_SECONDS = 30.0  # between two plain lines


def announce(clf: Classifier, model: str | None) -> None:
    """Say which model answers, and on what it runs; ``model`` is None where the user named none."""
    if model is None:
        data = {"cifar10": "CIFAR-10 "}.get(clf.model_name.rpartition(".")[2], "")
        print(
            f"no --model given: using the bundled {clf.model_name} ({clf.num_classes} {data}classes)", file=sys.stderr
        )
    print(f"{printable(clf.model_name)}: {clf.engine.describe()}", file=sys.stderr, flush=True)


class ImageProgress:
    """Count images as they are done, name those that could not be read, and sum up at the end.

    ``bar=False`` keeps a terminal free for the results themselves. ``count``, where given, is called in a thread of
    its own to find out how many images there are.
    """

    def __init__(self, *, bar: bool, count: Callable[[], int] | None = None) -> None:
        self.done = self.unreadable = 0
        self._console = Console(stderr=True)
        self._bar = _bar(self._console) if bar and self._console.is_terminal else None
        self._count = count

    def __enter__(self) -> ImageProgress:
        self._start = self._last = time.perf_counter()
        if self._bar:
            self._task = self._bar.add_task("images", total=None, rate="")
            self._bar.start()
            threading.Thread(target=self._find_total, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, path: str | None, error: str | None, *, shown: bool = False) -> None:
        """Count one image; ``shown`` says that the results on this very terminal name it already."""
        self.done += 1
        if error is not None:
            self.unreadable += 1
            if not shown:
                self._say(f"seresnet: cannot read {printable(path or 'an image')}: {printable(error)}")
        now = time.perf_counter()
        if self._bar:
            self._bar.update(self._task, completed=self.done, rate=f"{self.rate:,.0f} images/s")
        elif not self._console.is_terminal and now - self._last > PLAIN_SECONDS:
            self._last = now
            self._say(f"{self.done:,} images, {self.rate:,.1f} images/s")

    @property
    def rate(self) -> float:
        """Images a second since the start."""
        return self.done / max(1e-9, time.perf_counter() - self._start)

    def summary(self) -> str:
        """Return what was done, in one line."""
        if not self.done:
            return "no images"
        seconds = time.perf_counter() - self._start
        text = f"{self.done:,} image{'' if self.done == 1 else 's'} in {seconds:.1f} s ({self.rate:,.1f} images/s)"
        return f"{text}, {self.unreadable:,} of them could not be read" if self.unreadable else text

    def _say(self, line: str) -> None:
        if self._bar:
            self._bar.console.print(Text(line), soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def _find_total(self) -> None:
        if self._bar and self._count:
            with contextlib.suppress(OSError):  # a folder that went away is named where it is read
                self._bar.update(self._task, total=self._count())


def _bar(console: Console) -> Progress:
    columns = SpinnerColumn(), BarColumn(36), MofNCompleteColumn(), TextColumn("{task.fields[rate]}")
    return Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
