"""Find the network's tensors in a checkpoint: wrappers, prefixes, averaged weights, and what does not belong to it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seresnet.common.text import short
from seresnet.errors import WeightsError
from seresnet.models.variants import VARIANTS

MAX_DEPTH = 8  # of wrappers
MAX_WRAPPERS = 100_000  # an optimizer has a mapping for each parameter
MAX_KEY = 500  # characters; with every prefix seen a key has about 100
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
NUMBERS = (*FLOATS, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)

# Where several networks are in one file, the first of these is taken (timm's order, and the names of tutorials).
PLAIN_NAMES = ("state_dict", "model", "model_state_dict", "model_state", "net", "network", "weights", "params")
AVERAGED = re.compile(r"(^|[._])(ema|swa|averaged?|shadow)($|[._])|(model|net|weights|params)(ema|swa)$")
# Modules that torch wraps others in (compiled, sharded, recomputed), anywhere in a name.
MODULE_WRAPPERS = re.compile(r"(^|(?<=\.))(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
MAX_PREFIXES = 16
NETWORK_PARTS = re.compile(r"(layer\d+|conv1|bn1|fc|last_linear|act1|maxpool|global_pool|avg_pool)\.")
COUNTERS_OF_TOOLS = ("total_ops", "total_params")  # thop leaves them in each module

# What trainers write down: the architecture, by a name.
_ARCHITECTURE_KEYS = ("arch", "architecture", "model_name", "model")
_OPTION_KEYS = ("hyper_parameters", "hparams", "config", "args")


@dataclass(frozen=True)
class StateDict:
    """A network's tensors by their names without wrappers and prefix, and what the file says of them."""

    tensors: dict[str, Tensor]
    arch: str | None = None  # an architecture that the file names
    is_training_state: bool = False  # of this package, which does not hold the preprocessing
    notes: tuple[str, ...] = ()  # what was chosen or ignored


@dataclass(frozen=True)
class _Candidate:
    """One network in the file: where it is, its tensors, and the names of those beside it."""

    place: str
    tensors: dict[str, Tensor]
    beside: tuple[str, ...] = ()

    @property
    def averaged(self) -> bool:
        return AVERAGED.search(self.place.lower()) is not None

    @property
    def described(self) -> str:
        return short(self.place, 40) or "the weights at the top"


def find_state_dict(checkpoint: object, path: Path) -> StateDict:
    """Return the network's tensors in a checkpoint, however they are wrapped.

    Of several networks the averaged one is taken, as timm does, and a note says so. Raises WeightsError where there is
    no mapping of names to tensors, where several networks are equally likely, and for tensors that are not plain.
    """
    containers = list(_walk(checkpoint))
    mappings = [(place, tensors) for place, value in containers if (tensors := _named_tensors(value))]
    found = [candidate for place, tensors in mappings for candidate in _candidates(place, tensors)]
    if not found:
        if not mappings:
            raise WeightsError(f"{path}: holds no state dict; save one with torch.save(model.state_dict(), ...)")
        place, tensors = max(mappings, key=lambda item: len(item[1]))
        found = [_Candidate(place, tensors)]
    chosen, notes = _choose(found, path)
    tensors, ignored = _own_tensors(chosen.tensors)
    tensors, inner = _plain_classifier(tensors)
    if inner:
        notes.append(f"its classifier is the linear layer {inner}, and nothing else of that part")
    if beside := [*chosen.beside, *ignored]:
        names = ", ".join([*(short(name, 40) for name in beside[:3]), *(["..."] if len(beside) > 3 else [])])
        notes.append(f"ignored {len(beside)} tensor{'s' * (len(beside) > 1)} beside the network ({names})")
    if unnamed := [place for place, value in containers if _is_unnamed_copy(place, value)]:
        notes.append(f"ignored averaged weights without names ({short(unnamed[0], 40)})")
    _check_plain(tensors, path)
    tensors = {key: Tensor.detach(value) for key, value in tensors.items()}
    return StateDict(tensors, named_architecture(checkpoint), _is_training_state(checkpoint), tuple(notes))


def _walk(checkpoint: object) -> Iterator[tuple[str, Any]]:
    """Yield each mapping and sequence of the file once, with its place ("model.state_dict"), outer ones first."""
    level: list[tuple[str, Any]] = [("", checkpoint)]
    seen: set[int] = set()
    for _ in range(MAX_DEPTH):
        inner: list[tuple[str, Any]] = []
        for place, value in level:
            if not isinstance(value, Mapping | list | tuple) or id(value) in seen or len(seen) > MAX_WRAPPERS:
                continue
            seen.add(id(value))
            yield place, value
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            inner += [(f"{place}.{key}".strip("."), v) for key, v in items if not isinstance(v, Tensor)]
        level = inner


def _named_tensors(value: object) -> dict[str, Tensor]:
    if not isinstance(value, Mapping):
        return {}
    named = {key: tensor for key, tensor in value.items() if isinstance(key, str) and isinstance(tensor, Tensor)}
    if not any(MODULE_WRAPPERS.search(key[:MAX_KEY]) for key in named):
        return named
    return {MODULE_WRAPPERS.sub("", key): tensor for key, tensor in named.items()}


def _is_unnamed_copy(place: str, value: object) -> bool:
    """Return whether this is a list of averaged parameters, as some implementations keep them."""
    several = isinstance(value, list | tuple) and sum(isinstance(item, Tensor) for item in value) > 10
    return several and re.search(r"ema|swa|shadow|average", place.lower()) is not None


def _candidates(place: str, tensors: Mapping[str, Tensor]) -> list[_Candidate]:
    """Return the networks in one mapping: one for each prefix under which there is a first block."""
    starts = [match[1] for key in tensors if (match := re.match(r"((?:[^.]+\.)*?)layer1\.0\.", key[:MAX_KEY]))]
    prefixes = list(dict.fromkeys(starts))[:MAX_PREFIXES]
    longest_first = sorted(prefixes, key=len, reverse=True)
    owner = {key: next((p for p in longest_first if key.startswith(p)), None) for key in tensors}
    beside = tuple(key for key, prefix in owner.items() if prefix is None)
    return [
        _Candidate(
            ".".join(filter(None, (place, prefix.strip(".")))),
            {key.removeprefix(prefix): tensors[key] for key in tensors if owner[key] == prefix},
            beside,
        )
        for prefix in prefixes
    ]


def _choose(found: Sequence[_Candidate], path: Path) -> tuple[_Candidate, list[str]]:
    """Return one of the networks in a file, with notes on the choice."""
    if len(found) == 1 or all(_is_same(found[0], other) for other in found[1:]):
        return found[0], []
    places = ", ".join(candidate.described for candidate in found[:4])
    plain = [candidate for candidate in found if not candidate.averaged]
    whole = max(plain, key=lambda candidate: len(candidate.tensors), default=found[0])
    averaged = [c for c in found if c.averaged and _parameters(whole) <= set(c.tensors)]
    if averaged:
        chosen = averaged[0]
        return chosen, [f"of the networks in it ({places}) the averaged one is used: {chosen.described}"]
    notes = ["ignored averaged weights that are incomplete"] if len(plain) < len(found) else []
    if len(plain) == 1:
        return plain[0], notes
    for name in PLAIN_NAMES:
        named = [candidate for candidate in plain if candidate.place.partition(".")[0] == name]
        if len(named) == 1:
            return named[0], [*notes, f"of the networks in it ({places}) this one is used: {named[0].described}"]
    raise WeightsError(f"{path}: holds several networks ({places}); save the state_dict() of one of them alone")


def _is_same(one: _Candidate, other: _Candidate) -> bool:
    """Return whether two mappings hold the very same tensors."""
    return one.tensors.keys() == other.tensors.keys() and all(
        value.layout == other.tensors[key].layout == torch.strided
        and value.shape == other.tensors[key].shape
        and value.data_ptr() == other.tensors[key].data_ptr()
        for key, value in one.tensors.items()
    )


def _parameters(candidate: _Candidate) -> set[str]:
    return {key for key in candidate.tensors if NETWORK_PARTS.match(key) and not key.endswith("num_batches_tracked")}


def _own_tensors(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Return the network's tensors, and the names of those that are not its own."""
    if not any(NETWORK_PARTS.match(key) for key in tensors):
        return dict(tensors), []
    own = {
        key: value
        for key, value in tensors.items()
        if NETWORK_PARTS.match(key) and key.rpartition(".")[2] not in COUNTERS_OF_TOOLS
    }
    return own, [key for key in tensors if key not in own]


def _plain_classifier(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Return the tensors with ``fc.1.weight`` as ``fc.weight`` where fc is a sequence with one linear layer in it."""
    inner = [match for key in tensors if (match := re.fullmatch(r"(fc|last_linear)\.(\w+)\.weight", key))]
    if len(inner) != 1 or tensors[inner[0][0]].ndim != 2:
        return tensors, ""
    head, layer = inner[0][1], f"{inner[0][1]}.{inner[0][2]}"
    if {key for key in tensors if key.startswith(f"{head}.")} != {f"{layer}.weight", f"{layer}.bias"}:
        return tensors, ""
    return {key.replace(f"{layer}.", f"{head}."): value for key, value in tensors.items()}, layer


def _check_plain(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise WeightsError for names that no tensor has, and for tensors that are not dense numbers of the file's own."""
    size = 0
    for key, value in tensors.items():
        if len(key) > MAX_KEY or not key.isprintable():
            raise WeightsError(f"{path}: {short(key)!r} is not a name that a tensor can have; refused")
        if not _is_plain(value):
            kind = value.dtype if value.layout == torch.strided else value.layout
            raise WeightsError(f"{path}: {key} is not a plain tensor of numbers ({kind}); save it dense, as float")
        bytes_used = value.numel() * value.element_size()
        size += bytes_used
        if bytes_used > value.untyped_storage().nbytes():
            raise WeightsError(f"{path}: {key} has more elements than the file holds for it; save it contiguous")
    if size > path.stat().st_size:
        raise WeightsError(f"{path}: its tensors have more elements than the file holds; refused")


def _is_plain(tensor: Tensor) -> bool:
    """Return whether these are dense numbers on the CPU: not sparse, quantized, complex, nested or without data."""
    if type(tensor) not in (Tensor, torch.nn.Parameter) or tensor.layout != torch.strided or tensor.is_nested:
        return False
    return tensor.dtype in NUMBERS and tensor.device.type == "cpu"


def named_architecture(checkpoint: object) -> str | None:
    """Return the architecture that a checkpoint names, as timm's and others' training scripts do, or None."""
    if not isinstance(checkpoint, Mapping):
        return None
    for options in (checkpoint, *(checkpoint.get(place) for place in _OPTION_KEYS)):
        names = [options.get(key) for key in _ARCHITECTURE_KEYS] if isinstance(options, Mapping) else []
        for name in names:
            if isinstance(name, str) and name.partition(".")[0] in VARIANTS:
                return name.partition(".")[0]
    return None


def _is_training_state(checkpoint: object) -> bool:
    """Return whether this is ``last/state.pt`` of a run of this package."""
    return isinstance(checkpoint, Mapping) and {"fingerprint", "config", "optimizer", "rows"} <= checkpoint.keys()
