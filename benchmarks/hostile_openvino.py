"""Opens OpenVINO graphs with seeded mutations, and counts what comes of it: nothing may die, hang or go unnoticed.

    python benchmarks/hostile_openvino.py [--count 300] [--seed 0]

A graph of the bundled model, in float32 and in int8, is mutated in its text (numbers out of range, types, ids, cuts,
swapped lines, nesting) or in its weights (flipped bytes, NaN, cuts). Each is a model directory that `seresnet.load`
opens and that classifies an image, in a process that goes on with the next: right is a SeresnetError of one line, or,
where the mutation keeps a graph that the exporter could have written, a prediction or an error row.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import re
import resource
import tempfile
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

SECONDS = 10.0  # for one directory
NUMBERS = ("0", "-1", "1", "65536", "1000000", "2147483647", "-2147483648", "4294967296", "9223372036854775807", "")
VALUE = re.compile(r'"-?\d+(?:, ?-?\d+)*"|(?<=<dim>)-?\d+')


def campaign(count: int, seed: int, folder: Path) -> Counter[str]:
    """Open ``count`` mutated directories below ``folder``, and return how often each outcome came."""
    originals = [original(folder / name, int8=name == "int8") for name in ("float32", "int8")]
    found: Counter[str] = Counter()
    victim = Victim()
    for number in range(seed, seed + count):
        rng = random.Random(number)
        directory = folder / f"m{number}"
        mutate(rng.choice(originals), directory, rng)
        outcome = victim.open(directory)
        found[outcome] += 1
        if outcome not in ("refused", "predicted"):
            print(f"seed {number}: {outcome}", flush=True)
    victim.close()
    return found


def original(directory: Path, int8: bool) -> Path:
    """Write the bundled model as a directory with an OpenVINO graph."""
    import seresnet
    from seresnet.engines.openvino.engine import OpenVINOEngine
    from seresnet.engines.openvino.int8 import quantize
    from seresnet.weights.save import model_config

    network = seresnet.create_model("seresnet20.cifar10", pretrained=True).eval()
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(model_config(network)))
    if int8:
        noise = np.random.default_rng(0).normal(size=(8, 3, 32, 32)).astype(np.float32)
        quantize(network, [noise]).save(directory)
    else:
        OpenVINOEngine(network, precision="float32").save(directory / "openvino_model.xml")
    return directory


def mutate(source: Path, directory: Path, rng: random.Random) -> None:
    """Write a mutated copy of a model directory."""
    directory.mkdir()
    (directory / "config.json").write_bytes((source / "config.json").read_bytes())
    text = (source / "openvino_model.xml").read_text()
    weights = bytearray((source / "openvino_model.bin").read_bytes())
    if rng.random() < 0.8:
        for _ in range(rng.choice((1, 1, 2, 5))):
            text = mutated_text(text, rng)
    else:
        weights = mutated_weights(weights, rng)
    (directory / "openvino_model.xml").write_text(text)
    (directory / "openvino_model.bin").write_bytes(weights)


def mutated_text(text: str, rng: random.Random) -> str:
    """Return a graph's text with one change."""
    kind = rng.randrange(7)
    if kind <= 2:
        place = rng.choice(list(VALUE.finditer(text)))
        new = rng.choice(NUMBERS)
        return text[: place.start()] + (f'"{new}"' if place[0][0] == '"' else new) + text[place.end() :]
    if kind == 3:
        start = rng.randrange(len(text))
        return text[:start] + text[start + rng.randrange(1, 200) :]
    if kind == 4:
        places = list(re.finditer(r'type="(\w+)"', text))
        first, second = rng.choice(places), rng.choice(places)
        return text[: first.start()] + second[0] + text[first.end() :]
    if kind == 5:
        lines = text.splitlines(keepends=True)
        first_line, second_line = rng.randrange(len(lines)), rng.randrange(len(lines))
        lines[first_line], lines[second_line] = lines[second_line], lines[first_line]
        return "".join(lines)
    depth = rng.choice((10, 1000, 100_000))
    return text.replace("<layers>", "<layers>" + "<layer>" * depth + "</layer>" * depth, 1)


def mutated_weights(weights: bytearray, rng: random.Random) -> bytearray:
    """Return weights with flipped bytes, a NaN, or an end that is missing."""
    kind = rng.randrange(3)
    if kind == 0:
        for _ in range(rng.choice((1, 10, 1000))):
            weights[rng.randrange(len(weights))] = rng.randrange(256)
    elif kind == 1:
        place = rng.randrange(len(weights) // 4) * 4
        weights[place : place + 4] = np.float32(rng.choice((np.nan, np.inf, 3e38))).tobytes()
    else:
        del weights[rng.randrange(len(weights)) :]
    return weights


class Victim:
    """A process that opens one directory after another; another one takes its place when it dies."""

    def __init__(self) -> None:
        self._start()

    def open(self, directory: Path) -> str:
        """Return what opening a directory led to."""
        self.pipe.send(str(directory))
        begin = time.monotonic()
        try:
            outcome = self.pipe.recv() if self.pipe.poll(2 * SECONDS) else "hang"
        except EOFError:
            outcome = "death"
        if outcome in ("hang", "death"):
            self.close()
            self._start()
        return "slow" if outcome in ("refused", "predicted") and time.monotonic() - begin > SECONDS else outcome

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=victim, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()


def victim(pipe: Connection) -> None:
    """Open the directories that come through a pipe."""
    import seresnet
    from seresnet.errors import SeresnetError

    image = np.zeros((32, 32, 3), np.uint8)
    while True:
        directory = pipe.recv()
        try:
            (prediction,) = seresnet.load(directory, engine="openvino", device="cpu").predict(image)
            finite = all(np.isfinite(prediction.probabilities))
            pipe.send("predicted" if prediction.error or (prediction.probabilities and finite) else "not finite")
        except SeresnetError as error:
            pipe.send("refused" if "\n" not in str(error) else "several lines")
        except Exception as error:
            pipe.send(f"unexpected {type(error).__name__}: {str(error)[:100]}")


def main() -> None:
    """Run the campaign, and print its counts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SERESNET_CACHE"] = f"{folder}/cache"  # accepted graphs are not remembered beyond this run
        found: Any = campaign(arguments.count, arguments.seed, Path(folder))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"{arguments.count} graphs: {dict(found.most_common())}; at most {peak:.1f} GB in a process")


if __name__ == "__main__":
    main()
