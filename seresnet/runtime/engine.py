"""The interface that every engine has, and the table of engines. To add an engine, add a row."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from seresnet.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from seresnet.models.resnet import SEResNet

ENGINES = {"torch": "seresnet.runtime.torch_engine:TorchEngine"}  # name -> module:class, imported when it is asked for
AUTO = "torch"  # what engine="auto" takes


class Engine(Protocol):
    """What runs a network. ``precision`` is the number format that it really computes in, never "auto"."""

    name: str
    device: str
    precision: str
    preferred_batch: int  # images at once, where the caller has no wish

    def logits(self, x: NDArray[np.float32] | Tensor) -> NDArray[np.float32]:
        """Return logits (N, num_classes) of a normalised batch (N, C, H, W)."""
        ...

    def embed(self, x: NDArray[np.float32] | Tensor) -> NDArray[np.float32]:
        """Return pooled features (N, num_features) of a normalised batch (N, C, H, W)."""
        ...

    def describe(self) -> str:
        """Return engine, device and precision in a few words, for people."""
        ...


def open_engine(name: str, model: SEResNet, device: str | None = None, precision: str = "auto") -> Engine:
    """Return the engine ``name`` ("auto" or a key of `ENGINES`) for a model. Raises ConfigError for a name unknown."""
    target = ENGINES.get(AUTO if name == "auto" else name)
    if target is None:
        raise ConfigError(f"engine {name!r} is unknown: use auto or {', '.join(ENGINES)}")
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)(model, device, precision)
