"""SE-ResNets: the networks, their weights, prediction, training and evaluation.

The public names are imported when they are first used, so that ``import seresnet`` is quick and needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from seresnet.version import __version__

if TYPE_CHECKING:
    from seresnet.benchmarking.benchmark import benchmark
    from seresnet.data.preprocess import Preprocess
    from seresnet.errors import SeresnetError
    from seresnet.evaluation.calibrate import calibrate
    from seresnet.evaluation.evaluate import evaluate
    from seresnet.inference.classifier import load
    from seresnet.quantization.quantize import quantize
    from seresnet.training.train import train
    from seresnet.weights.create import create_model
    from seresnet.weights.index import list_models
    from seresnet.weights.save import save
    from seresnet.weights.timm_models import fuse, register_with_timm

__all__ = [
    "Preprocess",
    "SeresnetError",
    "__version__",
    "benchmark",
    "calibrate",
    "create_model",
    "evaluate",
    "list_models",
    "load",
    "quantize",
    "register_with_timm",
    "fuse",
    "save",
    "train",
]

_HOMES = {
    "Preprocess": "seresnet.data.preprocess",
    "SeresnetError": "seresnet.errors",
    "benchmark": "seresnet.benchmarking.benchmark",
    "calibrate": "seresnet.evaluation.calibrate",
    "create_model": "seresnet.weights.create",
    "evaluate": "seresnet.evaluation.evaluate",
    "list_models": "seresnet.weights.index",
    "load": "seresnet.inference.classifier",
    "quantize": "seresnet.quantization.quantize",
    "register_with_timm": "seresnet.weights.timm_models",
    "fuse": "seresnet.weights.timm_models",
    "save": "seresnet.weights.save",
    "train": "seresnet.training.train",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'seresnet' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    return globals().setdefault(name, value)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
