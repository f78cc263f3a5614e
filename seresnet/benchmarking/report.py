"""The report of a benchmark: a text table, JSON, CSV and a plot."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from seresnet.common.files import atomic_file, check_output_folder, write_text
from seresnet.common.plots import BLUE, GREY, INK, new_figure, tidy
from seresnet.common.text import csv_text
from seresnet.common.timing import Spread, Timing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from seresnet.benchmarking.benchmark import Benchmark, BenchmarkResult

COLUMNS = ("name", "batch_size", "images_per_second", "difference_of_logits", "engine")  # of the CSV, as they are
SPREADS = ("latency_ms", "speedup_over_first")  # of the CSV, with their quartiles


def write_benchmark(benchmark: Benchmark, folder: Path, exist_ok: bool = False) -> Path:
    """Write ``benchmark.json``, ``benchmark.csv`` and ``benchmark.png``, each atomically."""
    check_output_folder(folder, exist_ok)
    picture = draw([[row.timing for row in benchmark.of_batch(size)] for size in benchmark.batch_sizes])
    write_text(folder / "benchmark.json", json.dumps(benchmark.to_dict(), indent=2) + "\n")
    write_text(folder / "benchmark.csv", _csv(benchmark))
    with atomic_file(folder / "benchmark.png") as file:
        picture.savefig(file, format="png", dpi=120)
    return folder


def heading(benchmark: Benchmark) -> str:
    """Return the machine in one line."""
    machine = benchmark.machine
    versions = ", ".join(f"{name} {found}" for name, found in machine["versions"].items() if found != "not installed")
    return f"{machine['cpu']}, {machine['cores']} cores; threads: {machine['num_threads']}; {versions}"


def table(rows: Sequence[BenchmarkResult]) -> list[str]:
    """Return the lines of the table of one batch size, its header first."""
    width = max([len(row.timing.name) for row in rows] + [len("batch 1000")])
    size = f"batch {rows[0].timing.batch_size}"
    lines = [f"{size:{width}}  {'latency, ms':>11}  {'quartiles':>17}  {'images/s':>9}  {'speedup':>26}  logits"]
    for row in rows:
        compared = "" if row is rows[0] else _difference(row)
        latency, times = row.timing.latency_ms, row.speedup
        quartiles = f"{latency.lower_quartile:.2f} to {latency.upper_quartile:.2f}"
        ratio = f"{times.median:.3f} ({times.lower_quartile:.3f} to {times.upper_quartile:.3f})"
        cells = f"{latency.median:11.2f}  {quartiles:>17}  {row.timing.images_per_second:9,.1f}  {ratio:>26}"
        lines.append(f"{row.timing.name:{width}}  {cells}  {compared}".rstrip())
    return lines


def draw(
    panels: Sequence[Sequence[Timing]], title: str = "", marks: Sequence[str] = (), titles: Sequence[str] = ()
) -> Figure:
    """Draw latencies as bars with their quartiles, one panel per batch size, the first candidate on top.

    Bars whose name starts with one of ``marks`` are blue, the others grey; without marks the first is blue. ``titles``
    are those of the panels, two per line.
    """
    columns = min(2, len(panels))
    lines = ceil(len(panels) / columns)
    height = 1.4 + 0.34 * max(len(panel) for panel in panels)
    title = title or "Latency: median and quartiles of rounds"
    figure = new_figure(5.6 * columns + 1.5, lines * height, title)
    grid = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes, timings in zip(grid, panels, strict=False):
        chosen = marks or (timings[0].name,)
        _bars(axes, timings, [BLUE if timing.name.startswith(tuple(chosen)) else GREY for timing in timings])
    for axes, name in zip(grid, titles, strict=False):
        axes.set_title(name, fontsize=10)
    for axes in figure.axes[len(panels) :]:
        axes.set_axis_off()
    return figure


def _bars(axes: Axes, timings: Sequence[Timing], colors: Sequence[str]) -> None:
    """Draw one panel."""
    places = range(len(timings))
    spreads = [timing.latency_ms for timing in timings]
    medians = [spread.median for spread in spreads]
    axes.barh(places, medians, color=colors, height=0.72, xerr=_whiskers(spreads), error_kw={"ecolor": INK, "lw": 1})
    for place, spread in zip(places, spreads, strict=True):
        label = f"{spread.median:.1f}" if spread.median < 1000 else f"{spread.median:,.0f}"
        axes.annotate(label, (spread.upper_quartile, place), (5, 0), textcoords="offset points", va="center", size=8)
    axes.set_yticks(places, [timing.name for timing in timings], fontsize=8, parse_math=False)
    axes.invert_yaxis()
    size = timings[0].batch_size
    axes.set(xlim=(0, 1.15 * max(s.upper_quartile for s in spreads)), xlabel=f"ms for {_images(size)}")
    tidy(axes)
    axes.grid(axis="y", visible=False)


def _whiskers(spreads: Sequence[Spread]) -> list[list[float]]:
    """Return the distances of the quartiles from the medians."""
    return [
        [spread.median - spread.lower_quartile for spread in spreads],
        [spread.upper_quartile - spread.median for spread in spreads],
    ]


def _images(count: int) -> str:
    return "one image" if count == 1 else f"{count} images"


def _difference(row: BenchmarkResult) -> str:
    """Return the difference of the logits from the baseline's, as text."""
    if row.difference is None:
        return "other model"
    return f"differ by {row.difference:.1e}" if row.difference else "equal"


def _csv(benchmark: Benchmark) -> str:
    statistics = [f"{name}_{statistic}" for name in SPREADS for statistic in vars(benchmark.rows[0].speedup)]
    rows: list[list[object]] = [[*COLUMNS, *statistics]]
    for row in benchmark.rows:
        values = row.to_dict()
        spreads = [f"{number:.6g}" for name in SPREADS for number in values[name].values()]
        rows.append([*(values[name] for name in COLUMNS), *spreads])
    return csv_text(rows)
