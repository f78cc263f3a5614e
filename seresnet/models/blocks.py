"""The blocks of the family, and the configuration that tells them apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from seresnet.models.squeeze_excite import SqueezeExcite


@dataclass(frozen=True)
class SEResNetConfig:
    """What differs between the networks of the family. Widths are in channels, strides and kernels in pixels."""

    layers: tuple[int, ...]  # blocks in each stage
    block: Literal["basic", "bottleneck"] = "bottleneck"
    channels: tuple[int, ...] = (64, 128, 256, 512)  # base width of each stage; a bottleneck puts out four times that
    groups: int = 1  # of the 3x3 convolution ("cardinality", arXiv 1611.05431)
    base_width: int = 64  # width of one group where channels is 64
    first_width_divisor: int = 1  # SENet-154 halves the width of each block's first convolution
    stem: Literal["conv7", "deep", "tiered", "conv3"] = "conv7"  # conv3: CIFAR, stride 1, no pooling
    stem_width: int = 64
    stem_pool: Literal["max", "max_ceil", "avg", "none"] = "max"
    stride_in: Literal["conv1", "conv2"] = "conv2"  # where a bottleneck strides; Caffe lineage: in its first 1x1
    downsample: Literal["conv", "avg"] = "conv"  # avg: 2x2 mean before the 1x1 ("D" variants, arXiv 1812.01187)
    downsample_kernel: int = 1  # of a strided shortcut convolution
    anti_alias: bool = False  # stride by a 2x2 mean after the 3x3 convolution ("aa" variants)
    reduction: int | None = 16  # of the excitation; None leaves it out
    squeeze_divisor: int = 8  # the excitation's inner width is a multiple of this
    relu_before_se: bool = False  # legacy basic blocks: a ReLU between bn2 and the excitation
    lineage: Literal["legacy", "modern", "cifar"] = "modern"  # whose state dict keys timm expects
    num_classes: int = 1000
    in_chans: int = 3
    drop_rate: float = 0.0  # dropout before the classifier, in training
    drop_path_rate: float = 0.0  # stochastic depth of the last block; linear from 0 at the first (arXiv 1603.09382)


class DropPath(nn.Module):
    """Drop whole residual branches, an image at a time, in training (stochastic depth, arXiv 1603.09382)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = x.new_empty((x.shape[0], 1, 1, 1)).bernoulli_(1.0 - self.rate)
        return x * keep / (1.0 - self.rate)


class Block(nn.Module):
    """A residual block: ``relu(shortcut + excite(branch(x)))``, ``(N, C, H, W) -> (N, C', H/stride, W/stride)``."""

    conv1: nn.Conv2d
    bn1: nn.BatchNorm2d
    conv2: nn.Conv2d
    bn2: nn.BatchNorm2d

    def __init__(self, cfg: SEResNetConfig, in_width: int, channels: int, stride: int, drop_path: float) -> None:
        super().__init__()
        self.out_width = out_width = channels * expansion(cfg)
        self.relu_before_se = cfg.relu_before_se
        reduction = cfg.reduction
        self.se = SqueezeExcite(out_width, reduction, cfg.squeeze_divisor) if reduction else nn.Identity()
        self.downsample = shortcut(cfg, in_width, out_width, stride)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def branch(self, x: Tensor) -> Tensor:
        """Return what the convolutions and their batch norms make of ``x``, before the excitation."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        u = self.branch(x)
        if self.relu_before_se:
            u = F.relu(u, inplace=True)
        return F.relu(self.drop_path(self.se(u)) + self.downsample(x), inplace=True)


class BasicBlock(Block):
    """Two 3x3 convolutions (ResNet-18 and -34, and the networks for CIFAR)."""

    def __init__(self, cfg: SEResNetConfig, in_width: int, channels: int, stride: int, drop_path: float) -> None:
        super().__init__(cfg, in_width, channels, stride, drop_path)
        self.conv1 = nn.Conv2d(in_width, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, self.out_width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(self.out_width)

    def branch(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return self.bn2(self.conv2(x))


class Bottleneck(Block):
    """1x1, 3x3 and 1x1 convolutions; the stride is in the first or in the second of them."""

    def __init__(self, cfg: SEResNetConfig, in_width: int, channels: int, stride: int, drop_path: float) -> None:
        super().__init__(cfg, in_width, channels, stride, drop_path)
        width = channels * cfg.base_width // 64 * cfg.groups
        first = width // cfg.first_width_divisor
        stride1 = stride if cfg.stride_in == "conv1" else 1
        stride2 = stride if cfg.stride_in == "conv2" and not cfg.anti_alias else 1
        self.conv1 = nn.Conv2d(in_width, first, 1, stride1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.conv2 = nn.Conv2d(first, width, 3, stride2, padding=1, groups=cfg.groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.aa = nn.AvgPool2d(2) if cfg.anti_alias and stride == 2 else nn.Identity()
        self.conv3 = nn.Conv2d(width, self.out_width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(self.out_width)

    def branch(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = self.aa(F.relu(self.bn2(self.conv2(x)), inplace=True))
        return self.bn3(self.conv3(x))


BLOCKS: dict[str, type[Block]] = {"basic": BasicBlock, "bottleneck": Bottleneck}


def expansion(cfg: SEResNetConfig) -> int:
    """Return the ratio of a block's output channels to its stage's base width."""
    return 4 if cfg.block == "bottleneck" else 1


def shortcut(cfg: SEResNetConfig, in_width: int, out_width: int, stride: int) -> nn.Module:
    """Return the projection beside a block's convolutions, or an identity where shapes agree."""
    if stride == 1 and in_width == out_width:
        return nn.Identity()
    norm = nn.BatchNorm2d(out_width)
    if cfg.downsample == "avg":
        pool = nn.Identity() if stride == 1 else nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False)
        return nn.Sequential(pool, nn.Conv2d(in_width, out_width, 1, bias=False), norm)
    kernel = 1 if stride == 1 else cfg.downsample_kernel
    return nn.Sequential(nn.Conv2d(in_width, out_width, kernel, stride, padding=kernel // 2, bias=False), norm)
