"""8-bit integers against the same network in float, and the arithmetic against its definition."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
import torch
from torch.nn import functional as F

from seresnet.common import machine
from seresnet.engines.openvino.engine import OpenVINOEngine
from seresnet.engines.openvino.int8 import Quantized, layer_dtypes, mean_loss, quantize, quantized_graph, to_levels
from seresnet.engines.openvino.int8_ranges import Observed, find_ranges, layers_and_values
from seresnet.engines.openvino.package import openvino_core
from seresnet.errors import ConfigError, DataError
from seresnet.models.blocks import SEResNetConfig
from seresnet.models.fuse import fuse_network
from seresnet.models.resnet import SEResNet
from seresnet.weights.create import create_model
from tests.networks import randomized, tiny
from tests.photographs import pieces

SMALL = SEResNetConfig(layers=(1, 2), channels=(16, 32), stem_width=16, num_classes=5)
CONFIGS = {
    "legacy": {"stride_in": "conv1", "stem_pool": "max_ceil", "lineage": "legacy"},
    "legacy basic": {"block": "basic", "relu_before_se": True, "lineage": "legacy"},
    "basic": {"block": "basic"},
    "modern": {},
    "groups": {"groups": 4},
    "averaged shortcuts": {"downsample": "avg", "stem": "deep"},
    "anti-aliased": {"anti_alias": True, "stem": "tiered", "downsample": "avg"},
    "SENet-154": {"groups": 2, "first_width_divisor": 2, "downsample_kernel": 3, "stem": "deep"},
    "no excitation": {"reduction": None},
    "pooled by means": {"stem_pool": "avg"},
    "one channel": {"in_chans": 1},
    "no classifier": {"num_classes": 0},
}


def small(**fields) -> SEResNet:
    torch.manual_seed(0)
    return randomized(SEResNet(SMALL, **fields)).eval()


def noise(network: SEResNet, count: int = 12, size: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, network.in_chans, size, size)).astype(np.float32)


def relative_error(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@pytest.fixture(scope="module", autouse=True)
def one_core():
    """Leave the other cores to whoever has them: two threads that wait for each other are slower than one."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    yield
    os.sched_setaffinity(0, cores)


@pytest.fixture(scope="module")
def bundled() -> SEResNet:
    return create_model("seresnet20.cifar10", pretrained=True).eval()


@pytest.fixture(scope="module")
def photographs(bundled) -> np.ndarray:
    return np.stack([bundled.preprocess.array(piece) for piece in pieces(grid=4)])  # (N, 3, 32, 32)


@pytest.fixture(scope="module")
def float32(bundled) -> OpenVINOEngine:
    return OpenVINOEngine(bundled, precision="float32")


@pytest.fixture(scope="module")
def quantized(bundled, photographs) -> Quantized:
    return quantize(bundled, [photographs[::2]])


@pytest.fixture(scope="module")
def int8(quantized) -> OpenVINOEngine:
    return OpenVINOEngine(quantized.model)


# Whole networks.


@pytest.mark.parametrize("name", CONFIGS)
def test_every_layer_computes_in_bytes_but_the_gates_and_the_logits_stay_close(name):
    network = small(**CONFIGS[name])
    quantized = quantize(network, [noise(network)])
    formats = layer_dtypes(quantized)
    assert (
        set(formats)
        == set(quantized.layers)
        == {
            path
            for path, module in fuse_network(network).named_modules()
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear) and not {"gate", "se"} & set(path.split("."))
        }
    )
    assert set(formats.values()) <= {"u8", "i8"}
    others = noise(network, seed=1)
    found = OpenVINOEngine(quantized.model).logits(others)
    with torch.inference_mode():
        assert relative_error(found, network(torch.from_numpy(others)).numpy()) < 0.02


def test_unused_pixels_are_skipped_in_bytes_as_well():
    network = small(**CONFIGS["legacy"])
    quantized = quantize(network, [noise(network)])
    graph = quantized.model
    by_name = {node.get_friendly_name(): node for node in graph.get_ops()}
    assert list(by_name["layer1.0.last"].get_strides()) == [2, 2]  # a quarter of its output is computed
    assert list(by_name["layer2.0.hidden.0"].get_strides()) == [1, 1]  # which the next stage reads as it is
    formats = layer_dtypes(quantized)
    assert {formats["layer1.0.last"], formats["layer2.0.hidden.0"], formats["layer2.0.shortcut.0"]} == {"u8"}
    # The gate still sees all of what the last convolution would have read.
    assert (
        by_name["layer1.0.gate.squeeze"].input_value(0).get_node().get_friendly_name().startswith("layer1.0.hidden.3")
    )


def test_the_bundled_model_gives_the_same_answers(quantized, int8, float32, photographs):
    others = photographs[1::2]
    found, wanted = int8.logits(others), float32.logits(others)
    assert (quantized.images, quantized.weight_bits) == (len(photographs[::2]), 7 if machine.overflows_bytes() else 8)
    assert relative_error(found, wanted) < 0.05
    assert (found.argmax(1) == wanted.argmax(1)).mean() > 0.95


def test_features_are_no_coarser_than_the_last_layer_makes_them(int8, float32, photographs):
    found = int8.embed(photographs)
    assert relative_error(found, float32.embed(photographs)) < 0.05
    assert len(np.unique(found)) > 256  # means of bytes, not bytes


def test_what_rounding_takes_is_put_back_into_the_biases(bundled, float32, photographs, monkeypatch):
    form, others = fuse_network(bundled), photographs[1::2]
    ranges, _ = find_ranges(form, [photographs[::2]])
    errors = []
    for lost in (mean_loss, lambda difference, means: 0 * mean_loss(difference, means)):
        monkeypatch.setattr("seresnet.engines.openvino.int8.mean_loss", lost)
        graph = quantized_graph(form, ranges, weight_bits=6)  # coarse, so that rounding the weights is what counts
        errors.append(relative_error(OpenVINOEngine(graph).logits(others), float32.logits(others)))
    assert errors[0] < errors[1]


def test_a_saved_model_answers_the_same_whatever_the_size_of_images(tmp_path, quantized, int8):
    quantized.save(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"openvino_model.xml", "openvino_model.bin"}
    assert quantized.size() == sum(file.stat().st_size for file in tmp_path.iterdir())
    saved = OpenVINOEngine(tmp_path / "openvino_model.xml")
    assert saved.precision == int8.precision == "int8"
    for size in (32, 45):
        images = np.random.default_rng(0).normal(size=(3, 3, size, size)).astype(np.float32)
        np.testing.assert_array_equal(saved.logits(images), int8.logits(images))


def test_a_network_and_its_inference_form_become_the_same():
    network = small()
    images = noise(network)
    models = [quantize(given, [images]).model for given in (network, fuse_network(network))]
    first, second = (OpenVINOEngine(model).logits(images) for model in models)
    np.testing.assert_array_equal(first, second)


# Processors without VNNI.


def test_weights_of_7_bits_leave_room_for_two_products_in_16_bits():
    weight = np.random.default_rng(0).normal(size=(8, 4, 3, 3)).astype(np.float32)
    levels, _ = to_levels(weight, largest=63)
    assert np.abs(levels.astype(int)).max() == 63
    assert 2 * 255 * 63 < 2**15 < 2 * 255 * 127


ERRORS = """
import numpy as np, openvino as ov
from seresnet.engines.openvino.graph import openvino_graph as graph_of
from seresnet.models.fuse import fuse_network
from seresnet.engines.openvino.int8 import quantize
from seresnet.engines.openvino.package import openvino_core
from tests.engines.openvino.test_int8 import noise, relative_error, small
network = small(block="basic", stem="conv3", stem_pool="none")
network.conv1.weight.data.fill_(0.1)  # products of one sign, and as large as they get
images = abs(noise(network, 4, 16)).clip(max=1)
def logits(model):
    return openvino_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(images)["logits"]
wanted = logits(graph_of(fuse_network(network)))
for bits in (8, 7):
    print(relative_error(logits(quantize(network, [images], bits).model), wanted))
"""


@pytest.mark.skipif(platform.machine().lower() not in machine.X86, reason="no such instructions")
def test_sums_overflow_without_vnni_but_not_with_7_bits():
    # The library that multiplies leaves out the instructions that this processor has beyond AVX2.
    limited = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    answer = subprocess.run([sys.executable, "-c", ERRORS], env=limited, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    with_8, with_7 = map(float, answer.stdout.split())
    assert with_7 < 0.05
    assert with_8 > 2 * with_7


@pytest.mark.parametrize(
    ("architecture", "flags", "overflows"),
    [
        ("x86_64", "avx2 avx512f", True),
        ("x86_64", "avx512_vnni", False),
        ("AMD64", "avx_vnni", False),
        ("AMD64", "", True),  # the operating system does not tell
        ("aarch64", "", False),
        ("arm64", "asimd", False),
    ],
)
def test_a_processor_is_known_by_its_flags(architecture, flags, overflows, tmp_path, monkeypatch, caplog):
    told = tmp_path / "cpuinfo"
    told.write_text(f"model name : one\nflags : {flags}\n")
    monkeypatch.setattr(machine, "CPUINFO", told)
    monkeypatch.setattr(platform, "machine", lambda: architecture)
    assert machine.overflows_bytes() == overflows
    network = tiny()
    with caplog.at_level("WARNING", logger="seresnet"):
        assert quantize(network, [noise(network, 4, 8)]).weight_bits == (7 if overflows else 8)
    assert ("VNNI" in caplog.text) == overflows


# Ranges.


def quantization_error(values: np.ndarray, end: float) -> float:
    step = end / 255
    return float(np.mean((np.clip(np.rint(values / step), 0, 255) * step - values) ** 2))


def test_the_range_is_the_one_that_costs_least():
    values = np.random.default_rng(0).exponential(size=(64, 4, 32, 32)).astype(np.float32)
    values[values < 0.3] = 0  # as behind a ReLU
    values[0, 0, 0, 0] = 30  # which would take half of the levels
    observed = Observed()
    observed.add(values)
    high = observed.range().high
    positive = values[values > 0]
    best = min(quantization_error(positive, end) for end in np.linspace(6, 30, 60))
    assert quantization_error(positive, high) < 1.02 * best
    assert quantization_error(positive, high) < 0.9 * quantization_error(positive, 30)


def test_zero_is_a_level_of_every_range():
    observed = Observed()
    observed.add(np.random.default_rng(0).normal(0.4, 1, (4, 3, 8, 8)).astype(np.float32))
    span = observed.range()
    assert span.low <= observed.low + span.step
    assert span.high >= observed.high - span.step
    assert -span.low / span.step == pytest.approx(round(-span.low / span.step), abs=1e-9)


def test_a_value_that_is_always_zero_has_a_range_all_the_same():
    observed = Observed()
    observed.add(np.zeros((2, 3, 4, 4), np.float32))
    assert observed.range().high > 0


def test_images_one_by_one_give_the_ranges_of_all_at_once():
    network = tiny()
    form, images = fuse_network(network), 3 * noise(network, 9, 8)
    together, count = find_ranges(form, [images])
    singly, same = find_ranges(form, (image[None] for image in images))
    assert count == same == 9
    assert together.keys() == singly.keys() == set(layers_and_values(form).values())
    for name, span in together.items():
        assert (span.low, span.high) == pytest.approx((singly[name].low, singly[name].high), rel=1e-6), name
        np.testing.assert_allclose(span.means, singly[name].means, rtol=1e-5, atol=1e-7)


def test_the_histogram_does_not_grow():
    observed = Observed()
    for scale in (1e-3, 1, 1e3, 1e6):
        observed.add(np.full((2, 3, 4, 4), scale, np.float32))
    assert observed.counts.shape == Observed().counts.shape
    assert observed.counts.sum() == 4 * 2 * 48
    assert observed.range().high <= 1e6 * (1 + 1e-6)


@pytest.mark.filterwarnings("ignore")
def test_what_is_not_finite_is_refused():
    network = tiny()
    images = noise(network, 4, 8)
    images[2, 0, 0, 0] = np.nan
    with pytest.raises(ConfigError, match="not finite"):
        quantize(network, [images])


def test_no_image_is_refused():
    network = tiny()
    for batches in ([], [noise(network, 0, 8)]):
        with pytest.raises(DataError, match="calibration images"):
            quantize(network, batches)


# Weights.


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3, 3), (2, 3, 4, 3, 3)])
def test_each_output_channel_has_a_scale_of_its_own(shape):
    weight = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    outputs = weight.reshape(6, -1)
    outputs *= 10.0 ** np.arange(6)[:, None]
    outputs[3] = 0
    levels, scale = to_levels(weight, largest=127)
    assert levels.dtype == np.int8
    assert (np.abs(weight - levels * scale) <= 0.501 * scale).all()
    assert [int(row) for row in np.abs(levels.reshape(6, -1).astype(int)).max(1)] == [127, 127, 127, 0, 127, 127]


@pytest.mark.parametrize(("groups", "kernel"), [(1, 1), (1, 3), (2, 3), (3, 1)])
def test_the_mean_loss_is_that_of_a_convolution_of_the_mean_image(groups, kernel):
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(6, 6 // groups, kernel, kernel)).astype(np.float32)
    means = rng.normal(size=6)
    image = torch.from_numpy(means.astype(np.float32))[None, :, None, None].expand(1, 6, 5, 5)
    wanted = F.conv2d(image, torch.from_numpy(weight), groups=groups)[0, :, 0, 0].numpy()
    shaped = weight if groups == 1 else weight.reshape(groups, -1, *weight.shape[1:])
    np.testing.assert_allclose(mean_loss(shaped, means), wanted, rtol=1e-4, atol=1e-5)


def test_the_mean_loss_of_a_linear_layer():
    rng = np.random.default_rng(0)
    weight, means = rng.normal(size=(4, 7)).astype(np.float32), rng.normal(size=7)
    np.testing.assert_allclose(mean_loss(weight, means), weight @ means, rtol=1e-5)


def test_weights_are_stored_as_bytes(tmp_path):
    network = small()
    quantize(network, [noise(network)]).save(tmp_path)
    bytes_of_weights = {
        node.get_friendly_name(): node.get_element_type()
        for node in openvino_core().read_model(Path(tmp_path) / "openvino_model.xml").get_ops()
        if node.get_friendly_name().endswith(".weight.bytes")
    }
    layers = quantize(network, [noise(network)]).layers
    assert set(bytes_of_weights) == {f"{layer}.weight.bytes" for layer in layers}
    assert set(bytes_of_weights.values()) == {ov.Type.i8}
