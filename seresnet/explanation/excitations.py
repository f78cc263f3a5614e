"""What the gates of a network do on many images, by class and block: the study of the SE paper's section 6.

Hu et al. (arXiv 1709.01507) found that the gates of early blocks are shared between classes, those of later ones
specific to them, and those of the last stage nearly saturated and close to an identity.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from seresnet.errors import ConfigError, DataError
from seresnet.explanation.gates import gated_blocks, record
from seresnet.models.resnet import SEResNet

Floats = NDArray[np.float64]
Batches = Iterable[tuple[NDArray[np.float32], NDArray[np.int64]]]  # images (N, C, H, W), and their classes (N,)

MOVES = 0.1  # a channel moves where its gate differs by more than this between two images
NEAR = 0.1  # a gate is saturated where its mean is this near to 0 or 1


@dataclass(frozen=True)
class BlockGates:
    """The gates of one block over all images. Arrays have a column for each of its channels.

    - `mean`, `variance`: within each class (classes, C); NaN for a class without images.
    - `overall`: the mean over all images (C,); `lowest` and `highest`: over all images (C,).
    - `weights`: the images of each class, as fractions (classes,).
    """

    name: str
    mean: Floats
    variance: Floats
    overall: Floats
    lowest: Floats
    highest: Floats
    weights: Floats

    @property
    def channels(self) -> int:
        """The number of channels."""
        return len(self.overall)

    @property
    def moving(self) -> int:
        """The number of channels whose gate differs by more than `MOVES` between two images."""
        return int((self.highest - self.lowest > MOVES).sum())

    @property
    def saturated(self) -> float:
        """The fraction of channels whose mean gate is within `NEAR` of 0 or of 1."""
        return float((np.minimum(self.overall, 1 - self.overall) < NEAR).mean())

    @property
    def within(self) -> float:
        """The standard deviation within a class: the root of the variance's mean over images and channels."""
        return float(np.sqrt((self.weights[:, None] * np.nan_to_num(self.variance)).sum(0).mean()))

    @property
    def between(self) -> float:
        """The standard deviation of the classes' means around the mean over all images, by images and channels."""
        deviation = np.nan_to_num(self.mean - self.overall)
        return float(np.sqrt((self.weights[:, None] * deviation**2).sum(0).mean()))

    @property
    def explained(self) -> float:
        """The fraction of the gates' variance that the class explains, 0 to 1; 0 where no gate varies."""
        total = self.within**2 + self.between**2
        return self.between**2 / total if total > 0 else 0.0

    def distances(self, classes: Sequence[int]) -> Floats:
        """Return root mean square differences of the mean gates of classes, of each pair (K, K)."""
        means = self.mean[list(classes)]
        return np.stack([np.sqrt(((means - row) ** 2).mean(1)) for row in means])

    def from_overall(self) -> Floats:
        """Return for each class the root mean square difference of its mean gates from all images' (classes,)."""
        result: Floats = np.sqrt(((self.mean - self.overall) ** 2).mean(1))
        return result

    def summary(self) -> dict[str, Any]:
        """Return the scalars by their names in files."""
        return {
            "block": self.name,
            "channels": self.channels,
            "mean_gate": float(self.overall.mean()),
            "moving_channels": self.moving,
            "saturated": self.saturated,
            "std_within_class": self.within,
            "std_between_classes": self.between,
            "explained_by_class": self.explained,
        }


@dataclass(frozen=True)
class Excitations:
    """The gates of every block over all images, in the order of the blocks; ``counts`` are the images of each class."""

    classes: tuple[str, ...]
    counts: NDArray[np.int64]
    blocks: tuple[BlockGates, ...]

    @property
    def images(self) -> int:
        """The number of images."""
        return int(self.counts.sum())

    def mean_gates(self) -> dict[str, Floats]:
        """Return the mean gates over all images (C,) of each block by its name."""
        return {block.name: block.overall for block in self.blocks}

    def most_frequent(self, count: int) -> list[int]:
        """Return the classes with the most images, at most ``count`` and in their order; of equal ones the first."""
        order = np.argsort(-self.counts, kind="stable")[:count]
        return sorted(int(i) for i in order if self.counts[i])


class _Sums:
    """Sums over the images of each class, in float64: memory does not depend on the number of images."""

    def __init__(self, classes: int, channels: int) -> None:
        self.first, self.second = torch.zeros(2, classes, channels, dtype=torch.float64)
        self.lowest, self.highest = torch.full((channels,), 1.0), torch.zeros(channels)

    def add(self, gates: torch.Tensor, groups: torch.Tensor) -> None:
        gates = gates.float().cpu()
        self.lowest, self.highest = self.lowest.minimum(gates.amin(0)), self.highest.maximum(gates.amax(0))
        values = gates.double()
        self.first.index_add_(0, groups, values)
        self.second.index_add_(0, groups, values * values)

    def finish(self, name: str, counts: NDArray[np.int64]) -> BlockGates:
        first, second, images = self.first.numpy(), self.second.numpy(), counts.sum()
        with np.errstate(invalid="ignore"):
            mean = first / counts[:, None]
            variance = np.maximum(second / counts[:, None] - mean**2, 0)
        extremes = (self.lowest.double().numpy(), self.highest.double().numpy())
        return BlockGates(name, mean, variance, first.sum(0) / images, *extremes, counts / images)


@torch.no_grad()
def study(network: SEResNet, batches: Batches, classes: Sequence[str]) -> Excitations:
    """Return what the gates of a network in evaluation mode do on images.

    Memory holds two numbers for each class and channel, however many images come. Raises ConfigError for a network
    without excitation, DataError where there are no images.
    """
    blocks = gated_blocks(network)
    if not blocks:
        raise ConfigError("this network has no excitation, so that there are no gates to study")
    sums = {name: _Sums(len(classes), block.out_width) for name, (block, _) in blocks.items()}
    counts = np.zeros(len(classes), np.int64)
    device = next(network.parameters()).device
    with record(network) as recorded:
        for pixels, groups in batches:
            network.forward_features(torch.from_numpy(pixels).to(device))
            counts += np.bincount(groups, minlength=len(classes))
            for name, gates in recorded.gates.items():
                sums[name].add(gates, torch.from_numpy(groups))
    if not counts.any():
        raise DataError("none of the images can be read: give images to study the gates on")
    return Excitations(tuple(classes), counts, tuple(sums[name].finish(name, counts) for name in blocks))
