"""The package openvino, imported without what is not needed here."""

from __future__ import annotations

import sys
import threading
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

CONVERTER = "openvino.tools.ovc"  # of other frameworks' models
_lock = threading.Lock()


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


def openvino_core() -> Any:
    """Return the one ``openvino.Core`` of this process, which lives until its end.

    OpenVINO's CPU plugin gives the thread that loads it an alternate signal stack (sigaltstack), unmaps it when its
    Core goes, and restores the previous one only if no other Core has come in between (seen with 2026.4.1). After two
    Cores have come and gone, the thread can be left with an unmapped stack, and the next signal that Python handles,
    such as Ctrl-C or SIGTERM, ends the process with a segmentation fault.

    Its table of NumPy's types is made when it is first used, and two threads that use it first at the same time wait
    for each other for ever, with the interpreter's lock held (seen with 2026.4.1). So it is used here, by one thread.
    """
    with _lock:
        return _core()


@cache
def _core() -> Any:
    openvino: Any = import_openvino()
    openvino.Type.f32.to_dtype()
    return openvino.Core()
