"""The table of engines, and the choice between them. To add an engine, add a row."""

from __future__ import annotations

import logging
import os
import sys
from ctypes.util import find_library
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seresnet.common.text import one_line
from seresnet.engines.base import PRECISIONS, Engine
from seresnet.engines.openvino.package import import_openvino
from seresnet.errors import ConfigError

if TYPE_CHECKING:
    from seresnet.models.resnet import SEResNet

log = logging.getLogger("seresnet")


@dataclass(frozen=True)
class EngineSpec:
    """An engine, imported when it is asked for.

    Its class is called with ``(model, device, precision)``. Where ``file`` is set, ``engine.save(path)`` writes the
    engine's graph of the network, which serves every precision, and ``model`` may be the path of such a file, which
    opens without torch.
    """

    target: str  # module:class
    package: str  # that it depends on
    file: str | None = None  # name of its graph in the cache of converted models


ENGINES = {
    "openvino": EngineSpec("seresnet.engines.openvino.engine:OpenVINOEngine", "openvino", "model.xml"),
    "onnxruntime": EngineSpec("seresnet.engines.onnx.engine:OnnxEngine", "onnxruntime", "model.onnx"),
    "torch": EngineSpec("seresnet.engines.torch.engine:TorchEngine", "torch"),
    "torch-compile": EngineSpec("seresnet.engines.torch.engine:CompiledTorchEngine", "torch"),
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
    spec = ENGINES[name]
    if spec.package == "openvino":
        import_openvino()
    module, _, attribute = spec.target.partition(":")
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
        log.warning("openvino cannot be imported (%s): using torch instead", one_line(error))
        return "torch"
    return "openvino"


def check_engine(name: str) -> None:
    """Raise ConfigError for a name that is neither "auto" nor in the table."""
    if name != "auto" and name not in ENGINES:
        raise ConfigError(f"engine {name!r} is unknown: use auto or {', '.join(ENGINES)}")


def has_gpu() -> bool:
    """Return whether torch has a GPU to run on; without any trace of a driver, torch is not imported for it."""
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
