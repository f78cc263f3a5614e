"""A fused network as an OpenVINO model, built operation by operation."""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
from openvino import opset1, opset8
from openvino import opset13 as ops
from openvino.opset1 import group_convolution

from seresnet.engines.graph import HEIGHT, WIDTH, Array, Builder, emit
from seresnet.models.fuse import FusedSEResNet
from seresnet.models.input_sizes import input_sizes


class OpenVINOBuilder(Builder[Any]):
    """Spells the operations as nodes of OpenVINO; ``friendly_name`` is the name given."""

    def named(self, name: str, node: Any) -> Any:
        """Return ``node`` with its name."""
        node.set_friendly_name(name)
        return node

    def value(self, name: str, node: Any) -> Any:
        """Return a value that other operations read, with its name; a subclass may change it."""
        return self.named(name, node)

    def constant(self, name: str, value: Any) -> Any:
        """Return a constant of NumPy's dtype."""
        return self.named(name, ops.constant(value))

    def convolution(self, name: str, x: Any, weight: Array, bias: Array, stride: int, padding: int, groups: int) -> Any:
        return self.convolve(name, x, self.constant(f"{name}.weight", grouped(weight, groups)), bias, stride, padding)

    def convolve(self, name: str, x: Any, weight: Any, bias: Array, stride: int, padding: int) -> Any:
        """Return a convolution whose weights are a node, (C', C, K, K) or (G, C' / G, C / G, K, K)."""
        pads, strides = [padding] * 2, [stride] * 2
        operation = ops.convolution if weight.get_output_partial_shape(0).rank.get_length() == 4 else group_convolution
        y = self.named(name, operation(x, weight, strides, pads, pads, [1, 1]))
        return self.value(f"{name}.bias", ops.add(y, self.constant(f"{name}.shift", bias.reshape(1, -1, 1, 1))))

    def linear(self, name: str, x: Any, weight: Array, bias: Array) -> Any:
        return self.multiply_rows(name, x, self.constant(f"{name}.weight", weight), bias)

    def multiply_rows(self, name: str, x: Any, weight: Any, bias: Array) -> Any:
        """Return a linear layer whose weights are a node, (C', C)."""
        y = self.named(name, ops.matmul(x, weight, False, True))
        return self.value(f"{name}.bias", ops.add(y, self.constant(f"{name}.shift", bias.reshape(1, -1))))

    def max_pool(self, name: str, x: Any, kernel: int, stride: int, before: int, after: int) -> Any:
        return self.value(name, opset1.max_pool(x, [stride] * 2, [before] * 2, [after] * 2, [kernel] * 2))

    def avg_pool(self, name: str, x: Any, kernel: int, stride: int, before: int, after: int) -> Any:
        return self.value(name, opset1.avg_pool(x, [stride] * 2, [before] * 2, [after] * 2, [kernel] * 2, True))

    def relu(self, name: str, x: Any) -> Any:
        return self.value(name, ops.relu(x))

    def sigmoid(self, name: str, x: Any) -> Any:
        return self.value(name, ops.sigmoid(x))

    def add(self, name: str, a: Any, b: Any) -> Any:
        return self.value(name, ops.add(a, b, auto_broadcast="none"))  # sizes that differ are an error

    def multiply(self, name: str, a: Any, b: Any) -> Any:
        return self.value(name, ops.multiply(a, b))

    def mean(self, name: str, x: Any, keep: bool) -> Any:
        return self.value(name, ops.reduce_mean(x, self.constant(f"{name}.axes", np.array([HEIGHT, WIDTH])), keep))

    def sum(self, name: str, x: Any, axis: int) -> Any:
        return self.value(name, ops.reduce_sum(x, self.constant(f"{name}.axes", np.array([axis])), True))

    def edge(self, name: str, x: Any, axis: int, last: bool) -> Any:
        bounds = ([-1], [np.iinfo(np.int64).max]) if last else ([0], [1])
        values = zip(("start", "stop", "step", "axes"), (*bounds, [1], [axis]), strict=True)
        return self.value(
            name, opset8.slice(x, *(self.constant(f"{name}.{k}", np.array(v, np.int64)) for k, v in values))
        )

    def concat(self, name: str, parts: list[Any], axis: int) -> Any:
        return self.value(name, ops.concat(parts, axis))

    def over_area(self, name: str, x: Any, image: Any) -> Any:
        shape = self.named(f"{name}.shape", ops.shape_of(image, "i64"))
        axes, along = (
            self.constant(f"{name}.axes", np.array([HEIGHT, WIDTH])),
            self.constant(f"{name}.along", np.array(0)),
        )
        extent = self.named(f"{name}.extent", ops.gather(shape, axes, along))
        area = self.named(f"{name}.area", ops.reduce_prod(extent, self.constant(f"{name}.all", np.array([0])), False))
        return self.value(name, ops.divide(x, self.named(f"{name}.pixels", ops.convert(area, "f32"))))


def grouped(weight: Array, groups: int) -> Array:
    """Return a convolution's weights as OpenVINO has them: (G, C' / G, C / G, K, K) where there are groups."""
    return weight if groups == 1 else weight.reshape(groups, -1, *weight.shape[1:])


def openvino_graph(form: FusedSEResNet, build: OpenVINOBuilder | None = None) -> ov.Model:
    """Return the form as an OpenVINO model for any batch, height and width, in float32.

    Input ``images`` (N, in_chans, H, W), normalised; outputs ``logits`` (N, num_classes) and ``features``
    (N, num_features), pooled. A node's friendly name is the path of its module in the form: the convolution
    ``layer1.0.last`` with ``layer1.0.last.weight``, ``layer1.0.last.bias`` behind it (adding ``.shift``),
    ``layer1.0.gate.squeeze``, ``.gate.fc1``, ``.gate.relu``, ``.gate.fc2``, ``.gate.sigmoid``, ``layer1.0.scale``
    (times the gate), ``layer1.0.add`` (plus the shortcut) and ``layer1.0.relu``. Without classes, the logits are the
    features. The model's run-time information has the heights and widths that it takes (`InputSizes`) as
    ``seresnet``/``input_sizes``, and the form's ``preprocess.input_size`` as ``seresnet``/``input_size``. ``build`` may
    spell the operations in another way. Raises ConfigError for a network that does not pool.
    """
    sizes = input_sizes(form)
    extent = ov.Dimension(sizes.least, -1)
    images = ops.parameter(ov.PartialShape([ov.Dimension(), form.in_chans, extent, extent]), np.float32, name="images")
    images.output(0).set_names({"images"})
    build = build or OpenVINOBuilder()
    logits, features = emit(form, build, build.value("images", images))
    features.output(0).set_names({"features"})
    logits.output(0).add_names({"logits"})
    results = [ops.result(logits, name="logits/sink"), ops.result(features, name="features/sink")]
    model = ov.Model(results, [images], "seresnet")
    model.set_rt_info(str(sizes), ["seresnet", "input_sizes"])
    if form.preprocess is not None:
        model.set_rt_info(",".join(map(str, form.preprocess.input_size)), ["seresnet", "input_size"])
    return model
