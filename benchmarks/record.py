"""What the speed records have in common: goals, tables in Markdown, the machine, and the block in the manual."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from seresnet.benchmarking.benchmark import machine
from seresnet.common.files import write_text
from seresnet.common.timing import Spread, Timing

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


@dataclass(frozen=True)
class Goal:
    """A bound on how many times as fast ``ours`` is as ``peer``; a cost of 10 % is a speed of 1 / 1.1."""

    what: str
    ours: str
    peer: str
    least: float
    is_cost: bool = False

    def row(self, timings: Mapping[str, Timing]) -> list[str]:
        """Return the cells of a table: what was asked, what was found, and whether that reaches it."""
        times = timings[self.ours].speedup_over(timings[self.peer])
        reached = "reached" if times.median >= self.least else "**missed**"
        if self.is_cost:
            cost = timings[self.peer].speedup_over(timings[self.ours])  # time of ours over time of the peer's
            asked = f"at most {100 * (1 / self.least - 1):.0f} % more time"
            quartiles = f"{percent(cost.lower_quartile)} to {percent(cost.upper_quartile)}"
            return [self.what, asked, percent(cost.median), quartiles, reached]
        quartiles = f"{times.lower_quartile:.3f} to {times.upper_quartile:.3f}"
        return [self.what, f"at least {self.least:g} times", f"{times.median:.3f} times", quartiles, reached]


GOAL_COLUMNS = ("goal", "asked for", "found", "quartiles", "")


def percent(ratio: float) -> str:
    """Return how much more time a ratio of times means, with its sign."""
    return f"{100 * (ratio - 1):+.1f} %"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; all columns but the first are aligned to the right."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cells(spread: Spread, digits: int = 1) -> tuple[str, str]:
    """Return the median, and the quartiles in words."""
    return f"{spread.median:,.{digits}f}", f"{spread.lower_quartile:,.{digits}f} to {spread.upper_quartile:,.{digits}f}"


def hardware(extra: Mapping[str, str], load: tuple[float, float, float]) -> str:
    """Return the paragraph on machine and versions; ``load`` is the load average from before the run."""
    facts = machine()
    versions = ", ".join(f"{name} {found}" for name, found in {**facts["versions"], **extra}.items())
    return (
        f"{facts['cpu']}, {facts['cores']} cores, threads: {facts['num_threads']}; {facts['platform']}. "
        f"{versions}. "
        f"Load average before the run: {load[0]:.2f} (1 minute), {load[1]:.2f} (5 minutes)."
    )


def version_of(package: str) -> str:
    """Return the version that is installed."""
    return version(package)


def load_average() -> tuple[float, float, float]:
    """Return the system's load averages, or zeros where it has none."""
    return os.getloadavg() if hasattr(os, "getloadavg") else (0.0, 0.0, 0.0)


def today() -> str:
    """Return the date, as records are named."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def fill_block(page: Path, text: str) -> None:
    """Put a text between the marks of a page of the manual, in place of what is there."""
    content = page.read_text(encoding="utf-8")
    head, begin, rest = content.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{page}: lacks {BEGIN} and {END}")
    write_text(page, f"{head}{BEGIN}\n{text.strip()}\n{END}{tail}")
