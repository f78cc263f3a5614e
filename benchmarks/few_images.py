"""Fine-tuning on few images: the default recipe against its own linear probe, several seeds, written as a record.

``python benchmarks/few_images.py digits --work /tmp/few --out benchmarks/DATE-few-images.md`` trains on 300 of
scikit-learn's handwritten digits, 60 of them held out. ``photographs TRAIN VALIDATION`` takes 24 images of each class
of a folder of class folders. Each run is one ``seresnet train`` in a process of its own.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import shutil
import statistics
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

PER_CLASS = {"digits": 30, "photographs": 24}
FLAGS = {
    "digits": ["--epochs", "8", "--set", "hflip=0", "--set", "val_fraction=0.2"],
    "photographs": ["--epochs", "20", "--size", "64"],
}


def write_digits(folder: Path) -> None:
    """Write the first 30 images of each digit, 32x32 pixels."""
    digits = load_digits()
    for label in range(10):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        for number, index in enumerate(np.flatnonzero(digits.target == label)[: PER_CLASS["digits"]]):
            pixels = (digits.images[index] * 15.9).astype(np.uint8)
            Image.fromarray(pixels).resize((32, 32)).save(folder / str(label) / f"{number:02d}.png")


def write_photographs(folder: Path, train: Path, validation: Path, seed: int) -> None:
    """Copy 24 images of each class, drawn by ``seed``, and all validation images."""
    rng = random.Random(seed)
    for source in sorted(each for each in train.iterdir() if each.is_dir()):
        (folder / "train" / source.name).mkdir(parents=True, exist_ok=True)
        for image in rng.sample(sorted(source.iterdir()), PER_CLASS["photographs"]):
            shutil.copy(image, folder / "train" / source.name)
    shutil.copytree(validation, folder / "validation", dirs_exist_ok=True)


def scores(run: Path) -> tuple[float, float, float]:
    """Return validation top-1 in percent: of the linear probe, the best, and the last."""
    found = [100 * float(row["val_top1"]) for row in csv.DictReader((run / "metrics.csv").open())]
    return found[0], max(found), found[-1]


def table(results: dict[str, tuple[float, float, float]]) -> list[str]:
    """Return the runs and their median as a table."""
    lines = ["| seed | linear probe % | best % | last % |", "| ---: | ---: | ---: | ---: |"]
    lines += [f"| {seed} | {' | '.join(f'{value:.2f}' for value in row)} |" for seed, row in results.items()]
    if len(results) > 1:
        medians = [statistics.median(column) for column in zip(*results.values(), strict=True)]
        lines.append(f"| median | {' | '.join(f'{value:.2f}' for value in medians)} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", choices=FLAGS)
    parser.add_argument("folders", nargs="*", type=Path, help="photographs: training and validation class folders")
    parser.add_argument("--work", type=Path, required=True, help="folder for the images and the runs")
    parser.add_argument("--out", type=Path, required=True, help="the record, which is appended to")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    results = {}
    for seed in options.seeds:
        data, run = options.work / f"{options.data}-{seed}", options.work / f"{options.data}-run-{seed}"
        if options.data == "digits":
            write_digits(data)
        else:
            write_photographs(data, *options.folders, seed)
        command = ["train", str(data), "--recipe", "finetune", *FLAGS[options.data], "--device", "cpu", "--exist-ok"]
        command += ["--seed", str(seed), "--out", str(run)]
        subprocess.run([sys.executable, "-m", "seresnet", *command], check=True)
        results[str(seed)] = scores(run)
    shown = " ".join(["seresnet train DATA --recipe finetune", *FLAGS[options.data], "--device cpu --seed SEED"])
    load = os.getloadavg()[2]
    lines = ["", f"## {options.data}", "", f"`{shown}`; {PER_CLASS[options.data]} images a class.", ""]
    lines += [*table(results), "", f"torch {version('torch')}, {os.cpu_count()} cores, load average {load:.1f}.", ""]
    with options.out.open("a") as file:
        file.write("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
