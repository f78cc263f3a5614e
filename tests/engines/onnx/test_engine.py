"""onnxruntime as an engine: the same walk over the form, checked against torch and against ONNX's own rules."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from seresnet.engines.onnx.engine import OnnxEngine
from seresnet.engines.onnx.graph import onnx_graph
from seresnet.errors import ConfigError
from seresnet.models.fuse import fuse_network
from seresnet.models.variants import build
from tests.engines.openvino.test_graph import BOUND, by_torch, difference, images, narrow
from tests.networks import randomized, seresnet20

# One of each kind of stem, block, shortcut, pooling and excitation.
KINDS = [
    *("legacy_seresnet18", "legacy_seresnet50", "legacy_seresnext26_32x4d", "legacy_senet154", "seresnet18"),
    *("seresnet50t", "seresnext26d_32x4d", "seresnetaa50d", "resnet50", "seresnet20"),
]


@pytest.mark.parametrize("arch", KINDS)
def test_every_kind_gives_torchs_numbers_at_any_size(arch: str) -> None:
    model = narrow(arch)
    engine = OnnxEngine(model, "cpu", "float32", threads=1)
    sizes = [(64, 96), (32, 32)] if "aa" in arch else [(33, 47), (64, 50), (5, 3)]
    for count, size in enumerate(sizes, start=1):
        x = images(count, *size)
        logits, features = by_torch(model, x)
        assert difference(engine.logits(x), logits) <= BOUND
        assert difference(engine.embed(torch.from_numpy(x)), features) <= BOUND


def test_the_smallest_images() -> None:
    """Where edges, corners and the whole are the same pixels."""
    model = narrow("seresnet18", layers=(1, 1, 1, 1), num_classes=0)
    engine = OnnxEngine(model, threads=1)
    for height in (1, 2, 3):
        for width in (1, 2, 40):
            x = images(1, height, width)
            assert difference(engine.logits(x), by_torch(model, x)[1]) <= BOUND


def test_the_graph_is_valid_onnx() -> None:
    model = onnx_graph(fuse_network(seresnet20()))
    onnx.checker.check_model(model, full_check=True)
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert {"layer1.0.last", "layer1.0.gate.fc1", "layer3.2.relu", "fc"} <= set(names)
    dims = [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert dims == ["batch", 3, "height", "width"]


def test_empty_batches_and_several() -> None:
    engine = OnnxEngine(seresnet20(), threads=1)
    assert engine.logits(images(0, 32, 32)).shape == (0, 10)
    assert engine.embed(images(0, 32, 32)).shape == (0, 64)
    assert [len(answer) for answer in engine.map([images(2, 32, 32), images(1, 8, 9)])] == [2, 1]
    assert engine.describe().startswith("onnxruntime ") and engine.describe().endswith("cpu (1 thread), float32")


def test_a_saved_graph_opens_without_torch(tmp_path: Path) -> None:
    engine = OnnxEngine(seresnet20(), threads=1)
    engine.save(tmp_path / "model.onnx")
    x = images(2, 32, 32)
    np.save(tmp_path / "x.npy", x)
    code = f"""
import sys, numpy
from seresnet.engines.onnx.engine import OnnxEngine
engine = OnnxEngine({str(tmp_path / "model.onnx")!r}, threads=1)
numpy.save({str(tmp_path / "y.npy")!r}, engine.logits(numpy.load({str(tmp_path / "x.npy")!r})))
assert not {{"torch", "onnx"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), engine.logits(x))
    again = tmp_path / "again"
    OnnxEngine(tmp_path / "model.onnx", threads=1).save(again / "model.onnx")
    assert (again / "model.onnx").read_bytes() == (tmp_path / "model.onnx").read_bytes()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "cuda"}, "onnxruntime runs on the cpu, not on 'cuda': use engine torch"),
        ({"precision": "bfloat16"}, "onnxruntime has no precision bfloat16: use float32, or engine openvino"),
        ({"model": "nowhere.onnx"}, "nowhere.onnx: not an ONNX model"),
    ],
)
def test_impossible_settings_are_refused_in_one_line(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        OnnxEngine(**{"model": seresnet20(), **settings})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_a_graph_of_another_kind_is_refused(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3])
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [value],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 3])],
    )
    opsets = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "other.onnx")
    with pytest.raises(ConfigError, match="not made by seresnet"):
        OnnxEngine(tmp_path / "other.onnx")


def test_what_a_network_cannot_take_is_refused() -> None:
    engine = OnnxEngine(randomized(build("legacy_seresnet50", layers=(1, 1), channels=(16, 32), num_classes=5)))
    with pytest.raises(ConfigError, match="images of 2 x 9 pixels are too small for this network: use 3 or more"):
        engine.logits(images(1, 2, 9))
    with pytest.raises(ConfigError, match=r"must be \(N, 3, H, W\), not \(1, 4, 32, 32\)"):
        engine.logits(images(1, 32, 32, 4))


def test_without_onnxruntime_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from seresnet.engines.registry import open_engine

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "seresnet.engines.onnx.engine")
    with pytest.raises(ConfigError, match=r'onnxruntime is not installed: run pip install "seresnet\[onnx\]"'):
        open_engine("onnxruntime", seresnet20())
