"""Search against scikit-learn's nearest neighbours."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from seresnet.errors import ConfigError
from seresnet.inference.prediction import Embedded
from seresnet.retrieval.search import search
from seresnet.retrieval.vectors import open_vectors, write_vectors


@pytest.fixture(params=["v.parquet", "v.npz"])
def stored(request, tmp_path):
    """5,000 embeddings in a file, and as an array."""
    values = np.random.default_rng(0).normal(size=(5000, 16)).astype(np.float32)
    write_vectors(tmp_path / request.param, (Embedded(str(i), row) for i, row in enumerate(values)), "a.model")
    return open_vectors(tmp_path / request.param), values


def test_the_nearest_are_scikit_learns(stored):
    vectors, values = stored
    queries = np.random.default_rng(1).normal(size=(7, 16)).astype(np.float32)
    distances, indices = NearestNeighbors(n_neighbors=9, metric="cosine").fit(values).kneighbors(queries)
    found = search(vectors, queries, 9)
    assert [[int(hit.path) for hit in hits] for hits in found] == indices.tolist()
    np.testing.assert_allclose([[hit.similarity for hit in hits] for hits in found], 1 - distances, atol=1e-5)


def test_of_equal_ones_the_first_comes_first_and_a_small_file_has_fewer(tmp_path):
    same = np.float32([3, 4])
    rows = [Embedded("a", same), Embedded("gone", error="x"), Embedded("b", 2 * same), Embedded("c", -same)]
    write_vectors(tmp_path / "v.npz", rows, "m")
    (hits,) = search(open_vectors(tmp_path / "v.npz"), same[None], 10)
    assert [(hit.path, round(hit.similarity, 5)) for hit in hits] == [("a", 1), ("b", 1), ("c", -1)]


def test_embeddings_of_another_model_are_refused(stored):
    with pytest.raises(ConfigError, match=r"embeddings of 16 numbers, the model gives 8: .* a\.model"):
        search(stored[0], np.zeros((1, 8), np.float32))
    with pytest.raises(ConfigError, match="topk"):
        search(stored[0], np.zeros((1, 16), np.float32), 0)
