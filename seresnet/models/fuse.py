"""Fused networks for inference: the same function, with its excitations at almost no cost.

Three exact rewrites, each of which changes the order of the arithmetic and no result beyond rounding:

1. Batch norms fold into the convolutions before them.
2. The gate comes first. A block ends in ``relu(s * u + shortcut)`` with ``u = W h + b``, and its excitation
   ``s = sigmoid(F2 relu(F1 mean(u) + c1) + c2)`` needs the mean of ``u`` alone. A 1x1 convolution lets the mean pass:
   ``F1 mean(u) = (F1 W) mean(h) + F1 b``, from a tensor four times smaller, before the convolution starts. Of a 3x3
   convolution with padding 1, the tap that looks up misses the last row of ``h``, the one that looks left misses the
   last column, and so on: its mean follows from the sums of ``h``, of its four edges and of its four corners.
   Where a ReLU stands between convolution and excitation (legacy 18 and 34) nothing of this holds: the order stays.
3. Unused pixels. In the legacy bottleneck networks a stage reads its input only through 1x1 convolutions of stride 2:
   of four pixels that the last block before it outputs, three are never read, and need not be computed.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seresnet.errors import ConfigError
from seresnet.models.blocks import BasicBlock, Bottleneck
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


def folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return weight and bias, float64, of the one convolution that does what ``norm(conv(x))`` does in evaluation."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight.detach().cpu().double() / (norm.running_var.cpu().double() + norm.eps).sqrt()
    bias = norm.bias.detach().cpu().double() - norm.running_mean.cpu().double() * scale
    return conv.weight.detach().cpu().double() * scale[:, None, None, None], bias


def with_tensors(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """Return a convolution of ``conv``'s stride, padding, number format and device with other tensors."""
    like = conv.weight
    new = copy.deepcopy(conv)
    new.weight = nn.Parameter(weight.to(like.device, like.dtype), requires_grad=False)
    new.bias = nn.Parameter(bias.to(like.device, like.dtype), requires_grad=False)
    new.in_channels = weight.shape[1] * conv.groups
    return new


def fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """Return the one convolution that does what ``norm(conv(x))`` does in evaluation."""
    return with_tensors(conv, *folded(conv, norm))


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

        Each is a mean over its own extent, times the share of the area that this is, so that none overflows.
        """
        height, width = h.shape[2:]
        top, bottom = h[:, :, :1], h[:, :, -1:]  # (N, C', 1, W); the same row where H is 1
        rows = [edge.mean(3, keepdim=True) / height for edge in (top, bottom)]
        columns = [edge.mean(2, keepdim=True) / width for edge in (h[..., :1], h[..., -1:])]
        corners = [corner / (height * width) for edge in (top, bottom) for corner in (edge[..., :1], edge[..., -1:])]
        return torch.cat((h.mean((2, 3), keepdim=True), *rows, *columns, *corners), dim=1)


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
        """Take an input of which every other row and column is left, in place of striding over it."""
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
        kind = GateLastBlock if model.cfg.relu_before_se else GateFirstBlock if model.cfg.reduction else FusedBlock
        for index, stage in enumerate(model.stages, start=1):
            self.add_module(f"layer{index}", nn.Sequential(*(kind(block) for block in stage)))  # type: ignore[arg-type]
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
            before = self.stages[index - 1][-1]
            if isinstance(before, GateFirstBlock) and strides_over_its_input(model.stages[index][0]):
                before.compute_quarter()
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


def folded_stem(stem: nn.Module, norm: nn.BatchNorm2d) -> nn.Module:
    """Return the stem's convolutions with all of its batch norms folded."""
    if isinstance(stem, nn.Conv2d):
        return fold(stem, norm)
    layers = [*stem.children(), norm]
    new: list[nn.Module] = []
    for layer, following in pairwise(layers):
        if isinstance(layer, nn.Conv2d):
            assert isinstance(following, nn.BatchNorm2d)
            new.append(fold(layer, following))
        elif isinstance(layer, nn.ReLU):
            new.append(nn.ReLU(inplace=True))
    return nn.Sequential(*new)


def strides_over_its_input(block: nn.Module) -> bool:
    """Return whether a block reads its input through 1x1 convolutions of stride 2 alone."""
    if not isinstance(block, Bottleneck) or not isinstance(block.downsample, nn.Sequential):
        return False
    readers = (block.conv1, block.downsample[0])
    return all(isinstance(r, nn.Conv2d) and r.kernel_size == (1, 1) and r.stride == (2, 2) for r in readers)


@torch.no_grad()
def fuse_network(model: SEResNet, skip_unused: bool = True) -> FusedSEResNet:
    """Return a copy of the network fused: the same logits by less work. The network stays as it is.

    The form computes what the network computes in evaluation mode, whichever mode that is in, and stays in it. With
    ``skip_unused`` the feature maps of stages 1 to 3 of a legacy bottleneck network, in ``forward_intermediates``, are
    every other row and column of the network's own (``feature_info`` tells so); without, they are whole. Raises
    ConfigError for a network that is fused already.
    """
    if isinstance(model, FusedSEResNet):
        raise ConfigError("the network is fused already: use it as it is")
    if model.cfg.output_stride < 32:
        raise ConfigError(f"a network with output_stride={model.cfg.output_stride} cannot be fused: run it as it is")
    form = FusedSEResNet(model, skip_unused)
    log.debug("fused network: %s", form.rewrites)
    return form
