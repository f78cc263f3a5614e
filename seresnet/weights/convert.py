"""State dict keys: timm's legacy (Cadene's) names on one side, this project's (timm's modern) names on the other.

Pure functions, but for the hook at the end: nothing is loaded, no tensor is changed beyond a reshape.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping
from typing import Any, TypeVar

from torch import Tensor

from seresnet.models.resnet import SEResNet

V = TypeVar("V")

# legacy -> modern; the deep stem of SENet-154 is layer0.conv1, conv2, conv3 there and conv1.0, conv1.3, conv1.6 here.
_DEEP_STEM = {
    "layer0.conv1": "conv1.0",
    "layer0.bn1": "conv1.1",
    "layer0.conv2": "conv1.3",
    "layer0.bn2": "conv1.4",
    "layer0.conv3": "conv1.6",
    "layer0.bn3": "bn1",
}
_STEM = {"layer0.conv1": "conv1", "layer0.bn1": "bn1"}


def is_legacy(keys: Mapping[str, object]) -> bool:
    """Return whether these are Cadene's and timm's legacy keys: ``layer0.*``, ``se_module``, ``last_linear``."""
    return any(key.startswith(("layer0.", "last_linear.")) or ".se_module." in key for key in keys)


def from_legacy(state: Mapping[str, V]) -> dict[str, V]:
    """Rename legacy keys to this project's."""
    stem = _DEEP_STEM if "layer0.conv3.weight" in state else _STEM
    return {_renamed(key, stem).replace(".se_module.", ".se."): value for key, value in state.items()}


def to_legacy(state: Mapping[str, V]) -> dict[str, V]:
    """Rename this project's keys to legacy ones; the inverse of `from_legacy`."""
    stem = {new: old for old, new in (_DEEP_STEM if "conv1.6.weight" in state else _STEM).items()}
    return {_renamed(key, stem, back=True).replace(".se.", ".se_module."): value for key, value in state.items()}


def _renamed(key: str, stem: Mapping[str, str], back: bool = False) -> str:
    module, _, leaf = key.rpartition(".")
    if module in stem:
        return f"{stem[module]}.{leaf}"
    old, new = ("fc", "last_linear") if back else ("last_linear", "fc")
    return f"{new}.{leaf}" if module == old else key


def normalized(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict in this project's keys and shapes.

    Linear excitations ``(out, in)`` become 1x1 convolutions ``(out, in, 1, 1)``.
    """
    renamed = from_legacy(state) if is_legacy(state) else dict(state)
    squeezes = re.compile(r"\.se\.fc[12]\.weight$")
    return {k: v[:, :, None, None] if squeezes.search(k) and v.ndim == 2 else v for k, v in renamed.items()}


def rename_legacy_keys(module: SEResNet, state: MutableMapping[str, Any], prefix: str, *rest: object) -> None:
    """Rename legacy keys in place, as a pre-hook of ``load_state_dict``: timm's and Cadene's files load as they are.

    Only for the networks of that lineage; the keys of a modern network are left alone.
    """
    own = {key.removeprefix(prefix): key for key in state if key.startswith(prefix)}
    if module.cfg.lineage == "legacy" and is_legacy(own):
        values = {key: state.pop(full) for key, full in own.items()}
        state.update({prefix + key: value for key, value in normalized(values).items()})
