"""The engine for CPUs: the fused network as an OpenVINO graph. Imports no torch for a graph from a file."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from seresnet.common.machine import usable_cores
from seresnet.engines.batch import Batch, checked, failed
from seresnet.engines.openvino.model import (
    FORMATS,
    declared_size,
    fastest_precision,
    graph_of,
    precision_of,
    taken_sizes,
    warn_of_overflow,
)
from seresnet.engines.openvino.package import import_openvino, openvino_core
from seresnet.errors import ConfigError

if TYPE_CHECKING:
    import openvino
    from torch import Tensor

    from seresnet.models.resnet import SEResNet

ov: Any = import_openvino()

PIXELS_PER_REQUEST = 2**14  # smaller images go several to a request, which saves up to two thirds of their time
KERNELS_KEPT = 1024  # of layers by their sizes, about five sizes of image; OpenVINO's 5000 grow to half a gigabyte


class OpenVINOEngine:
    """Run a network with OpenVINO on the CPU.

    ``model`` is a network, which is fused, an ``openvino.Model`` with `openvino_graph`'s
    input and outputs, or the path of one (``.xml``). ``precision`` is "float32" (torch's numbers, but for rounding),
    "bfloat16", on some ARM processors "float16", each where the processor computes in it by itself; "int8" for a graph
    that was quantized, and only for such; "auto" is what the graph has or the fastest of the others. ``threads`` is
    the number of cores to use (None: all that this process may use).

    A single image is spread over the cores; of many, each core takes its own, and the next ones are queued. Images
    of the size that the weights were made for run on a graph of that size; all others, whatever their sizes, on one
    graph for any size, 2 to 5 % slower (40 % with small images), so that no size ever costs a compilation or memory.
    Raises ConfigError for a device, a precision or a graph that cannot be used.
    """

    name = "openvino"

    def __init__(
        self,
        model: SEResNet | openvino.Model | str | PathLike[str],
        device: str | None = None,
        precision: str = "auto",
        threads: int | None = None,
    ) -> None:
        if device not in (None, "auto", "cpu"):
            raise ConfigError(f"engine openvino runs on the cpu, not on {device!r}: use engine torch for a GPU")
        self.device = "cpu"
        self._core = openvino_core()
        self._model = graph_of(model, self._core)
        self.precision = precision_of(self._model, precision, self._core)
        if self.precision == "int8":
            warn_of_overflow(self._model)
        self.threads = usable_cores() if threads is None else threads
        self.preferred_batch = max(32, 4 * self.threads)
        self._channels = self._model.input("images").partial_shape[1].get_length()
        self._sizes = taken_sizes(self._model)
        self._size = declared_size(self._model)
        self._runners: dict[tuple[bool, tuple[int, ...] | None], Runner] = {}

    @classmethod
    def resolve(cls, precision: str) -> str:
        """Resolve a precision for this processor: "auto" is the fastest that needs no calibration."""
        return fastest_precision(openvino_core()) if precision == "auto" else precision

    def logits(self, x: Batch | Tensor) -> Batch:
        """Return logits: float32 (N, C, H, W) -> float32 (N, num_classes)."""
        return self._run("logits", x)

    def embed(self, x: Batch | Tensor) -> Batch:
        """Return pooled features: float32 (N, C, H, W) -> float32 (N, num_features)."""
        return self._run("features", x)

    def map(self, batches: Iterable[Batch | Tensor]) -> Iterator[Batch]:
        """Yield the logits of each batch, in order, while the network runs on the next ones.

        A batch is taken from ``batches`` before the one before it is answered, unless that was the last.
        """
        source = iter(batches)
        first = list(islice(source, 2))
        if len(first) < 2:
            yield from map(self.logits, first)
        else:
            yield from self._stream("logits", chain(first, source), many=True)

    def save(self, path: Path) -> None:
        """Write the graph to a file, which ends in ``.xml``, and its weights to a ``.bin`` beside it."""
        ov.save_model(self._model, str(path), compress_to_fp16=False)

    def describe(self) -> str:
        """Return engine, device and precision in a few words."""
        version = ov.__version__.partition("-")[0]
        return f"openvino {version}, cpu ({self.threads} thread{'s' if self.threads > 1 else ''}), {self.precision}"

    def _run(self, output: str, x: Batch | Tensor) -> Batch:
        return next(self._stream(output, [x], many=False))

    def _stream(self, output: str, batches: Iterable[Batch | Tensor], many: bool) -> Iterator[Batch]:
        """Yield an output of each batch. ``many``: keep all cores busy across batches, not each within its own."""
        requests = InFlightRequests(output)
        answers: deque[tuple[Batch, int]] = deque()  # each with the number of requests by which it is complete
        width = self._model.output(output).partial_shape[1].get_length()
        try:
            for batch in batches:
                x = checked(batch, self._channels, self._sizes)
                answer, rows = np.empty((len(x), width), np.float32), slices(x)
                answers.append((answer, requests.submitted + len(rows)))
                for part in rows:
                    runner = self._runner(x[part].shape, many or self._fills_the_cores(len(rows)))
                    requests.submit(runner, x[part], answer[part])
                    while answers[0][1] <= requests.completed:
                        yield answers.popleft()[0]
            while requests.completed < requests.submitted:
                requests.wait()
        finally:
            requests.drain()
        yield from (answer for answer, _ in answers)

    def _fills_the_cores(self, requests: int) -> bool:
        """Return whether so many requests at once keep all cores busy better than one after the other would."""
        return requests >= max(2, self.threads // 4)  # OpenVINO takes up to four cores for each

    def _runner(self, shape: tuple[int, ...], many: bool) -> Runner:
        """Return the graph for parts of a shape, compiled when it is first asked for; there are four at most."""
        many = many and self.threads > 1
        usual = images_per_request(shape) if many else 1
        key = (many, shape if shape[2:] == self._size and shape[0] == usual else None)
        if key not in self._runners:
            self._runners[key] = Runner(self._compiled(*key))
        return self._runners[key]

    def _compiled(self, many: bool, shape: tuple[int, ...] | None) -> Any:
        model = self._model
        if shape is not None:
            model = model.clone()
            try:
                model.reshape(list(shape))
            except RuntimeError as error:
                raise failed(shape) from error
        dtype = fastest_precision(self._core) if self.precision == "int8" else self.precision
        return self._core.compile_model(
            model,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": FORMATS[dtype][1],
                "PERFORMANCE_HINT": "THROUGHPUT" if many else "LATENCY",
                "INFERENCE_NUM_THREADS": self.threads,
                "CPU_RUNTIME_CACHE_CAPACITY": KERNELS_KEPT,
            },
        )


class Runner:
    """A compiled graph, and its idle requests. Safe under several threads."""

    def __init__(self, compiled: Any) -> None:
        self.compiled = compiled
        self.streams = int(compiled.get_property("NUM_STREAMS"))
        self.free: list[Any] = []

    def request(self) -> Any:
        """Return an idle request."""
        try:
            return self.free.pop()
        except IndexError:
            return self.compiled.create_infer_request()


class InFlightRequest(NamedTuple):
    """A request that was submitted: its compiled graph, its input, and where its output goes."""

    runner: Runner
    request: Any
    images: Batch
    answer: Batch


class InFlightRequests:
    """Requests in the order in which they were submitted: two for each stream, of which one is queued."""

    def __init__(self, output: str) -> None:
        self.output = output
        self.queue: deque[InFlightRequest] = deque()
        self.submitted = self.completed = 0

    def submit(self, runner: Runner, images: Batch, answer: Batch) -> None:
        """Start a request, when there is room."""
        while len(self.queue) >= 2 * runner.streams:
            self.wait()
        request = runner.request()
        request.start_async([images], share_inputs=True)
        self.queue.append(InFlightRequest(runner, request, images, answer))
        self.submitted += 1

    def wait(self) -> None:
        """Wait for the oldest request, and put its output in place."""
        oldest = self.queue.popleft()
        try:
            oldest.request.wait()
            found = oldest.request.get_tensor(self.output).data
            if found.shape != oldest.answer.shape:
                raise RuntimeError(f"{found.shape} in place of {oldest.answer.shape}")
        except RuntimeError as error:
            raise failed(oldest.images.shape) from error
        oldest.answer[:] = found
        oldest.runner.free.append(oldest.request)
        self.completed += 1

    def drain(self) -> None:
        """Wait for the requests that still read the caller's memory; their outputs are not used."""
        for waiting in self.queue:
            try:
                waiting.request.wait()
            except RuntimeError:
                continue


def images_per_request(shape: tuple[int, ...]) -> int:
    """Return how many images of a batch (N, C, H, W) go into one request."""
    return max(1, PIXELS_PER_REQUEST // (shape[2] * shape[3]))


def slices(x: Batch) -> list[slice]:
    """Return the rows of each request that a batch is cut into."""
    step = images_per_request(x.shape)
    return [slice(i, min(i + step, len(x))) for i in range(0, len(x), step)]
