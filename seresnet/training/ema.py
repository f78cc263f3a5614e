"""An exponential moving average of a model's weights and batch norm statistics (Polyak averaging)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class ModelEma:
    """Keep ``module``, a copy of the model whose floating-point tensors follow ``decay * old + (1 - decay) * new``.

    The decay starts low, ``(1 + step) / (10 + step)``, so that the average forgets the random start.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.module = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Update the average with the model's weights after optimizer step ``step`` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        average: list[Tensor] = []
        latest: list[Tensor] = []
        for mean, new in zip(self.module.state_dict().values(), model.state_dict().values(), strict=True):
            if mean.is_floating_point():
                average.append(mean)
                latest.append(new)
            else:
                mean.copy_(new)
        torch._foreach_lerp_(average, latest, 1 - decay)
