"""What is not finite: found by one sum, named with its files, and too much of it ends the run."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor

from seresnet.data.loader import Batch
from seresnet.errors import SeresnetError
from seresnet.training.ranks import gathered

log = logging.getLogger("seresnet")

MAX_BAD_STEPS = 3  # steps in a row without a finite loss before the run stops
DIVERGED = "lower --lr, or limit the gradient with --set clip_grad=1"


def all_finite(tensors: list[Tensor]) -> bool:
    """Tell whether no tensor holds NaN or infinity, by one sum over all of them."""
    return math.isfinite(torch.stack(torch._foreach_norm(tensors, 1)).sum().item())


class BadSteps:
    """Count the steps in a row whose loss or gradient was not finite."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.in_a_row = 0

    def count(self, step: int, finite: bool, group: Sequence[Batch], loss: float) -> None:
        """Log the files of a bad step, and raise SeresnetError after several.

        They are of the processes whose own ``loss`` is not finite; of all where each is, and the gradient is not.
        """
        self.in_a_row = 0 if finite else self.in_a_row + 1
        if finite:
            return
        parts = gathered(self.accelerator, (math.isfinite(loss), [str(p) for batch in group for p in batch.paths]))
        files = [f for fine, own in parts for f in own if not fine] or [f for _, own in parts for f in own]
        log.warning("step %d: the loss or its gradient is not finite; no step taken. Files: %s", step, ", ".join(files))
        if self.in_a_row >= MAX_BAD_STEPS:
            raise SeresnetError(
                f"the loss or its gradient was not finite in {MAX_BAD_STEPS} steps in a row; {DIVERGED}. "
                f"The last batch began with {', '.join(files[:3])}; log.txt names all its files"
            )
