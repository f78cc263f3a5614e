"""The errors that libtiff, the library that Pillow decodes compressed TIFF with, reports while a thread decodes.

libtiff writes them to stderr, without the name of the file, and goes on where it can, so that a damaged image comes
out as noise and no error. Its handler is a setting of the process; the one installed here notes the errors of threads
that decode here, and passes those of all others to the handler that was there before.
"""

from __future__ import annotations

import atexit
import ctypes
import re
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

_Handler = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)  # module, format, va_list
_LIBRARY = re.compile(r"libtiff[^/]*\.so[^/]*$")
_state = threading.local()


def count_errors(load: Callable[[], object]) -> int:
    """Call ``load`` and return how many errors libtiff reported in this thread; 0 where its handler is out of reach."""
    _install()
    _state.errors = 0
    try:
        load()
        return int(_state.errors)
    finally:
        del _state.errors


@cache
def _install() -> list[Any]:
    """Install the handlers of errors and warnings once; return what must stay alive with them."""
    path = _loaded_library()
    if path is None:
        return []
    try:
        library = ctypes.CDLL(path)
        return [_replace(library.TIFFSetErrorHandler, 1), _replace(library.TIFFSetWarningHandler, 0)]
    except (OSError, AttributeError):
        return []


def _replace(setter: Any, weight: int) -> Any:
    """Install a handler that counts ``weight`` for each report of a thread that decodes here."""
    before: list[Any] = []

    def handle(module: int | None, form: int | None, arguments: int | None) -> None:
        if hasattr(_state, "errors"):
            _state.errors += weight
        elif before and before[0]:
            before[0](module, form, arguments)

    handler = _Handler(handle)
    setter.restype, setter.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    previous = setter(ctypes.cast(handler, ctypes.c_void_p))
    before.append(_Handler(previous) if previous else None)
    atexit.register(setter, previous)  # the handler here ends with Python, and libtiff would still call it
    return handler


def _loaded_library() -> str | None:
    """Return the path of the libtiff that Pillow has loaded, on Linux; None elsewhere, and where Pillow has none."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    paths = dict.fromkeys(line[line.index("/") :] for line in lines if "/" in line and _LIBRARY.search(line))
    return next((path for path in paths if "pillow" in path.lower()), next(iter(paths), None))
