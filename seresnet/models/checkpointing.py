"""Gradient checkpointing that leaves batch norm's running statistics as they would be without it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase  # batch norms of every kind, synchronized ones among them
from torch.utils.checkpoint import checkpoint


class FrozenStatistics(AbstractContextManager[None]):
    """Let batch norms in training mode normalise by their batch without moving their running statistics.

    It can be entered again, as torch does where a second derivative runs a block a third time.
    """

    def __init__(self, module: nn.Module) -> None:
        self.norms = [m for m in module.modules() if isinstance(m, _NormBase)]
        self.kept: list[list[tuple[float | None, Tensor | None]]] = []

    def __enter__(self) -> None:
        self.kept.append([(norm.momentum, norm.num_batches_tracked) for norm in self.norms])
        for norm in self.norms:
            norm.momentum, norm.num_batches_tracked = 0.0, None

    def __exit__(self, *_: object) -> None:
        for norm, (momentum, count) in zip(self.norms, self.kept.pop(), strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count


def checkpointed(block: nn.Module, x: Tensor) -> Tensor:
    """Return ``block(x)``, keeping ``x`` alone of what the backward pass needs, and running the block again there.

    The second run sees the same batch, and would otherwise move the running statistics twice.
    """
    if torch.compiler.is_compiling():  # the compiler traces no contexts of ours, and recomputes in its own way
        return checkpoint(block, x, use_reentrant=False)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), FrozenStatistics(block)

    return checkpoint(block, x, use_reentrant=False, context_fn=contexts)


def checkpointed_blocks(stage: nn.Module, x: Tensor) -> Tensor:
    """Return ``stage(x)`` for blocks one after the other, keeping the input of each alone."""
    for block in stage.children():
        x = checkpointed(block, x)
    return x
