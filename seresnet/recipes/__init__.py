"""Training recipes: Python functions that return a TrainConfig. The docstring of each says what to expect of it."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from seresnet.errors import ConfigError
from seresnet.recipes.cifar10 import cifar10
from seresnet.recipes.cifar100 import cifar100
from seresnet.recipes.debug import debug
from seresnet.recipes.finetune import finetune
from seresnet.recipes.imagenet import imagenet_2018, imagenet_2018_paper, imagenet_modern
from seresnet.recipes.probe import probe
from seresnet.training.config import TrainConfig

RECIPES: dict[str, Callable[[], TrainConfig]] = {
    recipe.__name__.replace("_", "-"): recipe
    for recipe in (finetune, probe, imagenet_2018, imagenet_2018_paper, imagenet_modern, cifar10, cifar100, debug)
}


def recipe(name: str) -> TrainConfig:
    """Return the settings of a recipe: one of ``RECIPES``, or ``FILE.py:function``. Raises ConfigError."""
    if name in RECIPES:
        return RECIPES[name]()
    file, colon, function = name.rpartition(":")
    if file.endswith(".py") or name.endswith(".py"):
        return _from_file(Path(file if colon else name), function if colon else "")
    near = difflib.get_close_matches(name, RECIPES, 1)
    hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(RECIPES)}, and FILE.py:function"
    raise ConfigError(f"no recipe is called {name!r}; {hint}")


def _from_file(path: Path, function: str) -> TrainConfig:
    """Run ``path`` and return what its ``function`` does. Raises ConfigError, with the place of a fault in the file."""
    spec = spec_from_file_location(f"recipe_{path.stem}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise ConfigError(f"{path}: no such file; give --recipe FILE.py:function")
    module = sys.modules[spec.name] = module_from_spec(spec)
    _faults(path, lambda: spec.loader.exec_module(module))  # type: ignore[union-attr]
    found = getattr(module, function, None) if function else None
    if not callable(found):
        defined = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == spec.name]
        hint = f"it has: {', '.join(defined)}" if defined else "it defines none"
        raise ConfigError(
            f"{path}: " + (f"has no function {function!r}; {hint}" if function else f"which function? {hint}")
        )
    config = _faults(path, found)
    if not isinstance(config, TrainConfig):
        raise ConfigError(
            f"{path}: {function} returns {type(config).__name__}, not a seresnet.training.config.TrainConfig"
        )
    return config


def _faults(path: Path, function: Callable[[], object]) -> object:
    """Return what ``function`` returns; an exception of the user's code becomes a ConfigError that names its line."""
    try:
        return function()
    except Exception as error:
        trace, line = error.__traceback__, getattr(error, "lineno", None)
        while trace:
            line = trace.tb_lineno if Path(trace.tb_frame.f_code.co_filename) == path.absolute() else line
            trace = trace.tb_next
        text = str(getattr(error, "msg", error)).partition("\n")[0]
        raise ConfigError(f"{path}, line {line}: {type(error).__name__}: {text}") from error
