"""Match the classes of a data set with those of a model, by name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from seresnet.errors import DataError


def match_classes(
    classes: Sequence[str], labels: Sequence[str], label_ids: Sequence[str] = ()
) -> tuple[list[int], tuple[str, ...]]:
    """Return the model's class index of each class folder, and notes on what was assumed.

    Names must be equal to the model's labels, or to its WordNet ids; or else equal but for case, and for underscores
    and hyphens in place of spaces. Only where the model has no names at all are the folders taken in their sorted
    order, which the notes say. Raises DataError where a folder fits no class, or more than one.
    """
    if not label_ids and not _are_names(labels):
        if len(classes) != len(labels):
            raise DataError(
                f"the model has {len(labels)} classes without names, the data {len(classes)}: they cannot be matched"
            )
        note = f"the model has no class names: folders taken in sorted order, from {classes[0]!r} as class 0"
        return list(range(len(classes))), (note,)
    attempts = [_lookup(classes, labels), _lookup(classes, label_ids)]
    attempts.append(_lookup([_plain(c) for c in classes], [_plain(label) for label in labels]))
    fitting = next((found for found in attempts if all(len(indices) == 1 for indices in found)), None)
    if fitting is None:
        raise DataError(_misfit(classes, labels, max(attempts, key=lambda found: sum(map(bool, found)))))
    return [indices[0] for indices in fitting], ()


def _lookup(wanted: Sequence[str], names: Sequence[str]) -> list[list[int]]:
    """Return all positions of each wanted name."""
    positions = defaultdict(list)
    for index, name in enumerate(names):
        positions[name].append(index)
    return [positions.get(name, []) for name in wanted]


def _are_names(labels: Sequence[str]) -> bool:
    return list(labels) != [f"class {i}" for i in range(len(labels))]


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _misfit(classes: Sequence[str], labels: Sequence[str], found: list[list[int]]) -> str:
    """Say which folders fit no class of the model, or more than one."""
    missing = [name for name, indices in zip(classes, found, strict=True) if not indices]
    if not missing:
        twice = [name for name, indices in zip(classes, found, strict=True) if len(indices) > 1]
        return (
            f"class folders whose name stands for several classes of the model: {few(twice)}; name them by WordNet id"
        )
    return (
        f"class folders that the model does not know: {few(missing)}; its {len(labels)} classes are {few(labels)}: "
        "rename the folders, or give --model trained on these classes"
    )


def few(names: Sequence[str]) -> str:
    """Return the first five names, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
