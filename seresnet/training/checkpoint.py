"""The state of an interrupted run: one file, read without running code, and replaced atomically."""

from __future__ import annotations

import copy
from dataclasses import fields
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seresnet.common.files import atomic_file
from seresnet.common.text import short
from seresnet.errors import SeresnetError, WeightsError
from seresnet.training.state import TrainState
from seresnet.weights.read import read_checkpoint

# The keys of a training state and their types.
CONTENTS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("fingerprint", "config", "state", "model", "optimizer"), (dict,)),
    "rows": (list,),
    "ema": (dict, type(None)),
}


def save_state(state: dict[str, Any], path: Path) -> None:
    """Write tensors and plain data; the previous file stays until the new one is complete."""
    with atomic_file(path) as file:
        torch.save(state, file)


def load_state(path: Path) -> dict[str, Any]:
    """Read what `save_state` wrote; no code runs. Raises SeresnetError where it is missing, damaged or something else.

    The file is read by the same reader as models, within the same bounds; the run it belongs to stays as it is.
    """
    if not path.is_file():
        raise SeresnetError(f"{path}: no checkpoint to resume from; start without --resume")
    try:
        state = read_checkpoint(path)
    except WeightsError as error:
        raise SeresnetError(f"cannot resume, and nothing was changed: {error}") from None
    if reason := _not_a_state(state):
        raise SeresnetError(
            f"{path}: not the training state of a run ({reason}); nothing was changed: give --out another folder, or "
            "start again with --exist-ok"
        )
    return copy.deepcopy(state)  # out of the mapped file, which the next checkpoint replaces


def _not_a_state(state: object) -> str:
    """Return what keeps this from being a training state, or "" where nothing does."""
    if not isinstance(state, dict):
        return f"it holds a {type(state).__name__}"
    if missing := [key for key in CONTENTS if key not in state]:
        return f"it lacks {', '.join(missing)}"
    for key, kinds in CONTENTS.items():
        if not isinstance(state[key], kinds):
            return f"its {key} is a {type(state[key]).__name__}"
    known, progress = {item.name for item in fields(TrainState)}, state["state"]
    if set(progress) != known or not all(
        type(value) in (int, float) and isfinite(value) for value in progress.values()
    ):
        return "its state does not describe the progress of a run"
    if not all(0 <= value < 2**53 for key, value in progress.items() if key != "best_score"):
        return "its state has negative or huge numbers of epochs, steps or images"
    if not all(
        isinstance(row, dict) and all(type(value) in (int, float) for value in row.values()) for row in state["rows"]
    ):
        return "its rows are not those of a metrics.csv"
    if {"state", "param_groups"} - state["optimizer"].keys():
        return "its optimizer has no state"
    return ""


def check_resumable(
    saved: dict[str, Any], fingerprint: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer, path: Path
) -> None:
    """Raise SeresnetError where a checkpoint is not of this run: its data, its network and its optimizer."""
    check_same_run(saved["fingerprint"], fingerprint, path)
    check_same_tensors(saved, model, path)
    check_same_optimizer(saved, optimizer, path)


def check_same_tensors(saved: dict[str, Any], model: nn.Module, path: Path) -> None:
    """Raise SeresnetError, naming the first differences, unless a checkpoint holds the tensors of this network."""
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    for name in ("model", "ema"):
        found = {key: tuple(value.shape) for key, value in (saved[name] or {}).items() if isinstance(value, Tensor)}
        if saved[name] is not None and found != wanted:
            different = [str(key) for key in [*wanted, *found] if found.get(key) != wanted.get(key)]
            names = ", ".join(short(key, 60) for key in different[:3])
            raise SeresnetError(f"{path} holds other tensors than this network ({names}); give --out another folder")


def check_same_optimizer(saved: dict[str, Any], optimizer: torch.optim.Optimizer, path: Path) -> None:
    """Raise SeresnetError unless the optimizer's state in a checkpoint fits: its groups, shapes, and finite numbers."""
    reason = _optimizer_difference(saved["optimizer"], optimizer)
    if reason:
        raise SeresnetError(f"{path}: its optimizer state {reason}; nothing was changed: start again with --exist-ok")


def _optimizer_difference(saved: dict[str, Any], optimizer: torch.optim.Optimizer) -> str:
    wanted, parameters = (
        optimizer.state_dict()["param_groups"],
        [p for g in optimizer.param_groups for p in g["params"]],
    )
    groups, states = saved["param_groups"], saved["state"]
    if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
        return "has no parameter groups"
    if [(group.keys(), group.get("params")) for group in groups] != [(each.keys(), each["params"]) for each in wanted]:
        return "is of other parameters, or of another optimizer"
    if not isinstance(states, dict) or not all(isinstance(state, dict) for state in states.values()):
        return "is not a mapping for each parameter"
    if states.keys() - set(range(len(parameters))):
        return "is of parameters that there are not"
    for index, state in states.items():
        for key, value in state.items():
            if not isinstance(value, Tensor | int | float | None):
                return f"holds a {type(value).__name__} as {short(str(key), 40)}"
            if isinstance(value, Tensor) and value.ndim and value.shape != parameters[index].shape:
                return f"has a {short(str(key), 40)} of another shape than its parameter"
            if isinstance(value, Tensor) and not value.isfinite().all():
                return f"holds NaN or infinity as {short(str(key), 40)}"
    return ""


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
