"""Does a run that is killed end like one that was not? Kills, half-written checkpoints, full disks, signals.

``python benchmarks/resume_trust.py --record benchmarks/DATE-resume-trust.md``. Each run is a fork of this process,
which has imported everything but computed nothing, and draws no curves: a run takes a second or two. Runs are compared
by the bits of all losses, weights, averages and momenta, and by their tables. Full disks are file systems in memory,
which only root can mount; without them the limit on a file's size stands in.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import os
import platform
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import accelerate
import torch
import torch._dynamo  # the first optimizer would import it, anew in every fork
import torch.utils.tensorboard

import seresnet.cli.train  # noqa: F401
from seresnet.cli import run as command
from seresnet.training import run_folder
from seresnet.training.checkpoint import load_state
from seresnet.training.train import train  # noqa: F401
from seresnet.weights.create import create_model
from tests.made_images import color_folder
from tests.training import driver

SETTINGS = (
    *(
        "size=16",
        "precision=float32",
        "epochs=3",
        "grad_accum_steps=2",
        "crop=resized",
        "drop_rate=0.2",
        "drop_path_rate=0.1",
    ),
    *("rotation=10", "random_erasing_prob=0.3", "mixup=0.2", "checkpoint_minutes=1000"),
)
EVERY = 3  # steps between checkpoints
STEPS = 21  # of 57 images in batches of 8, three times


@dataclass
class Bench:
    """The data, the uninterrupted run, and what was found."""

    folder: Path
    failures: list[str] = field(default_factory=list)

    def run(self, name: str, hooks: Callable[[], None] = lambda: None, *more: str, workers: int = 0) -> int:
        """Train to ``folder/name`` in a fork, and return its exit code, or minus the signal that ended it."""
        if (child := os.fork()) == 0:
            code = 99
            try:
                with (self.folder / f"{Path(name).name}.log").open("a") as log:
                    os.dup2(log.fileno(), 1)
                    os.dup2(log.fileno(), 2)
                torch.set_num_threads(1)
                driver.record_losses(self.folder / f"{Path(name).name}.losses")
                driver.checkpoint_every(EVERY)
                run_folder.draw_curves = lambda *arguments: None
                hooks()
                arguments = ["train", self.folder / "data", "--recipe", "debug", "--batch-size", "8", "--device", "cpu"]
                settings = [part for pair in SETTINGS for part in ("--set", pair)]
                out = ("--out", self.folder / name, "--workers", workers)
                code = command([*map(str, (*arguments, *settings, *out)), *more])
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def expect(self, holds: bool, what: str) -> bool:
        """Note and print ``what`` went wrong, unless it ``holds``."""
        if not holds:
            self.failures.append(what)
            print("FAILED:", what, flush=True)
        return holds

    def losses(self, name: str) -> dict[int, str]:
        """Return the loss of each step, to the last bit; a step taken twice has to have it twice."""
        found: dict[int, str] = {}
        for line in (self.folder / f"{Path(name).name}.losses").read_text().splitlines():
            step, _, bits = line.split()
            self.expect(found.setdefault(int(step), bits) == bits, f"{name}: step {step} had two losses")
        return found

    def ends_like(self, name: str, other: str = "whole") -> bool:
        """Tell whether two runs are the same to the last bit: losses, all tensors, tables but for times."""
        one, two = (load_state(self.folder / n / "last" / "state.pt") for n in (name, other))
        rows = [
            [{k: v for k, v in row.items() if k not in ("seconds", "images_per_s")} for row in state["rows"]]
            for state in (one, two)
        ]
        positions = [{k: v for k, v in state["state"].items() if k != "seconds"} for state in (one, two)]
        tensors = [dict(flat(state)) for state in (one, two)]
        same = tensors[0].keys() == tensors[1].keys() and all(
            torch.equal(a, tensors[1][k]) for k, a in tensors[0].items()
        )
        equal = same and rows[0] == rows[1] and positions[0] == positions[1]
        return self.expect(equal and self.losses(name) == self.losses(other), f"{name} does not end like {other}")


def flat(value: object, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Yield all tensors in nested dictionaries and lists, with their place."""
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, dict | list | tuple):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from flat(part, f"{name}/{key}")


def kills(bench: Bench, count: int, rng: random.Random) -> str:
    """Kill runs in random steps, and resume them with another number of workers."""
    places = []
    for i in range(count):
        step, micro, workers = rng.randint(EVERY + 1, STEPS), rng.randint(0, 1), 2 * (i % 2)
        code = bench.run(f"kill{i}", lambda s=step, m=micro: driver.die_in_step(s, m, "kill"), workers=workers)
        bench.expect(code == -9, f"kill{i}: left with {code}")
        code = bench.run(f"kill{i}", lambda: None, "--resume", workers=2 - workers)
        bench.expect(code == 0, f"kill{i}: the resumed run left with {code}")
        bench.ends_like(f"kill{i}")
        places.append(f"{step}{'ab'[micro]}/{workers}")
    return f"{count} runs killed with -9 in step/micro-batch/workers {', '.join(places)}"


def writes(bench: Bench, count: int, rng: random.Random) -> str:
    """Kill runs in the writing of a checkpoint; the one before has to load, and the run to end as if nothing was."""
    shares = [rng.random() for _ in range(count - count // 4)] + [1.0] * (count // 4)
    for i, share in enumerate(shares):
        number = rng.randint(2, STEPS // EVERY + 2)
        name = f"write{i}"
        code = bench.run(name, lambda n=number, s=share: driver.die_in_write(n, s))
        bench.expect(code == -9, f"{name}: left with {code}")
        left = [*(bench.folder / name / "last").glob(".state.pt.*.tmp")]
        bench.expect(len(left) == 1, f"{name}: it did not die in the writing")
        bench.expect(bool(load_state(bench.folder / name / "last" / "state.pt")), f"{name}: the last checkpoint")
        bench.expect(bench.run(name, lambda: None, "--resume") == 0, f"{name}: the resumed run")
        bench.expect(not [*(bench.folder / name).rglob(".*.tmp")], f"{name}: the half-written file is still there")
        bench.ends_like(name)
    return f"{count} runs killed with -9 in the writing of a checkpoint, {count // 4} of them between flush and rename"


def disks(bench: Bench, count: int) -> str:
    """Fill the disk at several places; the error is one line, the last checkpoint loads, and the run goes on."""
    ways = set()
    for i in range(count):
        name = f"disk{i}"
        with small_disk(bench.folder / name, kilobytes=8200 + 150 * i) as (grow, way, limit):
            ways.add(way)
            code = bench.run(f"{name}/run", limit)
            line = (bench.folder / "run.log").read_text().splitlines()[-1]
            bench.expect(code == 2 and "no space left" in line and "--resume" in line, f"{name}: {code}, {line}")
            bench.expect(not [*(bench.folder / name).rglob(".*.tmp")], f"{name}: a temporary file is left")
            bench.expect(bool(load_state(bench.folder / name / "run" / "last" / "state.pt")), f"{name}: its checkpoint")
            create_model(bench.folder / name / "run" / "last", pretrained=True)
            grow()
            bench.expect(bench.run(f"{name}/run", lambda: None, "--resume") == 0, f"{name}: the resumed run")
            bench.ends_like(f"{name}/run")
        for log in ("run.log", "run.losses"):
            (bench.folder / log).unlink()
    return f"{count} full disks ({', '.join(ways)})"


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[tuple[Callable[[], object], str, Callable[[], None]]]:
    """Make ``folder`` a file system of that size; yields what makes it large, its name, and a run's first act."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:

        def limit() -> None:
            """Let the first run fill its first checkpoint and model, and no second."""
            state = 3_400_000
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            save, written = torch.save, [0]

            def limited(*arguments: object) -> None:
                written[0] += 1
                size = state if written[0] == 3 else resource.RLIM_INFINITY
                resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
                save(*arguments)

            torch.save = limited

        yield (lambda: None), "a limit on the size of a file: only root can mount one in memory", limit
        return
    try:
        yield (
            lambda: subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True),
            "tmpfs of 8.2 MB and more",
            lambda: None,
        )
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def signals(bench: Bench) -> str:
    """Send SIGTERM and SIGINT in a step; the run saves, leaves with the shell's code, and goes on."""
    took = []
    for number in (signal.SIGTERM, signal.SIGINT):
        name = number.name.lower()
        start = time.perf_counter()
        code = bench.run(name, lambda n=number: driver.signal_in_step(10, n))
        took.append(time.perf_counter() - start)
        bench.expect(code == 128 + number, f"{name}: left with {code}")
        at = load_state(bench.folder / name / "last" / "state.pt")["state"]["step"]
        bench.expect(at == 10, f"{name}: saved at step {at}, not at 10")
        bench.expect(bench.run(name, lambda: None, "--resume") == 0, f"{name}: the resumed run")
        bench.ends_like(name)
    return f"SIGTERM and SIGINT: exit codes 143 and 130, saved at that step; whole runs of {max(took):.1f} s at most"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--writes", type=int, default=20)
    parser.add_argument("--disks", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", type=Path, help="write what was found into this Markdown file")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the mounted disks have to go
    gc.freeze()  # or each fork would search, and thereby copy, all that is imported here
    rng, start = random.Random(options.seed), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        color_folder(bench.folder / "data", per_class=24)
        bench.expect(bench.run("whole") == 0, "the uninterrupted run")
        bench.expect(len(bench.losses("whole")) == STEPS, f"{STEPS} steps")
        bench.expect(bench.run("again", workers=2) == 0, "the second uninterrupted run")
        bench.ends_like("again")
        found = ["two uninterrupted runs with one seed, 0 and 2 workers"]
        print(found[-1], flush=True)
        for part in (
            lambda: kills(bench, options.kills, rng),
            lambda: writes(bench, options.writes, rng),
            lambda: disks(bench, options.disks),
            lambda: signals(bench),
        ):
            found.append(part())
            print(found[-1], flush=True)
        if bench.failures:
            for log in sorted(bench.folder.glob("*.log")):
                print(f"--- {log.name}\n{log.read_text()[-1500:]}")
    print(f"{len(bench.failures)} failures, {time.perf_counter() - start:.0f} s")
    if options.record:
        options.record.write_text(record(found, bench.failures, time.perf_counter() - start))
    return 1 if bench.failures else 0


def record(found: list[str], failures: list[str], seconds: float) -> str:
    """Return the record as Markdown."""
    lines = [
        f"# Resume that can be trusted, {datetime.datetime.now(datetime.UTC).date()}",
        "",
        f"`python benchmarks/resume_trust.py` in {seconds:.0f} s, on a {platform.machine()} CPU, one thread; Python "
        f"{platform.python_version()}, torch {torch.__version__}, accelerate {accelerate.__version__}.",
        "",
        f"Each run: seresnet20, {STEPS} steps of two micro-batches with random crops, rotation, erasing, mixup, "
        f"dropout, stochastic depth and a moving average, a checkpoint every {EVERY} steps. A resumed run has to equal "
        "the uninterrupted one to the last bit: each loss, all weights, averages, momenta, and the table of epochs.",
        "",
        *(f"- {line}." for line in found),
        "",
        f"Failures: {len(failures)}." + "".join(f"\n- {line}" for line in failures),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
