"""`seresnet.create_model`: a network by name, with the arguments of timm's function of this name."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Literal, overload

import torch

from seresnet.common.files import using_cache
from seresnet.errors import ConfigError, WeightsError
from seresnet.models.features import FeatureNet
from seresnet.models.resnet import SEResNet
from seresnet.models.variants import VARIANTS
from seresnet.weights.index import unknown
from seresnet.weights.load import network_of
from seresnet.weights.timm_arguments import network_settings, resolve_checkpoint, resolve_pretrained


@overload
def create_model(
    name: str | os.PathLike[str], *args: Any, features_only: Literal[True], **overrides: Any
) -> FeatureNet: ...


@overload
def create_model(name: str | os.PathLike[str], *args: Any, **overrides: Any) -> SEResNet: ...


def create_model(  # type: ignore[misc]  # one implementation for both
    name: str | os.PathLike[str],
    pretrained: bool = False,
    num_classes: int | None = None,
    in_chans: int | None = None,
    offline: bool | None = None,
    *,
    arch: str | None = None,
    checkpoint_path: str | os.PathLike[str] | None = None,
    pretrained_cfg: str | Mapping[str, Any] | None = None,
    pretrained_cfg_overlay: Mapping[str, Any] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    features_only: bool = False,
    out_indices: int | Sequence[int] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **overrides: Any,
) -> SEResNet | FeatureNet:
    """Return a network by name, with its published or your own weights where ``pretrained``.

    ``name`` is an architecture (``legacy_seresnet50``; its first weights in the index), ``arch.tag``,
    ``hf-hub:user/repo[@revision]``, ``local-dir:path`` or a directory (``config.json`` with ``model.safetensors``), or
    a ``.safetensors`` or ``.pth`` file, in timm's, Cadene's or this project's keys; of a training checkpoint the
    averaged weights are taken where it has them. ``arch`` is the architecture of a file whose tensors do not tell it.
    Another ``num_classes`` replaces the classifier by a new one; another ``in_chans`` adapts the first convolution.
    ``overrides`` are fields of `SEResNetConfig`, such as ``drop_rate``, ``global_pool`` or ``output_stride``.
    ``offline`` makes no request; None follows ``HF_HUB_OFFLINE``.

    The other arguments are timm's: ``checkpoint_path`` is a file for the named architecture (its classes have to be
    ``num_classes``); ``pretrained_cfg`` a tag, or what is known of the weights, such as ``{"file": path}``, and
    ``pretrained_cfg_overlay`` what to change of it; ``cache_dir`` the folder to download to; ``features_only`` gives a
    `FeatureNet` for ``out_indices``; ``device`` and ``dtype`` are where and as what the tensors are made.

    The model has ``labels``, ``label_ids`` and ``preprocess``, and is in training mode; without ``device`` and
    ``dtype`` it lies in float32 on the CPU. Raises WeightsError for weights that cannot be had or do not fit,
    ConfigError for a setting out of its range, and ArgumentError (a TypeError too) for an unknown one.
    """
    settings = network_settings(overrides)
    _check_numbers(num_classes, in_chans)
    if arch is not None and arch not in VARIANTS:
        raise unknown(arch, list(VARIANTS))
    on_device = nullcontext() if device is None or pretrained or checkpoint_path else torch.device(device)
    with using_cache(cache_dir):
        if checkpoint_path:
            source, pretrained = resolve_checkpoint(os.fspath(name), os.fspath(checkpoint_path)), True
        else:
            source = resolve_pretrained(os.fspath(name), pretrained, offline, pretrained_cfg, pretrained_cfg_overlay)
    with on_device:
        classes = None if checkpoint_path else num_classes
        network = network_of(source, pretrained, classes, in_chans, arch, settings)
    if checkpoint_path and num_classes not in (None, network.num_classes):
        raise WeightsError(f"{checkpoint_path}: has {network.num_classes} classes, not {num_classes}")
    if device is not None or dtype is not None:
        network = network.to(device or next(network.parameters()).device, dtype)
    return FeatureNet(network, out_indices) if features_only else network


def _check_numbers(num_classes: int | None, in_chans: int | None) -> None:
    if num_classes is not None and num_classes < 0:
        raise ConfigError(f"num_classes is {num_classes}; it must be 0 (no classifier) or more")
    if in_chans is not None and in_chans < 1:
        raise ConfigError(f"in_chans is {in_chans}; it must be 1 or more")
