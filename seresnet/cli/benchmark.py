"""``seresnet benchmark``: how fast models and engines are on this machine."""

from __future__ import annotations

import sys
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from seresnet.benchmarking.benchmark import Benchmark

PLAIN_SECONDS = 15.0  # between two lines of progress without a terminal


def benchmark(
    *,
    model: Annotated[
        str | None, Parameter(help="A name (see seresnet models), a directory, a file, or hf-hub:user/repo.")
    ] = None,
    against: Annotated[
        list[str] | None,
        Parameter(
            help="Engines (torch), precisions (float32), both (torch:float32), or models (default: all engines).",
            consume_multiple=True,
        ),
    ] = None,
    batch_size: Annotated[list[int] | None, Parameter(help="Batch sizes.", consume_multiple=True)] = None,
    rounds: Annotated[int, Parameter(help="Rounds per batch size; each candidate runs once per round.")] = 10,
    engine: Annotated[str, Parameter(help="Inference engine of --model.")] = "auto",
    precision: Annotated[
        Literal["auto", "float32", "bfloat16", "float16", "int8"], Parameter(help="Numeric precision of --model.")
    ] = "auto",
    device: Annotated[str | None, Parameter(help="cpu, cuda, cuda:1 (default: a GPU if there is one).")] = None,
    out: Annotated[Path | None, Parameter(help="Write JSON, CSV and a plot into this folder.")] = None,
    offline: Annotated[bool, Parameter(help="Do not access the network.")] = False,
    exist_ok: Annotated[bool, Parameter(help="Overwrite the report in --out.")] = False,
) -> int:
    """Compare the speed of a model with other engines, precisions or models, on random images of its input size.

    All candidates run in this process, in rounds with a shuffled order; the results are medians over the rounds with
    quartiles, and ratios are taken within a round. Close other programs first. An architecture without a tag gets
    random weights.
    """
    from seresnet.benchmarking.benchmark import BATCH_SIZES, check
    from seresnet.benchmarking.benchmark import benchmark as measure
    from seresnet.benchmarking.report import write_benchmark
    from seresnet.common.files import check_output_folder
    from seresnet.common.progress import Progress
    from seresnet.common.text import printable
    from seresnet.inference.classifier import DEFAULT_MODEL

    sizes = batch_size or list(BATCH_SIZES)
    check(sizes, rounds)
    if out is not None:
        check_output_folder(out, exist_ok)
    total, done = rounds * len(set(sizes)), count(1)
    with Progress(seconds=PLAIN_SECONDS) as progress:
        result = measure(
            model or DEFAULT_MODEL,
            against,
            sizes,
            rounds,
            engine,
            precision,
            device,
            offline or None,
            lambda candidate: progress.say(f"{printable(candidate.name)}: {candidate.clf.engine.describe()}"),
            lambda size, _: progress.update("rounds", next(done), total, f"batch {size}"),
        )
    _show(result)
    if out is not None:
        print(f"report in {write_benchmark(result, out, exist_ok)}", file=sys.stderr)
    return 0


def _show(result: Benchmark) -> None:
    """Print the machine, and a table per batch size, to stdout."""
    from rich.console import Console

    from seresnet.benchmarking.report import heading, table
    from seresnet.common.text import printable

    console = Console(highlight=False)
    for line in result.skipped:
        print(f"not measured: {printable(line)}", file=sys.stderr)
    console.print(printable(heading(result)), style="dim", soft_wrap=True, markup=False)
    for size in result.batch_sizes:
        first, *rest = map(printable, table(result.of_batch(size)))
        console.print(f"\n{first}", style="bold", soft_wrap=True, markup=False)
        for line in rest:
            console.print(line, soft_wrap=True, markup=False)
