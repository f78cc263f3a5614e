"""One network for the whole family: SE-ResNet, SE-ResNeXt, SENet-154, and the same networks without excitation.

What differs between them is in `SEResNetConfig` (`config.py`); the table of architectures is `variants.py`.
Module names follow timm's `resnet.py`, so that a state dict of a modern timm model fits as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from seresnet.models.blocks import BLOCKS, Block, Bottleneck, dropped
from seresnet.models.checkpointing import checkpointed
from seresnet.models.config import SEResNetConfig


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
        self.batch_shard = (0, 1)  # this rank's part of the batch; see `dropped`
        self.grad_checkpointing = False
        self.labels: list[str] = []
        self.label_ids: list[str] = []
        self.multi_label = False  # whether an image may have several of them, or none
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
            x = checkpointed(block, x)
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
        if self.drop_rate > 0.0 and self.training:
            x = dropped(x, x.shape, self.drop_rate, self.batch_shard)
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
        self.labels, self.label_ids, self.multi_label = [], [], False
        if num_classes:
            self.fc = nn.Linear(self.num_features, num_classes, device=like.device, dtype=like.dtype)
        else:
            self.fc = nn.Identity()
        self.fc.train(self.training)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations: less memory, more time."""
        self.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Return regular expressions that sort parameter names into groups by depth, for layer-wise learning rates."""
        return {"stem": r"^(?:conv1|bn1)", "blocks": r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"}
