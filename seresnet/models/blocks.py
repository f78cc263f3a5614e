"""The blocks of the family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._jit_internal import is_scripting

from seresnet.models.config import SEResNetConfig
from seresnet.models.fused_tail import can_fuse, fused_bn_se_add_relu
from seresnet.models.squeeze_excite import SqueezeExcite


class Spacing(NamedTuple):
    """How far apart a block reads its pixels: its stride, its dilation, and that of its strided convolution."""

    stride: int = 1
    dilation: int = 1
    first_dilation: int = 1


def dropped(x: Tensor, shape: Sequence[int], rate: float, shard: tuple[int, int]) -> Tensor:
    """Zero ``x`` where numbers drawn in ``shape``, broadcast, fall below ``rate``, and scale up what is left.

    ``shard`` is ``(rank, world_size)`` where ranks share a batch: each draws for the whole batch and takes the rows of
    its own images. With the same random state on every rank, the result does not depend on their number.
    """
    rank, world_size = shard
    images, *rest = shape
    keep = x.new_empty((world_size * images, *rest)).bernoulli_(1.0 - rate)[rank::world_size]
    return x * keep / (1.0 - rate)


class DropPath(nn.Module):
    """Drop whole residual branches, an image at a time, in training (stochastic depth, arXiv 1603.09382)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.batch_shard = (0, 1)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        if is_scripting():
            return x * torch.empty_like(x[:, :1, :1, :1]).bernoulli_(1.0 - self.rate) / (1.0 - self.rate)
        else:  # not compiled by TorchScript, which has no star expressions
            return dropped(x, (x.shape[0], 1, 1, 1), self.rate, self.batch_shard)


class Block(nn.Module):
    """A residual block, ``relu(shortcut + excite(norm(convolved(x))))``.

    It maps ``(N, C, H, W)`` to ``(N, C', H/stride, W/stride)``. Modules are registered in timm's order, so that an
    optimizer's state, which goes by position, fits both.
    """

    def __init__(self, cfg: SEResNetConfig, in_width: int, channels: int, spacing: Spacing, drop_path: float) -> None:
        super().__init__()
        self.out_width = channels * expansion(cfg)
        self.relu_before_se = cfg.relu_before_se
        self.anti_alias = cfg.anti_alias
        self.add_convolutions(cfg, in_width, channels, spacing)
        self.act_se = nn.ReLU(inplace=True) if cfg.relu_before_se else nn.Identity()
        reduction = cfg.reduction
        self.se = SqueezeExcite(self.out_width, reduction, cfg.squeeze_divisor) if reduction else nn.Identity()
        self.downsample = shortcut(cfg, in_width, self.out_width, spacing)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def add_convolutions(self, cfg: SEResNetConfig, in_width: int, channels: int, spacing: Spacing) -> None:
        """Register the convolutions of the residual branch, each with its batch norm and activation."""
        raise NotImplementedError

    @torch.jit.unused
    def last_norm(self) -> nn.BatchNorm2d:
        """Return the batch norm behind the last convolution."""
        raise NotImplementedError


class BasicBlock(Block):
    """Two 3x3 convolutions (ResNet-18 and -34, and the networks for CIFAR)."""

    def add_convolutions(self, cfg: SEResNetConfig, in_width: int, channels: int, spacing: Spacing) -> None:
        stride, dilation, first = spacing
        self.conv1 = nn.Conv2d(in_width, channels, 3, stride, padding=first, dilation=first, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, self.out_width, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(self.out_width)
        self.act2 = nn.ReLU(inplace=True)

    @torch.jit.unused
    def last_norm(self) -> nn.BatchNorm2d:
        return self.bn2

    def forward(self, x: Tensor) -> Tensor:
        u = self.conv2(self.act1(self.bn1(self.conv1(x))))
        if not is_scripting():  # noqa: SIM102 - TorchScript would compile the right side of an `and`
            if can_fuse(u, self.bn2, self.se, self.act2, self.act_se, self.drop_path):
                return fused_bn_se_add_relu(u, self.downsample(x), self.bn2, self.se)  # type: ignore[arg-type]
        u = self.drop_path(self.se(self.act_se(self.bn2(u))))
        return self.act2(u + self.downsample(x))


class Bottleneck(Block):
    """1x1, 3x3 and 1x1 convolutions; the stride is in the first or in the second of them."""

    def add_convolutions(self, cfg: SEResNetConfig, in_width: int, channels: int, spacing: Spacing) -> None:
        stride, _, dilation = spacing
        width = channels * cfg.base_width // 64 * cfg.groups
        first = width // cfg.first_width_divisor
        stride1 = stride if cfg.stride_in == "conv1" else 1
        stride2 = stride if cfg.stride_in == "conv2" and not cfg.anti_alias else 1
        self.conv1 = nn.Conv2d(in_width, first, 1, stride1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(
            first, width, 3, stride2, padding=dilation, dilation=dilation, groups=cfg.groups, bias=False
        )
        self.bn2 = nn.BatchNorm2d(width)
        self.act2 = nn.ReLU(inplace=True)
        self.aa = nn.AvgPool2d(2) if cfg.anti_alias and stride == 2 else nn.Identity()
        self.conv3 = nn.Conv2d(width, self.out_width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(self.out_width)
        self.act3 = nn.ReLU(inplace=True)

    @torch.jit.unused
    def last_norm(self) -> nn.BatchNorm2d:
        return self.bn3

    def forward(self, x: Tensor) -> Tensor:
        u = self.act1(self.bn1(self.conv1(x)))
        u = self.conv3(self.aa(self.act2(self.bn2(self.conv2(u)))))
        if not is_scripting():  # noqa: SIM102 - TorchScript would compile the right side of an `and`
            if can_fuse(u, self.bn3, self.se, self.act3, self.act_se, self.drop_path):
                return fused_bn_se_add_relu(u, self.downsample(x), self.bn3, self.se)  # type: ignore[arg-type]
        u = self.drop_path(self.se(self.act_se(self.bn3(u))))
        shortcut = self.downsample(x)
        # Anti-aliasing rounds odd sizes down, its shortcut rounds them up: in place, so that 1 is not broadcast to 2
        return self.act3(u.add_(shortcut) if self.anti_alias else u + shortcut)


BLOCKS: dict[str, type[Block]] = {"basic": BasicBlock, "bottleneck": Bottleneck}


def expansion(cfg: SEResNetConfig) -> int:
    """Return the ratio of a block's output channels to its stage's base width."""
    return 4 if cfg.block == "bottleneck" else 1


def shortcut(cfg: SEResNetConfig, in_width: int, out_width: int, spacing: Spacing) -> nn.Module:
    """Return the projection beside a block's convolutions, or an identity where shapes agree."""
    stride, dilation, first = spacing
    if stride == 1 and in_width == out_width:
        return nn.Identity()
    norm = nn.BatchNorm2d(out_width)
    if cfg.downsample == "avg":
        return nn.Sequential(shortcut_pool(spacing), nn.Conv2d(in_width, out_width, 1, bias=False), norm)
    kernel = 1 if stride == 1 and dilation == 1 else cfg.downsample_kernel
    spread = first if kernel > 1 else 1
    padding = (stride - 1 + spread * (kernel - 1)) // 2
    conv = nn.Conv2d(in_width, out_width, kernel, stride, padding=padding, dilation=spread, bias=False)
    return nn.Sequential(conv, norm)


def shortcut_pool(spacing: Spacing) -> nn.Module:
    """Return the 2x2 mean before a shortcut's convolution; dilated, it keeps the size, with zeros behind the edges."""
    if spacing.dilation > 1:
        return nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.AvgPool2d(2, 1))
    if spacing.stride == 1:
        return nn.Identity()
    return nn.AvgPool2d(2, spacing.stride, ceil_mode=True, count_include_pad=False)
