"""Speed of the input pipeline alone, from JPEG files to batches of pixels, against Pillow's own decode and resize.

    python benchmarks/input_pipeline.py FOLDER [--workers N] [--rounds N]

FOLDER of photographs of the size of ImageNet's (all files below it whose names end in .jpg or .jpeg, in any case). No
network runs. All subjects are measured in one process, in rounds that take turns and change their order
(`seresnet.common.timing`); the files are in the page cache. The measure is Pillow on one core, times the number of
workers; Pillow in as many processes as workers says how much of that the cores of this machine can give at all. Writes
benchmarks/DATE-input-pipeline.md. Takes about a minute with 200 files on two cores.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pillow_pipeline
import record
from PIL import Image

from seresnet.common.files import write_text
from seresnet.common.machine import usable_cores
from seresnet.common.timing import Timing, interleaved
from seresnet.data.augment import TrainCrop
from seresnet.data.dataset import Sample
from seresnet.data.loader import Loader
from seresnet.data.open_dataset import open_data
from seresnet.data.pack import pack
from seresnet.data.preprocess import Preprocess

HOME = Path(__file__).parent
BATCH_SIZE = 32
LEAST = 0.9  # of Pillow's rate on one core, times the number of workers
TRAIN = TrainCrop("resized", Preprocess(interpolation="bicubic"))
EVALUATE = TrainCrop("center", Preprocess(interpolation="bicubic"))


@dataclass(frozen=True)
class Subject:
    """What is timed: it goes through all images once."""

    name: str
    call: Callable[[], object]
    workers: int = 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, default=usable_cores())
    parser.add_argument("--rounds", type=int, default=10)
    given = parser.parse_args()
    load = record.load_average()
    files = sorted(p for p in given.folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    if not files:
        raise SystemExit(f"{given.folder}: no JPEG files")
    with tempfile.TemporaryDirectory() as scratch:
        shards = packed(files, Path(scratch))
        with ProcessPoolExecutor(given.workers, multiprocessing.get_context("spawn")) as pool:
            subjects = all_subjects(files, shards, given.workers, pool)
            rounds = interleaved([s.call for s in subjects], given.rounds, slot_seconds=0, on_round=tell)
    timings = [Timing(s.name, len(files), tuple(r)) for s, r in zip(subjects, rounds, strict=True)]
    text = report(subjects, timings, files, load)
    page = HOME / f"{record.today()}-input-pipeline.md"
    write_text(page, text)
    print(text, page, sep="\n")


def packed(files: Sequence[Path], scratch: Path) -> Sequence[Sample]:
    """Return the same photographs in shards, in the same order, so that each has the same crop."""
    (scratch / "data" / "all").mkdir(parents=True)
    for number, path in enumerate(files):
        (scratch / "data" / "all" / f"{number:08d}.jpg").symlink_to(path.resolve())
    pack(scratch / "data", scratch / "shards", shard_size=100)
    images = open_data(scratch / "shards").train.samples
    return sorted(images, key=lambda sample: sample[0].member.partition("_")[2])


def all_subjects(
    files: Sequence[Path], shards: Sequence[Sample], workers: int, pool: ProcessPoolExecutor
) -> list[Subject]:
    """Return what is timed, Pillow on one core first of its kind."""
    training = [(str(path), box_of(path, index)) for index, path in enumerate(files)]
    evaluation = [(str(path), None) for path in files]
    samples = [(path, 0) for path in files]
    check_same_pixels(samples, training)

    def ours(name: str, images: Sequence[Sample], crop: TrainCrop, threads: int) -> Subject:
        loader = Loader(images, crop, BATCH_SIZE, threads)
        return Subject(name, lambda: sum(len(batch.targets) for batch in loader.in_order()), threads)

    def in_processes() -> object:
        return sum(pool.map(pillow_pipeline.each, [training[i::workers] for i in range(workers)]))

    return [
        Subject("training: Pillow, one core", lambda: pillow_pipeline.each(training)),
        Subject("training: Pillow, a process a core", in_processes, workers),
        ours("training: seresnet, one worker", samples, TRAIN, 1),
        ours("training: seresnet", samples, TRAIN, workers),
        ours("training: seresnet, from shards", shards, TRAIN, workers),
        Subject("evaluation: Pillow, one core", lambda: pillow_pipeline.each(evaluation)),
        ours("evaluation: seresnet", samples, EVALUATE, workers),
    ]


def box_of(path: Path, index: int) -> pillow_pipeline.Box:
    """Return the box that the loader cuts out of an image in epoch 0."""
    with Image.open(path) as image:
        return TRAIN.random_box(image.size, np.random.default_rng([0, 0, index]))


def check_same_pixels(samples: Sequence[Sample], jobs: Sequence[pillow_pipeline.Job]) -> None:
    """Stop where the two do not do the same work; photographs that ours may decode smaller, or turns, differ."""
    loader = Loader(samples, TRAIN, 1, 0)
    same = sum(
        np.array_equal(batch.pixels[0], pillow_pipeline.pixels(job))
        for batch, job in zip(loader.in_order(), jobs, strict=True)
    )
    if loader.unreadable or same < 0.9 * len(jobs):
        raise SystemExit(f"only {same} of {len(jobs)} images come out as Pillow's; take other photographs")


def tell(number: int) -> None:
    print(f"round {number}", flush=True)


def report(
    subjects: Sequence[Subject],
    timings: Sequence[Timing],
    files: Sequence[Path],
    load: tuple[float, float, float],
) -> str:
    """Return the record."""
    by_name = {timing.name: timing for timing in timings}
    workers, rounds = subjects[-1].workers, len(timings[0].rounds_ms)
    rows = []
    for subject, timing in zip(subjects, timings, strict=True):
        share = timing.speedup_over(by_name[subject.name.partition(":")[0] + ": Pillow, one core"])
        parts = [
            f"{100 * x / subject.workers:.1f} %" for x in (share.median, share.lower_quartile, share.upper_quartile)
        ]
        rate = f"{timing.images_per_second:,.0f}"
        rows.append([subject.name, str(subject.workers), rate, parts[0], f"{parts[1]} to {parts[2]}"])
    goals = [
        record.Goal(ours, ours, peer, LEAST * workers)
        for ours, peer in (
            ("training: seresnet", "training: Pillow, one core"),
            ("training: seresnet, from shards", "training: Pillow, one core"),
            ("evaluation: seresnet", "evaluation: Pillow, one core"),
        )
    ]
    kilobytes = sum(path.stat().st_size for path in files) / len(files) / 1000
    width, height = np.mean([Image.open(path).size for path in files], axis=0)
    return f"""# Input pipeline: from JPEG files to pixels, {record.today()}

`python benchmarks/input_pipeline.py FOLDER --workers {workers} --rounds {rounds}`

{len(files)} photographs, on average {width:.0f} x {height:.0f} pixels and {kilobytes:.0f} kB, in the page cache;
crops of 224 x 224, bicubic. Medians of {rounds} rounds in turn. The share is of Pillow's rate on one core in the same
round, for each worker; Pillow in a process a core shows how much of it the cores give at the same time.

{record.table(("subject", "workers", "images/s", "share", "quartiles"), rows)}
The goal is {LEAST:.0%} of Pillow's rate on one core for each of {workers} workers, {LEAST * workers:g} times that rate:

{record.table(record.GOAL_COLUMNS, [goal.row(by_name) for goal in goals])}
{record.hardware({"pillow": record.version_of("pillow")}, load)}
"""


if __name__ == "__main__":
    main()
