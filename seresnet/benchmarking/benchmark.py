"""Compare models and engines on this machine in interleaved rounds, with medians and quartiles."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seresnet.common.machine import described_processor, usable_cores
from seresnet.common.timing import Spread, Timing, interleaved
from seresnet.engines.base import PRECISIONS
from seresnet.engines.registry import ENGINES
from seresnet.errors import ConfigError
from seresnet.inference.classifier import Classifier, load

COMPILES_FOR_MINUTES = "torch-compile"  # so it is measured only on request
BATCH_SIZES = (1, 16)
ROUNDS = 10
VERSIONS = ("seresnet", "torch", "openvino", "onnxruntime", "numpy")


@dataclass(frozen=True)
class Candidate:
    """A model on an engine, loaded."""

    name: str
    model: str
    clf: Classifier = field(repr=False)

    @property
    def input_size(self) -> tuple[int, int, int]:
        """(C, H, W) of its images."""
        return self.clf.preprocess.input_size

    def batch(self, size: int) -> NDArray[np.float32]:
        """Return preprocessed images, float32 (size, C, H, W): the same for each candidate."""
        return np.random.default_rng(0).standard_normal((size, *self.input_size), np.float32)


@dataclass(frozen=True)
class BenchmarkResult:
    """The result of one candidate with one batch size; the first candidate is the baseline."""

    timing: Timing
    description: str
    speedup: Spread  # over the baseline, per image
    difference: float | None  # largest relative difference of logits from the baseline's; None: another model

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; latencies in milliseconds with their quartiles."""
        return {
            "name": self.timing.name,
            "batch_size": self.timing.batch_size,
            "latency_ms": vars(self.timing.latency_ms),
            "images_per_second": self.timing.images_per_second,
            "speedup_over_first": vars(self.speedup),
            "difference_of_logits": self.difference,
            "engine": self.description,
            "rounds_ms": list(self.timing.rounds_ms),
        }


@dataclass(frozen=True)
class Benchmark:
    """The results of a benchmark by batch size, and the machine."""

    rows: tuple[BenchmarkResult, ...]
    machine: dict[str, Any]
    skipped: tuple[str, ...] = ()  # what could not be loaded here, and why

    def of_batch(self, size: int) -> list[BenchmarkResult]:
        """Return the rows of one batch size, in the order asked for."""
        return [row for row in self.rows if row.timing.batch_size == size]

    @property
    def batch_sizes(self) -> list[int]:
        """The batch sizes, in the order asked for."""
        return list(dict.fromkeys(row.timing.batch_size for row in self.rows))

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        rows = [row.to_dict() for row in self.rows]
        return {"machine": self.machine, "rows": rows, "skipped": list(self.skipped)}


def benchmark(
    model: str,
    against: Sequence[str] | None = None,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    rounds: int = ROUNDS,
    engine: str = "auto",
    precision: str = "auto",
    device: str | None = None,
    offline: bool | None = None,
    on_open: Callable[[Candidate], None] | None = None,
    on_round: Callable[[int, int], None] | None = None,
) -> Benchmark:
    """Compare the speed of ``model`` on an engine with others, all in this process, in interleaved rounds.

    ``against`` names the others: an engine ("torch") or a precision ("float32") or both ("onnxruntime:float32") for the
    same model, or another model (a name, directory, file, or hub repo) on the same engine. None: every engine but
    "torch-compile", at every precision, that this machine has. The images are random, of each model's input size,
    and an architecture without a tag ("legacy_seresnet50") gets random weights. ``on_open`` is called with each
    candidate that has been loaded, ``on_round`` with batch size and round. Raises ConfigError for a setting that is
    unknown or not possible here.
    """
    check(batch_sizes, rounds)
    candidates, skipped = open_candidates(model, against, engine, precision, device, offline, on_open)
    rows: list[BenchmarkResult] = []
    for size in dict.fromkeys(batch_sizes):
        rows += _measure(candidates, size, rounds, on_round)
    return Benchmark(tuple(rows), machine(), tuple(skipped))


def check(batch_sizes: Sequence[int], rounds: int) -> None:
    """Raise ConfigError for batch sizes or rounds below 1."""
    if not batch_sizes or min(batch_sizes) < 1:
        raise ConfigError("batch sizes must be 1 or more")
    if rounds < 1:
        raise ConfigError(f"rounds must be 1 or more, not {rounds}; a spread needs several")


def open_candidates(
    model: str,
    against: Sequence[str] | None,
    engine: str,
    precision: str,
    device: str | None,
    offline: bool | None,
    on_open: Callable[[Candidate], None] | None = None,
) -> tuple[list[Candidate], list[str]]:
    """Return the candidates, the model itself first, and which of the default ones cannot be loaded here."""
    wanted = [(model, engine, precision)]
    wanted += everything(model) if against is None else [named(spec, model, engine, precision) for spec in against]
    several = len({where for where, *_ in wanted}) > 1
    candidates: list[Candidate] = []
    skipped = []
    for place, (where, on, at) in enumerate(wanted):
        try:
            clf = load(source_of(where), engine=on, precision=at, device=device, offline=offline)
        except ConfigError as error:
            if place == 0 or against is not None:
                raise
            skipped.append(f"{on} {at}: {error}")
            continue
        name = f"{clf.engine.name} {clf.engine.precision}"
        candidate = Candidate(f"{where}, {name}" if several else name, where, clf)
        if candidate.name not in {other.name for other in candidates}:  # "auto" may be one of the others
            candidates.append(candidate)
            if on_open:
                on_open(candidate)
    return candidates, skipped


def everything(model: str) -> Iterator[tuple[str, str, str]]:
    """Yield the model on every engine without a long compilation, at every precision without calibration."""
    for engine in ENGINES:
        for precision in ("float32", "bfloat16"):
            if engine != COMPILES_FOR_MINUTES:
                yield model, engine, precision


def named(spec: str, model: str, engine: str, precision: str) -> tuple[str, str, str]:
    """Return model, engine and precision that an ``against`` names; what it leaves out is the first candidate's.

    An engine alone uses its own "auto" precision.
    """
    first, _, second = spec.partition(":")
    if first in ENGINES and (second in PRECISIONS or not second):
        return model, first, second or "auto"
    if spec in PRECISIONS:
        return model, engine, spec
    return spec, engine, precision


def source_of(where: str) -> Any:
    """Return what `load` takes: the name itself, or for an architecture a network with random weights."""
    from seresnet.models.variants import VARIANTS

    if where not in VARIANTS or Path(where).exists():
        return where
    return random_network(where)


def random_network(architecture: str) -> Any:
    """Return the network with random weights, the same each time; no batch norm has a weight of zero."""
    import torch

    from seresnet.weights.create import create_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = create_model(architecture)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.constant_(module.weight, 0.5)  # keeps the sums over many blocks from growing out of range
    return model


def _measure(
    candidates: Sequence[Candidate], size: int, rounds: int, on_round: Callable[[int, int], None] | None
) -> Iterator[BenchmarkResult]:
    """Yield the result of each candidate for one batch size."""
    batches = [candidate.batch(size) for candidate in candidates]
    calls = [partial(candidate.clf.logits, batch) for candidate, batch in zip(candidates, batches, strict=True)]
    logits = [call() for call in calls]
    medians = interleaved(calls, rounds, on_round=partial(on_round, size) if on_round else None)
    timings = [Timing(s.name, size, tuple(f)) for s, f in zip(candidates, medians, strict=True)]
    for candidate, timing, answer in zip(candidates, timings, logits, strict=True):
        same = candidate.model == candidates[0].model
        difference = relative_difference(answer, logits[0]) if same else None
        yield BenchmarkResult(timing, candidate.clf.engine.describe(), timing.speedup_over(timings[0]), difference)


def relative_difference(logits: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Return the largest difference between logits, relative to the largest of the reference."""
    return float(np.abs(logits - reference).max() / np.abs(reference).max())


def machine() -> dict[str, Any]:
    """Return what the results depend on: processor, cores, threads and versions."""
    versions = {"python": platform.python_version()}
    for name in VERSIONS:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "cpu": described_processor(),
        "cores": usable_cores(),
        "num_threads": os.environ.get("OMP_NUM_THREADS", "one per core"),
        "platform": platform.platform(),
        "versions": versions,
    }
