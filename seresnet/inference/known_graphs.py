"""Hashes of OpenVINO graphs that need no check: those that this package wrote, or checked before.

Each is an empty file in the cache, named by the hash of the graph and its weights.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

from seresnet.common.files import cache_folder
from seresnet.inference.cache import digest_of, make_private, not_ours

MOST = 10_000  # hashes that are kept; the oldest go first


def graph_digest(graph: Path) -> str:
    """Return the hash of a graph: of its ``.xml`` and the ``.bin`` beside it. Raises OSError."""
    parts = (digest_of(file) for file in (graph, graph.with_suffix(".bin")))
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def is_known(digest: str) -> bool:
    """Return whether a graph of this hash was written or checked by this user before."""
    folder = _folder()
    return folder is not None and (folder / digest).is_file()


def remember(digest: str) -> None:
    """Note the hash of a graph; without a cache that can be written, the next use checks it again."""
    folder = _folder()
    if folder is None:
        return
    with contextlib.suppress(OSError):
        make_private(folder)
        (folder / digest).touch()
        files = sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime)
        for file in files[:-MOST]:
            file.unlink()


def _folder() -> Path | None:
    base = cache_folder()
    if base is None:
        return None
    folder = base / "graphs"
    return None if not_ours(folder) else folder
