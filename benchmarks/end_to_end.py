"""A thousand JPEG photographs to a CSV file: ``seresnet predict`` against what timm's ``inference.py`` does.

    python benchmarks/end_to_end.py --images FOLDER --work FOLDER [--prepare | --count 40 --rounds 1]

Whole processes, from start to exit, in rounds that take turns: start-up, decoding, network, and the file. The
photographs of FOLDER are repeated up to --count by links. --work keeps the weights (random, see networks.py) and the
model in 8-bit integers: run once with --prepare, then close all else and run without. timm runs one image at a time
with two worker processes, and once more with batches of 16 and of 256 (its script's default). Writes
benchmarks/DATE-end-to-end.md and .json.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import networks
import psutil
import record

from seresnet.common.files import write_text
from seresnet.common.timing import Spread, Timing, order_of_round

HOME = Path(__file__).parent
EVERY_SECONDS = 0.1  # how often memory is read
VERSIONS = ("timm", "torchvision", "pillow", "pandas", "psutil")


@dataclass
class Subject:
    """A command, and what its runs took."""

    name: str
    command: list[str]
    out: Path
    first_seconds: float | None = None  # with an empty cache
    seconds: list[float] = field(default_factory=list)
    peak_bytes: list[int] = field(default_factory=list)

    def run(self, environment: Mapping[str, str]) -> tuple[float, int]:
        """Run the command; return its seconds and the largest memory of all its processes together."""
        self.out.unlink(missing_ok=True)
        log = self.out.with_suffix(".log")
        start = time.perf_counter()
        with log.open("wb") as messages:
            process = subprocess.Popen(self.command, env=dict(environment), stdout=messages, stderr=messages)
            peak = 0
            while process.poll() is None:
                peak = max(peak, memory(process.pid))
                time.sleep(EVERY_SECONDS)
        seconds = time.perf_counter() - start
        if process.returncode:
            sys.exit(f"{self.name}: exit code {process.returncode}: {log.read_text(errors='replace')[-2000:]}")
        return seconds, peak


def memory(pid: int) -> int:
    """Return the bytes of a process and its children; a page that several share counts once (Linux)."""
    total = 0
    try:
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            facts = process.memory_full_info()
            total += getattr(facts, "pss", facts.rss)
    except psutil.Error:  # one of them has just ended
        pass
    return total


def link_photographs(photos: Sequence[Path], count: int, folder: Path) -> Path:
    """Fill a folder with ``count`` links to photographs, one after the other and again."""
    for index in range(count):
        photo = photos[index % len(photos)]
        (folder / f"{index:05d}_{photo.stem}.jpeg").symlink_to(photo.resolve())
    return folder


def subjects(directory: Path, quantized: Path, images: Path, outputs: Path) -> list[Subject]:
    """Return what is run."""
    script = str(HOME / "timm_inference.py")
    found = []
    for size in (1, 16, 256):
        out = outputs / f"timm-{size}.csv"
        command = [sys.executable, script, str(directory), str(images), str(out), "--batch-size", str(size)]
        found.append(Subject(f"timm, batch {size}, 2 workers", command, out))
    predict = [sys.executable, "-m", "seresnet", "predict", str(images), "--format", "csv", "--offline"]
    for name, model, more in (
        ("default", directory, []),
        ("float32", directory, ["--precision", "float32"]),
        ("int8", quantized, []),
    ):
        out = outputs / f"seresnet-{name}.csv"
        command = [*predict, "--model", str(model), "--out", str(out), *more]
        found.append(Subject(f"seresnet predict, {name}", command, out))
    return found


def top1(path: Path) -> dict[str, str]:
    """Return the class of each image by its name, from either kind of table."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if "index_0" in rows[0]:
        return {row["filename"]: f"class {row['index_0']}" for row in rows}
    return {Path(row["path"]).name: row["label_1"] for row in rows}


def agreement(subject: Subject, other: Subject, count: int) -> float:
    """Return the share of images with the same class. Ends the run where a table lacks an image."""
    ours, theirs = top1(subject.out), top1(other.out)
    if len(ours) != count or ours.keys() != theirs.keys():
        sys.exit(f"{subject.name}: {len(ours)} rows, {other.name}: {len(theirs)}, of {count} images")
    return sum(ours[name] == theirs[name] for name in ours) / count


def goals() -> list[record.Goal]:
    peer = "timm, batch 1, 2 workers"
    return [
        record.Goal("default precision, over timm", "seresnet predict, default", peer, 3.5),
        record.Goal("int8, over timm", "seresnet predict, int8", peer, 5.0),
    ]


def text_of(found: Sequence[Subject], count: int, photos: int, arch: str, load: tuple[float, float, float]) -> str:
    """Return the record."""
    timings = {s.name: Timing(s.name, count, tuple(1000 * seconds for seconds in s.seconds)) for s in found}
    first = timings[found[0].name]
    float32 = next(s for s in found if s.name.endswith("float32"))
    rows = []
    for s in found:
        seconds, rounds = Spread.of(s.seconds), f"{min(s.seconds):.1f} to {max(s.seconds):.1f}"
        cold = f"{s.first_seconds:.1f}" if s.first_seconds is not None else ""
        times, peak = timings[s.name].speedup_over(first).median, max(s.peak_bytes) / 2**20
        cells = [f"{seconds.median:.1f}", rounds, cold, f"{count / seconds.median:.1f}", f"{times:.2f}", f"{peak:,.0f}"]
        rows.append([s.name, *cells, f"{100 * agreement(s, float32, count):.1f} %"])
    columns = ("", "s", "least to most", "s, empty cache", "images/s", "times timm, batch 1", "peak MiB")
    versions = {package: record.version_of(package) for package in VERSIONS}
    parts = [
        f"# {count:,} JPEG photographs to CSV, {record.today()}\n",
        "`python benchmarks/end_to_end.py --images FOLDER --work FOLDER`; what it does stands in its docstring.\n",
        f"{arch}, {photos} photographs repeated up to {count:,}; whole processes from start to exit, "
        f"{len(found[0].seconds)} rounds that take turns, medians. Weights are random, with batch norm statistics from "
        "photographs and a classifier fitted to tell their mirror images apart. timm's pipeline is "
        '`benchmarks/timm_inference.py`. "Empty cache" is the first run of a model on a machine, before the rounds. '
        "Memory is that of all processes together, a shared page counted once. Top-1 is compared with "
        f'"{float32.name}": with random weights many answers are close calls; of a trained model '
        "`seresnet quantize` reports it.\n",
        record.table((*columns, "same top-1 as float32"), rows),
        record.table(record.GOAL_COLUMNS, [goal.row(timings) for goal in goals()]),
        "## Hardware and versions\n",
        record.hardware(versions, load) + "\n",
    ]
    return "\n".join(parts)


def run_all(found: Sequence[Subject], rounds: int, cache: Path) -> None:
    """Run each once with an empty cache where it has one, then all in rounds."""
    environment = {**os.environ, "SERESNET_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    shutil.rmtree(cache, ignore_errors=True)
    for subject in found:
        if subject.name.startswith("seresnet"):
            subject.first_seconds, _ = subject.run(environment)
            say(f"{subject.name}, empty cache: {subject.first_seconds:.1f} s")
    for index in range(rounds):
        for which in order_of_round(len(found), index):
            seconds, peak = found[which].run(environment)
            found[which].seconds.append(seconds)
            found[which].peak_bytes.append(peak)
            say(f"round {index + 1}: {found[which].name}: {seconds:.1f} s, {peak / 2**20:,.0f} MiB")


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of JPEG photographs")
    parser.add_argument("--work", type=Path, required=True, help="folder for weights and the cache")
    parser.add_argument("--out", type=Path, default=HOME, help="folder of the record")
    parser.add_argument("--arch", default="legacy_seresnet50", help="network")
    parser.add_argument("--count", type=int, default=1000, help="photographs")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--prepare", action="store_true", help="make weights and the int8 model, and stop")
    arguments = parser.parse_args()
    photos = networks.photographs(arguments.images)
    load = record.load_average()
    directory = networks.weights(arguments.arch, photos, arguments.work)
    quantized = networks.int8_directory(arguments.arch, photos, arguments.work)
    if arguments.prepare:
        return
    with tempfile.TemporaryDirectory() as temporary:
        images, outputs = Path(temporary) / "images", Path(temporary) / "outputs"
        images.mkdir(), outputs.mkdir()
        link_photographs(photos, arguments.count, images)
        found = subjects(directory, quantized, images, outputs)
        run_all(found, arguments.rounds, arguments.work / "cache")
        text = text_of(found, arguments.count, len(photos), arguments.arch, load)
    name = f"{record.today()}-end-to-end"
    figures = [{"name": s.name, "seconds": s.seconds, "peak_bytes": s.peak_bytes} for s in found]
    write_text(arguments.out / f"{name}.json", json.dumps(figures, indent=1) + "\n")
    write_text(arguments.out / f"{name}.md", text)
    say(f"written: {arguments.out / name}.md")


if __name__ == "__main__":
    main()
