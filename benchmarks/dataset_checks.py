"""Plant faults into a copy of labelled photographs, and count what ``seresnet check`` finds of them.

``python benchmarks/dataset_checks.py DATA OUT [--model M]``: DATA has train/<class> and validation/<class>. 5 % of the
training images get another class, 20 get a copy (10 the same file, 10 saved again at 3/4 of the size), 10 are copied
into the validation split. Photographs of the data that are faulty themselves count as found by chance.
"""

from __future__ import annotations

import argparse
import csv
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from seresnet.cli import run


def plant(data: Path, copy: Path, seed: int = 0) -> dict[str, set[str]]:
    """Copy the data with faults, and return the paths of these by kind."""
    rng = np.random.default_rng(seed)
    shutil.copytree(data, copy)
    images = sorted((copy / "train").glob("*/*"))
    classes = sorted(folder.name for folder in (copy / "train").iterdir())
    order = rng.permutation(len(images))
    wrong, copied, leaked = np.split(order[: len(images) // 20 + 30], [len(images) // 20, len(images) // 20 + 20])
    planted: dict[str, set[str]] = {"label": set(), "duplicate": set(), "near_duplicate": set(), "leak": set()}
    for i in wrong:
        other = rng.choice([name for name in classes if name != images[i].parent.name])
        target = copy / "train" / other / f"moved-{images[i].name}"
        images[i].rename(target)
        planted["label"].add(str(target))
    for number, i in enumerate(copied):
        target = images[i].with_name(f"~copy-{images[i].name}".lstrip("~"))
        if number < 10:
            shutil.copy(images[i], target)
        else:
            with Image.open(images[i]) as image:
                image.resize((3 * image.width // 4, 3 * image.height // 4)).convert("RGB").save(target, quality=75)
        planted["duplicate" if number < 10 else "near_duplicate"] |= {str(images[i]), str(target)}  # either is named
    for i in leaked:
        shutil.copy(images[i], copy / "validation" / images[i].parent.name / f"leak-{images[i].name}")
        planted["leak"].add(str(images[i]))
    return planted


def main() -> None:
    """Plant, check, count."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="seresnet20.cifar10")
    given = parser.parse_args()
    planted = plant(given.data, given.out / "data")
    run(["check", str(given.out / "data"), "--model", given.model, "--out", str(given.out / "check")])
    rows = list(csv.DictReader((given.out / "check" / "faults.csv").open()))
    for kind in ("duplicate", "near_duplicate", "leak"):
        named = {row["path"] for row in rows if row["kind"] == kind}
        number = len(planted[kind]) // (1 if kind == "leak" else 2)
        print(f"{kind}: {len(named & planted[kind])} of {number} planted, {len(named)} named")
    suspects = [row["path"] for row in rows if row["kind"] == "label"]
    total = sum(1 for _ in (given.out / "data").glob("*/*/*"))
    first = set(suspects[: total // 10])
    found = len(first & planted["label"])
    print(f"label: {found} of {len(planted['label'])} planted among the first {len(first)} suspects ({total} images)")


if __name__ == "__main__":
    main()
