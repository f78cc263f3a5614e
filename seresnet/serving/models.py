"""From ``--model NAME=PATH`` to models that are loaded, warmed up, and ready to be served."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from seresnet.errors import ConfigError
from seresnet.inference.classifier import DEFAULT_MODEL, load
from seresnet.serving.model import ServedModel
from seresnet.serving.settings import ServeSettings

NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,63}", re.ASCII)


@dataclass(frozen=True)
class EngineSettings:
    """What all models are loaded with, see `seresnet.load`."""

    engine: str = "auto"
    precision: str = "auto"
    device: str | None = None
    offline: bool | None = None


def named_models(given: Sequence[str]) -> dict[str, str]:
    """Return each model by the name that clients know it by, in order. Raises ConfigError.

    ``NAME=PATH`` gives a name; without one it is the model's own, or the last part of its path.
    """
    models: dict[str, str] = {}
    for text in given or [DEFAULT_MODEL]:
        name, separator, model = text.partition("=")
        if not separator or os.path.exists(text):  # noqa: PTH110 (False for what is no path)
            name, model = _own_name(text), text
        if not NAME.fullmatch(name):
            raise ConfigError(f"--model {text}: give it a name of letters and digits, as in --model cats={model}")
        if not model:
            raise ConfigError(f"--model {text}: give a model behind the name, as in --model {name}=runs/cats")
        if name in models:
            raise ConfigError(f"two models are called {name}: give them names, as in --model cats=runs/cats/best")
        models[name] = model
    return models


def _own_name(model: str) -> str:
    last = Path(model.partition("@")[0].rstrip("/")).name.rpartition(":")[2]
    return re.sub(r"\.(safetensors|pth|pt|bin|tar|ckpt|xml)$", "", last)


def open_models(
    named: Mapping[str, str],
    settings: ServeSettings,
    engine: EngineSettings,
    decoders: ThreadPoolExecutor,
) -> dict[str, ServedModel]:
    """Load every model, and run each once. Raises SeresnetError for one that cannot be had."""
    served = {}
    for name, model in named.items():
        clf = load(model, engine.engine, engine.precision, engine.device, engine.offline)
        _ = clf.preprocess  # raises where the model came without one
        served[name] = ServedModel(name, clf, settings, decoders)
        served[name].warm_up()
    return served
