"""From a name, a repository, a directory or a file to a network with its weights, class names and preprocessing.

A pipeline of values: resolve the name, read the file, find the state dict, normalise its keys, identify the
architecture, build the network, adapt it to what is asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from seresnet.errors import WeightsError
from seresnet.models.config import SEResNetConfig
from seresnet.models.resnet import SEResNet
from seresnet.models.variants import VARIANTS
from seresnet.weights.convert import is_legacy, normalized, rename_legacy_keys
from seresnet.weights.identify import adapt_first_convolution, build_on_meta, check_tensors, declared, identify
from seresnet.weights.index import default_transform
from seresnet.weights.labels import IMAGENET_1K, imagenet_1k
from seresnet.weights.pretrained_cfg import timm_cfg
from seresnet.weights.read import read_checkpoint
from seresnet.weights.source import ModelSource
from seresnet.weights.unwrap import find_state_dict

log = logging.getLogger("seresnet")

NO_SETTINGS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Weights:
    """Tensors by this project's names, and what they are for."""

    arch: str
    state: Mapping[str, Tensor]
    num_classes: int | None  # None: there is no classifier
    in_chans: int
    notes: tuple[str, ...] = ()  # what was chosen or ignored in the file


@dataclass(frozen=True)
class LoadedNetwork:
    """A network, and what was guessed or ignored on the way: one line each, for the user."""

    network: SEResNet
    notes: tuple[str, ...] = ()


def network_of(
    source: ModelSource,
    pretrained: bool = True,
    num_classes: int | None = None,
    in_chans: int | None = None,
    arch: str | None = None,
    overrides: Mapping[str, Any] = NO_SETTINGS,
) -> SEResNet:
    """Return the network of a source that was resolved, see `seresnet.create_model`; what was guessed is logged."""
    loaded = load_network(source, pretrained, num_classes, in_chans, arch, overrides)
    for note in loaded.notes:
        log.warning("%s: %s", source.name, note)
    return loaded.network


def load_network(
    source: ModelSource,
    pretrained: bool = True,
    num_classes: int | None = None,
    in_chans: int | None = None,
    arch: str | None = None,
    overrides: Mapping[str, Any] = NO_SETTINGS,
) -> LoadedNetwork:
    """Return the network of a source that was resolved, with the notes for its user, see `seresnet.create_model`."""
    if source.path is None:
        if pretrained:
            raise _no_weights(source)
        cfg = _new_config(source, arch or source.arch or "", source.num_classes, None, num_classes, in_chans, overrides)
        return LoadedNetwork(_new(source, arch or source.arch or "", cfg))
    weights = read_weights(source, arch)
    if not pretrained:
        known = weights.num_classes, weights.in_chans
        cfg = _new_config(source, weights.arch, *known, num_classes, in_chans, overrides)
        return LoadedNetwork(_new(source, weights.arch, cfg))
    _check_classes(source, weights, num_classes)
    network = _built(source, weights, in_chans, overrides)
    keeps_classes = num_classes in (None, network.num_classes)
    notes = weights.notes + _describe(network, source, weights.arch, keeps_classes)
    return LoadedNetwork(_with_classifier(network, source, num_classes), notes)


def read_weights(source: ModelSource, arch: str | None = None) -> Weights:
    """Read a source's file, find its state dict, normalise the keys and identify the architecture."""
    assert source.path is not None
    found = find_state_dict(read_checkpoint(source.path, source.sha256), source.path)
    if found.is_training_state and source.preprocess is None:
        raise WeightsError(
            f"{source.path}: the training state of a run, without the config.json that tells its classes and "
            "preprocessing; give the model directory of the run (last or best)"
        )
    state, legacy = normalized(found.tensors), is_legacy(found.tensors)
    arch = arch or source.arch or identify(state, legacy, source.path, found.arch)
    return Weights(arch, state, *declared(state), found.notes)


def _no_weights(source: ModelSource) -> WeightsError:
    reason = "no published weights; see `seresnet models --pretrained` for those there are"
    if source.graph:
        reason = f"{source.graph.name} is for inference alone; open it with seresnet.load, or give its weights"
    return WeightsError(f"{source.name}: {reason}")


def _check_classes(source: ModelSource, weights: Weights, num_classes: int | None) -> None:
    """Raise WeightsError where the classifier in the file is kept, and is not the one that is known of it."""
    has, known = weights.num_classes, source.num_classes
    if num_classes is not None and num_classes != has:  # a new classifier, or none
        return
    if not has and known != 0:
        raise WeightsError(
            f"{source.path}: has no classifier (fc.weight); pass num_classes=0, or a number for a new one"
        )
    if known is not None and known != (has or 0):
        raise WeightsError(
            f"{source.path}: has {has or 'no'} classes, not the {known} that are known of it; fix config.json, or take "
            "the right file"
        )
    if source.labels and len(source.labels) != (has or 0):
        raise WeightsError(
            f"{source.name}: config.json has {len(source.labels)} class names for {has or 0} classes; fix it"
        )


def _built(source: ModelSource, weights: Weights, in_chans: int | None, overrides: Mapping[str, Any]) -> SEResNet:
    """Return the network with its weights, for other input channels if asked for."""
    assert source.path is not None
    cfg = replace(
        _config(weights.arch, source, overrides), num_classes=weights.num_classes or 0, in_chans=weights.in_chans
    )
    check_tensors(weights.state, cfg, source.path)
    state = dict(weights.state)
    if in_chans is not None and in_chans != weights.in_chans:
        first = "conv1.weight" if "conv1.weight" in state else "conv1.0.weight"
        state[first] = adapt_first_convolution(state[first], in_chans)
        cfg = replace(cfg, in_chans=in_chans)
    network = build_on_meta(cfg)
    network.load_state_dict(_own(state, network), assign=True)
    network.register_load_state_dict_pre_hook(rename_legacy_keys)
    return network


def _own(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Copy the tensors out of the file one by one, as float32; fill in the batch counters that old files lack."""
    own = {}
    for key, like in network.state_dict().items():
        value = state.pop(key, None)
        if value is None:
            own[key] = torch.zeros(like.shape, dtype=like.dtype)
        else:
            own[key] = value.to(like.dtype, copy=True, memory_format=torch.contiguous_format)
    return own


def _with_classifier(network: SEResNet, source: ModelSource, num_classes: int | None) -> SEResNet:
    """Return the network with a new classifier where another number of classes is asked for."""
    if num_classes is not None and num_classes != network.num_classes:
        log.info("%s: a new classifier of %d classes in place of %d", source.name, num_classes, network.num_classes)
        network.reset_classifier(num_classes)
        network.weights_tag = ""
        network.pretrained_cfg["num_classes"] = num_classes
    if source.global_pool == "" and network.num_classes == 0 and network.global_pool.pool_type == "avg":
        network.reset_classifier(0, "")
    return network


def _describe(network: SEResNet, source: ModelSource, arch: str, keeps_classes: bool) -> tuple[str, ...]:
    """Set class names, the transform and timm's ``pretrained_cfg``; return what is a guess."""
    preprocess = (source.preprocess or default_transform(arch)).with_channels(network.in_chans)
    labels, label_ids, guesses = list(source.labels), list(source.label_ids), []
    if len(labels) != network.num_classes:  # there is no classifier, or it will be replaced
        labels, label_ids = [], []
    if source.preprocess is None:
        size = " x ".join(map(str, preprocess.input_size[1:]))
        guesses.append(
            f"its preprocessing is not known, so it gets that of {arch} ({size}, {preprocess.interpolation})"
        )
    if not labels and keeps_classes and network.num_classes == IMAGENET_1K:
        ids, names = imagenet_1k()
        labels, label_ids = list(names), list(ids)
        guesses.append("its 1,000 classes have no names, so they get those of ImageNet-1k")
    elif not labels and keeps_classes and network.num_classes:
        guesses.append("its classes have no names")
    if keeps_classes and network.num_classes == 1:
        guesses.append("its one output is read as a sigmoid")
    network.labels, network.label_ids = labels, label_ids
    network.multi_label = source.multi_label or network.num_classes == 1  # one output is a sigmoid
    network.preprocess = preprocess
    network.weights_tag = source.tag
    network.pretrained_cfg = timm_cfg(network, arch, source.tag)
    return ("; ".join(guesses),) if guesses else ()


def _new(source: ModelSource, arch: str, cfg: SEResNetConfig) -> SEResNet:
    """Return the network with new random weights; the classes keep their names where their number stays."""
    build_on_meta(cfg)  # complains of sizes that make no network
    network = SEResNet(cfg)
    network.register_load_state_dict_pre_hook(rename_legacy_keys)
    if source.labels and network.num_classes == len(source.labels):
        network.labels, network.label_ids = list(source.labels), list(source.label_ids)
        network.multi_label = source.multi_label
    network.preprocess = (source.preprocess or default_transform(arch)).with_channels(network.in_chans)
    tag = source.tag or (source.name.partition(".")[2] if source.name.startswith(f"{arch}.") else "")
    network.pretrained_cfg = timm_cfg(network, arch, tag)
    return network


def _new_config(
    source: ModelSource,
    arch: str,
    known_classes: int | None,
    known_chans: int | None,
    num_classes: int | None,
    in_chans: int | None,
    overrides: Mapping[str, Any],
) -> SEResNetConfig:
    """Return the configuration of a new network: what is asked for, else what is known, else the architecture's."""
    cfg = _config(arch, source, overrides)
    classes = next((n for n in (num_classes, known_classes) if n is not None), cfg.num_classes)
    chans = next((n for n in (in_chans, known_chans) if n is not None), cfg.in_chans)
    return replace(cfg, num_classes=classes, in_chans=chans)


def _config(arch: str, source: ModelSource, overrides: Mapping[str, Any]) -> SEResNetConfig:
    """Return the architecture's row with the settings of the directory, and over them the caller's."""
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in overrides.items()}
    return replace(VARIANTS[arch], **{**source.settings, **values})
