"""Pooling at the end of a network: one value for each channel, by the kinds of pooling that timm has."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from seresnet.models.config import POOL_TYPES


class GlobalPool2d(nn.Module):
    """Pool ``(N, C, H, W)`` to ``(N, C)``: by the mean, the maximum, half the sum of both, or both side by side.

    ``pool_type`` is ``"avg"``, ``"max"``, ``"avgmax"``, ``"catavgmax"`` (gives ``(N, 2 C)``) or ``""`` (no pooling: the
    feature map stays as it is). Raises ValueError for another. fastai cuts a network at ``*Pool2d``.
    """

    def __init__(self, pool_type: str = "avg") -> None:
        super().__init__()
        if pool_type not in POOL_TYPES:
            raise ValueError(f"global_pool is {pool_type!r}: use 'avg', 'max', 'avgmax', 'catavgmax' or '' (none)")
        self.pool_type = pool_type

    def feat_mult(self) -> int:
        """Return how many features there are for each channel."""
        return 2 if self.pool_type == "catavgmax" else 1

    def forward(self, x: Tensor) -> Tensor:
        if self.pool_type == "":
            return x
        if self.pool_type == "avg":
            return x.mean((2, 3))  # (N, C, H, W) -> (N, C)
        largest = x.amax((2, 3))
        if self.pool_type == "max":
            return largest
        if self.pool_type == "avgmax":
            return 0.5 * (x.mean((2, 3)) + largest)
        return torch.cat((x.mean((2, 3)), largest), 1)

    def extra_repr(self) -> str:
        return f"pool_type={self.pool_type!r}"
