"""The engine for machines that have onnxruntime: the fused network as an ONNX graph, in float32."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seresnet.common.extras import require
from seresnet.common.files import atomic_file
from seresnet.common.machine import usable_cores
from seresnet.common.text import one_line
from seresnet.engines.batch import Batch, checked, failed
from seresnet.errors import ConfigError
from seresnet.models.input_sizes import InputSizes

if TYPE_CHECKING:
    from torch import Tensor

    from seresnet.models.resnet import SEResNet


ort = require("onnxruntime")


class OnnxEngine:
    """Run a network with onnxruntime on the CPU, in float32.

    ``model`` is a network, which is fused, or the path of an ONNX file that `save` wrote:
    with it, no torch is imported. Images may have any size, without a new conversion. ``threads`` is the number of
    cores to use (None: all that this process may use). Raises ConfigError for a device, a precision or a file that
    cannot be used.
    """

    name = "onnxruntime"
    precision = "float32"

    def __init__(
        self,
        model: SEResNet | str | PathLike[str],
        device: str | None = None,
        precision: str = "auto",
        threads: int | None = None,
    ) -> None:
        if device not in (None, "auto", "cpu"):
            raise ConfigError(f"engine onnxruntime runs on the cpu, not on {device!r}: use engine torch for a GPU")
        if self.resolve(precision) != "float32":
            raise ConfigError(f"engine onnxruntime has no precision {precision}: use float32, or engine openvino")
        self.device = "cpu"
        self.threads = usable_cores() if threads is None else threads
        self.preferred_batch = 32
        self._model = os.fspath(model) if isinstance(model, str | PathLike) else graph_of(model)
        self._session = session(self._model, self.threads)
        (images,), outputs = self._session.get_inputs(), self._session.get_outputs()
        notes = self._session.get_modelmeta().custom_metadata_map
        if "input_sizes" not in notes or [images.name, *(o.name for o in outputs)] != [
            "images",
            "logits",
            "features",
        ]:
            raise ConfigError(
                "this ONNX model was not made by seresnet: it lacks images, logits, features or input sizes"
            )
        self._channels, self._sizes = images.shape[1], InputSizes.parse(notes["input_sizes"])
        self._widths = {output.name: output.shape[1] for output in outputs}

    @classmethod
    def resolve(cls, precision: str) -> str:
        """Resolve a precision: "auto" is float32."""
        return "float32" if precision == "auto" else precision

    def logits(self, x: Batch | Tensor) -> Batch:
        """Return logits: float32 (N, C, H, W) -> float32 (N, num_classes)."""
        return self._run("logits", x)

    def embed(self, x: Batch | Tensor) -> Batch:
        """Return pooled features: float32 (N, C, H, W) -> float32 (N, num_features)."""
        return self._run("features", x)

    def map(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the logits of each batch, one after the other."""
        return map(self.logits, batches)

    def save(self, path: Path) -> None:
        """Write the graph to an ONNX file."""
        content = Path(self._model).read_bytes() if isinstance(self._model, str) else self._model
        with atomic_file(path) as file:
            file.write(content)

    def describe(self) -> str:
        """Return engine, device and precision in a few words."""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"onnxruntime {ort.__version__}, cpu ({threads}), {self.precision}"

    def _run(self, output: str, x: Batch | Tensor) -> Batch:
        batch = checked(x, self._channels, self._sizes)
        if len(batch) == 0:
            return np.empty((0, self._widths[output]), np.float32)
        try:
            (answer,) = self._session.run([output], {"images": batch})
        except Exception as error:  # onnxruntime has classes of its own for what goes wrong, with nothing in common
            raise failed(batch.shape) from error
        return answer


def graph_of(model: SEResNet) -> bytes:
    """Return the ONNX file of a fused network."""
    require("onnx")
    from seresnet.engines.onnx.graph import onnx_graph
    from seresnet.models.fuse import FusedSEResNet, fuse_network

    return onnx_graph(model if isinstance(model, FusedSEResNet) else fuse_network(model)).SerializeToString()


def session(model: str | bytes, threads: int) -> Any:
    """Return onnxruntime's session for a file, or its content."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # fatal; what goes wrong is raised
    options.add_session_config_entry("session.force_spinning_stop", "1")  # decoders need the cores between two batches
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # as above
        name = model if isinstance(model, str) else "the network"
        raise ConfigError(f"{name}: not an ONNX model ({one_line(error)})") from None
