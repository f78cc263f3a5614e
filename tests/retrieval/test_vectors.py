"""Files of embeddings, read by pyarrow and NumPy alone."""

import tracemalloc

import numpy as np
import pyarrow.parquet
import pytest

from seresnet.errors import ConfigError, DataError
from seresnet.inference.prediction import Embedded
from seresnet.retrieval.vectors import open_vectors, write_vectors


def rows(count: int, width: int = 5, seed: int = 0):
    """Rows of which every fourth has an error, the first among them."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        features = rng.normal(size=width).astype(np.float32)
        yield Embedded(f"bild é {i}.png", error="truncated") if i % 4 == 0 else Embedded(f"bild é {i}.png", features)


def kept(count: int) -> list[Embedded]:
    return [row for row in rows(count) if row.features is not None]


@pytest.mark.parametrize("count", [2, 2048, 5000])
def test_parquet_has_three_columns(tmp_path, count):
    write_vectors(tmp_path / "v.parquet", rows(count), "some.model")
    table = pyarrow.parquet.read_table(tmp_path / "v.parquet").to_pylist()
    assert len(table) == count and list(table[0]) == ["path", "embedding", "error"]
    assert table[0] == {"path": "bild é 0.png", "embedding": None, "error": "truncated"}
    for row, expected in zip(table, rows(count), strict=True):
        assert row["path"] == expected.path and row["error"] == expected.error
        if expected.features is not None:
            assert np.array_equal(np.float32(row["embedding"]), expected.features)


@pytest.mark.parametrize("count", [2, 2048, 5000])
def test_npz_has_three_arrays(tmp_path, count):
    write_vectors(tmp_path / "v.npz", rows(count), "some.model")
    with np.load(tmp_path / "v.npz", allow_pickle=False) as arrays:
        assert arrays["path"].tolist() == [row.path for row in rows(count)]
        assert arrays["error"].tolist() == [row.error or "" for row in rows(count)]
        assert np.isnan(arrays["embedding"][::4]).all()
        expected = np.stack([row.features for row in kept(count)])
        np.testing.assert_array_equal(arrays["embedding"][np.arange(count) % 4 != 0], expected)


@pytest.mark.parametrize("name", ["v.parquet", "v.npz"])
def test_what_was_written_is_read(tmp_path, name):
    write_vectors(tmp_path / name, rows(5000), "some.model", normalize=True)
    vectors = open_vectors(tmp_path / name)
    assert (vectors.model, vectors.normalized, vectors.rows, vectors.width) == ("some.model", True, 5000, 5)
    batches = list(vectors.batches())
    assert [path for paths, _ in batches for path in paths] == [row.path for row in kept(5000)]
    expected = np.stack([row.features / np.linalg.norm(row.features) for row in kept(5000)])
    np.testing.assert_allclose(np.concatenate([values for _, values in batches]), expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["v.parquet", "v.npz"])
def test_memory_is_flat(tmp_path, name):
    """Four times the rows take no more memory to write and read."""

    def peak(count: int) -> int:
        tracemalloc.start()
        write_vectors(tmp_path / name, rows(count, 64), "m")
        sum(len(values) for _, values in open_vectors(tmp_path / name).batches())
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(10)  # what is imported counts once
    assert peak(12_000) < 1.25 * peak(4_096)


@pytest.mark.parametrize("name", ["v.parquet", "v.npz"])
def test_a_run_that_fails_leaves_the_previous_file(tmp_path, name):
    write_vectors(tmp_path / name, rows(4), "first")

    def failing():
        yield from rows(3000)
        raise RuntimeError("a reader failed")

    with pytest.raises(RuntimeError):
        write_vectors(tmp_path / name, failing(), "second")
    assert open_vectors(tmp_path / name).model == "first" and [p.name for p in tmp_path.iterdir()] == [name]


def test_nothing_to_write_is_refused(tmp_path):
    with pytest.raises(DataError, match="no images"):
        write_vectors(tmp_path / "v.npz", [], "m")
    with pytest.raises(DataError, match="none of the images can be read"):
        write_vectors(tmp_path / "v.npz", [Embedded("a", error="gone")], "m")
    with pytest.raises(ConfigError, match=r"\.parquet or \.npz"):
        write_vectors(tmp_path / "v.csv", rows(4), "m")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["v.parquet", "v.npz"])
def test_a_damaged_or_foreign_file_is_refused_with_its_reason(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(DataError, match="No such file"):
        open_vectors(path)
    write_vectors(path, rows(100), "m")
    whole = path.read_bytes()
    for damaged in (b"", b"text", whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="not a file that seresnet embed wrote"):
            open_vectors(path)
    if name == "v.npz":
        np.savez(path, other=np.zeros(3))
    else:
        pyarrow.parquet.write_table(pyarrow.table({"x": [1, 2]}), path)
    with pytest.raises(DataError, match="not a file that seresnet embed wrote"):
        open_vectors(path)
