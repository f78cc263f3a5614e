"""How long does the second `seresnet predict photograph.png` take, from the shell's prompt to the next?

    python benchmarks/warm_start.py [--rounds N] [--record benchmarks/DATE-warm-start.md]

Whole processes, each from start to exit: one photograph classified by a model that the cache knows (random weights
saved as a directory, and the bundled model), and `python -c pass`, in rounds that take turns. The first use of each
model, which converts it, is timed once. The measure is the wall time over that of `python -c pass`: at most one second.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import record
from PIL import Image
from skimage import data

import seresnet
from seresnet.common.files import write_text
from seresnet.common.timing import Spread, interleaved

MODELS = ("legacy_seresnet50", "legacy_seresnet152")  # random weights; of the bundled one, the trained ones
BUNDLED = "seresnet20.cifar10"
MOST = 1.0  # seconds over `python -c pass`


def predict(model: str, photograph: Path, cache: Path) -> None:
    """Classify one photograph in a process of its own; stop this script where that fails."""
    command = [sys.executable, "-m", "seresnet", "predict", str(photograph), "--model", model, "--offline"]
    done = subprocess.run(command, env={**os.environ, "SERESNET_CACHE": str(cache)}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--record", type=Path, help="write the figures to this Markdown file")
    options = parser.parse_args(arguments)
    load = record.load_average()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        photograph = home / "chelsea.png"
        Image.fromarray(data.chelsea()).save(photograph)
        models = {BUNDLED: BUNDLED}
        for name in MODELS:
            seresnet.save(seresnet.create_model(name), home / name)
            models[name] = str(home / name)
        first = {}
        for name, model in models.items():
            begin = time.perf_counter()
            predict(model, photograph, home / "cache")
            first[name] = time.perf_counter() - begin
        calls = [lambda model=model: predict(model, photograph, home / "cache") for model in models.values()]
        calls.append(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True))
        figures = interleaved(calls, options.rounds, slot_seconds=0.0)
    nothing = figures.pop()
    rows = []
    for name, taken in zip(models, figures, strict=True):
        more = Spread.of([(ours - theirs) / 1000 for ours, theirs in zip(taken, nothing, strict=True)])
        median, quartiles = record.cells(more, 2)
        reached = "reached" if more.median <= MOST else "**missed**"
        rows.append([f"`{name}`", f"{first[name]:.1f}", median, quartiles, reached])
    columns = ("model", "first use, s", "afterwards, s more than `python -c pass`", "quartiles", f"at most {MOST:g} s")
    text = record.table(columns, rows)
    print(text)
    if options.record:
        write_text(options.record, page(text, options.rounds, load))


def page(table: str, rounds: int, load: tuple[float, float, float]) -> str:
    """Return the record as Markdown."""
    return (
        f"# {record.today()}: one photograph with a warm cache\n\n"
        "`seresnet predict chelsea.png --model M --offline` as a process, from start to exit, against "
        f"`python -c pass`; {rounds} rounds that take turns, medians. The first use converts "
        "the model; it is timed once.\n\n"
        f"{table}\n"
        "## Command\n\n```console\n$ python benchmarks/warm_start.py --record benchmarks/DATE-warm-start.md\n```\n\n"
        f"## Hardware and versions\n\n{record.hardware({}, load)}\n"
    )


if __name__ == "__main__":
    main()
