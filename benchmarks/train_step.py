"""Time of a training step: this network against timm's of the same name, in rounds that take turns.

``python benchmarks/train_step.py --record benchmarks/DATE-train-step.md``: forward, loss, backward and an SGD step on
one batch that stays in memory. timm's network is timed in both memory layouts, and its better one counts. With
``--compile`` all are compiled, which takes a minute or two for each. Where there is a GPU, it is used, with batches of
256: ``python benchmarks/train_step.py --compile --precisions bfloat16 --layouts "channels last"``.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import nn
from torch.nn import functional as F

from seresnet import create_model
from seresnet.common.machine import described_processor
from tests.timm_import import timm

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LAYOUTS = {"channels first": torch.contiguous_format, "channels last": torch.channels_last}


@dataclass
class Contestant:
    """One network with its optimizer, batch and times."""

    name: str
    step: Callable[[], None]
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def contestant(model: nn.Module, name: str, layout: str, dtype: str, options: argparse.Namespace) -> Contestant:
    """Return what takes a training step of ``model``."""
    device = torch.device(options.device)
    model = model.train().to(device, memory_format=LAYOUTS[layout])
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, nesterov=True)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(options.batch_size, 3, options.size, options.size, generator=generator)
    x = x.to(device).contiguous(memory_format=LAYOUTS[layout])
    y = torch.randint(0, 1000, (options.batch_size,), generator=generator).to(device)
    network = torch.compile(model) if options.compile else model

    def step() -> None:
        with torch.autocast(device.type, dtype=DTYPES[dtype], enabled=dtype != "float32"):
            loss = F.cross_entropy(network(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return Contestant(f"{name}, {layout}", step)


def race(arch: str, dtype: str, options: argparse.Namespace) -> list[Contestant]:
    """Time this network and timm's in rounds that take turns, each round from another start."""
    ours = create_model(arch, num_classes=1000)
    runners = [contestant(ours, "seresnet", "channels last", dtype, options)]
    for layout in options.layouts:
        runners.append(contestant(timm.create_model(arch, num_classes=1000), "timm", layout, dtype, options))
    for runner in runners:
        for _ in range(2):
            runner.step()
    for number in range(options.rounds):
        for place in range(len(runners)):
            runner = runners[(number + place) % len(runners)]
            start = time.perf_counter()
            runner.step()
            runner.seconds.append(time.perf_counter() - start)
    return runners


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    gpu = torch.cuda.is_available()
    parser.add_argument("--models", nargs="+", default=["legacy_seresnet50", "seresnet50", "seresnet18"])
    parser.add_argument("--precisions", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS), help="timm's memory layouts")
    parser.add_argument("--device", default="cuda" if gpu else "cpu")
    parser.add_argument("--batch-size", type=int, default=256 if gpu else 8)
    parser.add_argument("--size", type=int, default=224 if gpu else 128)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--record", type=Path, help="add a table to this Markdown file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if options.record and not options.record.exists():
        options.record.write_text(heading(options))
    lines = [f"\n{'Compiled' if options.compile else 'Eager'}, batch {options.batch_size}, {options.size} pixels:\n"]
    lines += [f"| network | precision | seresnet ms | timm ms | timm, {' / '.join(options.layouts)} | times as fast |"]
    lines += ["| --- | --- | --- | --- | --- | --- |"]
    print("\n".join(lines), flush=True)
    for arch in options.models:
        for dtype in options.precisions:
            lines.append(row(arch, dtype, race(arch, dtype, options)))
            print(lines[-1], flush=True)
            gc.collect()
    if options.record:
        with options.record.open("a") as file:
            file.write("\n".join(lines) + "\n")
    return 0


def row(arch: str, dtype: str, runners: list[Contestant]) -> str:
    """Return a row of the table: medians, with the quartiles of this network and of timm's better layout."""
    ours, *theirs = runners
    best = min(theirs, key=lambda runner: runner.median)
    figures = [f"{1e3 * r.median:.0f} ({'-'.join(quartiles(r))})" for r in (ours, best)]
    layouts = " / ".join(f"{1e3 * runner.median:.0f}" for runner in theirs)
    return f"| {arch} | {dtype} | {figures[0]} | {figures[1]} | {layouts} | {best.median / ours.median:.2f} |"


def quartiles(runner: Contestant) -> list[str]:
    first, _, third = statistics.quantiles(runner.seconds, n=4)
    return [f"{1e3 * first:.0f}", f"{1e3 * third:.0f}"]


def heading(options: argparse.Namespace) -> str:
    """Return the record's title and what it was measured on."""
    device = f"{described_processor()}, {options.threads} thread(s)"
    if options.device == "cuda":
        device = torch.cuda.get_device_name()
    command = " ".join(["python", *sys.argv])
    return (
        f"# Training steps, {datetime.datetime.now(datetime.UTC).date()}\n\n`{command}` on {device}; Python "
        f"{platform.python_version()}, torch {torch.__version__}, timm {timm.__version__}. Medians of {options.rounds} "
        "rounds that take turns, with their quartiles. A step is forward, cross entropy, backward, SGD with momentum; "
        "bfloat16 by autocast. seresnet is in channels-last memory, as `seresnet train` has it.\n"
        + ("" if options.device == "cuda" else "\nNo GPU was at hand: figures for GPUs are missing.\n")
    )


if __name__ == "__main__":
    sys.exit(main())
