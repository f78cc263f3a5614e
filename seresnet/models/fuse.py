"""Fused networks for inference: the same function, with its excitations at almost no cost.

Three exact rewrites, each of which changes the order of the arithmetic, and results only by rounding:

1. Batch norms fold into the convolutions before them.
2. The gate comes first. A block ends in ``relu(s * u + shortcut)`` with ``u = W h + b``, and its excitation
   ``s = sigmoid(F2 relu(F1 mean(u) + c1) + c2)`` needs the mean of ``u`` alone. A 1x1 convolution lets the mean pass:
   ``F1 mean(u) = (F1 W) mean(h) + F1 b``, from a tensor four times smaller, before the convolution starts. Of a 3x3
   convolution with padding 1, the tap that looks up misses the last row of ``h``, the one that looks left misses the
   last column, and so on: its mean follows from the sums of ``h``, of its four edges and of its four corners.
   Where a ReLU stands between convolution and excitation (legacy 18 and 34) none of this holds: the order stays.
3. Unused pixels. In the legacy bottleneck networks a stage reads its input only through 1x1 convolutions of stride 2:
   of four pixels that the last block before it outputs, three are never read, and need not be computed.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seresnet.errors import ConfigError
from seresnet.models.blocks import BasicBlock, Bottleneck
from seresnet.models.fold import fold, folded, folded_stem, with_tensors
from seresnet.models.gates import BorderGate, Gate
from seresnet.models.resnet import SEResNet
from seresnet.models.squeeze_excite import SqueezeExcite

log = logging.getLogger("seresnet")

# What a fused network takes over from its network besides the modules.
TAKEN = (
    *("cfg", "num_classes", "in_chans", "drop_rate", "num_features", "head_hidden_size"),
    *("labels", "label_ids", "multi_label", "preprocess", "pretrained_cfg", "weights_tag", "feature_info"),
)


@dataclass(frozen=True)
class Rewrites:
    """How often each rewrite was applied."""

    batch_norms_folded: int = 0
    gates_first: int = 0
    gates_last: int = 0  # excitations that stay behind their convolution, for the ReLU between
    unused_pixels: int = 0  # stages whose last block computes a quarter of its output

    def __str__(self) -> str:
        parts = [f"{self.batch_norms_folded} batch norms folded"]
        if self.gates_first:
            parts.append(f"{self.gates_first} gates computed before the last convolution")
        if self.gates_last:
            parts.append(f"{self.gates_last} gates kept behind it (a ReLU stands between: nothing to gain)")
        if self.unused_pixels:
            parts.append(f"{self.unused_pixels} stages compute only the pixels that the next one reads")
        return ", ".join(parts)


class Subsample(nn.Module):
    """Keep every other row and column: ``(N, C, H, W) -> (N, C, ceil(H/2), ceil(W/2))``."""

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 1, stride=2)  # not a slice: exporters see that its size equals a strided convolution's


class FusedBlock(nn.Module):
    """A residual block without batch norms; this one without excitation: ``relu(last(hidden(x)) + shortcut(x))``."""

    def __init__(self, block: BasicBlock | Bottleneck) -> None:
        super().__init__()
        self.anti_alias = block.anti_alias
        layers: list[nn.Module] = [fold(block.conv1, block.bn1), nn.ReLU(inplace=True)]
        conv, norm = block.conv2, block.bn2
        if isinstance(block, Bottleneck):
            layers += [fold(conv, norm), nn.ReLU(inplace=True), copy.deepcopy(block.aa)]
            conv, norm = block.conv3, block.bn3
        self.hidden = nn.Sequential(*layers)
        weight, bias = folded(conv, norm)
        self.last = with_tensors(conv, weight, bias)
        self.take_excitation(block.se, weight, bias)
        self.shortcut: nn.Module = nn.Identity()
        if isinstance(block.downsample, nn.Sequential):
            *before, conv, norm = block.downsample  # type: ignore[assignment]
            self.shortcut = nn.Sequential(*copy.deepcopy(before), fold(conv, norm))

    def take_excitation(self, se: nn.Module, weight: Tensor, bias: Tensor) -> None:
        """Set up the excitation for the last convolution's ``weight`` and ``bias``, float64."""

    def branch(self, x: Tensor) -> Tensor:
        return self.last(self.hidden(x))

    def forward(self, x: Tensor) -> Tensor:
        u, shortcut = self.branch(x), self.shortcut(x)
        # In place where sizes are rounded both ways, see `Bottleneck.forward`
        return F.relu(u.add_(shortcut) if self.anti_alias else u + shortcut, inplace=True)

    def compute_quarter(self) -> None:
        """Output every other row and column alone. A gate before the last convolution still knows all of them."""
        self.last.stride = (2, 2)
        if isinstance(self.shortcut, nn.Sequential):
            conv = self.shortcut[-1]
            assert isinstance(conv, nn.Conv2d)
            conv.stride = (2 * conv.stride[0], 2 * conv.stride[1])
        else:
            self.shortcut = Subsample()

    def read_quarter(self) -> None:
        """Take an input that is already subsampled by 2, instead of striding over it."""
        assert isinstance(self.shortcut, nn.Sequential)
        for conv in (self.hidden[0], self.shortcut[0]):
            assert isinstance(conv, nn.Conv2d)
            conv.stride = (conv.stride[0] // 2, conv.stride[1] // 2)


class GateFirstBlock(FusedBlock):
    """A block whose gate is known before its last convolution: ``relu(gate(h) * last(h) + shortcut(x))``."""

    def take_excitation(self, se: nn.Module, weight: Tensor, bias: Tensor) -> None:
        assert isinstance(se, SqueezeExcite)
        self.gate = (BorderGate if weight.shape[-1] == 3 else Gate)(se, weight, bias)

    def branch(self, x: Tensor) -> Tensor:
        h = self.hidden(x)
        return self.gate(h) * self.last(h)


class GateLastBlock(FusedBlock):
    """A legacy basic block: ``relu(se(relu(last(h))) + shortcut(x))``; without excitation ``se`` is an identity."""

    def take_excitation(self, se: nn.Module, weight: Tensor, bias: Tensor) -> None:
        self.se = copy.deepcopy(se)

    def branch(self, x: Tensor) -> Tensor:
        return self.se(F.relu(self.last(self.hidden(x)), inplace=True))


def fused_block(block: nn.Module) -> FusedBlock:
    """Return a block fused, as its excitation allows."""
    assert isinstance(block, BasicBlock | Bottleneck)
    if block.relu_before_se:
        return GateLastBlock(block)
    return FusedBlock(block) if isinstance(block.se, nn.Identity) else GateFirstBlock(block)


class FusedSEResNet(SEResNet):
    """A network for inference alone, made by `fuse_network`; used as a `SEResNet` is, with the same results.

    ``rewrites`` tells what was done. It has other modules and tensors than its network: save that one.
    """

    def __init__(self, model: SEResNet, skip_unused: bool = True) -> None:
        nn.Module.__init__(self)  # not SEResNet's, which would draw new weights
        for name in TAKEN:
            setattr(self, name, copy.deepcopy(getattr(model, name)))
        self.batch_shard, self.grad_checkpointing = (0, 1), False
        self.conv1 = folded_stem(model.conv1, model.bn1)
        self.bn1 = nn.Identity()  # type: ignore[assignment]
        self.act1 = nn.ReLU(inplace=True)
        self.maxpool = copy.deepcopy(model.maxpool)
        for index, stage in enumerate(model.stages, start=1):
            self.add_module(f"layer{index}", nn.Sequential(*(fused_block(block) for block in stage)))
        self.global_pool = copy.deepcopy(model.global_pool)
        self.fc = copy.deepcopy(model.fc)
        skipped = self._skip_unused_pixels(model) if skip_unused else 0
        self.rewrites = Rewrites(
            batch_norms_folded=sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()),
            gates_first=sum(isinstance(m, GateFirstBlock) for m in self.modules()),
            gates_last=sum(isinstance(m, SqueezeExcite) for m in self.modules()),
            unused_pixels=skipped,
        )
        self.requires_grad_(False).eval()

    def _skip_unused_pixels(self, model: SEResNet) -> int:
        """Compute no pixel that the next stage skips; return the number of stages where that is so."""
        done = 0
        for index in range(1, len(model.stages)):
            if not len(model.stages[index]):  # removed by `prune_intermediate_layers`
                break
            before = self.stages[index - 1][-1]
            skips = isinstance(before, FusedBlock) and not isinstance(before, GateLastBlock)
            if skips and strides_over_its_input(model.stages[index][0]):
                before.compute_quarter()  # type: ignore[operator]
                self.stages[index][0].read_quarter()  # type: ignore[operator]
                self.feature_info[index]["reduction"] *= 2
                done += 1
        return done

    def train(self, mode: bool = True) -> FusedSEResNet:
        """Refuse training: there are no batch norms left."""
        if mode:
            raise ConfigError("a fused network cannot be trained: train the network it was made from, then fuse that")
        return super().train(False)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Refuse a new classifier, which would need training."""
        raise ConfigError("a fused network keeps its classifier: reset the original network's, then fuse it again")


def strides_over_its_input(block: nn.Module) -> bool:
    """Return whether a block reads its input through 1x1 convolutions of stride 2 alone."""
    if not isinstance(block, Bottleneck) or not isinstance(block.downsample, nn.Sequential):
        return False
    readers = (block.conv1, block.downsample[0])
    return all(isinstance(r, nn.Conv2d) and r.kernel_size == (1, 1) and r.stride == (2, 2) for r in readers)


@torch.no_grad()
def fuse_network(model: SEResNet, skip_unused: bool = True) -> FusedSEResNet:
    """Return a copy of the network fused: the same logits by less work. The network stays as it is.

    The copy computes what the network computes in evaluation mode, and stays in that mode. With ``skip_unused`` the
    feature maps of stages 1 to 3 of a legacy bottleneck network, in ``forward_intermediates``, are every other row and
    column of the network's own, as ``feature_info`` tells; without, they are complete. Raises ConfigError for a network
    that is fused already.
    """
    if isinstance(model, FusedSEResNet):
        raise ConfigError("the network is fused already: use it as it is")
    if model.cfg.output_stride < 32:
        raise ConfigError(f"a network with output_stride={model.cfg.output_stride} cannot be fused: run it as it is")
    fused = FusedSEResNet(model, skip_unused)
    log.debug("fused network: %s", fused.rewrites)
    return fused
