"""The blocks of the family."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from seresnet.models.config import SEResNetConfig
from seresnet.models.fused_tail import can_fuse, fused_bn_se_add_relu
from seresnet.models.squeeze_excite import SqueezeExcite


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
        return dropped(x, (x.shape[0], 1, 1, 1), self.rate, self.batch_shard)


class Block(nn.Module):
    """A residual block, ``relu(shortcut + excite(norm(convolved(x))))``.

    It maps ``(N, C, H, W)`` to ``(N, C', H/stride, W/stride)``.
    """

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

    @property
    def last_norm(self) -> nn.Module:
        """The batch norm behind the last convolution."""
        raise NotImplementedError

    def convolved(self, x: Tensor) -> Tensor:
        """Return what the last convolution makes of ``x``, before its batch norm and the excitation."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        u = self.convolved(x)
        if not self.relu_before_se and isinstance(self.drop_path, nn.Identity) and can_fuse(self.last_norm, self.se, u):
            return fused_bn_se_add_relu(u, self.downsample(x), self.last_norm, self.se)  # type: ignore[arg-type]
        u = self.last_norm(u)
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

    @property
    def last_norm(self) -> nn.Module:
        return self.bn2

    def convolved(self, x: Tensor) -> Tensor:
        return self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True))


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

    @property
    def last_norm(self) -> nn.Module:
        return self.bn3

    def convolved(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return self.conv3(self.aa(F.relu(self.bn2(self.conv2(x)), inplace=True)))


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
