"""The optional packages: which extra brings which, and the one message where one is missing."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from seresnet.errors import ConfigError

# Module -> the extra of pyproject.toml that brings it.
EXTRAS = {
    **dict.fromkeys(("accelerate", "pydantic", "tensorboard", "matplotlib"), "train"),
    **dict.fromkeys(("onnx", "onnxruntime"), "onnx"),
    **dict.fromkeys(("fastapi", "starlette", "uvicorn", "h11", "python_multipart", "prometheus_client"), "serve"),
    **dict.fromkeys(("datasets", "pyarrow", "fsspec", "scipy"), "hub-data"),
}


def require(module: str) -> Any:
    """Import and return a module of an extra. Raises ConfigError, with what to install, where it is missing."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or module).partition(".")[0]
        raise ConfigError(missing_extra(missing, EXTRAS[module.partition(".")[0]])) from error


def missing_extra(module: str, extra: str) -> str:
    """Return the line that says what to install."""
    return f'{module} is not installed: run pip install "seresnet[{extra}]"'


def extra_behind(error: BaseException | None) -> str | None:
    """Return the line that says what to install, where the lack of an extra's module is behind an error."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name:
            module = error.name.partition(".")[0]
            return missing_extra(module, EXTRAS[module]) if module in EXTRAS else None
        error = error.__cause__ or error.__context__
    return None
