"""Match the classes of a data set with those of a model, by name."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence

from seresnet.data.names import few, natural_key, nfc
from seresnet.errors import DataError

Matched = tuple[list[int], tuple[str, ...]]
_AGREEING = 0.9  # of a data set's classes that stand at the model's own index, for the others to follow


def match_classes(classes: Sequence[str], labels: Sequence[str], label_ids: Sequence[str] = ()) -> Matched:
    """Return the model's class index of each class of the data, and notes on what was assumed.

    Names are equal to the model's labels, or to its WordNet ids; or else equal but for case, Unicode's form, and
    underscores and hyphens in place of spaces; or they begin with the model's name, as "tench, Tinca tinca" does with
    "tench". Where no name is known and all are integers, they are the model's indices, as the notes say. Only
    where the model has no names at all are the classes taken in their order. Raises DataError where a class fits no
    class of the model, or more than one.
    """
    attempts = [_lookup(classes, labels, nfc), _lookup(classes, label_ids, nfc), _lookup(classes, labels, _plain)]
    attempts.append(_lookup(classes, labels, _first_lemma))
    for found in attempts:
        if all(len(indices) == 1 for indices in found):
            return [indices[0] for indices in found], ()
        if (placed := _by_place(classes, labels, found)) is not None:
            return placed
    best = max(attempts, key=lambda found: sum(map(bool, found)))
    if not any(best):
        if (numbered := _by_number(classes, labels)) is not None:
            return numbered
        if not label_ids and not _are_names(labels):
            return _in_order(classes, labels)
    raise DataError(_misfit(classes, labels, best))


def _lookup(wanted: Sequence[str], names: Sequence[str], key: Callable[[str], str]) -> list[list[int]]:
    """Return all positions of each wanted name, compared by ``key``."""
    positions = defaultdict(list)
    for index, name in enumerate(names):
        positions[key(name)].append(index)
    return [positions.get(key(name), []) for name in wanted]


def _by_place(classes: Sequence[str], labels: Sequence[str], found: list[list[int]]) -> Matched | None:
    """Match every class with the same index of the model where nearly all names say that the order is the same.

    So are two classes told apart that have one name, as the two cranes of ImageNet.
    """
    known = [(place, indices) for place, indices in enumerate(found) if indices]
    agree = sum(place in indices for place, indices in known)
    if len(classes) != len(labels) or agree < len(known) or agree < _AGREEING * len(classes):
        return None
    doubtful = [classes[place] for place, indices in enumerate(found) if len(indices) != 1]
    return list(range(len(classes))), (f"matched by their place in the same list of classes: {few(doubtful)}",)


def _by_number(classes: Sequence[str], labels: Sequence[str]) -> Matched | None:
    """Match names that are integers with the indices of the model."""
    if not all(re.fullmatch("[0-9]{1,9}", name) for name in classes):
        return None
    indices = [int(name) for name in classes]
    if max(indices) >= len(labels) or len(set(indices)) < len(indices):
        return None
    first = indices[0]
    return indices, (
        f"the data's classes are numbers: taken as the model's class indices ({first} is {labels[first]})",
    )


def _in_order(classes: Sequence[str], labels: Sequence[str]) -> Matched:
    """Match the classes of the data in their order with those of a model without names."""
    if len(classes) != len(labels):
        raise DataError(
            f"the model has {len(labels)} classes without names, the data {len(classes)}: they cannot be matched"
        )
    note = f"the model has no class names: the data's classes taken in natural order, from {classes[0]} as class 0"
    if list(classes) == sorted(classes, key=natural_key) != sorted(classes):
        note += " (not in the order of their texts, as torchvision's ImageFolder sorts folders)"
    return list(range(len(classes))), (note,)


def _are_names(labels: Sequence[str]) -> bool:
    """Return whether a model's labels are names, and not the placeholders of a model that came without."""
    return list(labels) != [f"class {i}" for i in range(len(labels))]


def _plain(name: str) -> str:
    return " ".join(nfc(name).casefold().replace("_", " ").replace("-", " ").split())


def _first_lemma(name: str) -> str:
    """Return the first of the names of a class that are separated by commas."""
    return _plain(name.partition(", ")[0])


def _misfit(classes: Sequence[str], labels: Sequence[str], found: list[list[int]]) -> str:
    """Say which classes of the data fit no class of the model, or more than one."""
    missing = [name for name, indices in zip(classes, found, strict=True) if not indices]
    if not missing:
        twice = [name for name, indices in zip(classes, found, strict=True) if len(indices) > 1]
        return f"classes whose name matches several of the model's: {few(twice)}; name them by WordNet id"
    hint = "rename the folders, or give --model trained on these classes"
    if all(re.fullmatch("[0-9]+", name) for name in classes):
        hint = f"as indices they would have to be 0 to {len(labels) - 1}"
    return f"classes that the model does not know: {few(missing)}; its {len(labels)} classes are {few(labels)}: {hint}"
