"""A fused network as a graph of few operations, for engines that are not torch.

`emit` walks the form once and says which operations there are, by the names of its modules; a `Builder` for each
engine defines how that engine builds them. There is no tracing, and no image or batch size is written into a graph.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from seresnet.errors import ConfigError
from seresnet.models.fuse import FusedBlock, FusedSEResNet, GateFirstBlock, GateLastBlock, Subsample
from seresnet.models.gates import BorderGate, Gate
from seresnet.models.squeeze_excite import SqueezeExcite

T = TypeVar("T")  # a value in the engine's graph
Array = NDArray[np.float32]
HEIGHT, WIDTH = 2, 3  # axes of (N, C, H, W)


class Builder(ABC, Generic[T]):
    """How an engine builds the operations. Each value is ``(N, C, H, W)`` and gets the name that is given."""

    @abstractmethod
    def convolution(self, name: str, x: T, weight: Array, bias: Array, stride: int, padding: int, groups: int) -> T:
        """Return a convolution with ``weight`` (C', C / groups, K, K) plus ``bias`` (C',)."""

    @abstractmethod
    def linear(self, name: str, x: T, weight: Array, bias: Array) -> T:
        """Return ``x`` (N, C) times the transposed ``weight`` (C', C), plus ``bias`` (C',)."""

    def excitation_layer(self, name: str, x: T, weight: Array, bias: Array) -> T:
        """Return a layer of an excitation: a convolution without padding that leaves an extent of 1."""
        return self.convolution(name, x, weight, bias, 1, 0, 1)

    @abstractmethod
    def max_pool(self, name: str, x: T, kernel: int, stride: int, before: int, after: int) -> T:
        """Return maxima of squares, with padding that is never a maximum: ``before`` at the top and left."""

    @abstractmethod
    def avg_pool(self, name: str, x: T, kernel: int, stride: int, before: int, after: int) -> T:
        """Return means of squares, with padding that counts for nothing."""

    @abstractmethod
    def relu(self, name: str, x: T) -> T:
        """Return ``max(x, 0)``."""

    @abstractmethod
    def sigmoid(self, name: str, x: T) -> T:
        """Return ``1 / (1 + exp(-x))``."""

    @abstractmethod
    def add(self, name: str, a: T, b: T) -> T:
        """Return ``a + b``."""

    @abstractmethod
    def multiply(self, name: str, a: T, b: T) -> T:
        """Return ``a * b``; an extent of 1 is repeated."""

    @abstractmethod
    def mean(self, name: str, x: T, keep: bool) -> T:
        """Return the means over height and width: ``(N, C, 1, 1)``, or ``(N, C)`` without ``keep``."""

    @abstractmethod
    def sum(self, name: str, x: T, axis: int) -> T:
        """Return the sums along an axis, whose extent becomes 1."""

    @abstractmethod
    def edge(self, name: str, x: T, axis: int, last: bool) -> T:
        """Return the first or last row (axis 2) or column (axis 3), whose extent becomes 1."""

    @abstractmethod
    def concat(self, name: str, parts: list[T], axis: int) -> T:
        """Return values one behind the other along an axis."""

    @abstractmethod
    def over_area(self, name: str, x: T, image: T) -> T:
        """Return ``x`` divided by the number of pixels, height times width, of ``image``."""


def emit(form: FusedSEResNet, build: Builder[T], images: T) -> tuple[T, T]:
    """Say ``form`` in a builder's operations; return logits (N, num_classes) and pooled features (N, num_features).

    Without a classifier the logits are the features. Raises ConfigError for a network that does not pool.
    """
    if (pool := form.global_pool.pool_type) != "avg":
        how = f"pools by {pool!r} at its end" if pool else "has no pooling at its end"
        raise ConfigError(f"this network {how}, which this engine cannot run: use engine='torch'")
    x = build.relu("conv1.relu", _layer(build, "conv1", form.conv1, images))
    x = _layer(build, "maxpool", form.maxpool, x)
    for number, stage in enumerate(form.stages, start=1):
        for index, block in enumerate(stage):
            assert isinstance(block, FusedBlock)
            x = _block(build, f"layer{number}.{index}", block, x)
    features = build.mean("features", x, keep=False)
    if not isinstance(form.fc, nn.Linear):
        return features, features
    return build.linear("fc", features, array(form.fc.weight), array(form.fc.bias)), features


def array(tensor: Tensor) -> Array:
    """Return a tensor's values as float32 on the CPU."""
    return tensor.detach().float().cpu().numpy()


def _block(build: Builder[T], name: str, block: FusedBlock, x: T) -> T:
    h = _layer(build, f"{name}.hidden", block.hidden, x)
    u = _layer(build, f"{name}.last", block.last, h)
    if isinstance(block, GateFirstBlock):
        u = build.multiply(f"{name}.scale", u, _gate(build, f"{name}.gate", block.gate, h))
    elif isinstance(block, GateLastBlock):
        u = build.relu(f"{name}.last.relu", u)
        if isinstance(block.se, SqueezeExcite):
            u = build.multiply(f"{name}.scale", u, _excitation(build, f"{name}.se", block.se, u))
    y = build.add(f"{name}.add", u, _layer(build, f"{name}.shortcut", block.shortcut, x))
    return build.relu(f"{name}.relu", y)


def _excitation(build: Builder[T], name: str, se: SqueezeExcite | Gate, u: T) -> T:
    return _two_layers(build, name, se, build.mean(f"{name}.squeeze", u, keep=True))


def _gate(build: Builder[T], name: str, gate: Gate, h: T) -> T:
    if not isinstance(gate, BorderGate):
        return _excitation(build, name, gate, h)
    columns = _sums(build, f"{name}.squeeze.x", h, WIDTH)  # (N, C', H, 3)
    squares = _sums(build, f"{name}.squeeze.y", columns, HEIGHT)  # (N, C', 3, 3)
    return _two_layers(build, name, gate, build.over_area(f"{name}.squeeze", squares, h))


def _sums(build: Builder[T], name: str, x: T, axis: int) -> T:
    """Return the sum along an axis, the first row or column of it, and the last: an extent of 3."""
    first, last = (build.edge(f"{name}.{end}", x, axis, end == "last") for end in ("first", "last"))
    return build.concat(name, [build.sum(f"{name}.sum", x, axis), first, last], axis)


def _two_layers(build: Builder[T], name: str, gate: Any, squeezed: T) -> T:
    weight = array(gate.fc1.weight)  # (R, C, 1, 1); a border gate's (R, 9 C, 1, 1)
    if isinstance(gate, BorderGate):
        weight = _as_kernel(weight)
    x = build.excitation_layer(f"{name}.fc1", squeezed, weight, array(gate.fc1.bias))
    x = build.relu(f"{name}.relu", x)
    x = build.excitation_layer(f"{name}.fc2", x, array(gate.fc2.weight), array(gate.fc2.bias))
    return build.sigmoid(f"{name}.sigmoid", x)


# Where `BorderGate.squeeze` has the sum of (rows, columns), each of: 0 all, 1 the first, 2 the last.
PARTS = {(0, 0): 0, (1, 0): 1, (2, 0): 2, (0, 1): 3, (0, 2): 4, (1, 1): 5, (1, 2): 6, (2, 1): 7, (2, 2): 8}


def _as_kernel(weight: Array) -> Array:
    """Return a border gate's first layer as a 3x3 convolution over its sums: (R, 9 C, 1, 1) -> (R, C, 3, 3)."""
    parts = weight.reshape(len(weight), 9, -1)  # (R, 9, C)
    order = [PARTS[row, column] for row in range(3) for column in range(3)]
    return np.ascontiguousarray(parts[:, order].transpose(0, 2, 1)).reshape(len(weight), -1, 3, 3)


def _layer(build: Builder[T], name: str, layer: nn.Module, x: T) -> T:
    """Build a module of a fused network that is not a block."""
    if isinstance(layer, nn.Sequential):
        for child, module in layer.named_children():
            x = _layer(build, f"{name}.{child}", module, x)
        return x
    if isinstance(layer, nn.Identity):
        return x
    if isinstance(layer, nn.ReLU):
        return build.relu(name, x)
    if isinstance(layer, nn.Conv2d):
        assert layer.bias is not None
        stride, padding = layer.stride[0], int(layer.padding[0])
        return build.convolution(name, x, array(layer.weight), array(layer.bias), stride, padding, layer.groups)
    if isinstance(layer, Subsample):
        return build.max_pool(name, x, 1, 2, 0, 0)
    if isinstance(layer, nn.MaxPool2d):
        return build.max_pool(name, x, *pool_sizes(layer))
    if isinstance(layer, nn.AvgPool2d):
        return build.avg_pool(name, x, *pool_sizes(layer))
    raise AssertionError(f"{name}: a fused network has no {type(layer).__name__}")


def pool_sizes(pool: nn.MaxPool2d | nn.AvgPool2d) -> tuple[int, int, int, int]:
    """Return kernel, stride, and padding before and after.

    Rounding up is a padding behind, of one pixel less than the stride. It is passed explicitly, because OpenVINO
    refuses a kernel larger than its image, padding included, even where the rounding leaves a part of it.
    """
    kernel, stride, padding = (int(pool.kernel_size), int(pool.stride), int(pool.padding))  # type: ignore[arg-type]
    return kernel, stride, padding, padding + (stride - 1 if pool.ceil_mode else 0)
