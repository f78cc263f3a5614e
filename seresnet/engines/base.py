"""The interface that every engine has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

PRECISIONS = ("float32", "bfloat16", "float16", "int8")


class Engine(Protocol):
    """Runs a network. ``precision`` is the one that it computes in, never "auto"."""

    name: str
    device: str
    precision: str
    preferred_batch: int  # the batch size where the caller names none

    def logits(self, x: NDArray[np.float32] | Tensor) -> NDArray[np.float32]:
        """Return logits (N, num_classes) of a normalised batch (N, C, H, W), of any height and width."""
        ...

    def embed(self, x: NDArray[np.float32] | Tensor) -> NDArray[np.float32]:
        """Return pooled features (N, num_features) of a normalised batch (N, C, H, W)."""
        ...

    def map(self, batches: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        """Yield the logits of each batch, in order; an engine may take a few batches more than it has answered."""
        ...

    def describe(self) -> str:
        """Return engine, device and precision as text."""
        ...
