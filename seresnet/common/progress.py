"""Progress on stderr: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Self

PLAIN_SECONDS = 30.0  # between two plain lines


class Progress:
    """Shows the progress of one or several stages.

    - `bar`: whether a bar may be drawn; without, a terminal shows nothing but what `say` prints.
    - `seconds`: between two plain lines, where stderr is not a terminal.
    - `in_bytes`: whether the steps are bytes, which a bar shows as a size and a rate.
    """

    def __init__(self, *, bar: bool = True, seconds: float = PLAIN_SECONDS, in_bytes: bool = False) -> None:
        from rich.console import Console

        console = Console(stderr=True)
        self._plain = not console.is_terminal
        self._bar = _rich_bar(console, in_bytes) if bar and console.is_terminal else None
        self._tasks: dict[str, Any] = {}
        self._seconds, self._last = seconds, time.monotonic()

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    @property
    def has_bar(self) -> bool:
        """Whether a bar is drawn."""
        return self._bar is not None

    def update(self, stage: str, done: int, total: int | None = None, info: str = "") -> None:
        """Show that ``done`` of ``total`` steps of a stage are over; a total that was given before is kept."""
        if self._bar:
            if stage not in self._tasks:
                self._tasks[stage] = self._bar.add_task(stage, total=total, info="")
            known = {} if total is None else {"total": total}
            self._bar.update(self._tasks[stage], completed=done, info=info, **known)
        elif self._plain and (self.is_due() or done == total):
            count = f"{done:,}" if total is None else f"{done:,} of {total:,}"
            self.say(f"{stage}: {count}{f', {info}' if info else ''}")

    def is_due(self) -> bool:
        """Whether it is time for the next plain line, which is counted as printed then."""
        now = time.monotonic()
        due = now - self._last > self._seconds
        if due:
            self._last = now
        return due

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        if self._bar:
            self._bar.console.print(line, soft_wrap=True, markup=False, highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)


def _rich_bar(console: Any, in_bytes: bool) -> Any:
    from rich import progress as rich

    if in_bytes:  # the file's name is in the line above the bar
        columns: list[Any] = [rich.BarColumn(36), rich.DownloadColumn(binary_units=True), rich.TransferSpeedColumn()]
    else:
        name, info = rich.TextColumn("{task.description}"), rich.TextColumn("{task.fields[info]}")
        columns = [rich.SpinnerColumn(), name, rich.BarColumn(36), rich.MofNCompleteColumn(), info]
    return rich.Progress(*columns, rich.TimeRemainingColumn(), console=console, transient=True)
