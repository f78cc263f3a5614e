"""Graphs from elsewhere: what this package writes passes, all else is refused in one line, and nothing dies here."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from seresnet.engines.openvino import check
from seresnet.engines.openvino.check import check_graph
from seresnet.engines.openvino.engine import OpenVINOEngine
from seresnet.engines.openvino.graph import openvino_graph
from seresnet.engines.openvino.int8 import quantize
from seresnet.errors import WeightsError
from seresnet.models.fuse import fuse_network
from tests.networks import seresnet20, tiny

DEEP = "<net><layers>" + "<layer>" * 200_000


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("good") / "openvino_model.xml"
    OpenVINOEngine(tiny(), precision="float32").save(path)
    return path


def copied(good: Path, folder: Path, text: str | None = None, weights: bytes | None = None) -> Path:
    """Copy a graph, with other text or other weights."""
    path = folder / "model.xml"
    path.write_text(good.read_text() if text is None else text)
    path.with_suffix(".bin").write_bytes(good.with_suffix(".bin").read_bytes() if weights is None else weights)
    return path


def test_what_this_package_writes_passes(good, tmp_path):
    check_graph(good, 3, 3)
    check_graph(good, None, None)
    network = seresnet20()
    images = np.random.default_rng(0).normal(size=(4, 3, 32, 32)).astype(np.float32)
    quantize(network, [images]).save(tmp_path)
    check_graph(tmp_path / "openvino_model.xml", 10, 3)


@pytest.mark.parametrize(
    ("num_classes", "in_chans", "reason"),
    [(4, 3, "it has 3 classes, config.json says 4"), (3, 1, "images of 3 channels, config.json says 1")],
)
def test_a_graph_that_is_not_what_config_json_says(good, num_classes, in_chans, reason):
    with pytest.raises(WeightsError, match=reason):
        check_graph(good, num_classes, in_chans)


@pytest.mark.parametrize(
    "text",
    ["", "<net", "not xml", DEEP, "<net name='x' version='11'><layers/><edges/></net>"],
    ids=["empty", "cut", "text", "deep", "no layers"],
)
def test_what_is_no_graph(good, tmp_path, text):
    refused(copied(good, tmp_path, text), "it is not XML|nested too deep|OpenVINO cannot read|its input is not images")


def test_files_that_parsers_take_too_long_for(good, tmp_path):
    layer = good.read_text().partition("<layers>")[2].partition("</layer>")[0] + "</layer>"
    many = good.read_text().replace("<layers>", "<layers>" + layer * 20_000)
    refused(copied(good, tmp_path, many), "it has too many operations")
    bomb = "<!DOCTYPE a [<!ENTITY b 'c'>]>" + good.read_text().partition("?>")[2]
    refused(copied(good, tmp_path, bomb), "it has a document type")


def test_weights_that_are_cut_or_missing(good, tmp_path):
    whole = good.with_suffix(".bin").read_bytes()
    refused(copied(good, tmp_path, weights=whole[: len(whole) // 2]))
    path = copied(good, tmp_path)
    path.with_suffix(".bin").unlink()
    with pytest.raises(WeightsError, match=r"model\.bin: no such file"):
        check_graph(path, 3, 3)


def test_weights_that_are_not_finite(good, tmp_path):
    whole = np.frombuffer(good.with_suffix(".bin").read_bytes(), np.uint8).copy()
    match = re.search(r'element_type="f32" shape="[\d, ]+" offset="(\d+)"', good.read_text())
    offset = int(match[1])
    whole[offset : offset + 4] = np.frombuffer(np.float32(np.nan).tobytes(), np.uint8)
    refused(copied(good, tmp_path, weights=whole.tobytes()), "values that are not finite")


def test_operations_that_the_exporter_does_not_write(tmp_path):
    graph = openvino_graph(fuse_network(tiny()))
    logits = graph.output("logits").get_node()
    softmax = ops.softmax(logits.input_value(0), 1)
    softmax.output(0).set_names({"logits"})
    other = ov.Model([ops.result(softmax), graph.get_results()[1]], graph.get_parameters())
    ov.save_model(other, str(tmp_path / "model.xml"), compress_to_fp16=False)
    refused(tmp_path / "model.xml", "operation Softmax")


def test_numbers_beyond_any_network(good, tmp_path):
    for old, new in (('strides="1, 1"', 'strides="0, 0"'), ('strides="1, 1"', 'strides="4294967295, 4294967295"')):
        assert old in good.read_text()
        refused(copied(good, tmp_path, good.read_text().replace(old, new)), "OpenVINO cannot read|has strides of")
    wide = good.read_text().replace('pads_begin="1, 1"', 'pads_begin="50, 50"')
    refused(copied(good, tmp_path, wide), r"has pads_begin of \[50, 50\]")


def test_a_process_that_dies_or_hangs_is_a_refusal(good, monkeypatch):
    monkeypatch.setattr(check, "PROGRAM", "import os; os.abort()")
    with pytest.raises(WeightsError, match="OpenVINO does not survive opening it"):
        check_graph(good, 3, 3)
    monkeypatch.setattr(check, "CPU_SECONDS", 0.2)
    for program in (
        "import time; time.sleep(60)",
        f"from {check.__name__} import _limit; _limit(1)\nwhile True: pass",
    ):
        monkeypatch.setattr(check, "PROGRAM", program)
        with pytest.raises(WeightsError, match="checking it takes too long"):
            check_graph(good, 3, 3)


def refused(path: Path, reason: str = "OpenVINO cannot read or run it") -> None:
    with pytest.raises(WeightsError, match=reason) as raised:
        check_graph(path, 3, 3)
    assert "\n" not in str(raised.value)
    assert str(raised.value).endswith("; quantize or save the model again")
