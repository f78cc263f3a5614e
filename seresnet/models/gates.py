"""Excitations that are known before the last convolution of their block: see `seresnet.models.fuse`."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from seresnet.models.fold import with_tensors
from seresnet.models.squeeze_excite import SqueezeExcite


class Gate(nn.Module):
    """The excitation of ``u = W h + b`` for a 1x1 convolution, from ``h``: ``(N, C', H, W) -> (N, C, 1, 1)``."""

    def __init__(self, se: SqueezeExcite, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        assert se.fc1.bias is not None
        reduce = se.fc1.weight.detach().cpu().double().flatten(1)  # (R, C, 1, 1) -> (R, C)
        merged = self.merged(torch.einsum("rc,cikl->rikl", reduce, weight))
        merged_bias = reduce @ bias + se.fc1.bias.detach().cpu().double()
        self.fc1 = with_tensors(se.fc1, merged[:, :, None, None], merged_bias)
        self.fc2 = copy.deepcopy(se.fc2)

    @staticmethod
    def merged(taps: Tensor) -> Tensor:
        """Return what multiplies `squeeze`, ``(R, K)``, from the excitation's first layer times the convolution."""
        return taps.flatten(1)  # (R, C', 1, 1) -> (R, C')

    def squeeze(self, h: Tensor) -> Tensor:
        """Return what the excitation needs to know of ``h``: ``(N, C', H, W) -> (N, K, 1, 1)``."""
        return h.mean((2, 3), keepdim=True)

    def forward(self, h: Tensor) -> Tensor:
        return torch.sigmoid(self.fc2(torch.relu(self.fc1(self.squeeze(h)))))


class BorderGate(Gate):
    """The excitation of ``u = W h + b`` for a 3x3 convolution of stride 1 and padding 1, from ``h``.

    A tap that looks up (row 0 of the kernel) sees all of ``h`` but its bottom row, one that looks down (row 2) all but
    its top row; so with columns; what lies in both a missing row and a missing column, a corner, is taken off twice.
    """

    @staticmethod
    def merged(taps: Tensor) -> Tensor:
        # (R, C', 3, 3) -> (R, 9 C'), in the order of `squeeze`
        total = taps.sum((2, 3))
        top, bottom = -taps[:, :, 2].sum(2), -taps[:, :, 0].sum(2)
        left, right = -taps[:, :, :, 2].sum(2), -taps[:, :, :, 0].sum(2)
        corners = (taps[:, :, 2, 2], taps[:, :, 2, 0], taps[:, :, 0, 2], taps[:, :, 0, 0])
        return torch.cat((total, top, bottom, left, right, *corners), dim=1)

    def squeeze(self, h: Tensor) -> Tensor:
        """Return nine sums of ``h`` over its area: all, its edges, its corners: ``(N, C', H, W) -> (N, 9 C', 1, 1)``.

        Each is a mean over its own extent, times its fraction of the area, so that none overflows.
        """
        height, width = h.shape[2:]
        top, bottom = h[:, :, :1], h[:, :, -1:]  # (N, C', 1, W); the same row where H is 1
        rows = [edge.mean(3, keepdim=True) / height for edge in (top, bottom)]
        columns = [edge.mean(2, keepdim=True) / width for edge in (h[..., :1], h[..., -1:])]
        corners = [corner / (height * width) for edge in (top, bottom) for corner in (edge[..., :1], edge[..., -1:])]
        return torch.cat((h.mean((2, 3), keepdim=True), *rows, *columns, *corners), dim=1)
