"""One network for the whole family: SE-ResNet, SE-ResNeXt, SENet-154, and the same networks without excitation.

What differs between them is in `SEResNetConfig`; the table of architectures is `variants.py`.
Module names follow timm's `resnet.py`, so that a state dict of a modern timm model fits as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seresnet.models.recompute import recomputed
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


def stem_convolutions(cfg: SEResNetConfig) -> tuple[nn.Module, int]:
    """Return the convolutions in front of the first stage and the number of channels that they put out."""
    if cfg.stem == "conv7":
        return nn.Conv2d(cfg.in_chans, cfg.stem_width, 7, 2, padding=3, bias=False), cfg.stem_width
    if cfg.stem == "conv3":
        return nn.Conv2d(cfg.in_chans, cfg.stem_width, 3, padding=1, bias=False), cfg.stem_width
    first = 3 * (cfg.stem_width // 4) if cfg.stem == "tiered" else cfg.stem_width
    layers: list[nn.Module] = []
    for in_width, out_width, stride in ((cfg.in_chans, first, 2), (first, cfg.stem_width, 1)):
        layers += [nn.Conv2d(in_width, out_width, 3, stride, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(out_width), nn.ReLU(inplace=True)]
    layers.append(nn.Conv2d(cfg.stem_width, 2 * cfg.stem_width, 3, padding=1, bias=False))
    return nn.Sequential(*layers), 2 * cfg.stem_width


def stem_pool(kind: str) -> nn.Module:
    """Return the pooling between the stem and the first stage."""
    pools: dict[str, nn.Module] = {
        "max": nn.MaxPool2d(3, 2, padding=1),
        "max_ceil": nn.MaxPool2d(3, 2, ceil_mode=True),  # Caffe's rounding; no padding
        "avg": nn.AvgPool2d(2),
        "none": nn.Identity(),
    }
    return pools[kind]


class SEResNet(nn.Module):
    """An SE-ResNet by its configuration, with timm's conventions.

    ``forward`` maps ``(N, in_chans, H, W)`` to logits ``(N, num_classes)``. ``labels`` holds the class names, by
    class index, and ``preprocess`` the evaluation transform; both are set by whoever loads or trains the weights.
    """

    def __init__(self, cfg: SEResNetConfig, **overrides: Any) -> None:
        super().__init__()
        self.cfg = cfg = replace(cfg, **overrides)
        self.num_classes = cfg.num_classes
        self.in_chans = cfg.in_chans
        self.drop_rate = cfg.drop_rate
        self.grad_checkpointing = False
        self.labels: list[str] = []
        self.label_ids: list[str] = []
        self.preprocess: Any = None
        self.pretrained_cfg: dict[str, Any] = {}

        self.conv1, width = stem_convolutions(cfg)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = stem_pool(cfg.stem_pool)
        reduction = 1 if cfg.stem == "conv3" else 2
        self.feature_info: list[dict[str, Any]] = [{"num_chs": width, "reduction": reduction, "module": "bn1"}]
        reduction *= 1 if cfg.stem_pool == "none" else 2
        for index in range(len(cfg.layers)):
            stride = 1 if index == 0 else 2
            stage, width = self._stage(index, width, stride)
            self.add_module(f"layer{index + 1}", stage)
            reduction *= stride
            self.feature_info.append({"num_chs": width, "reduction": reduction, "module": f"layer{index + 1}"})

        self.num_features = self.head_hidden_size = width
        self.global_pool = "avg"
        self.fc: nn.Module = nn.Linear(width, cfg.num_classes) if cfg.num_classes else nn.Identity()
        self.init_weights()

    def _stage(self, index: int, width: int, stride: int) -> tuple[nn.Sequential, int]:
        cfg = self.cfg
        before, total = sum(cfg.layers[:index]), sum(cfg.layers)
        blocks: list[nn.Module] = []
        for i in range(cfg.layers[index]):
            drop_path = cfg.drop_path_rate * (before + i) / max(1, total - 1)
            block = BLOCKS[cfg.block](cfg, width, cfg.channels[index], stride if i == 0 else 1, drop_path)
            blocks.append(block)
            width = block.out_width
        return nn.Sequential(*blocks), width

    def init_weights(self) -> None:
        """Draw new weights: He's normal by fan-out, and zero for the last batch norm of each residual branch.

        With the zero, every block starts as an identity, worth 0.2 to 0.3 % top-1 (arXiv 1706.02677, section 5.1).
        A legacy basic block has a ReLU behind that batch norm, which would pass no gradient at zero: there it stays 1.
        """
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d):
                if ".se." not in name:
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, Block) and not module.relu_before_se:
                last = module.bn3 if isinstance(module, Bottleneck) else module.bn2
                nn.init.zeros_(last.weight)

    @property
    def stages(self) -> list[nn.Sequential]:
        """The stages ``layer1``, ``layer2``, ... in order."""
        return [self.get_submodule(f"layer{i + 1}") for i in range(len(self.cfg.layers))]  # type: ignore[misc]

    def forward_stem(self, x: Tensor) -> Tensor:
        """Return the stem's features before its pooling: ``(N, in_chans, H, W) -> (N, C, H/2, W/2)``."""
        return F.relu(self.bn1(self.conv1(x)), inplace=True)

    def _run(self, stage: nn.Sequential, x: Tensor) -> Tensor:
        if not (self.grad_checkpointing and self.training):
            return stage(x)
        for block in stage:
            x = recomputed(block, x)
        return x

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map: ``(N, in_chans, H, W) -> (N, num_features, H/32, W/32)``."""
        x = self.maxpool(self.forward_stem(x))
        for stage in self.stages:
            x = self._run(stage, x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits ``(N, num_classes)`` from a feature map, or with ``pre_logits`` the pooled ``(N, C)``."""
        if self.global_pool == "avg":
            x = x.mean((2, 3))  # (N, C, H, W) -> (N, C)
        if self.drop_rate > 0.0:
            x = F.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Return ``(last, [features...])``: the stem's feature map (index 0) and each stage's, as timm does.

        ``indices`` is a list of indices, a number n for the last n, or None for all; ``stop_early`` skips the stages
        behind the last one asked for; ``intermediates_only`` returns the list alone. ``norm`` changes nothing here.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt is {output_fmt!r}: an SE-ResNet gives NCHW feature maps only")
        wanted = self._wanted(indices)
        x = self.forward_stem(x)
        kept = [x] if 0 in wanted else []
        x = self.maxpool(x)
        for index, stage in enumerate(self.stages, start=1):
            if stop_early and index > max(wanted):
                break
            x = self._run(stage, x)
            if index in wanted:
                kept.append(x)
        return kept if intermediates_only else (x, kept)

    def _wanted(self, indices: int | Sequence[int] | None) -> set[int]:
        count = len(self.feature_info)
        if indices is None:
            return set(range(count))
        chosen = list(range(-indices, 0) if isinstance(indices, int) else indices)
        if not chosen or not all(-count <= i < count for i in chosen):
            raise ValueError(f"indices is {indices!r}: this network has feature maps 0 to {count - 1}")
        return {i % count for i in chosen}

    def get_classifier(self, name_only: bool = False) -> nn.Module | str:
        """Return the classifier, or its name."""
        return "fc" if name_only else self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a new one of ``num_classes`` outputs (0: none), and forget the labels.

        ``global_pool`` is ``"avg"`` or ``""``; without pooling there can be no classifier.
        """
        pool = self.global_pool if global_pool is None else global_pool
        if pool not in ("avg", "") or (pool == "" and num_classes):
            raise ValueError(f"global_pool {pool!r} with {num_classes} classes: use 'avg', or '' with num_classes=0")
        like = self.bn1.weight
        self.global_pool, self.num_classes = pool, num_classes
        self.cfg = replace(self.cfg, num_classes=num_classes)
        self.labels, self.label_ids = [], []
        if num_classes:
            self.fc = nn.Linear(self.num_features, num_classes, device=like.device, dtype=like.dtype)
        else:
            self.fc = nn.Identity()
        self.fc.train(self.training)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations: less memory, more time."""
        self.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Return names of parameters that take no weight decay beyond the norms and biases: none."""
        return set()

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Return regular expressions that sort parameter names into groups by depth, for layer-wise learning rates."""
        return {"stem": r"^(?:conv1|bn1)", "blocks": r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"}


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters, buffers not among them."""
    return sum(p.numel() for p in model.parameters())


@torch.no_grad()
def count_macs(model: SEResNet, size: tuple[int, int]) -> int:
    """Return multiply-accumulates of one forward pass of one ``(height, width)`` image, by torch's FlopCounterMode."""
    from torch.utils.flop_counter import FlopCounterMode

    device = model.bn1.weight.device
    was_training = model.training
    with FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, model.in_chans, *size, device=device))
    model.train(was_training)
    return counter.get_total_flops() // 2
