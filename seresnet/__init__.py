"""SE-ResNets: the networks, their weights, prediction, training and evaluation.

The public names are imported when they are first used, so that ``import seresnet`` is quick and needs no torch.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seresnet.benchmark import benchmark
    from seresnet.errors import SeresnetError
    from seresnet.evaluate import evaluate
    from seresnet.predict import load
    from seresnet.preprocess import Preprocess
    from seresnet.quantize import quantize
    from seresnet.reparameterize import reparameterize
    from seresnet.train.run import train
    from seresnet.weights.index import list_models
    from seresnet.weights.load import create_model
    from seresnet.weights.save import save

__version__ = "0.1.0"

__all__ = [
    "Preprocess",
    "SeresnetError",
    "__version__",
    "benchmark",
    "create_model",
    "evaluate",
    "list_models",
    "load",
    "quantize",
    "reparameterize",
    "save",
    "train",
]

_HOMES = {
    "Preprocess": "seresnet.preprocess",
    "SeresnetError": "seresnet.errors",
    "benchmark": "seresnet.benchmark",
    "create_model": "seresnet.weights.load",
    "evaluate": "seresnet.evaluate",
    "list_models": "seresnet.weights.index",
    "load": "seresnet.predict",
    "quantize": "seresnet.quantize",
    "reparameterize": "seresnet.reparameterize",
    "save": "seresnet.weights.save",
    "train": "seresnet.train.run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'seresnet' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    return globals().setdefault(name, value)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Verb(ModuleType):
    """A submodule that is also the function of its own name: ``seresnet.train(...)`` and ``seresnet.train.run``."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        verb = self.__name__.rpartition(".")[2]
        return getattr(import_module(_HOMES[verb]), verb)(*args, **kwargs)


class _Package(ModuleType):
    """The package, whose attribute ``train`` is both a function and a submodule: whoever imports the latter sets it."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and name in _HOMES:
            value.__class__ = _Verb
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
