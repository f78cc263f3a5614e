"""Engines' graphs in the cache: what an entry depends on, and how it is written and opened."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from seresnet.common.machine import described_processor, processor
from seresnet.common.text import one_line
from seresnet.engines.registry import ENGINES
from seresnet.errors import SeresnetError
from seresnet.inference.cache import Cache, digest_of, key_of
from seresnet.inference.calibration import Calibration
from seresnet.version import __version__
from seresnet.weights.source import ModelSource

T = TypeVar("T")

log = logging.getLogger("seresnet")

PACKAGE = Path(__file__).parents[1]
CODE = ("models", "engines", "weights")  # folders of the code that makes a graph


def input_digests(weights: Path | None, calibration: Calibration | None) -> list[str]:
    """Return hashes of the weights and of the calibration images; nothing where one cannot be read."""
    if weights is None or not weights.is_file():
        return []
    images = calibration.digest() if calibration else ""
    try:
        return [digest_of(weights), images] if images is not None else []
    except OSError:
        return []


def key(source: ModelSource, engine: str, precision: str, digests: list[str]) -> str:
    """Return the name of an entry: a hash of all that an engine's graph of a network depends on.

    The graph in float32 serves every precision and processor; that in int8 was made for one kind of processor.
    """
    known = {name: value for name, value in asdict(source).items() if name not in ("name", "path", "graph")}
    int8 = ["int8", described_processor(), *sorted(processor()[1])]
    return key_of(
        {
            "seresnet": [__version__, _code_digest()],
            "engine": [engine, version(ENGINES[engine].package)],
            "precision": int8 if precision == "int8" else ["float32"],
            "source": known,
            "files": digests,
        }
    )


def find(key: str, engine: str, open_entry: Callable[[Path, dict[str, Any]], T]) -> T | None:
    """Return what ``open_entry`` makes of an entry's graph and facts; an entry that is damaged is deleted."""
    cache = Cache()
    entry = cache.find(key)
    if entry is None:
        return None
    try:
        if not entry.is_whole():
            raise ValueError("its files are not what was written")
        return open_entry(entry.folder / str(ENGINES[engine].file), entry.facts)
    except SeresnetError:  # of a setting that is impossible here
        raise
    except Exception as error:  # whatever a damaged file leads to
        log.info("%s: damaged (%s), made anew", entry.folder, one_line(error))
        cache.discard(key)
        return None


def store(key: str, engine: str, opened: Any, facts: dict[str, Any]) -> None:
    """Keep the graph of an opened engine, and what is known of its images and classes."""
    file = str(ENGINES[engine].file)
    Cache().store(key, lambda folder: opened.save(folder / file), facts)


def _code_digest() -> str:
    """Return a hash of the code that makes a graph: in a working copy it changes within a version."""
    files = sorted(file for folder in CODE for file in (PACKAGE / folder).rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
