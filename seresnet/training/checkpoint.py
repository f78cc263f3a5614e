"""The state of an interrupted run: one file, read without running code, and replaced whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from seresnet.common.files import atomic_file
from seresnet.errors import SeresnetError


def save_state(state: dict[str, Any], path: Path) -> None:
    """Write tensors and plain data; the previous file stays until the new one is whole."""
    with atomic_file(path) as file:
        torch.save(state, file)


def load_state(path: Path) -> dict[str, Any]:
    """Read what `save_state` wrote; no code runs. Raises SeresnetError where it is missing or damaged."""
    if not path.is_file():
        raise SeresnetError(f"{path}: no checkpoint to resume from; start without --resume")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise SeresnetError(
            f"{path}: the checkpoint cannot be read ({type(error).__name__}); start a new run"
        ) from error


def check_same_run(saved: dict[str, Any], now: dict[str, Any], path: Path) -> None:
    """Raise SeresnetError, naming what differs, where a checkpoint is of another model, other classes or other data."""
    differences = []
    for key in sorted(saved.keys() | now.keys()):
        old, new = saved.get(key), now.get(key)
        if isinstance(old, list) and isinstance(new, list) and old != new:
            gone, added = [x for x in old if x not in new], [x for x in new if x not in old]
            differences.append(f"{key}: {len(old)} then, {len(new)} now (gone {gone[:3]}, new {added[:3]})")
        elif old != new:
            differences.append(f"{key}: {old} then, {new} now")
    if differences:
        raise SeresnetError(f"{path} is of another run; give --out another folder. {'; '.join(differences)}")
