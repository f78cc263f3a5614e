"""``seresnet benchmark`` as its users run it."""

import json

import pytest

from seresnet.weights.save import save
from tests.cli.terminal import here
from tests.networks import seresnet20


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(save(seresnet20(), tmp_path_factory.mktemp("model")))


def test_a_table_for_each_batch_size_and_a_report(model, tmp_path):
    out = tmp_path / "report"
    done = here(
        *("benchmark", "--model", model, "--engine", "openvino", "--precision", "float32", "--device", "cpu"),
        *("--against", "torch:float32", "onnxruntime", "--batch-size", "1", "2", "--rounds", "1", "--out", out),
    )
    assert done.returncode == 0, done.stderr
    machine, _, *lines = done.stdout.decode().splitlines()
    figures = json.loads((out / "benchmark.json").read_text())
    assert figures["machine"]["cpu"] in machine and "cores" in machine
    names = ["openvino float32", "torch float32", "onnxruntime float32"]
    starts = ["batch 1", *names, "", "batch 2", *names]
    assert len(lines) == len(starts)
    assert all(line.startswith(start) for line, start in zip(lines, starts, strict=True))
    assert f"{figures['rows'][1]['latency_ms']['median']:.2f}" in lines[2]
    assert [row["batch_size"] for row in figures["rows"]] == [1, 1, 1, 2, 2, 2]
    stderr = done.stderr.decode()
    assert "torch float32: torch " in stderr and f"report in {out}" in stderr


def test_what_this_machine_lacks_is_named_and_left_out(model, monkeypatch):
    monkeypatch.setattr("seresnet.benchmarking.benchmark.ENGINES", ["onnxruntime"])
    done = here(
        *("benchmark", "--model", model, "--engine", "torch", "--precision", "float32", "--device", "cpu"),
        *("--batch-size", "1", "--rounds", "1"),
    )
    assert done.returncode == 0, done.stderr
    assert "not measured: onnxruntime bfloat16: " in done.stderr.decode()
    assert [line.split()[0] for line in done.stdout.decode().splitlines()[-2:]] == ["torch", "onnxruntime"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rounds", "0"), "rounds must be 1 or more"),
        (("--batch-size", "0"), "batch sizes must be 1 or more"),
        (("--engine", "tvm"), "engine 'tvm' is unknown"),
        (("--against", "no-such-model"), "no-such-model"),
        (("--precision", "int8", "--against", "torch"), "seresnet quantize"),
    ],
)
def test_what_cannot_be_measured_is_one_line(model, arguments, message):
    done = here("benchmark", "--model", model, "--device", "cpu", *arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    *_, last = done.stderr.decode().splitlines()
    assert last.startswith("seresnet: error: ") and message in last


def test_a_report_is_not_overwritten(model, tmp_path):
    (tmp_path / "old").write_text("")
    done = here("benchmark", "--model", "no such model", "--out", tmp_path)  # refused before anything is opened
    assert done.returncode == 2 and b"is not empty" in done.stderr
