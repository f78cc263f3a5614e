"""Which values of a network become 8-bit numbers, and which range of theirs the 256 levels span.

A range is found in one pass over calibration images, in memory that does not grow with their number: of each value
its least and greatest, and a histogram of a sample. The levels end where rounding and clipping together cost least.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seresnet.common.machine import usable_cores
from seresnet.engines.openvino.graph import OpenVINOBuilder, openvino_graph
from seresnet.engines.openvino.package import openvino_core
from seresnet.errors import ConfigError, DataError
from seresnet.models.fuse import FusedSEResNet

Array = NDArray[np.float32]
INPUT, FEATURES = "images", "features"  # names of values that are a model's own input and output
LEVELS = 256
BINS = 2048
SAMPLE = 1 << 15  # numbers of one value of one image that go into its histogram
PIXELS_AT_ONCE = 4 * 224 * 224  # of a chunk of images; all values of a network are held for one chunk


@dataclass(frozen=True)
class Range:
    """What the levels of one value span, ``low`` to ``high``, and the means of its channels where they are known."""

    low: float
    high: float
    means: NDArray[np.float64]  # (C,)

    @property
    def step(self) -> float:
        """The distance of two levels."""
        return (self.high - self.low) / (LEVELS - 1)


class Observed:
    """The numbers of one value (N, C, ...) that were seen so far: extremes, channel means, and a histogram."""

    def __init__(self) -> None:
        self.low, self.high = 0.0, 0.0
        self.limit = 1e-6  # where the histogram of positive numbers ends; doubled when a number lies beyond
        self.counts = np.zeros(BINS, np.int64)
        self.sums: Any = 0.0  # of the images' channel means
        self.images = 0

    def add(self, value: Array) -> None:
        """Take in a value of some images."""
        self.low, self.high = min(self.low, float(value.min())), max(self.high, float(value.max()))
        axes = tuple(range(2, value.ndim))
        self.sums = self.sums + value.mean(axes, dtype=np.float64).sum(0)
        self.images += len(value)
        while self.high >= self.limit:
            self.limit *= 2
            self.counts = np.concatenate((self.counts.reshape(-1, 2).sum(1), np.zeros(BINS // 2, np.int64)))
        flat = value.reshape(len(value), -1)
        sample = flat[:, :: max(1, flat.shape[1] // SAMPLE) | 1]  # an odd stride passes through all channels and rows
        positive = sample[sample > 0]
        self.counts += np.bincount((positive * (BINS / self.limit)).astype(np.int64), minlength=BINS)[:BINS]

    def range(self) -> Range:
        """Return what the levels should span. Zero is always a level, for a convolution's padding has to be exact."""
        means = self.sums / self.images
        if self.low < 0:
            step = (self.high - self.low) / (LEVELS - 1)
            below = round(-self.low / step)
            return Range(-below * step, (LEVELS - 1 - below) * step, means)
        return Range(0.0, self._best_end() or 1.0, means)  # a value that is always zero can have any range

    def _best_end(self) -> float:
        """Return the end with the least mean squared error: a short one clips, a long one rounds coarsely."""
        centers = (np.arange(BINS) + 0.5) * self.limit / BINS
        ends = self.high * np.linspace(0.2, 1.0, 161)
        over = np.maximum(centers - ends[:, None], 0.0)  # (ends, bins)
        rounding = np.where(over == 0, (ends[:, None] / (LEVELS - 1)) ** 2 / 12, 0.0)
        return float(ends[np.argmin((over**2 + rounding) @ self.counts)])


class LayerRecorder(OpenVINOBuilder):
    """Builds a graph, and records each layer that gets 8-bit weights with the value that it reads, by name.

    These are all convolutions and the classifier, but no layer of an excitation. A max pooling keeps the levels of its
    input, so that a layer behind it reads, for what matters here, the value in front of it.
    """

    def __init__(self) -> None:
        self.reads: dict[str, str] = {}
        self._pooled: dict[str, str] = {}  # a max pooling's output -> its input

    def convolve(self, name: str, x: Any, weight: Any, bias: Array, stride: int, padding: int) -> Any:
        """Record a convolution."""
        self.reads[name] = self._origin(x)
        return super().convolve(name, x, weight, bias, stride, padding)

    def excitation_layer(self, name: str, x: Any, weight: Array, bias: Array) -> Any:
        """Build an excitation's layer without recording it."""
        return super().convolve(name, x, self.constant(f"{name}.weight", weight), bias, 1, 0)

    def multiply_rows(self, name: str, x: Any, weight: Any, bias: Array) -> Any:
        """Record the classifier."""
        self.reads[name] = self._origin(x)
        return super().multiply_rows(name, x, weight, bias)

    def max_pool(self, name: str, x: Any, kernel: int, stride: int, before: int, after: int) -> Any:
        """Record which value a pooling keeps the levels of."""
        self._pooled[name] = self._origin(x)
        return super().max_pool(name, x, kernel, stride, before, after)

    def _origin(self, x: Any) -> str:
        name = str(x.get_friendly_name())
        return self._pooled.get(name, name)


def layers_and_values(form: FusedSEResNet) -> dict[str, str]:
    """Return the layers of a network that get 8-bit weights, each with the value that it reads, by name."""
    recorder = LayerRecorder()
    openvino_graph(form, recorder)
    return recorder.reads


def find_ranges(form: FusedSEResNet, batches: Iterable[Array]) -> tuple[dict[str, Range], int]:
    """Return the range of each value that a layer of 8-bit weights reads, and the number of images that were seen.

    ``batches`` are normalised images (N, C, H, W). Raises DataError where there is none, ConfigError where a value is
    not finite.
    """
    run = _watched(form)
    observed: dict[str, Observed] = defaultdict(Observed)
    for chunk in _chunks(batches):
        for name, value in run(chunk).items():
            if not np.isfinite(value).all():
                raise ConfigError(
                    f"cannot be quantized: {name} is not finite on a calibration image; check the weights"
                )
            observed[name].add(value)
    if not observed:
        raise DataError("quantization needs calibration images: give it some of what the model will see")
    return {name: seen.range() for name, seen in observed.items()}, observed[INPUT].images


def _watched(form: FusedSEResNet) -> Callable[[Array], dict[str, Array]]:
    """Return a function from images to the values of a network that layers of 8-bit weights read, by name."""
    recorder = LayerRecorder()
    watched: Any = openvino_graph(form, recorder)
    values = set(recorder.reads.values())
    for node in watched.get_ordered_ops():
        if (name := node.get_friendly_name()) in values - {INPUT, FEATURES}:  # these are named already
            node.output(0).add_names({name})
            watched.add_outputs([node.output(0)])
    config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": usable_cores()}
    compiled = openvino_core().compile_model(watched, "CPU", config)

    def run(images: Array) -> dict[str, Array]:
        results = compiled(images)
        return {name: images if name == INPUT else results[name] for name in values}

    return run


def _chunks(batches: Iterable[Array]) -> Iterator[Array]:
    """Cut batches into chunks of bounded size."""
    for batch in batches:
        size = max(1, PIXELS_AT_ONCE // (batch.shape[2] * batch.shape[3]))
        for start in range(0, len(batch), size):
            yield np.ascontiguousarray(batch[start : start + size], np.float32)
