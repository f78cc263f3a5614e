"""The images whose embeddings are the most similar to those of a query: exact, in flat memory, for any number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seresnet.errors import ConfigError
from seresnet.retrieval.vectors import Vectors, normalized


@dataclass(frozen=True)
class Hit:
    """An image of a file of embeddings, and its cosine similarity to a query, -1 to 1."""

    path: str
    similarity: float


def search(vectors: Vectors, queries: NDArray[np.float32], topk: int = 12) -> list[list[Hit]]:
    """Return the ``topk`` images with the highest cosine similarity to each query, the best first.

    - `queries`: embeddings (N, width) by the model that the file's are of.
    - `topk`: 1 or more; fewer are returned where the file has fewer.

    Every row is compared (recall 1), a few thousand at a time; of equal ones the first in the file comes first. Raises
    ConfigError for another width.
    """
    if topk < 1:
        raise ConfigError(f"topk must be 1 or more, not {topk}")
    if queries.ndim != 2 or queries.shape[1] != vectors.width:
        raise ConfigError(
            f"{vectors.path} has embeddings of {vectors.width} numbers, the model gives {queries.shape[-1]}: give the "
            f"model that they were made with, {vectors.model}"
        )
    unit = normalized(queries)
    best = [np.empty((0,), np.float32) for _ in queries]
    names: list[list[str]] = [[] for _ in queries]
    for paths, batch in vectors.batches():
        similarity = unit @ normalized(batch).T  # (N, width) @ (width, rows) -> (N, rows)
        for i, row in enumerate(similarity):
            joined, all_names = np.concatenate([best[i], row]), names[i]
            order = np.argsort(-joined, kind="stable")[:topk]
            names[i] = [all_names[j] if j < len(all_names) else paths[j - len(all_names)] for j in order.tolist()]
            best[i] = joined[order]
    return [
        [Hit(path, float(value)) for path, value in zip(*found, strict=True)] for found in zip(names, best, strict=True)
    ]
