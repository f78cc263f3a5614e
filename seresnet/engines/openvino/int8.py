"""A network in 8-bit integers: weights and the values between layers, for the CPU, on OpenVINO.

Weights are symmetric and have a scale of their own for each output channel, values have one scale each; biases and
the gates stay in float. A value is quantized where it is made, so that all who read it, shortcut and gate among them,
read bytes: the stem quantizes in front of its pooling, which keeps the levels. A fused network is
quantized as it is: gates known before the last convolution, and no unread output computed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from openvino import opset13 as ops

from seresnet.common.machine import overflows_bytes
from seresnet.engines.openvino.graph import OpenVINOBuilder, grouped, openvino_graph
from seresnet.engines.openvino.int8_ranges import FEATURES, LEVELS, Array, Range, find_ranges, layers_and_values
from seresnet.engines.openvino.package import import_openvino, openvino_core
from seresnet.models.fuse import FusedSEResNet, fuse_network
from seresnet.weights.source import GRAPH_FILE

if TYPE_CHECKING:
    from seresnet.models.resnet import SEResNet

log = logging.getLogger("seresnet")

WEIGHT_BITS = ["seresnet", "weight_bits"]  # where a graph says so
COMPILED_LAYERS = ("Convolution", "FullyConnected", "MatMul")  # OpenVINO's names for what multiplies, once compiled


@dataclass(frozen=True)
class Quantized:
    """A quantized network: an ``openvino.Model``, and how it came about."""

    model: Any
    layers: tuple[str, ...]  # names of those with 8-bit weights
    weight_bits: int  # 8, or 7 for processors on which 8 can overflow
    images: int  # that the ranges were found on

    def size(self) -> int:
        """Return the bytes of its files, see `save`."""
        with TemporaryDirectory() as folder:
            self.save(Path(folder))
            return sum(file.stat().st_size for file in Path(folder).iterdir())

    def save(self, directory: Path) -> None:
        """Write it into a directory, as the files that `seresnet.load` looks for: ``openvino_model.xml``, ``.bin``."""
        import_openvino().save_model(self.model, str(directory / GRAPH_FILE), compress_to_fp16=False)


def quantize(model: SEResNet, calibration: Iterable[Array], weight_bits: int | None = None) -> Quantized:
    """Return a network in 8-bit integers, as an OpenVINO model with the inputs and outputs of `openvino_graph`.

    ``calibration`` are batches of preprocessed images, float32 (N, C, H, W), of the kind that the model will see;
    300 images are plenty. ``weight_bits`` is 8, or 7, with which no sum overflows on x86 processors without VNNI
    (2 * 255 * 63 fits 16 bits); None takes what this processor needs.
    Raises DataError where there is no image, ConfigError where a value of the network is not finite.
    """
    bits = weight_bits or (7 if overflows_bytes() else 8)
    if weight_bits is None and bits == 7:
        log.warning("weights get 7 bits: sums of products of 8-bit numbers can overflow on this processor (no VNNI)")
    form = model if isinstance(model, FusedSEResNet) else fuse_network(model)
    ranges, images = find_ranges(form, calibration)
    return Quantized(quantized_graph(form, ranges, bits), tuple(layers_and_values(form)), bits, images)


def layer_dtypes(quantized: Quantized) -> dict[str, str]:
    """Return what each layer computes in on this machine ("u8", "f32", ...), as OpenVINO compiled it."""
    layer_of = {name: layer for layer in quantized.layers for name in (layer, f"{layer}.bias")}
    compiled = openvino_core().compile_model(quantized.model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found: dict[str, str] = {}
    for node in compiled.get_runtime_model().get_ordered_ops():
        facts = node.get_rt_info()
        if facts["layerType"].astype(str) in COMPILED_LAYERS:
            names = facts["originalLayersNames"].astype(str).split(",")
            names = {name.partition("/")[0] for name in names}  # "fc/DequantizationMultiply"
            layers = {layer_of[name] for name in names if name in layer_of}
            found |= dict.fromkeys(layers, facts["runtimePrecision"].astype(str))
    return found


def quantized_graph(form: FusedSEResNet, ranges: Mapping[str, Range], weight_bits: int) -> Any:
    """Return the form as an OpenVINO model whose values have the levels that ``ranges`` says."""
    graph = openvino_graph(form, QuantizingBuilder(layers_and_values(form), ranges, weight_bits))
    graph.set_rt_info(str(weight_bits), WEIGHT_BITS)
    return graph


class QuantizingBuilder(OpenVINOBuilder):
    """Builds a graph with 8-bit weights in the layers of ``reads``, and quantizes the values that these read."""

    def __init__(self, reads: Mapping[str, str], ranges: Mapping[str, Range], weight_bits: int) -> None:
        self.reads, self.ranges = reads, ranges
        self.largest = 2 ** (weight_bits - 1) - 1

    def convolution(self, name: str, x: Any, weight: Array, bias: Array, stride: int, padding: int, groups: int) -> Any:
        """Return a convolution with 8-bit weights."""
        levels, corrected = self.layer(name, grouped(weight, groups), bias)
        return self.convolve(name, x, levels, corrected, stride, padding)

    def excitation_layer(self, name: str, x: Any, weight: Array, bias: Array) -> Any:
        """Return an excitation's layer, in float."""
        return super().convolution(name, x, weight, bias, 1, 0, 1)

    def linear(self, name: str, x: Any, weight: Array, bias: Array) -> Any:
        """Return the classifier with 8-bit weights; its input is quantized for it alone, the output `features` not."""
        levels, corrected = self.layer(name, weight, bias)
        return self.multiply_rows(name, self.quantized(FEATURES, x), levels, corrected)

    def value(self, name: str, node: Any) -> Any:
        """Return a value with its name; quantized, where a layer reads it. For the features see `linear`."""
        node = self.named(name, node)
        return self.quantized(name, node) if name in self.ranges and name != FEATURES else node

    def quantized(self, name: str, node: Any) -> Any:
        """Return a node's value on the levels of its range."""
        span = self.ranges[name]
        low = self.constant(f"{name}.low", np.array(span.low, np.float32))
        high = self.constant(f"{name}.high", np.array(span.high, np.float32))
        return self.named(f"{name}.levels", ops.fake_quantize(node, low, high, low, high, LEVELS))

    def layer(self, name: str, weight: Array, bias: Array) -> tuple[Any, Array]:
        """Return a layer's weights as bytes times their scales, and its bias with the mean error of the rounding."""
        levels, scale = to_levels(weight, self.largest)
        lost = mean_loss(weight - levels * scale, self.ranges[self.reads[name]].means)
        integers = ops.convert(self.constant(f"{name}.weight.bytes", levels), "f32")
        scaled = ops.multiply(
            self.named(f"{name}.weight.float", integers), self.constant(f"{name}.weight.scale", scale)
        )
        return self.named(f"{name}.weight", scaled), bias + lost.astype(np.float32)


def to_levels(weight: Array, largest: int) -> tuple[NDArray[np.int8], Array]:
    """Return a layer's weights as integers up to ``largest``, and the scale of each output channel.

    A weight is (C', C), (C', C, K, K), or of a grouped convolution (G, C' / G, C / G, K, K); the scale has the same
    number of axes, with extents of 1 but for the output channels.
    """
    within = tuple(range(2 if weight.ndim == 5 else 1, weight.ndim))
    extreme = np.abs(weight).max(within, keepdims=True)
    scale = np.where(extreme == 0, 1, extreme / largest).astype(np.float32)
    return np.rint(weight / scale).astype(np.int8), scale


def mean_loss(difference: Array, means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how much a layer's outputs fall short on average, (C',), where its weights do by ``difference``.

    ``means`` are those of the channels of what it reads (C,). The border, where a kernel sees less, is left out.
    """
    per_input = difference.sum((-2, -1), dtype=np.float64) if difference.ndim > 2 else difference.astype(np.float64)
    grouped = per_input.reshape(-1, *per_input.shape[-2:])  # (G, C' / G, C / G)
    return np.einsum("goi,gi->go", grouped, means.reshape(len(grouped), -1)).reshape(-1)
