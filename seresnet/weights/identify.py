"""Which architecture a state dict is of, and whether its tensors are the network's: names, shapes, finite numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from seresnet.common.text import short
from seresnet.errors import ConfigError, WeightsError
from seresnet.models.config import SEResNetConfig
from seresnet.models.resnet import SEResNet
from seresnet.models.variants import VARIANTS

Shapes = dict[str, tuple[int, ...]]
COUNTER = "num_batches_tracked"  # of a batch norm; files from before torch 0.4.1 have none


class LeaveUninitialised(TorchFunctionMode):
    """Skip drawing initial values: on the meta device torch would import 800 modules for it, which takes seconds."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(function, "__name__", "")
        if getattr(function, "__module__", "") == "torch.nn.init" or name in ("normal_", "uniform_", "fill_", "zero_"):
            return args[0] if args else (kwargs or {})["tensor"]
        return function(*args, **(kwargs or {}))


def build_on_meta(cfg: SEResNetConfig) -> SEResNet:
    """Return the network without memory for its weights. Raises ConfigError for sizes that make no network."""
    try:
        with torch.device("meta"), LeaveUninitialised():
            return SEResNet(cfg)
    except (ValueError, RuntimeError, ZeroDivisionError, KeyError, TypeError) as error:
        raise ConfigError(f"no network can be built so ({error}); change the settings of the network") from None


@lru_cache(maxsize=2 * len(VARIANTS))  # identify compares with every network of the same blocks
def shapes_of(cfg: SEResNetConfig) -> Shapes:
    """Return the shape of each tensor of a network, by its name."""
    return {key: tuple(value.shape) for key, value in build_on_meta(cfg).state_dict().items()}


def declared(state: Mapping[str, Tensor]) -> tuple[int | None, int]:
    """Return how many classes (None: there is no classifier) and input channels the tensors are for."""
    head, stem = state.get("fc.weight"), state.get("conv1.weight", state.get("conv1.0.weight"))
    head = state.get("fc.bias") if head is None else head
    classes = None if head is None else head.shape[0] if head.ndim else 1
    return classes, 3 if stem is None or stem.ndim != 4 else stem.shape[1]


def identify(state: Mapping[str, Tensor], legacy: bool, path: Path, recorded: str | None = None) -> str:
    """Return the architecture whose tensors these are, by their names and shapes.

    Where several have the same shapes (an anti-aliased network and a plain one, say), the architecture ``recorded`` in
    the file decides, or else the beginning of the file's name. Raises WeightsError where nothing decides, and where no
    architecture has these tensors: it names the nearest one and the first differences.
    """
    matching = matching_architectures(state, legacy)
    named = [arch for arch in sorted(matching, key=len, reverse=True) if re.match(rf"{arch}(?![0-9a-z])", path.name)]
    for arch in ([recorded] if recorded in matching else []) + named + (matching if len(matching) == 1 else []):
        return arch
    if matching:
        raise WeightsError(
            f"{path}: its tensors are those of {' and '.join(matching)} alike; "
            f'pass arch="{matching[0]}", or begin the file\'s name with the right one'
        )
    if not any(key.startswith("layer1.0.") for key in state):
        first = ", ".join(short(key, 40) for key in list(state)[:3])
        raise WeightsError(f"{path}: its tensors ({first}, ...) do not match any SE-ResNet; see `seresnet models`")
    nearest = nearest_architecture(state, legacy, recorded)
    reason = "; ".join(differences(state, _config_of(state, nearest)))
    raise WeightsError(f"{path}: its tensors do not match any SE-ResNet; compared with {nearest}: {reason}")


def matching_architectures(state: Mapping[str, Tensor], legacy: bool) -> list[str]:
    """Return the architectures that have tensors of these names and shapes; ``legacy``: the keys were Cadene's."""
    found = _shapes(state)
    return [
        arch
        for arch in _of_lineage(legacy)
        if _blocks_of(arch) == _blocks(state) and _without_counters(shapes_of(_config_of(state, arch))) == found
    ]


def nearest_architecture(state: Mapping[str, Tensor], legacy: bool, recorded: str | None = None) -> str:
    """Return the architecture that shares the most names and shapes with the tensors."""
    candidates = _of_lineage(legacy)
    if recorded in candidates:
        return recorded
    blocks, found = _blocks(state), _shapes(state).items()
    unlike = {arch: len(_blocks_of(arch) ^ blocks) for arch in candidates}
    close = [arch for arch in candidates if unlike[arch] == min(unlike.values())]
    return max(close, key=lambda arch: len(shapes_of(_config_of(state, arch)).items() & found))


def _of_lineage(legacy: bool) -> list[str]:
    return [arch for arch, row in VARIANTS.items() if row.lineage == "legacy" or not legacy]


def _blocks(state: Mapping[str, Tensor]) -> set[tuple[int, int]]:
    """Return which blocks there are, as (stage, index); comparing them is quick and leaves few architectures."""
    found = (re.match(r"layer(\d{1,4})\.(\d{1,4})\.", key) for key in state)
    return {(int(match[1]), int(match[2])) for match in found if match}


def _blocks_of(arch: str) -> set[tuple[int, int]]:
    return {(stage, i) for stage, count in enumerate(VARIANTS[arch].layers, 1) for i in range(count)}


def _config_of(state: Mapping[str, Tensor], arch: str) -> SEResNetConfig:
    classes, chans = declared(state)
    return replace(VARIANTS[arch], num_classes=classes or 0, in_chans=chans)


def _shapes(state: Mapping[str, Tensor]) -> Shapes:
    return _without_counters({key: tuple(value.shape) for key, value in state.items()})


def _without_counters(shapes: Shapes) -> Shapes:
    return {key: shape for key, shape in shapes.items() if not key.endswith(COUNTER)}


def differences(state: Mapping[str, Tensor], cfg: SEResNetConfig) -> list[str]:
    """Return the first tensors that are missing, unknown or of another shape, in words; nothing where all are right."""
    wanted = shapes_of(cfg)
    missing = [key for key in wanted if key not in state and not key.endswith(COUNTER)]
    extra = [key for key in state if key not in wanted]
    wrong = [key for key in wanted if key in state and tuple(state[key].shape) != wanted[key]]
    found = [
        f"{len(keys)} {what} ({', '.join(short(key, 60) for key in keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for keys, what in ((missing, "missing"), (extra, "unknown"))
        if keys
    ]
    found += [f"{key} is {_by(tuple(state[key].shape))} instead of {_by(wanted[key])}" for key in wrong[:3]]
    return found + ([f"{len(wrong) - 3} more of another shape"] if len(wrong) > 3 else [])


def check_tensors(state: Mapping[str, Tensor], cfg: SEResNetConfig, path: Path) -> None:
    """Raise WeightsError unless the tensors are the network's, finite, and no variance is negative."""
    if problems := differences(state, cfg):
        raise WeightsError(f"{path}: these are not the tensors of the network: {'; '.join(problems)}")
    for key, value in state.items():
        if not (value.is_floating_point() or key.endswith(COUNTER)):
            raise WeightsError(f"{path}: {key} holds {value.dtype}, not floating-point numbers; save it as float32")
        if value.is_floating_point() and not value.float().isfinite().all():
            raise WeightsError(f"{path}: {key} holds NaN or infinity; use another checkpoint")
        if key.endswith("running_var") and (value < 0).any():
            raise WeightsError(f"{path}: {key} holds negative variances; use another checkpoint")


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a scalar"


def adapt_first_convolution(weight: Tensor, in_chans: int) -> Tensor:
    """Return the first convolution for another number of input channels (the rule is timm's).

    One channel takes the sum of the kernels; more repeat them in turn, scaled so that a grey image gives the same.
    """
    channels = weight.shape[1]
    if in_chans == 1:
        return weight.float().sum(1, keepdim=True)
    repeated = weight.float().repeat(1, math.ceil(in_chans / channels), 1, 1)[:, :in_chans]
    return repeated * (channels / in_chans)
