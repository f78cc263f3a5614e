"""What ``make demo`` does, offline: classify photographs, then fine-tune on handwritten digits and evaluate.

Each step is a command that you can type yourself; it is printed before it runs. Everything is written to ``demo/``.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import skimage
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

OUT = Path("demo")
PHOTOGRAPHS = (
    *("astronaut.png", "brick.png", "camera.png", "chelsea.png", "clock_motion.png", "coffee.png", "coins.png"),
    *("grass.png", "hubble_deep_field.jpg", "moon.png", "motorcycle_left.png", "rocket.jpg"),
)


def command(*arguments: str | Path) -> None:
    """Print a command of the command line, and run it; stop where it fails."""
    words = [str(a) for a in arguments]
    print(f"\n$ seresnet {shlex.join(words)}", flush=True)
    code = subprocess.run([sys.executable, "-m", "seresnet", *words], check=False).returncode
    if code:
        sys.exit(f"demo: the command above failed with exit code {code}")


def write_photographs(folder: Path) -> None:
    """Copy the photographs that scikit-image packages into ``folder``."""
    folder.mkdir(parents=True)
    for name in PHOTOGRAPHS:
        shutil.copy(Path(skimage.__file__).parent / "data" / name, folder)


def write_digits(folder: Path) -> None:
    """Write scikit-learn's handwritten digits: 1,437 as ``folder/train/<digit>/*.png``, 360 as ``folder/test``."""
    digits = load_digits()
    parts = train_test_split(np.arange(len(digits.target)), test_size=0.2, stratify=digits.target, random_state=0)
    for split, indices in zip(("train", "test"), parts, strict=True):
        for index in indices:
            target = folder / split / str(digits.target[index])
            target.mkdir(parents=True, exist_ok=True)
            pixels = (digits.images[index] * 255 / 16).round().astype(np.uint8)  # 8x8, values 0 to 16
            Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC).save(target / f"{index:04d}.png")


def write_list(folder: Path, file: Path) -> None:
    """Write a list of the digits beside their folder, with the columns path, label and split."""
    with file.open("w", encoding="utf-8") as rows:
        rows.write("path,label,split\n")
        for image in sorted(folder.rglob("*.png")):
            rows.write(f"{image.relative_to(file.parent).as_posix()},{image.parent.name},{image.parent.parent.name}\n")


def main() -> None:
    """Run the demonstration in a fresh ``demo/``."""
    start = time.perf_counter()
    shutil.rmtree(OUT, ignore_errors=True)
    print("1. Photographs, classified by the bundled model. It knows ten classes, those of CIFAR-10, and nothing else:")
    print("   chelsea.png is a cat; for a brick wall it can only name what comes nearest.")
    write_photographs(OUT / "photographs")
    command("predict", OUT / "photographs", "--topk", "3", "--sheet", OUT / "photographs.png")
    print("\n2. The same weights, fine-tuned to read real handwritten digits: 1,437 to learn from, 360 held out.")
    write_digits(OUT / "digits")
    write_list(OUT / "digits", OUT / "digits.csv")
    command("train", OUT / "digits", "--recipe", "finetune", "--epochs", "15", "--set", "hflip=0", "--out", OUT / "run")
    print("\n3. The fine-tuned model on the 360 digits it has never seen.")
    command("eval", OUT / "digits" / "test", "--model", OUT / "run" / "last", "--report", OUT / "report")
    print(f"\nDone in {time.perf_counter() - start:.0f} s. Look at:")
    for name, what in (
        ("photographs.png", "the photographs with their classes"),
        ("run/curves.png", "loss and accuracy of the training run"),
        ("report/report.html", "the evaluation on one page"),
    ):
        print(f"  {OUT / name}  {what}")


if __name__ == "__main__":
    main()
