"""A fused network as an ONNX model, built operation by operation."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from seresnet.engines.graph import HEIGHT, WIDTH, Array, Builder, emit
from seresnet.models.fuse import FusedSEResNet
from seresnet.models.input_sizes import input_sizes
from seresnet.version import __version__

OPSET = 18  # of 2022: the first whose means take their axes as an input, as all later ones do
IR_VERSION = 8  # the file format that goes with it


class OnnxBuilder(Builder[str]):
    """Spells the operations as nodes of ONNX. A value is its name, which is also the name of its node."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.initializers: dict[str, Any] = {}

    def constant(self, name: str, value: Any) -> str:
        """Return a constant of NumPy's dtype."""
        self.initializers[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def node(self, operation: str, name: str, *inputs: str, **attributes: Any) -> str:
        """Return the value of a new node."""
        self.nodes.append(helper.make_node(operation, list(inputs), [name], name, **attributes))
        return name

    def convolution(self, name: str, x: str, weight: Array, bias: Array, stride: int, padding: int, groups: int) -> str:
        constants = self.constant(f"{name}.weight", weight), self.constant(f"{name}.bias", bias)
        return self.node("Conv", name, x, *constants, strides=[stride] * 2, pads=[padding] * 4, group=groups)

    def linear(self, name: str, x: str, weight: Array, bias: Array) -> str:
        constants = self.constant(f"{name}.weight", weight), self.constant(f"{name}.bias", bias)
        return self.node("Gemm", name, x, *constants, transB=1)

    def max_pool(self, name: str, x: str, kernel: int, stride: int, before: int, after: int) -> str:
        pads = [before, before, after, after]
        return self.node("MaxPool", name, x, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads)

    def avg_pool(self, name: str, x: str, kernel: int, stride: int, before: int, after: int) -> str:
        pads = [before, before, after, after]
        return self.node("AveragePool", name, x, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads)

    def relu(self, name: str, x: str) -> str:
        return self.node("Relu", name, x)

    def sigmoid(self, name: str, x: str) -> str:
        return self.node("Sigmoid", name, x)

    def add(self, name: str, a: str, b: str) -> str:
        return self.node("Add", name, a, b)

    def multiply(self, name: str, a: str, b: str) -> str:
        return self.node("Mul", name, a, b)

    def mean(self, name: str, x: str, keep: bool) -> str:
        if keep:
            return self.node("GlobalAveragePool", name, x)  # which onnxruntime runs in its convolutions' memory layout
        return self.node("Flatten", name, self.node("GlobalAveragePool", f"{name}.pool", x))

    def sum(self, name: str, x: str, axis: int) -> str:
        return self.node("ReduceSum", name, x, self.constant(f"{name}.axes", np.array([axis])))

    def edge(self, name: str, x: str, axis: int, last: bool) -> str:
        start, stop = (-1, np.iinfo(np.int64).max) if last else (0, 1)
        bounds = {"start": start, "stop": stop, "axes": axis}
        return self.node("Slice", name, x, *(self.constant(f"{name}.{k}", np.array([v])) for k, v in bounds.items()))

    def concat(self, name: str, parts: list[str], axis: int) -> str:
        return self.node("Concat", name, *parts, axis=axis)

    def over_area(self, name: str, x: str, image: str) -> str:
        shape = self.node("Shape", f"{name}.shape", image)
        extent = self.node("Gather", f"{name}.extent", shape, self.constant(f"{name}.axes", np.array([HEIGHT, WIDTH])))
        area = self.node("ReduceProd", f"{name}.area", extent, keepdims=0)
        return self.node("Div", name, x, self.node("Cast", f"{name}.pixels", area, to=TensorProto.FLOAT))


def onnx_graph(form: FusedSEResNet) -> ModelProto:
    """Return the form as an ONNX model for any batch, height and width, in float32.

    Input ``images`` (N, in_chans, H, W), normalised; outputs ``logits`` (N, num_classes) and ``features``
    (N, num_features), pooled. Nodes are named as `openvino_graph`'s are. The metadata ``input_sizes`` has the
    heights and widths that it takes (`InputSizes`). Raises ConfigError for a network that does not pool.
    """
    build = OnnxBuilder()
    logits, features = emit(form, build, "images")
    build.node("Identity", "logits", logits)
    sizes = {"images": (form.in_chans, "height", "width"), "logits": (form.num_classes or form.num_features,)}
    sizes |= {features: (form.num_features,)}
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ("batch", *size)) for name, size in sizes.items()]
    constants = list(build.initializers.values())
    graph = helper.make_graph(build.nodes, "seresnet", values[:1], values[1:], constants)
    opsets = [helper.make_opsetid("", OPSET)]
    producer = {"producer_name": "seresnet", "producer_version": __version__}
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, **producer)
    helper.set_model_props(model, {"input_sizes": str(input_sizes(form))})
    return model
