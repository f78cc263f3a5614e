"""State dict keys: timm's legacy (Cadene's) names on one side, this project's (timm's modern) names on the other.

Pure functions: nothing is loaded, no tensor is changed beyond a reshape.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor

V = TypeVar("V")

WRAPPERS = ("state_dict_ema", "model_ema", "ema", "state_dict", "model", "net")  # averaged weights come first
PREFIXES = ("module.", "_orig_mod.", "model.")
MAX_DEPTH = 4  # of wrappers; a made-up file may wrap itself

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
    """Tell whether these are Cadene's and timm's legacy keys: ``layer0.*``, ``se_module``, ``last_linear``."""
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


def unwrap(checkpoint: object) -> dict[str, Tensor] | None:
    """Find the state dict within a training checkpoint, or return None where there is none.

    Of several wrappers the averaged weights win. The prefixes of DataParallel and torch.compile go.
    """
    for _ in range(MAX_DEPTH):
        if not isinstance(checkpoint, Mapping):
            return None
        inner = next((w for w in WRAPPERS if isinstance(checkpoint.get(w), Mapping)), None)
        if inner is None:
            break
        checkpoint = checkpoint[inner]
    else:
        return None
    state = {key: value for key, value in checkpoint.items() if isinstance(key, str) and isinstance(value, Tensor)}
    state.pop("n_averaged", None)  # torch's AveragedModel counts beside the weights
    while prefix := next((p for p in PREFIXES if state and all(key.startswith(p) for key in state)), None):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state or None


def recorded_architecture(checkpoint: object) -> str | None:
    """Return the architecture that a checkpoint of timm's training script names, or None."""
    arch = checkpoint.get("arch") if isinstance(checkpoint, Mapping) else None
    return arch.partition(".")[0] if isinstance(arch, str) else None


def normalized(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict in this project's keys and shapes.

    Linear excitations ``(out, in)`` become 1x1 convolutions ``(out, in, 1, 1)``.
    """
    renamed = from_legacy(state) if is_legacy(state) else dict(state)
    squeezes = re.compile(r"\.se\.fc[12]\.weight$")
    return {k: v[:, :, None, None] if squeezes.search(k) and v.ndim == 2 else v for k, v in renamed.items()}
