"""Gradient checkpointing that leaves batch norm's running statistics as they would be without it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Let batch norms in training mode normalise by their batch without moving their running statistics."""
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count


def checkpointed(block: nn.Module, x: Tensor) -> Tensor:
    """Return ``block(x)``, keeping ``x`` alone of what the backward pass needs, and running the block again there.

    The second run sees the same batch, and would otherwise move the running statistics twice.
    """
    if torch.compiler.is_compiling():  # the compiler traces no contexts of ours, and recomputes in its own way
        return checkpoint(block, x, use_reentrant=False)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), frozen_statistics(block)

    return checkpoint(block, x, use_reentrant=False, context_fn=contexts)


def checkpointed_blocks(stage: nn.Module, x: Tensor) -> Tensor:
    """Return ``stage(x)`` for blocks one after the other, keeping the input of each alone."""
    for block in stage.children():
        x = checkpointed(block, x)
    return x
