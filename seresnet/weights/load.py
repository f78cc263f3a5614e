"""From a name, a repository, a directory or a file to a network with its weights, class names and preprocessing."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seresnet.errors import ConfigError, WeightsError
from seresnet.models.resnet import SEResNet, SEResNetConfig
from seresnet.models.variants import VARIANTS
from seresnet.preprocess import Preprocess
from seresnet.weights.convert import is_legacy, normalized
from seresnet.weights.hub import fetch
from seresnet.weights.index import Entry, default_entry, default_transform, entries, list_models, unknown
from seresnet.weights.labels import imagenet_1k
from seresnet.weights.read import SUFFIXES, read_state_dict

__all__ = ["create_model", "list_models"]

log = logging.getLogger("seresnet")

HUB_PREFIXES = ("hf-hub:", "hf_hub:")
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass
class Origin:
    """Where weights come from, and what is known of them before they are read."""

    name: str
    arch: str | None = None  # None: a file alone, whose tensors tell
    path: Path | None = None  # the weights file; None: there are no weights
    preprocess: Preprocess | None = None
    labels: list[str] = field(default_factory=list)
    label_ids: list[str] = field(default_factory=list)
    num_classes: int | None = None
    model_args: dict[str, Any] = field(default_factory=dict)
    tag: str = ""


def create_model(
    name: str | os.PathLike[str],
    pretrained: bool = False,
    num_classes: int | None = None,
    in_chans: int | None = None,
    offline: bool | None = None,
    **overrides: Any,
) -> SEResNet:
    """Return a network by name, with its published or your own weights where ``pretrained``.

    ``name`` is an architecture (``legacy_seresnet50``; its first weight in the index), ``arch.tag``,
    ``hf-hub:user/repo[@revision]``, a directory (``config.json`` with ``model.safetensors``), or a ``.safetensors`` or
    ``.pth`` file, in timm's, Cadene's or this project's keys. Another ``num_classes`` replaces the classifier by a new
    one; another ``in_chans`` adapts the first convolution. ``overrides`` are fields of `SEResNetConfig`, such as
    ``drop_rate``. The model has ``labels``, ``label_ids`` and ``preprocess``. Raises WeightsError for weights that
    cannot be had or do not fit, and ConfigError for an unknown setting.
    """
    origin = locate(os.fspath(name), pretrained, offline)
    if origin.path is None:
        if pretrained:
            raise WeightsError(f"{name}: no published weights; see `seresnet models --pretrained` for those there are")
        assert origin.arch is not None
        model = _build(_config(origin.arch, origin, overrides, num_classes, in_chans))
        model.preprocess = (origin.preprocess or default_transform(origin.arch)).with_channels(model.in_chans)
        if num_classes in (None, origin.num_classes):
            model.labels, model.label_ids = origin.labels, origin.label_ids
        return model
    state = normalized(raw := read_state_dict(origin.path))
    arch = origin.arch or guess_architecture(state, is_legacy(raw), origin.path)
    source = _config(arch, origin, overrides, *_declared(state, origin))
    check_fit(state, source, origin.path)
    return _loaded(origin, arch, source, state, num_classes, in_chans)


def _loaded(
    origin: Origin,
    arch: str,
    source: SEResNetConfig,
    state: dict[str, Tensor],
    num_classes: int | None,
    in_chans: int | None,
) -> SEResNet:
    """Return the network ``source`` with its weights, and with another classifier or first convolution if asked for."""
    model = _build(replace(source, in_chans=source.in_chans if in_chans is None else in_chans))
    if model.in_chans != source.in_chans:
        first = next(key for key in state if key in ("conv1.weight", "conv1.0.weight"))
        state[first] = adapt_first_convolution(state[first], model.in_chans)
    model.load_state_dict(_complete(state, model))
    model.labels, model.label_ids = list(origin.labels), list(origin.label_ids)
    if model.labels and len(model.labels) != model.num_classes:
        raise WeightsError(
            f"{origin.name}: {len(model.labels)} class names for {model.num_classes} classes; mend config.json"
        )
    if num_classes is not None and num_classes != model.num_classes:
        log.info("%s: a new classifier of %d classes in place of %d", origin.name, num_classes, model.num_classes)
        model.reset_classifier(num_classes)
    model.preprocess = (origin.preprocess or default_transform(arch)).with_channels(model.in_chans)
    model.pretrained_cfg = {"architecture": arch, "tag": origin.tag, **model.preprocess.to_timm()}
    return model


# Where a name leads


def locate(name: str, pretrained: bool = True, offline: bool | None = None) -> Origin:
    """Find what ``name`` stands for, and fetch its files where ``pretrained``. Raises WeightsError."""
    name = name.removeprefix("local-dir:")
    if name.startswith(HUB_PREFIXES):
        return _from_hub(name, pretrained, offline)
    entry = entries().get(name) or (default_entry(name) if name in VARIANTS else None)
    if entry or name in VARIANTS:
        return _from_index(name, entry, pretrained, offline)
    path = Path(name)
    if path.is_dir():
        return _from_directory(path)
    if path.is_file() or path.suffix in SUFFIXES:
        entry = _released_as(path)
        return _described(Origin(name, entry.arch if entry else None, path), entry)
    raise unknown(name, [*VARIANTS, *entries()])


def _from_index(name: str, entry: Entry | None, pretrained: bool, offline: bool | None) -> Origin:
    if entry is None or not pretrained:
        return Origin(name, name.partition(".")[0], preprocess=entry.transform() if entry else None)
    if entry.bundled:
        return _from_directory(entry.bundled)
    assert entry.hub is not None
    return _described(Origin(entry.name, entry.arch, fetch(entry.hub, entry.file, offline=offline)), entry)


def _described(origin: Origin, entry: Entry | None) -> Origin:
    """Add what the index knows."""
    if entry:
        origin.preprocess, origin.num_classes, origin.tag = entry.transform(), entry.num_classes, entry.tag
        if entry.labels == "imagenet-1k":
            ids, names = imagenet_1k()
            origin.labels, origin.label_ids = list(names), list(ids)
    return origin


def _released_as(path: Path) -> Entry | None:
    """Return the weight whose first release had this file name."""
    return next((entry for entry in entries().values() if entry.original == path.name), None)


def _from_hub(name: str, pretrained: bool, offline: bool | None) -> Origin:
    repo, _, revision = name.split(":", 1)[1].partition("@")
    config = fetch(repo, "config.json", revision or None, offline)
    origin = _configured(_read_config(config), Path(name))
    if pretrained:
        origin.path = fetch(repo, "model.safetensors", revision or None, offline)
    return origin


def _from_directory(directory: Path) -> Origin:
    config = directory / "config.json"
    if not config.is_file():
        raise WeightsError(f"{directory}: has no config.json; give a model directory, or the weights file itself")
    origin = _configured(_read_config(config), directory)
    origin.path = next((directory / file for file in WEIGHT_FILES if (directory / file).is_file()), None)
    if origin.path is None:
        raise WeightsError(f"{directory}: has no model.safetensors; the directory is incomplete")
    return origin


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError):
        raise WeightsError(f"{path}: no readable JSON; the file is damaged") from None
    if not isinstance(config, dict) or not isinstance(config.get("architecture"), str):
        raise WeightsError(f"{path}: names no architecture; it is no config.json of timm or seresnet")
    return config


def _configured(config: Mapping[str, Any], directory: Path) -> Origin:
    """Read a ``config.json`` in timm's layout; fields may stand at its top or within ``pretrained_cfg``."""
    nested = config.get("pretrained_cfg")
    merged: dict[str, Any] = {**(nested if isinstance(nested, dict) else {}), **config}
    arch, _, tag = config["architecture"].partition(".")
    if arch not in VARIANTS:
        raise WeightsError(f"{directory}: architecture {arch!r} is no SE-ResNet of this package; use timm for it")
    if (pool := merged.get("global_pool")) not in ("avg", "", None):
        raise WeightsError(f"{directory}: global_pool {pool!r} is not supported here; use timm for it")
    names, descriptions = merged.get("label_names"), merged.get("label_descriptions")
    names = [str(name) for name in names] if isinstance(names, list) else []
    described = isinstance(descriptions, dict) and all(name in descriptions for name in names)
    labels = [str(descriptions[name]) for name in names] if described else names
    args = config.get("model_args")
    return Origin(
        name=str(directory),
        arch=arch,
        preprocess=Preprocess.from_timm(merged),
        labels=labels,
        label_ids=names if described else [],
        num_classes=merged.get("num_classes") if isinstance(merged.get("num_classes"), int) else None,
        model_args=dict(args) if isinstance(args, dict) else {},
        tag=tag or str(merged.get("tag") or ""),
    )


# Whether weights fit


def _config(
    arch: str, origin: Origin, overrides: Mapping[str, Any], num_classes: int | None, in_chans: int | None
) -> SEResNetConfig:
    """Return the configuration of the network to build."""
    row = VARIANTS[arch]
    known = {"drop_rate", "drop_path_rate", "in_chans"} & origin.model_args.keys()
    try:
        row = replace(row, **{key: origin.model_args[key] for key in known}, **overrides)
    except TypeError as error:
        raise ConfigError(f"{error}; the settings of a network are the fields of SEResNetConfig") from None
    classes = num_classes if num_classes is not None else origin.num_classes
    row = replace(row, num_classes=row.num_classes if classes is None else classes)
    return row if in_chans is None else replace(row, in_chans=in_chans)


def _declared(state: Mapping[str, Tensor], origin: Origin) -> tuple[int, int]:
    """Return how many classes and input channels the weights have."""
    head, stem = state.get("fc.weight"), state.get("conv1.weight", state.get("conv1.0.weight"))
    classes = 0 if head is None else head.shape[0] if head.ndim == 2 else -1
    if origin.num_classes is not None and classes != origin.num_classes:
        raise WeightsError(
            f"{origin.path}: has {classes} classes where its configuration says {origin.num_classes}; mend config.json"
        )
    return classes, 3 if stem is None or stem.ndim != 4 else stem.shape[1]


def check_fit(state: Mapping[str, Tensor], cfg: SEResNetConfig, path: Path) -> None:
    """Raise WeightsError, naming the first differences, unless the tensors are finite and fit the network."""
    wanted = _shapes(cfg)
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    extra = [key for key in state if key not in wanted]
    wrong = [key for key in wanted if key in state and tuple(state[key].shape) != wanted[key]]
    problems = [
        f"{len(keys)} keys {what} ({', '.join(keys[:3])})"
        for keys, what in ((missing, "missing"), (extra, "too many"))
        if keys
    ]
    problems += [f"{key} is {_by(tuple(state[key].shape))} instead of {_by(wanted[key])}" for key in wrong[:3]]
    if problems:
        raise WeightsError(f"{path}: does not fit the network: {'; '.join(problems)}")
    bad = [key for key, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if bad:
        raise WeightsError(f"{path}: {bad[0]} holds NaN or infinity ({len(bad)} tensors do); use another checkpoint")


def _shapes(cfg: SEResNetConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in SEResNet(cfg).state_dict().items()}


def guess_architecture(state: Mapping[str, Tensor], legacy: bool, path: Path) -> str:
    """Return the architecture whose tensors these are, by their shapes; the keys tell legacy from modern.

    Raises WeightsError where there is none.
    """
    classes, chans = _declared(state, Origin(str(path)))
    named = [arch for arch in sorted(VARIANTS, key=len, reverse=True) if path.name.startswith(arch)]
    by_keys = [arch for arch, row in VARIANTS.items() if (row.lineage == "legacy") == legacy]
    shapes = {key: tuple(value.shape) for key, value in state.items() if not key.endswith("num_batches_tracked")}
    for arch in [*named, *by_keys]:
        cfg = replace(VARIANTS[arch], num_classes=max(0, classes), in_chans=chans)
        if sum(cfg.layers) * (2 if cfg.block == "basic" else 3) > len(shapes):
            continue
        wanted = _shapes(cfg)
        if {key: shape for key, shape in wanted.items() if not key.endswith("num_batches_tracked")} == shapes:
            return arch
    first = ", ".join(list(state)[:3])
    raise WeightsError(f"{path}: its tensors ({first}, ...) are of no SE-ResNet known here; see `seresnet models`")


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a scalar"


def _complete(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Fill in the batch counters that old files lack."""
    return {key: state.get(key, value) for key, value in model.state_dict().items()}


def adapt_first_convolution(weight: Tensor, in_chans: int) -> Tensor:
    """Return the first convolution for another number of input channels (the rule is timm's).

    One channel takes the sum of the kernels; more repeat them in turn, scaled so that a grey image gives the same.
    """
    channels = weight.shape[1]
    if in_chans == 1:
        return weight.float().sum(1, keepdim=True).to(weight.dtype)
    repeated = weight.repeat(1, math.ceil(in_chans / channels), 1, 1)[:, :in_chans]
    return repeated * (channels / in_chans)


def _build(cfg: SEResNetConfig) -> SEResNet:
    """Return the network with new random weights. Raises ConfigError for sizes that make no network."""
    try:
        return SEResNet(cfg)
    except (ValueError, RuntimeError, ZeroDivisionError) as error:
        raise ConfigError(f"no network can be built so: {error}") from None
