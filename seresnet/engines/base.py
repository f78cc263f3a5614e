"""The interface that every engine has, the table of engines, and the choice between them. To add one, add a row."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Iterator
from ctypes.util import find_library
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from seresnet.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from seresnet.models.resnet import SEResNet

log = logging.getLogger("seresnet")

PRECISIONS = ("float32", "bfloat16", "float16", "int8")
CONVERTER = "openvino.tools.ovc"  # of other frameworks' models


class Engine(Protocol):
    """What runs a network. ``precision`` is the number format that it really computes in, never "auto"."""

    name: str
    device: str
    precision: str
    preferred_batch: int  # images at once, where the caller has no wish

    def logits(self, x: NDArray[np.float32] | Tensor) -> NDArray[np.float32]:
        """Return logits (N, num_classes) of a normalised batch (N, C, H, W), of any height and width."""
        ...

    def embed(self, x: NDArray[np.float32] | Tensor) -> NDArray[np.float32]:
        """Return pooled features (N, num_features) of a normalised batch (N, C, H, W)."""
        ...

    def map(self, batches: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        """Yield the logits of each batch, in order; an engine may take a few batches more than it has answered."""
        ...

    def describe(self) -> str:
        """Return engine, device and precision in a few words, for people."""
        ...


@dataclass(frozen=True)
class Row:
    """An engine, imported when it is asked for.

    Its class is called with ``(model, device, precision)``. Where ``file`` is set, ``engine.save(directory)`` writes
    the engine's own form of the network there under that name, for any precision, and ``model`` may be the path of such
    a file, which opens without torch.
    """

    target: str  # module:class
    package: str  # what it rests on
    file: str | None = None


ENGINES = {
    "openvino": Row("seresnet.engines.openvino.engine:OpenVINOEngine", "openvino", "model.xml"),
    "onnxruntime": Row("seresnet.engines.onnx.engine:OnnxEngine", "onnxruntime", "model.onnx"),
    "torch": Row("seresnet.engines.torch.engine:TorchEngine", "torch"),
    "torch-compile": Row("seresnet.engines.torch.engine:CompiledTorchEngine", "torch"),
}


def open_engine(name: str, model: SEResNet | Path, device: str | None = None, precision: str = "auto") -> Engine:
    """Return the engine ``name`` ("auto" or a key of `ENGINES`) for a network, or for a file that it made of one.

    Raises ConfigError for a name that is unknown, and for a device or a precision that the engine does not have.
    """
    if precision != "auto" and precision not in PRECISIONS:
        raise ConfigError(f"precision {precision!r} is unknown: use auto, {', '.join(PRECISIONS)}")
    return engine_class(choose_engine(name, device))(model, device, precision)


def engine_class(name: str) -> Any:
    """Return the class of an engine of the table."""
    row = ENGINES[name]
    if row.package == "openvino":
        import_openvino()
    module, _, attribute = row.target.partition(":")
    return getattr(import_module(module), attribute)


def choose_engine(name: str, device: str | None = None) -> str:
    """Return a key of `ENGINES`; "auto" is torch on a GPU that is there or was asked for, and openvino on a CPU."""
    check_engine(name)
    if name != "auto":
        return name
    if device not in (None, "auto", "cpu") or (device != "cpu" and has_gpu()):
        return "torch"
    try:
        engine_class("openvino")
    except (ImportError, OSError) as error:
        log.warning("openvino cannot be imported (%s): torch runs in its place", " ".join(str(error).split()))
        return "torch"
    return "openvino"


def check_engine(name: str) -> None:
    """Raise ConfigError for a name that is neither "auto" nor in the table."""
    if name != "auto" and name not in ENGINES:
        raise ConfigError(f"engine {name!r} is unknown: use auto or {', '.join(ENGINES)}")


def has_gpu() -> bool:
    """Tell whether torch has a GPU to run on; on a machine without any driver's trace, torch is not imported for it."""
    if "torch" not in sys.modules and not _has_gpu_driver():
        return False
    import torch

    return torch.cuda.is_available()


def _has_gpu_driver() -> bool:
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    if sys.platform == "win32":
        return find_library("nvcuda") is not None
    # NVIDIA's driver, a Jetson's, Windows' within WSL, and AMD's.
    traces = "/proc/driver/nvidia", "/dev/nvidiactl", "/dev/nvmap", "/dev/dxg", "/dev/kfd"
    return any(Path(trace).exists() for trace in traces)


def import_openvino() -> ModuleType:
    """Return OpenVINO, imported without its converter, which it loads when it is called for.

    The converter takes half of the time of the import, and sends a telemetry event; nothing here needs it.
    """
    if "openvino" in sys.modules or CONVERTER in sys.modules:
        return import_module("openvino")

    def convert_model(*args: Any, **kwargs: Any) -> Any:
        """Convert a model of another framework, see ``openvino.tools.ovc``."""
        openvino.convert_model = import_module(CONVERTER).convert_model
        return openvino.convert_model(*args, **kwargs)

    sys.modules[CONVERTER] = None  # type: ignore[assignment]  # an import of it fails, which OpenVINO takes calmly
    try:
        openvino: Any = import_module("openvino")
    finally:
        del sys.modules[CONVERTER]
    openvino.convert_model = convert_model
    return openvino
