"""Speed of SE-ResNet-50 on a CPU: this project against what a user would otherwise run, and what each step is worth.

    python benchmarks/cpu_inference.py --images FOLDER --work FOLDER [--prepare | --quick]

FOLDER of images: 48 JPEG photographs or more, the first 200 by name are used. --work keeps weights and exports, which
take minutes to make: run once with --prepare, then close all else and run without. All subjects of a network are
measured in one process, in rounds that take turns and change their order (`seresnet.common.timing`). Writes
benchmarks/DATE-cpu-inference.md, .json and .png, and the table in docs/gate-first.md.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import networks
import numpy as np
import peers
import record
from numpy.typing import NDArray

import seresnet
from seresnet.benchmarking.benchmark import relative_difference
from seresnet.benchmarking.report import draw
from seresnet.common.files import atomic_file, write_text
from seresnet.common.timing import Timing, interleaved
from seresnet.engines.openvino.engine import OpenVINOEngine

ARCHITECTURES = ("legacy_seresnet50", "seresnet50")
ROUNDS = {1: 10, 16: 5}  # batch size: rounds
SLOT_SECONDS = 0.3
HOME = Path(__file__).parent
PAGE = HOME.parent / "docs" / "gate-first.md"
EXACT = 1e-4  # largest relative difference of logits that may be called the same, in float32

OURS = "seresnet openvino"
ENGINE_ONLY = "timm's graph in our engine"
PRECISIONS = ("float32", "bfloat16", "int8")
VERSIONS = ("timm", "nncf", "onnx", "torchvision")


@dataclass(frozen=True)
class Subject:
    """What is timed."""

    name: str
    call: peers.Call
    same: bool = True  # computes the network itself, not a control


@dataclass
class Result:
    """What was found of one network."""

    arch: str
    timings: dict[int, list[Timing]]  # by batch size
    differences: dict[str, float]
    agreement: dict[str, float]
    images: int

    def of(self, size: int) -> dict[str, Timing]:
        """Return the timings of a batch size by name."""
        return {timing.name: timing for timing in self.timings[size]}


def files_of(arch: str, photos: Sequence[Path], work: Path) -> dict[str, Path]:
    """Return the files that subjects are opened from, made where they are not there."""
    directory = networks.weights(arch, photos, work)
    found = networks.graphs(arch, photos, work)
    model = peers.timm_model(directory)
    found["onnx"] = peers.onnx_file(model, directory / "timm.onnx")
    found["timm"] = peers.openvino_file(model, directory / "timm.xml")
    preprocess = seresnet.create_model(directory, pretrained=True).preprocess
    images = networks.pixels(photos[: networks.CALIBRATION_IMAGES], preprocess)
    found["nncf"] = peers.nncf_file(found["timm"], images, directory / "timm-nncf.xml")
    for name in ("timm", "nncf"):
        found[f"{name} renamed"] = peers.for_our_engine(found[name], directory / f"{name}-renamed.xml")
    return found


def subjects(directory: Path, files: Mapping[str, Path], batch_size: int, compile: bool) -> list[Subject]:
    """Return what is timed with a batch size, opened."""
    timm = peers.timm_model(directory)
    found = [Subject("timm eager", peers.eager(timm))]
    if compile:
        found.append(Subject("timm torch.compile, frozen", peers.compiled(peers.timm_model(directory))))
    found.append(Subject("timm onnxruntime", peers.onnx(files["onnx"])))
    for precision in PRECISIONS:
        path = files["nncf" if precision == "int8" else "timm"]
        name = "timm openvino int8 (NNCF)" if precision == "int8" else f"timm openvino {precision}"
        found.append(Subject(name, peers.openvino(path, batch_size, precision)))
    found.append(Subject("seresnet torch float32", load(directory, "torch")))
    found.append(Subject("seresnet onnxruntime float32", load(directory, "onnxruntime")))
    return found + [
        Subject(f"{name} {precision}", on_our_engine(path, precision), not name.startswith("no excitation"))
        for name, kinds in graphs_of(files).items()
        for precision, path in zip(PRECISIONS, (kinds[0], kinds[0], kinds[1]), strict=True)
    ]


def graphs_of(files: Mapping[str, Path]) -> dict[str, tuple[Path, Path]]:
    """Return the graphs that run on this project's engine, in float and in int8: this project's first."""
    final = "all rewrites" if "all rewrites float" in files else "gates first"
    found = {OURS: (files[f"{final} float"], files[f"{final} int8"])}
    found[ENGINE_ONLY] = files["timm renamed"], files["nncf renamed"]
    for name in ("gates first", "no excitation", "no excitation, all pixels"):
        if name != final and f"{name} float" in files:
            found[name] = files[f"{name} float"], files[f"{name} int8"]
    return found


def load(directory: Path, engine: str) -> peers.Call:
    return seresnet.load(directory, engine=engine, precision="float32", device="cpu", offline=True).logits


def on_our_engine(path: Path, precision: str) -> peers.Call:
    return OpenVINOEngine(path, precision=precision).logits


def goals(arch: str, timings: Mapping[str, Timing]) -> list[record.Goal]:
    """Return what was to be reached with one network and batch size."""
    found = []
    control = (
        "no excitation, all pixels" if f"no excitation, all pixels {PRECISIONS[0]}" in timings else "no excitation"
    )
    for precision, over_openvino, over_eager in zip(PRECISIONS, (1.07, 1.07, 1.10), (1.7, 3.2, 5.0), strict=True):
        ours = f"{OURS} {precision}"
        peer = "timm openvino int8 (NNCF)" if precision == "int8" else f"timm openvino {precision}"
        found += [
            record.Goal(f"{precision}, over timm's export on OpenVINO", ours, peer, over_openvino),
            record.Goal(f"{precision}, over timm eager", ours, "timm eager", over_eager),
            record.Goal(f"{precision}, excitation", ours, f"{control} {precision}", 1 / 1.1, is_cost=True),
        ]
    return found


def check(found: Sequence[Subject], images: NDArray[np.float32]) -> tuple[dict[str, float], dict[str, float]]:
    """Return each subject's largest difference of logits from timm eager's, relative, and its top-1 agreement.

    Ends the run where one that computes in float32 does not compute the same.
    """
    chunks = [images[start : start + 16] for start in range(0, len(images), 16)]
    reference = np.concatenate([found[0].call(chunk) for chunk in chunks])
    differences, agreement = {}, {}
    for subject in found:
        if subject.same:
            logits = np.concatenate([subject.call(chunk) for chunk in chunks])
            differences[subject.name] = relative_difference(logits, reference)
            agreement[subject.name] = float((logits.argmax(1) == reference.argmax(1)).mean())
            exact = not any(kind in subject.name for kind in ("bfloat16", "int8"))
            if exact and differences[subject.name] > EXACT:
                sys.exit(f"{subject.name}: logits differ from timm's by {differences[subject.name]:.1e}; not measured")
    return differences, agreement


def measure(arch: str, photos: Sequence[Path], arguments: argparse.Namespace) -> Result:
    """Check and time all subjects of one network."""
    directory = arguments.work / arch
    files = files_of(arch, photos, arguments.work)
    preprocess = seresnet.create_model(directory, pretrained=True).preprocess
    images = networks.pixels(photos[: 16 if arguments.quick else len(photos)], preprocess)
    result = Result(arch, {}, {}, {}, len(images))
    for size, rounds in ({1: 1, 16: 1} if arguments.quick else ROUNDS).items():
        say(f"{arch}, batch {size}: opening")
        found = subjects(directory, files, size, not arguments.no_compile)
        batch = images[:size]
        if size == 16:
            fixed = images[: len(images) // 16 * 16]  # of a whole number of batches
            say(f"{arch}: comparing the answers to {len(fixed)} photographs")
            result.differences, result.agreement = check(found, fixed)
            result.images = len(fixed)
        say(f"{arch}, batch {size}: {len(found)} subjects, {rounds} rounds")
        calls = [partial(subject.call, batch) for subject in found]
        slot = 0.0 if arguments.quick else SLOT_SECONDS
        figures = interleaved(calls, rounds, slot, lambda index, n=size: say(f"{arch}, batch {n}: round {index}"))
        result.timings[size] = [Timing(s.name, size, tuple(f)) for s, f in zip(found, figures, strict=True)]
        del found, calls
        gc.collect()
    return result


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def timing_table(timings: Sequence[Timing]) -> str:
    """Return the table of one network and batch size."""
    rows = []
    for timing in timings:
        times = timing.speedup_over(timings[0])
        name = f"**{timing.name}**" if timing.name.startswith(OURS) else timing.name
        rows.append([name, *record.cells(timing.latency_ms), f"{timing.images_per_second:,.1f}", f"{times.median:.2f}"])
    return record.table(("", "ms", "quartiles", "images/s", "times timm eager"), rows)


def answers_table(result: Result) -> str:
    rows = [
        [name, f"{result.differences[name]:.1e}", f"{100 * result.agreement[name]:.1f} %"] for name in result.agreement
    ]
    return record.table(("", "largest difference of logits, relative", "same top-1"), rows)


def goal_table(result: Result, size: int) -> str:
    rows = [goal.row(result.of(size)) for goal in goals(result.arch, result.of(size))]
    return record.table(record.GOAL_COLUMNS, rows)


def text_of(results: Sequence[Result], name: str, load: tuple[float, float, float], quick: bool) -> str:
    """Return the record."""
    rounds = ", ".join(f"{len(t[0].rounds_ms)} at batch {size}" for size, t in results[0].timings.items())
    versions = {package: record.version_of(package) for package in VERSIONS}
    parts = [
        f"# Inference on a CPU, {record.today()}\n",
        "One try with a single round: no record.\n" if quick else "",
        "`python benchmarks/cpu_inference.py --images FOLDER --work FOLDER`; what it does stands in its docstring.\n",
        f"Milliseconds for a whole batch of 224 x 224 images: medians of rounds ({rounds}), each the median of its "
        "calls; all subjects in one process, taking turns. Ratios are taken within a round. Weights are random, which "
        "changes no time; batch norm statistics come from photographs, and the classifier is fitted to tell their "
        'mirror images apart, so that answers have margins. "timm openvino" is `openvino.convert_model` on timm\'s '
        "network, compiled for the batch size and called as OpenVINO's guide says; "
        f'"{ENGINE_ONLY}" is the same file run by this project\'s engine, which sends the images of a batch one by '
        'one to both cores: the difference to it is what the rewrites are worth. "gates first" leaves rewrite 3 '
        "out. The controls have no excitation: once as OpenVINO runs them, and once with all pixels of the 3x3 "
        "convolutions, of which OpenVINO leaves three of four out where no gate needs them.\n",
        f"![latencies]({name}.png)\n",
    ]
    for result in results:
        for size, timings in result.timings.items():
            parts += [f"## {result.arch}, batch {size}\n", timing_table(timings), goal_table(result, size)]
        parts += [f"### Answers of {result.arch} to {result.images} photographs, against timm eager\n"]
        parts += [answers_table(result)]
    parts += ["## Hardware and versions\n", record.hardware(versions, load) + "\n"]
    return "\n".join(part for part in parts if part)


def manual_table(results: Sequence[Result], name: str) -> str:
    """Return the block of the manual: this project, timm's export, and the controls."""
    rows = []
    for result in results:
        for size in result.timings:
            timings = result.of(size)
            for precision in PRECISIONS:
                peer = "timm openvino int8 (NNCF)" if precision == "int8" else f"timm openvino {precision}"
                shown = [timings.get(n) for n in (
                    "timm eager", peer, f"{ENGINE_ONLY} {precision}", f"{OURS} {precision}",
                    f"no excitation, all pixels {precision}", f"no excitation {precision}",
                )]  # fmt: skip
                cells = [f"{t.latency_ms.median:.1f}" if t else "" for t in shown]
                rows.append([f"{result.arch}, batch {size}, {precision}", *cells])
    columns = (
        "ms", "timm eager, float32", "timm's export on OpenVINO", "the same in our engine",
        "gates first, unused pixels skipped",
        "no excitation, all pixels", "no excitation",
    )  # fmt: skip
    return record.table(columns, rows) + f"\nMedians, from the record [{name}](../benchmarks/{name}.md).\n"


def write(results: Sequence[Result], out: Path, load: tuple[float, float, float], quick: bool) -> None:
    """Write the record, its figures and its picture; of a real run, also the table of the manual."""
    name = f"{record.today()}-cpu-inference"
    panels = [timings for result in results for timings in result.timings.values()]
    titles = [f"{result.arch}, batch {size}" for result in results for size in result.timings]
    with atomic_file(out / f"{name}.png") as file:
        draw(panels, "Latency: median and quartiles of rounds", (OURS,), titles).savefig(file, format="png", dpi=80)
    figures = [
        {"architecture": result.arch, "batch_size": size, "name": timing.name, "rounds_ms": list(timing.rounds_ms)}
        for result in results
        for size, timings in result.timings.items()
        for timing in timings
    ]
    write_text(out / f"{name}.json", json.dumps(figures, indent=1) + "\n")
    write_text(out / f"{name}.md", text_of(results, name, load, quick))
    if not quick and out == HOME:
        record.fill_block(PAGE, manual_table(results, name))
    say(f"written: {out / name}.md")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of JPEG photographs")
    parser.add_argument("--work", type=Path, required=True, help="folder for weights and exports")
    parser.add_argument("--out", type=Path, default=HOME, help="folder of the record")
    parser.add_argument("--arch", nargs="+", default=ARCHITECTURES, help="networks")
    parser.add_argument("--prepare", action="store_true", help="make weights and exports, and stop")
    parser.add_argument("--quick", action="store_true", help="one call each, to try whether all runs")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out, which compiles for minutes")
    arguments = parser.parse_args()
    photos = networks.photographs(arguments.images)
    load = record.load_average()
    if arguments.prepare:
        for arch in arguments.arch:
            say(f"{arch}: {len(files_of(arch, photos, arguments.work))} files")
        return
    results = [measure(arch, photos, arguments) for arch in arguments.arch]
    write(results, arguments.out, load, arguments.quick)


if __name__ == "__main__":
    main()
