"""The benchmark of models and engines: which candidates there are, what a row says of them, and the files."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from seresnet.benchmarking.benchmark import (
    Benchmark,
    BenchmarkResult,
    benchmark,
    everything,
    named,
    open_candidates,
    random_network,
)
from seresnet.benchmarking.report import draw, heading, table, write_benchmark
from seresnet.common.timing import Spread, Timing
from seresnet.engines.registry import ENGINES
from seresnet.errors import ConfigError
from seresnet.weights.save import save
from tests.networks import seresnet20


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(save(seresnet20(), tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def measured(model) -> Benchmark:
    """Two engines at float32, and another network, with batches of one and three images."""
    against = ["torch:float32", "resnet20"]
    return benchmark(model, against, (1, 3), 2, engine="openvino", precision="float32", device="cpu", offline=True)


@pytest.mark.parametrize(
    ("spec", "meant"),
    [
        ("torch", ("m", "torch", "auto")),
        ("torch:bfloat16", ("m", "torch", "bfloat16")),
        ("float32", ("m", "openvino", "float32")),
        ("seresnet56", ("seresnet56", "openvino", "bfloat16")),
        ("hf-hub:user/repo", ("hf-hub:user/repo", "openvino", "bfloat16")),
        ("torch:model.pth", ("torch:model.pth", "openvino", "bfloat16")),  # no precision: a file of that name
    ],
)
def test_what_a_benchmark_is_against(spec, meant):
    assert named(spec, "m", "openvino", "bfloat16") == meant


def test_by_default_every_engine_of_the_table_is_measured_that_starts_at_once():
    found = list(everything("m"))
    assert {engine for _, engine, _ in found} == set(ENGINES) - {"torch-compile"}
    assert {model for model, *_ in found} == {"m"}
    assert {precision for *_, precision in found} == {"float32", "bfloat16"}


def test_what_is_not_here_is_skipped_by_default_and_refused_when_asked_for(model, monkeypatch):
    monkeypatch.setattr("seresnet.benchmarking.benchmark.ENGINES", ["torch", "onnxruntime"])
    candidates, skipped = open_candidates(model, None, "torch", "float32", "cpu", True)
    names = [candidate.name for candidate in candidates]
    assert names[0] == "torch float32"
    assert len(set(names)) == len(names) and "onnxruntime float32" in names
    assert "onnxruntime bfloat16" not in names
    assert any(line.startswith("onnxruntime bfloat16: ") for line in skipped)
    with pytest.raises(ConfigError, match="onnxruntime"):
        open_candidates(model, ["onnxruntime:bfloat16"], "torch", "float32", "cpu", True)


def test_rows_come_by_batch_size_and_name_model_and_engine(measured, model):
    names = [f"{model}, openvino float32", f"{model}, torch float32", "resnet20, openvino float32"]
    assert measured.batch_sizes == [1, 3]
    assert [row.timing.name for row in measured.rows] == names * 2
    assert all(len(row.timing.rounds_ms) == 2 and min(row.timing.rounds_ms) > 0 for row in measured.rows)
    assert all(row.description.startswith(f"{row.timing.name.split()[-2]} ") for row in measured.rows)


def test_ratios_and_differences_are_to_the_first(measured):
    for size in measured.batch_sizes:
        first, second, other = measured.of_batch(size)
        assert (first.speedup, first.difference) == (Spread(1.0, 1.0, 1.0, 1.0, 1.0), 0.0)
        assert second.speedup == second.timing.speedup_over(first.timing)
        assert second.difference is not None and 0 < second.difference < 1e-4  # two engines, one network
        assert other.difference is None


def test_an_architecture_gets_the_same_random_weights_each_time_and_all_blocks_matter():
    one, again = random_network("seresnet20").state_dict(), random_network("seresnet20").state_dict()
    assert all((one[key] == again[key]).all() for key in one)
    assert one["layer1.0.bn2.weight"].abs().min() > 0


def test_the_files_hold_what_was_measured(measured, tmp_path):
    folder = write_benchmark(measured, tmp_path / "new")
    assert json.loads((folder / "benchmark.json").read_text()) == measured.to_dict()
    with (folder / "benchmark.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [row.timing.name for row in measured.rows]
    for row, read in zip(measured.rows, rows, strict=True):
        assert float(read["latency_ms_median"]) == pytest.approx(row.timing.latency_ms.median, rel=1e-5)
        assert float(read["speedup_over_first_upper_quartile"]) == pytest.approx(row.speedup.upper_quartile, rel=1e-5)
    assert np.asarray(Image.open(folder / "benchmark.png")).std() > 10  # something is drawn
    with pytest.raises(ConfigError, match="not empty"):
        write_benchmark(measured, folder)
    assert write_benchmark(measured, folder, exist_ok=True) == folder


def row(name: str, rounds: tuple[float, ...], first: tuple[float, ...], difference: float | None) -> BenchmarkResult:
    timing = Timing(name, 4, rounds)
    return BenchmarkResult(timing, "an engine", timing.speedup_over(Timing("first", 4, first)), difference)


def test_a_table_of_known_numbers():
    first = (40.0, 42.0, 44.0)
    lines = table(
        [row("one", first, first, 0.0), row("two", (20.0, 21.0, 22.0), first, 3e-3), row("three", first, first, None)]
    )
    assert lines[0].split()[:2] == ["batch", "4"]
    assert lines[1].split() == ["one", "42.00", "41.00", "to", "43.00", "95.2", "1.000", "(1.000", "to", "1.000)"]
    assert lines[2].split()[-7:] == ["2.000", "(2.000", "to", "2.000)", "differ", "by", "3.0e-03"]
    assert lines[2].split()[1:6] == ["21.00", "20.50", "to", "21.50", "190.5"]
    assert lines[3].endswith("other model")


def test_the_picture_has_a_bar_for_each_and_tells_the_first_from_the_others():
    timings = [Timing("one", 1, (1.0, 2.0, 3.0)), Timing("two", 1, (4.0, 4.0, 4.0))]
    axes, other = draw([timings, timings[:1]]).axes
    assert [bar.get_width() for bar in axes.patches] == [2.0, 4.0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["one", "two"]
    assert axes.patches[0].get_facecolor() != axes.patches[1].get_facecolor()
    assert len(other.patches) == 1


def test_the_machine_is_stated(measured):
    line = heading(measured)
    assert measured.machine["cpu"] in line and f"{measured.machine['cores']} cores" in line
    assert f"torch {measured.machine['versions']['torch']}" in line


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_sizes": ()}, "batch sizes must be 1 or more"),
        ({"batch_sizes": (4, 0)}, "batch sizes must be 1 or more"),
        ({"rounds": 0}, "rounds must be 1 or more, not 0"),
        ({"engine": "tvm"}, "engine 'tvm' is unknown"),
        ({"precision": "int4"}, "precision 'int4' is unknown"),
    ],
)
def test_what_cannot_be_measured_is_refused(settings, message, model):
    with pytest.raises(ConfigError, match=message):
        benchmark(model, **{"against": [], "device": "cpu", **settings})
