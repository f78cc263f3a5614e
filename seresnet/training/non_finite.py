"""Losses and gradients that are not finite: named with their files; too many of them end the run."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn

from seresnet.data.loader import Batch
from seresnet.errors import SeresnetError

log = logging.getLogger("seresnet")

MAX_BAD_STEPS = 3  # steps in a row without a finite loss before the run stops
DIVERGED = "lower --lr, or limit the gradient with --set clip_grad=1"


def l1_norm(tensors: list[Tensor]) -> Tensor:
    """Return the L1 norm over all tensors, on their device; it is finite where all of their values are."""
    return torch.stack(torch._foreach_norm(tensors, 1)).sum()


def check_finite(model: nn.Module) -> None:
    """Raise SeresnetError where a weight or a statistic of ``model`` is not finite."""
    if not math.isfinite(l1_norm([v for v in model.state_dict().values() if v.is_floating_point()]).item()):
        raise SeresnetError(f"the weights are no longer finite; {DIVERGED}. The last checkpoint is from before that")


class NonFiniteGuard:
    """Count the steps in a row whose loss or gradient was not finite."""

    def __init__(self) -> None:
        self.in_a_row = 0

    def check(self, is_finite: bool, step: int, group: Sequence[Batch], loss: Tensor) -> None:
        """Log the files of a bad step, and raise SeresnetError after several in a row.

        ``is_finite`` is of all ranks, ``loss`` of this one. The files are those of the ranks whose own loss is not
        finite, or of all ranks where only the gradient is not.
        """
        self.in_a_row = 0 if is_finite else self.in_a_row + 1
        if is_finite:
            return
        own = (math.isfinite(loss.item()), [str(path) for batch in group for path in batch.paths])
        ranks = gather_object([own])
        files = [f for fine, paths in ranks for f in paths if not fine] or [f for _, paths in ranks for f in paths]
        log.warning("step %d: the loss or its gradient is not finite; no step taken. Files: %s", step, ", ".join(files))
        if self.in_a_row >= MAX_BAD_STEPS:
            raise SeresnetError(
                f"the loss or its gradient was not finite in {MAX_BAD_STEPS} steps in a row; {DIVERGED}. "
                f"The last batch began with {', '.join(files[:3])}; log.txt names all its files"
            )
