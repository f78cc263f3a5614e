"""Squeeze-and-excitation: a gate per channel, computed from the mean of each channel (arXiv 1709.01507, section 3)."""

from __future__ import annotations

from torch import Tensor, nn


def squeeze_width(channels: int, reduction: int, divisor: int) -> int:
    """Return the number of channels between the two layers of the excitation.

    With ``divisor=1`` it is ``channels // reduction`` (Caffe lineage); otherwise ``channels / reduction``
    rounded to the nearest multiple of ``divisor``, at least ``divisor`` (timm's ``resnet.py``).
    """
    if divisor == 1:
        return channels // reduction
    return max(divisor, int(channels / reduction + divisor / 2) // divisor * divisor)


class SqueezeExcite(nn.Module):
    """Scale each channel of ``(N, C, H, W)`` by ``sigmoid(fc2(relu(fc1(mean over H and W))))``."""

    def __init__(self, channels: int, reduction: int = 16, divisor: int = 8) -> None:
        super().__init__()
        width = squeeze_width(channels, reduction, divisor)
        self.fc1 = nn.Conv2d(channels, width, 1)
        self.act = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv2d(width, channels, 1)
        self.sigmoid = nn.Sigmoid()

    def gate(self, x: Tensor) -> Tensor:
        """Return the excitation alone: ``(N, C, H, W) -> (N, C, 1, 1)``, each value between 0 and 1."""
        squeezed = x.mean((2, 3), keepdim=True)  # (N, C, H, W) -> (N, C, 1, 1)
        return self.sigmoid(self.fc2(self.act(self.fc1(squeezed))))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)
