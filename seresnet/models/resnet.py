"""One network for the whole family: SE-ResNet, SE-ResNeXt, SENet-154, and the same networks without excitation.

What differs between them is in `SEResNetConfig` (`config.py`); the table of architectures is `variants.py`.
Module names follow timm's `resnet.py`, so that a state dict of a modern timm model fits as it is.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._jit_internal import is_scripting
from torch.nn import functional as F

from seresnet.models.blocks import BLOCKS, Block, Spacing, dropped
from seresnet.models.checkpointing import checkpointed_blocks
from seresnet.models.config import SEResNetConfig
from seresnet.models.pooling import GlobalPool2d

# No postponed annotations: torch.fx writes those of `forward` into its code, where TorchScript reads them.


def stem_convolutions(cfg: SEResNetConfig) -> tuple[nn.Module, int]:
    """Return the convolutions in front of the first stage and the number of channels that they output."""
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


def stage_spacings(cfg: SEResNetConfig, reduction: int) -> list[Spacing]:
    """Return the spacing of each stage's first block, where the stem reduces its image by ``reduction``.

    From ``output_stride`` on, a stage dilates where it would stride (arXiv 1606.00915, section 3.1).
    """
    spacings: list[Spacing] = []
    dilation = 1
    for index in range(len(cfg.layers)):
        stride, before = 1 if index == 0 else 2, dilation
        if cfg.output_stride < 32 and reduction >= cfg.output_stride:
            stride, dilation = 1, dilation * stride
        reduction *= stride
        spacings.append(Spacing(stride, dilation, before))
    return spacings


def take_indices(count: int, indices: int | list[int] | None) -> list[int]:
    """Return indices of ``count`` feature maps: those of a list (negative: from the end), the last n, or all."""
    if indices is None:
        return list(range(count))
    chosen = list(range(-indices, 0) if isinstance(indices, int) else indices)
    if not chosen or not all(-count <= i < count for i in chosen):
        raise ValueError(f"indices is {indices!r}: this network has feature maps 0 to {count - 1}")
    return [i % count for i in chosen]


class SEResNet(nn.Module):
    """An SE-ResNet by its configuration, with timm's conventions.

    ``forward`` maps ``(N, in_chans, H, W)`` to logits ``(N, num_classes)``. ``labels`` holds the class names, by
    class index, and ``preprocess`` the evaluation transform; both are set by whoever loads or trains the weights.
    The children, called one after the other, are the network (without the dropout in front of the classifier).
    """

    def __init__(self, cfg: SEResNetConfig, **overrides: Any) -> None:
        super().__init__()
        self.cfg = cfg = replace(cfg, **overrides)
        if cfg.output_stride not in (8, 16, 32) or (cfg.output_stride < 32 and cfg.lineage == "legacy"):
            raise ValueError(f"output_stride is {cfg.output_stride}: use 8, 16 or 32; a legacy network has 32 only")
        if cfg.global_pool == "" and cfg.num_classes:
            raise ValueError("global_pool '' leaves a feature map, which no classifier can follow: use num_classes=0")
        self.num_classes = cfg.num_classes
        self.in_chans = cfg.in_chans
        self.drop_rate = cfg.drop_rate
        self.batch_shard = (0, 1)  # this rank's part of the batch; see `dropped`
        self.grad_checkpointing = False
        self.labels: list[str] = []
        self.label_ids: list[str] = []
        self.multi_label = False  # whether an image may have several of them, or none
        self.preprocess: Any = None
        self.pretrained_cfg: dict[str, Any] = {}
        self.weights_tag = ""  # of the published weights that it was loaded with

        self.conv1, width = stem_convolutions(cfg)
        self.bn1 = nn.BatchNorm2d(width)
        self.act1 = nn.ReLU(inplace=True)
        self.maxpool = stem_pool(cfg.stem_pool)
        reduction = 1 if cfg.stem == "conv3" else 2
        self.feature_info: list[dict[str, Any]] = [{"num_chs": width, "reduction": reduction, "module": "act1"}]
        reduction *= 1 if cfg.stem_pool == "none" else 2
        for index, spacing in enumerate(stage_spacings(cfg, reduction)):
            stage, width = self._stage(index, width, spacing)
            self.add_module(f"layer{index + 1}", stage)
            reduction *= spacing.stride
            self.feature_info.append({"num_chs": width, "reduction": reduction, "module": f"layer{index + 1}"})

        self.num_features = width
        self.global_pool = GlobalPool2d(cfg.global_pool)
        self.head_hidden_size = width * self.global_pool.feat_mult()
        self.fc: nn.Module = nn.Linear(self.head_hidden_size, cfg.num_classes) if cfg.num_classes else nn.Identity()
        self.init_weights()

    def _stage(self, index: int, width: int, spacing: Spacing) -> tuple[nn.Sequential, int]:
        cfg = self.cfg
        before, total = sum(cfg.layers[:index]), sum(cfg.layers)
        blocks: list[nn.Module] = []
        for i in range(cfg.layers[index]):
            drop_path = cfg.drop_path_rate * (before + i) / max(1, total - 1)
            own = replace(cfg, reduction=None) if f"layer{index + 1}.{i}" in cfg.blocks_without_se else cfg
            block = BLOCKS[cfg.block](own, width, cfg.channels[index], spacing, drop_path)
            blocks.append(block)
            width = block.out_width
            spacing = Spacing(1, spacing.dilation, spacing.dilation)
        return nn.Sequential(*blocks), width

    def init_weights(self) -> None:
        """Draw new weights: He's normal by fan-out, and zero for the last batch norm of each residual branch.

        With the zero, every block starts as an identity, which eases the start of training (arXiv 1706.02677, section
        5.1); ``zero_init_last=False`` leaves the 1. A legacy basic block has a ReLU behind that batch norm, which would
        pass no gradient at zero: there it stays 1.
        """
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d):
                if ".se." not in name:
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, Block) and self.cfg.zero_init_last and not module.relu_before_se:
                nn.init.zeros_(module.last_norm().weight)

    @property
    @torch.jit.unused
    def stages(self) -> list[nn.Sequential]:
        """The stages ``layer1``, ``layer2``, ... in order."""
        return [self.get_submodule(f"layer{i + 1}") for i in range(len(self.cfg.layers))]  # type: ignore[misc]

    @property
    @torch.jit.unused
    def default_cfg(self) -> dict[str, Any]:
        """What timm calls ``pretrained_cfg``, by its older name."""
        return self.pretrained_cfg

    def forward_stem(self, x: Tensor) -> Tensor:
        """Return the stem's features before its pooling: ``(N, in_chans, H, W) -> (N, C, H/2, W/2)``."""
        return self.act1(self.bn1(self.conv1(x)))

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map: ``(N, in_chans, H, W) -> (N, num_features, H/32, W/32)``."""
        x = self.maxpool(self.forward_stem(x))
        for name, stage in self.named_children():
            if name.startswith("layer"):
                if not is_scripting() and self.grad_checkpointing and self.training:
                    x = checkpointed_blocks(stage, x)
                else:
                    x = stage(x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits ``(N, num_classes)`` from a feature map, or with ``pre_logits`` the pooled ``(N, C)``."""
        x = self.global_pool(x)
        if not is_scripting() and self.batch_shard != (0, 1):
            if self.drop_rate > 0.0 and self.training:
                x = dropped(x, x.shape, self.drop_rate, self.batch_shard)
        elif self.drop_rate > 0.0:
            x = F.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return ``(last, [features...])``: the stem's feature map (index 0) and each stage's, as timm does.

        ``indices`` is a list of indices, a number n for the last n, or None for all; ``stop_early`` skips the stages
        behind the last one asked for; ``intermediates_only`` returns the list alone. ``norm`` changes nothing here.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt is {output_fmt!r}: an SE-ResNet gives NCHW feature maps only")
        wanted = take_indices(len(self.feature_info), indices)
        x = self.forward_stem(x)
        kept = [x] if 0 in wanted else []
        x = self.maxpool(x)
        for index, stage in enumerate(self.stages, start=1):
            if stop_early and index > max(wanted):
                break
            x = checkpointed_blocks(stage, x) if self.grad_checkpointing and self.training else stage(x)
            if index in wanted:
                kept.append(x)
        return kept if intermediates_only else (x, kept)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the stages behind the last of the feature maps ``indices``, and the classifier; return the indices.

        A classifier stays only with ``prune_head=False`` and the last feature map. ``prune_norm`` changes nothing here.
        """
        chosen = take_indices(len(self.feature_info), indices)
        last = max(chosen)
        for index in range(last + 1, len(self.feature_info)):
            setattr(self, f"layer{index}", nn.Sequential())
        if last == 0:
            self.maxpool = nn.Identity()
        if last < len(self.feature_info) - 1:
            self.num_features = self.feature_info[last]["num_chs"]
            prune_head = True
        if prune_head:
            self.reset_classifier(0, "")
        return chosen

    def get_classifier(self, name_only: bool = False) -> nn.Module | str:
        """Return the classifier, or its name."""
        return "fc" if name_only else self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a new one of ``num_classes`` outputs (0: none), and forget the labels.

        ``global_pool`` is a kind of `GlobalPool2d`; None keeps the present one, and gives a network without pooling its
        mean where it gets classes. Raises ValueError for an explicit ``""`` with classes.
        """
        if global_pool is None:
            global_pool = self.global_pool.pool_type or ("avg" if num_classes else "")
        pool = GlobalPool2d(global_pool)
        if pool.pool_type == "" and num_classes:
            raise ValueError(f"global_pool '' leaves a feature map: no {num_classes} classes can follow; use 'avg'")
        like = next(self.parameters())
        self.num_classes, self.global_pool = num_classes, pool.train(self.training)
        self.head_hidden_size = self.num_features * pool.feat_mult()
        self.cfg = replace(self.cfg, num_classes=num_classes, global_pool=pool.pool_type)  # type: ignore[arg-type]
        self.labels, self.label_ids, self.multi_label = [], [], False
        if num_classes:
            self.fc = nn.Linear(self.head_hidden_size, num_classes, device=like.device, dtype=like.dtype)
        else:
            self.fc = nn.Identity()
        self.fc.train(self.training)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations: less memory, more time."""
        self.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Return regular expressions that sort parameter names into groups by depth, for layer-wise learning rates."""
        return {"stem": r"^(?:conv1|bn1)", "blocks": r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"}
