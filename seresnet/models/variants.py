"""The table of architectures: one row each, and a few shared values. To add a network, add a row.

Imports no torch, so that names are resolved without it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from seresnet.models.config import SEResNetConfig

if TYPE_CHECKING:
    from seresnet.models.resnet import SEResNet

C = SEResNetConfig

D18, D34, D50, D101, D152 = (2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 6, 3), (3, 4, 23, 3), (3, 8, 36, 3)
D26, D200, D201, D269 = (2, 2, 2, 2), (3, 24, 36, 3), (3, 24, 36, 4), (3, 30, 48, 8)

# Caffe lineage (Hu's release, by way of Cadene's conversion).
LEGACY: dict[str, Any] = {"lineage": "legacy", "stem_pool": "max_ceil", "squeeze_divisor": 1, "drop_rate": 0.2}
LEGACY_BASIC: dict[str, Any] = {**LEGACY, "block": "basic", "relu_before_se": True}
LEGACY_CAFFE: dict[str, Any] = {**LEGACY, "stride_in": "conv1"}
SENET154: dict[str, Any] = {
    "groups": 64,
    "base_width": 4,
    "first_width_divisor": 2,
    "stem": "deep",
    "downsample_kernel": 3,
}

# Modern lineage. "D": deep stem and mean-pooled shortcuts; "T": a tiered stem; "AA": anti-aliased strides.
D: dict[str, Any] = {"stem": "deep", "stem_width": 32, "downsample": "avg"}
T: dict[str, Any] = {**D, "stem": "tiered"}
AA: dict[str, Any] = {**D, "anti_alias": True, "stem_pool": "avg"}
X4: dict[str, Any] = {"groups": 32, "base_width": 4}
X8: dict[str, Any] = {"groups": 32, "base_width": 8}

# He et al.'s networks for 32x32 images (arXiv 1512.03385, section 4.2), with projection shortcuts.
CIFAR: dict[str, Any] = {
    "lineage": "cifar",
    "block": "basic",
    "channels": (16, 32, 64),
    "stem": "conv3",
    "stem_width": 16,
    "stem_pool": "none",
    "num_classes": 10,
}

VARIANTS: dict[str, SEResNetConfig] = {
    "legacy_seresnet18": C(D18, **LEGACY_BASIC),
    "legacy_seresnet34": C(D34, **LEGACY_BASIC),
    "legacy_seresnet50": C(D50, **LEGACY_CAFFE),
    "legacy_seresnet101": C(D101, **LEGACY_CAFFE),
    "legacy_seresnet152": C(D152, **LEGACY_CAFFE),
    "legacy_seresnext26_32x4d": C(D26, **LEGACY, **X4),
    "legacy_seresnext50_32x4d": C(D50, **LEGACY, **X4),
    "legacy_seresnext101_32x4d": C(D101, **LEGACY, **X4),
    "legacy_senet154": C(D152, **LEGACY, **SENET154),
    "seresnet18": C(D18, block="basic"),
    "seresnet34": C(D34, block="basic"),
    "seresnet50": C(D50),
    "seresnet50t": C(D50, **T),
    "seresnet101": C(D101),
    "seresnet152": C(D152),
    "seresnet152d": C(D152, **D),
    "seresnet200d": C(D200, **D),
    "seresnet269d": C(D269, **D),
    "seresnext26d_32x4d": C(D26, **D, **X4),
    "seresnext26t_32x4d": C(D26, **T, **X4),
    "seresnext50_32x4d": C(D50, **X4),
    "seresnext101_32x4d": C(D101, **X4),
    "seresnext101_32x8d": C(D101, **X8),
    "seresnext101_64x4d": C(D101, groups=64, base_width=4),
    "seresnext101d_32x8d": C(D101, **D, **X8),
    "seresnetaa50d": C(D50, **AA),
    "seresnextaa101d_32x8d": C(D101, **AA, **X8),
    "seresnextaa201d_32x8d": C(D201, **{**AA, "stem_width": 64}, **X8),
    "senet154": C(D152, **SENET154),
    "resnet18": C(D18, block="basic", reduction=None),
    "resnet34": C(D34, block="basic", reduction=None),
    "resnet50": C(D50, reduction=None),
    "resnet101": C(D101, reduction=None),
    "resnet152": C(D152, reduction=None),
    **{f"seresnet{6 * n + 2}": C((n, n, n), **CIFAR) for n in (3, 5, 9, 18)},
    **{f"resnet{6 * n + 2}": C((n, n, n), reduction=None, **CIFAR) for n in (3, 5, 9, 18)},
}


def build(arch: str, **overrides: Any) -> SEResNet:
    """Return the network ``arch`` with new random weights; ``overrides`` are fields of `SEResNetConfig`."""
    from seresnet.models.resnet import SEResNet

    return SEResNet(replace(VARIANTS[arch], **overrides))
