"""The configuration that tells the networks of the family apart. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

POOL_TYPES = ("avg", "max", "avgmax", "catavgmax", "")  # timm's; "" leaves the feature map as it is


@dataclass(frozen=True)
class SEResNetConfig:
    """What differs between the networks of the family. Widths are in channels, strides and kernels in pixels."""

    layers: tuple[int, ...]  # blocks in each stage
    block: Literal["basic", "bottleneck"] = "bottleneck"
    channels: tuple[int, ...] = (64, 128, 256, 512)  # base width of each stage; a bottleneck outputs four times that
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
    blocks_without_se: tuple[str, ...] = ()  # blocks ("layer1.0") that have none in a network that has it otherwise
    squeeze_divisor: int = 8  # the excitation's inner width is a multiple of this
    relu_before_se: bool = False  # legacy basic blocks: a ReLU between bn2 and the excitation
    lineage: Literal["legacy", "modern", "cifar"] = "modern"  # whose state dict keys timm expects
    num_classes: int = 1000
    in_chans: int = 3
    drop_rate: float = 0.0  # dropout before the classifier, in training
    drop_path_rate: float = 0.0  # stochastic depth of the last block; linear from 0 at the first (arXiv 1603.09382)
    global_pool: Literal["avg", "max", "avgmax", "catavgmax", ""] = "avg"  # "": the feature map is the output
    output_stride: Literal[8, 16, 32] = 32  # below 32 the last stages dilate in place of striding
    zero_init_last: bool = True  # new weights: 0 for the last batch norm of each block (arXiv 1706.02677, section 5.1)
