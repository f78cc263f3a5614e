"""From a name, a repository, a directory or a file to a network with its weights, class names and preprocessing."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Mapping
from dataclasses import fields, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from seresnet.errors import ConfigError, WeightsError
from seresnet.models.config import SEResNetConfig
from seresnet.models.resnet import SEResNet
from seresnet.models.variants import VARIANTS
from seresnet.weights.convert import is_legacy, normalized
from seresnet.weights.identify import adapt_first_convolution, build_on_meta, check_fit, declared, guess_architecture
from seresnet.weights.index import default_transform, unknown
from seresnet.weights.read import read_checkpoint
from seresnet.weights.source import Origin, locate

log = logging.getLogger("seresnet")


def create_model(
    name: str | os.PathLike[str],
    pretrained: bool = False,
    num_classes: int | None = None,
    in_chans: int | None = None,
    offline: bool | None = None,
    *,
    arch: str | None = None,
    **overrides: Any,
) -> SEResNet:
    """Return a network by name, with its published or your own weights where ``pretrained``.

    ``name`` is an architecture (``legacy_seresnet50``; its first weights in the index), ``arch.tag``,
    ``hf-hub:user/repo[@revision]``, a directory (``config.json`` with ``model.safetensors``), or a ``.safetensors`` or
    ``.pth`` file, in timm's, Cadene's or this project's keys; of a training checkpoint the averaged weights are taken
    where it has them. ``arch`` is the architecture of a file whose tensors do not tell it. Another ``num_classes``
    replaces the classifier by a new one; another ``in_chans`` adapts the first convolution. ``overrides`` are fields of
    `SEResNetConfig`, such as ``drop_rate``. ``offline`` makes no request; None follows ``HF_HUB_OFFLINE``.

    The model has ``labels``, ``label_ids`` and ``preprocess``, is in training mode, and lies in float32 on the CPU.
    Raises WeightsError for weights that cannot be had or do not fit, and ConfigError for an unknown setting.
    """
    _check_settings(num_classes, in_chans, overrides)
    origin = locate(os.fspath(name), pretrained, offline)
    if arch is not None and arch not in VARIANTS:
        raise unknown(arch, list(VARIANTS))
    origin.arch = arch or origin.arch
    return network_of(origin, pretrained, num_classes, in_chans, overrides)


def network_of(
    origin: Origin,
    pretrained: bool = True,
    num_classes: int | None = None,
    in_chans: int | None = None,
    overrides: Mapping[str, Any] = MappingProxyType({}),
) -> SEResNet:
    """Return the network of an origin that was located, see `create_model`."""
    if origin.path is None and pretrained:
        reason = "no published weights; see `seresnet models --pretrained` for those there are"
        if origin.graph:
            reason = f"{origin.graph.name} is for inference alone; open it with seresnet.load, or give its weights"
        raise WeightsError(f"{origin.name}: {reason}")
    if origin.path is None:
        assert origin.arch is not None
        return _new(origin, origin.arch, num_classes, in_chans, overrides)
    checkpoint = read_checkpoint(origin.path, origin.sha256)
    state, legacy, recorded = normalized(checkpoint.state), is_legacy(checkpoint.state), checkpoint.arch
    del checkpoint  # so that each tensor's memory goes as soon as it is copied
    found = origin.arch or guess_architecture(state, legacy, origin.path, recorded)
    if not pretrained:
        origin.num_classes, origin.settings["in_chans"] = declared(state)
        return _new(origin, found, num_classes, in_chans, overrides)
    return _loaded(origin, found, state, num_classes, in_chans, overrides)


def _new(
    origin: Origin, arch: str, num_classes: int | None, in_chans: int | None, overrides: Mapping[str, Any]
) -> SEResNet:
    """Return the network with new random weights; the classes keep their names where their number stays."""
    classes = num_classes if num_classes is not None else origin.num_classes
    cfg = _config(arch, origin, overrides)
    cfg = replace(cfg, num_classes=cfg.num_classes if classes is None else classes)
    cfg = replace(cfg, in_chans=cfg.in_chans if in_chans is None else in_chans)
    build_on_meta(cfg)  # complains of sizes that make no network
    model = SEResNet(cfg)
    if model.num_classes == origin.num_classes:
        model.labels, model.label_ids = list(origin.labels), list(origin.label_ids)
        model.multi_label = origin.multi_label
    _describe(model, origin, arch)
    return model


def _loaded(
    origin: Origin,
    arch: str,
    state: dict[str, Tensor],
    num_classes: int | None,
    in_chans: int | None,
    overrides: Mapping[str, Any],
) -> SEResNet:
    """Return the network with its weights, and with another classifier or first convolution if asked for."""
    assert origin.path is not None
    model = build_on_meta(_source(origin, arch, state, num_classes, overrides))
    check_fit(state, model.cfg, origin.path)
    if origin.labels and len(origin.labels) != model.num_classes:
        names = f"{len(origin.labels)} class names for {model.num_classes} classes"
        raise WeightsError(f"{origin.name}: config.json has {names}; mend it")
    model.labels, model.label_ids = list(origin.labels), list(origin.label_ids)
    model.multi_label = origin.multi_label
    if in_chans is not None and in_chans != model.in_chans:
        first = "conv1.weight" if "conv1.weight" in state else "conv1.0.weight"
        state[first] = adapt_first_convolution(state[first], in_chans)
        model = _with_channels(model, in_chans)
    model.load_state_dict(_own(state, model), assign=True)
    _describe(model, origin, arch)
    if num_classes is not None and num_classes != model.num_classes:
        log.info("%s: a new classifier of %d classes in place of %d", origin.name, num_classes, model.num_classes)
        model.reset_classifier(num_classes)
        model.pretrained_cfg.update(num_classes=num_classes, tag="")
    if origin.global_pool == "" and model.num_classes == 0:
        model.reset_classifier(0, "")
    return model


def _source(
    origin: Origin, arch: str, state: Mapping[str, Tensor], num_classes: int | None, overrides: Mapping[str, Any]
) -> SEResNetConfig:
    """Return the configuration of the network that the tensors are for."""
    classes, chans = declared(state)
    cfg = _config(arch, origin, overrides)
    wanted = origin.num_classes
    if wanted is None and classes is None and num_classes is None:
        raise WeightsError(
            f"{origin.path}: has no classifier (fc.weight); pass num_classes=0, or a number for a new one"
        )
    if wanted is not None and wanted != (classes or 0):
        has, kept = f"has {classes or 'no'} classes", f"not the {wanted} that are known of it"
        raise WeightsError(f"{origin.path}: {has}, {kept}; mend config.json, or take the right file")
    return replace(cfg, num_classes=classes or 0, in_chans=chans)


def _with_channels(model: SEResNet, in_chans: int) -> SEResNet:
    other = build_on_meta(replace(model.cfg, in_chans=in_chans))
    other.labels, other.label_ids, other.multi_label = model.labels, model.label_ids, model.multi_label
    return other


def _own(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Copy the tensors out of the file one by one, as float32; fill in the batch counters that old files lack."""
    own = {}
    for key, like in model.state_dict().items():
        value = state.pop(key, None)
        if value is None:
            own[key] = torch.zeros(like.shape, dtype=like.dtype)
        else:
            own[key] = value.detach().to(like.dtype, copy=True, memory_format=torch.contiguous_format)
    return own


def _describe(model: SEResNet, origin: Origin, arch: str) -> None:
    """Set the transform and what timm calls ``pretrained_cfg``."""
    if origin.preprocess is None and origin.path is not None:
        log.info("%s: no preprocessing is known of it; it gets the one of %s", origin.name, arch)
    model.preprocess = (origin.preprocess or default_transform(arch)).with_channels(model.in_chans)
    facts = {"architecture": arch, "tag": origin.tag, "num_classes": model.num_classes}
    model.pretrained_cfg = facts | model.preprocess.to_timm()


def _config(arch: str, origin: Origin, overrides: Mapping[str, Any]) -> SEResNetConfig:
    """Return the architecture's row with the settings of the directory, and over them the caller's."""
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in overrides.items()}
    return replace(VARIANTS[arch], **{**origin.settings, **values})


def _check_settings(num_classes: int | None, in_chans: int | None, overrides: Mapping[str, Any]) -> None:
    if num_classes is not None and num_classes < 0:
        raise ConfigError(f"num_classes is {num_classes}; it must be 0 (no classifier) or more")
    if in_chans is not None and in_chans < 1:
        raise ConfigError(f"in_chans is {in_chans}; it must be 1 or more")
    known = [item.name for item in fields(SEResNetConfig)]
    for key in overrides:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise ConfigError(f"{key} is no setting of a network; {hint}")
