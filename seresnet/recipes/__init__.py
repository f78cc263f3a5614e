"""Training recipes: Python functions that return a TrainConfig. The docstring of each says what to expect of it."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from seresnet.errors import ConfigError
from seresnet.recipes.cifar10 import cifar10
from seresnet.recipes.debug import debug
from seresnet.recipes.finetune import finetune
from seresnet.train.config import TrainConfig

RECIPES: dict[str, Callable[[], TrainConfig]] = {recipe.__name__: recipe for recipe in (finetune, cifar10, debug)}


def recipe(name: str) -> TrainConfig:
    """Return the settings of the recipe ``name``. Raises ConfigError for a name that there is not."""
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(RECIPES)}"
        raise ConfigError(f"no recipe is called {name!r}; {hint}")
    return RECIPES[name]()
