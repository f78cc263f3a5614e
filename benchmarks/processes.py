"""Do two processes train like one, leave when the other dies, and end well every time?

``python benchmarks/processes.py --record benchmarks/DATE-processes.md``. Started by torchrun, with gloo: 20 runs that
have to end with exit code 0 and nothing on stderr but the log; the losses of 21 steps against one process; and deaths
(SIGKILL, or a process that hangs) of either process, started without torchrun, which would end the other one itself.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import accelerate
import torch

from tests.made_images import color_folder

ROOT = Path(__file__).parents[1]
SETTINGS = [
    "size=16",
    "precision=float32",
    "epochs=3",
    "grad_accum_steps=2",
    "crop=resized",
    "rotation=10",
    "random_erasing_prob=0.3",
]
SETTINGS += ["drop_rate=0.2", "drop_path_rate=0.1", "sync_bn=true"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def arguments(folder: Path, out: str, *driver: str) -> list[str]:
    """Return what comes behind ``python`` or ``torchrun`` for a run."""
    settings = [part for pair in SETTINGS for part in ("--set", pair)]
    train = ["train", str(folder / "data"), "--recipe", "debug", "--batch-size", "8", "--device", "cpu", *settings]
    return ["-m", "tests.training.driver", *driver, "--", *train, "--out", str(folder / out)]


def start(command: list[str], **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT | environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def losses(path: Path) -> list[float]:
    return [float(line.split()[1]) for line in path.read_text().splitlines()]


def exits(folder: Path, count: int) -> tuple[str, bool]:
    """Run two processes to the end, again and again; compare the first run's losses with those of one process."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    alone = start([sys.executable, *arguments(folder, "one", "--losses", str(folder / "one.txt"))])
    alone.communicate()
    clean, seconds = 0, []
    for number in range(count):
        begin = time.perf_counter()
        run = start([*torchrun, *arguments(folder, f"run{number}", "--losses", str(folder / f"run{number}.txt"))])
        out, err = run.communicate()
        seconds.append(time.perf_counter() - begin)
        bad = [
            line for line in err.splitlines() if any(word in line for word in ("Error", "error", "terminate", "SIG"))
        ]
        clean += run.returncode == 0 and out.count("validation top-1") == 1 and not bad
        if run.returncode or bad:
            print(err[-2000:])
    pairs = list(zip(losses(folder / "one.txt"), losses(folder / "run0.txt"), strict=True))
    worst = max(abs(a - b) / a for a, b in pairs)
    same = all((folder / f"run{n}.txt").read_text() == (folder / "run0.txt").read_text() for n in range(count))
    text = (
        f"torchrun, two processes: {clean} of {count} runs ended cleanly, {min(seconds):.0f} to {max(seconds):.0f} s "
        f"each; their losses {'are' if same else 'are NOT'} the same to the last bit. Against one process, over "
        f"{len(pairs)} steps with synchronised batch norm: relative difference at most {worst:.1e}"
    )
    return text, clean == count and worst <= 1e-5 and alone.returncode == 0


def death(folder: Path, dies: int, way: str) -> tuple[str, bool]:
    """End one of two processes in the middle of a step; the other has to leave, and a restart to go on."""
    name = f"{way}{dies}"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, *arguments(folder, name, "--rank", str(dies), "--way", way, "--die-in-step", "10", "0")]
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    both = [start(command, RANK=str(rank), LOCAL_RANK=str(rank), **world) for rank in (0, 1)]
    died = wait_for_death(both[dies])
    try:
        err = both[1 - dies].communicate(timeout=120)[1]
        seconds = time.perf_counter() - died
    finally:
        for process in both:
            process.kill()
    last = err.splitlines()[-1]
    well = both[1 - dies].returncode == 2 and last.startswith("seresnet: error:") and seconds < 60
    again = start([sys.executable, *arguments(folder, name), "--resume"])
    again.communicate()
    text = (
        f"process {dies} {'killed' if way == 'kill' else 'stopped'}: the other left after {seconds:.0f} s with `{last}`"
    )
    return f"{text}, and a restart with --resume ended with {again.returncode}", well and again.returncode == 0


def wait_for_death(process: subprocess.Popen[str]) -> float:
    """Return when a process had died or was stopped."""
    while True:
        stat = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        if stat in "ZTtX":
            return time.perf_counter()
        time.sleep(0.05)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--record", type=Path, help="write what was found into this Markdown file")
    options = parser.parse_args()
    begin = time.perf_counter()
    found: list[tuple[str, bool]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        color_folder(folder / "data", per_class=24)
        found.append(exits(folder, options.runs))
        print(*found[-1], flush=True)
        for dies, way in ((0, "kill"), (1, "kill"), (0, "stop"), (1, "stop")):
            found.append(death(folder, dies, way))
            print(*found[-1], flush=True)
    failures = sum(not well for _, well in found)
    if options.record:
        lines = [
            f"# Two processes, {datetime.datetime.now(datetime.UTC).date()}",
            "",
            f"`python benchmarks/processes.py` in {time.perf_counter() - begin:.0f} s, gloo on a {platform.machine()} "
            f"CPU; Python {platform.python_version()}, torch {torch.__version__}, accelerate {accelerate.__version__}. "
            "NCCL and several machines have not been run.",
            "",
            *(f"- {text}{'.' if well else '. FAILED.'}" for text, well in found),
            "",
        ]
        options.record.write_text("\n".join(lines))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
