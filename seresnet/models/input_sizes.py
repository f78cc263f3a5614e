"""Which heights and widths of images a network takes. Imports torch only to look at a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from seresnet.models.resnet import SEResNet


@dataclass(frozen=True)
class InputSizes:
    """Heights and widths of at least ``least`` pixels whose remainders, divided by ``period``, are ``remainders``."""

    least: int
    period: int = 1
    remainders: tuple[int, ...] = (0,)

    def __contains__(self, extent: int) -> bool:
        return extent >= self.least and extent % self.period in self.remainders

    def __str__(self) -> str:
        return f"{self.least} {self.period} {','.join(map(str, self.remainders))}"

    @classmethod
    def parse(cls, text: str) -> InputSizes:
        """Return what `str` gave; raises ValueError for any other text."""
        least, period, remainders = text.split(" ")
        sizes = cls(int(least), int(period), tuple(int(n) for n in remainders.split(",")))
        if sizes.least < 1 or not all(0 <= n < sizes.period for n in sizes.remainders):
            raise ValueError(f"{text!r} are not the input sizes of a network")
        return sizes


def input_sizes(network: SEResNet) -> InputSizes:
    """Return the heights and widths that a network, fused or not, takes.

    Each is large enough to leave a pixel behind every layer. Where a network is anti-aliased, a strided block rounds
    odd extents down, and its shortcut rounds them up: only even ones pass.
    """
    period = network.feature_info[-1]["reduction"]
    least = next(extent for extent in range(1, 8 * period) if _takes(network, extent))
    if not network.cfg.anti_alias:
        return InputSizes(least)
    taken = [extent % period for extent in range(least, least + period) if _takes(network, extent)]
    return InputSizes(least, period, tuple(sorted(taken)))


def _takes(network: SEResNet, extent: int) -> bool:
    """Return whether a network takes images of this height, or width."""
    extent = _behind(network.maxpool, _behind(network.conv1, extent))
    for block in (block for stage in network.stages for block in stage):
        parts = dict(block.named_children())
        shortcut = _behind(parts.pop("shortcut" if "shortcut" in parts else "downsample"), extent)
        for part in parts.values():
            extent = _behind(part, extent)
        if extent < 1 or (network.cfg.anti_alias and shortcut != extent):
            return False
    return extent > 0


def _behind(module: nn.Module, extent: int) -> int:
    """Return the extent behind the convolutions and poolings of a module; 0 where one cannot take it."""
    from torch import nn

    for layer in module.modules():
        if isinstance(layer, nn.ZeroPad2d):
            extent += layer.padding[0] + layer.padding[1]
        if not isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d) or extent < 1:
            continue
        kernel, stride, padding = (_one(getattr(layer, key)) for key in ("kernel_size", "stride", "padding"))
        reach = _one(getattr(layer, "dilation", 1)) * (kernel - 1) + 1
        free = extent + 2 * padding - reach + (stride - 1 if getattr(layer, "ceil_mode", False) else 0)
        extent = free // stride + 1 if free >= 0 else 0
    return extent


def _one(value: int | tuple[int, ...]) -> int:
    return value if isinstance(value, int) else value[0]
