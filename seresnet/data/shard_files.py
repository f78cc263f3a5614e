"""Which files the shards of a data set are: a folder of them, one for each split, or a pattern."""

from __future__ import annotations

import glob
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seresnet.common.files import read_bounded
from seresnet.data.names import natural_key, split_named
from seresnet.data.walk import list_folder
from seresnet.errors import DataError

log = logging.getLogger("seresnet")

PLAN = "pack.json"  # what `seresnet pack` set out to write
TEXT_BYTES = 2**26  # no list of classes or shards is larger
_MAX_SHARDS = 1_000_000


def is_pattern(source: str) -> bool:
    """Return whether a text is a pattern for several shards: ``train-{000..127}.tar`` or ``train-*.tar``."""
    return ".tar" in source and bool(re.search(r"[{*?\[]", source)) and not Path(source).exists()


def holds_shards(path: Path) -> bool:
    """Return whether a folder holds shards and no folders of images, or such a folder for each split."""
    if not path.is_dir():
        return False
    listing = list_folder(path)
    splits = _split_folders(path)
    return (bool(_tars(path)) and not listing.folders) or (bool(splits) and all(map(holds_shards, splits)))


def _split_folders(path: Path) -> list[Path]:
    return [path / name for name in list_folder(path).folders if split_named(name)]


def _tars(folder: Path) -> list[Path]:
    return [folder / name for name in list_folder(folder).files if name.endswith(".tar")]


def find_shards(source: str) -> list[Path]:
    """Return the files that match a pattern, or the shards of a folder, in natural order."""
    path = Path(source)
    if path.is_dir():
        _check_complete(path)
        return _tars(path) or [shard for folder in _split_folders(path) for shard in find_shards(str(folder))]
    if path.is_file():
        return [path]
    files: list[Path] = []
    for name in _braces(source):
        matches = sorted(glob.glob(name), key=natural_key) if glob.has_magic(name) else [name]  # noqa: PTH207
        files += [Path(match) for match in matches]
    missing = [path for path in files if not path.is_file()]
    if missing or not files:
        raise DataError(f"{missing[0] if missing else source}: no such shard")
    return files


def _braces(pattern: str) -> Iterator[str]:
    """Yield the names that ``{000..127}`` and ``{a,b}`` expand to, as in a shell."""
    from braceexpand import braceexpand

    try:
        for number, name in enumerate(braceexpand(pattern, escape=False)):
            if number == _MAX_SHARDS:
                raise DataError(f"{pattern}: expands to more than {_MAX_SHARDS:,} shards")
            yield name
    except ValueError:  # UnbalancedBracesError, which it does not export
        raise DataError(f"{pattern}: its braces do not match") from None


def index_path(shard: Path) -> Path:
    """Return the place of a shard's index."""
    return shard.with_suffix(".index.json")


def read_json(path: Path, limit: int = TEXT_BYTES) -> Any:
    """Return what a JSON file says; None where there is none, it is not JSON, or larger than ``limit`` bytes."""
    try:
        return json.loads(read_bounded(path, limit))
    except OSError:
        return None
    except (ValueError, RecursionError):
        log.warning("%s: is not JSON, and ignored", path)
        return None


def _check_complete(folder: Path) -> None:
    """Raise DataError where a folder holds the beginning of what `seresnet pack` was to write."""
    plan = read_json(folder / PLAN)
    shards = plan.get("shards") if isinstance(plan, dict) else None
    if not isinstance(shards, list) or not all(isinstance(name, str) and "/" not in name for name in shards):
        return
    missing = [name for name in shards if not index_path(folder / name).is_file()]
    if missing:
        raise DataError(f"{folder}: {missing[0]} is not there yet; finish it with seresnet pack and --exist-ok")
