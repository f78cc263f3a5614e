"""The package openvino, imported without what is not needed here."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

CONVERTER = "openvino.tools.ovc"  # of other frameworks' models


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
