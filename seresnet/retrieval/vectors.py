"""Files of embeddings, parquet or npz: one row per image, written and read in flat memory."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from seresnet.common.extras import require
from seresnet.common.files import atomic_file
from seresnet.common.text import one_line
from seresnet.data.parallel import batched
from seresnet.errors import ConfigError, DataError
from seresnet.inference.prediction import Embedded

Array = NDArray[np.float32]
SUFFIXES = (".parquet", ".npz")
ROWS = 2048  # that are written and read at once
FACTS = ("model", "normalized")  # what a file says of its embeddings


@dataclass(frozen=True)
class Vectors:
    """What a file of embeddings says of itself; `batches` reads its rows."""

    path: Path
    model: str
    normalized: bool
    rows: int
    width: int

    def batches(self) -> Iterator[tuple[list[str], Array]]:
        """Yield the paths and the embeddings (N, width) of a few rows at a time; rows with an error are left out.

        Raises DataError where the file is damaged.
        """
        read = _read_parquet if self.path.suffix == ".parquet" else _read_npz
        with _explained(self.path):
            for paths, vectors in read(self.path):
                kept = np.all(np.isfinite(vectors), axis=1)
                yield [path for path, keep in zip(paths, kept.tolist(), strict=True) if keep], vectors[kept]


def check_name(path: Path) -> None:
    """Raise ConfigError where a file of embeddings cannot have this name, or its extra is missing."""
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path}: give a name that ends in {' or '.join(SUFFIXES)}")
    if path.suffix == ".parquet":
        require("pyarrow.parquet")


def write_vectors(path: Path, rows: Iterable[Embedded], model: str, normalize: bool = False) -> None:
    """Write embeddings; the file appears when it is whole, and memory is flat.

    - `path`: a ``.parquet`` file with the columns ``path``, ``embedding`` (float32, a list of fixed length; null where
      there is an error) and ``error``, or a ``.npz`` file with arrays of these names (NaN where there is an error).
    - `normalize`: whether each embedding is divided by its length.

    Raises DataError where there are no images, or none can be read.
    """
    check_name(path)
    stream = iter(rows)
    before: list[Embedded] = []  # those in front of the first embedding, which tells the width
    for row in stream:
        before.append(row)
        if row.features is not None:
            break
    if not before or before[-1].features is None:
        raise DataError(f"no embeddings: {'none of the images can be read' if before else 'no images'}")
    width = len(before[-1].features)
    facts = {"model": model, "normalized": str(normalize).lower()}
    write = _write_parquet if path.suffix == ".parquet" else _write_npz
    with atomic_file(path) as file:
        write(file, batched((_row(row, normalize) for row in chain(before, stream)), ROWS), width, facts)


def open_vectors(path: Path) -> Vectors:
    """Return what a file of embeddings says of itself. Raises DataError for a file of another kind."""
    check_name(path)
    with _explained(path):
        if path.suffix == ".parquet":
            file = require("pyarrow.parquet").ParquetFile(path)
            facts = {key.decode(): value.decode() for key, value in (file.schema_arrow.metadata or {}).items()}
            rows, width = file.metadata.num_rows, file.schema_arrow.field("embedding").type.list_size
        else:
            with zipfile.ZipFile(path) as archive:
                facts = {key: str(np.load(archive.open(f"{key}.npy"), allow_pickle=False)) for key in FACTS}
                with archive.open("embedding.npy") as member:
                    (rows, width), _ = _header(member)
        return Vectors(path, facts["model"], facts["normalized"] == "true", rows, width)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Raise DataError, with the reason, for what a reader of a damaged or foreign file raises."""
    try:
        yield
    except (OSError, KeyError, ValueError, AttributeError, zipfile.BadZipFile) as error:  # pyarrow's are ValueErrors
        reason = error.strerror if isinstance(error, OSError) and error.strerror else one_line(error)
        raise DataError(f"{path}: not a file that seresnet embed wrote ({reason})") from None


def _row(row: Embedded, normalize: bool) -> Embedded:
    """Return a row with a path that every reader takes, and its embedding normalized."""
    path = (row.path or "").encode("utf-8", "backslashreplace").decode()
    features = row.features
    if features is not None and normalize:
        features = normalized(features[None])[0]
    return Embedded(path, features, row.error)


def normalized(vectors: Array) -> Array:
    """Return vectors (N, D) divided by their lengths; those of length 0 stay 0."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    divided: NDArray[Any] = vectors / np.where(lengths > 0, lengths, 1)
    return divided


def _write_parquet(file: BinaryIO, batches: Iterable[list[Embedded]], width: int, facts: dict[str, str]) -> None:
    pa, parquet = require("pyarrow"), require("pyarrow.parquet")
    embedding = pa.list_(pa.float32(), width)
    schema = pa.schema([("path", pa.string()), ("embedding", embedding), ("error", pa.string())], metadata=facts)
    with parquet.ParquetWriter(file, schema) as writer:
        for rows in batches:
            values = _stacked(rows, width)
            missing = pa.array([row.features is None for row in rows])
            columns = [
                pa.array([row.path for row in rows], pa.string()),
                pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), type=embedding, mask=missing),
                pa.array([row.error for row in rows], pa.string()),
            ]
            writer.write_table(pa.table(columns, schema=schema))


def _stacked(rows: Sequence[Embedded], width: int) -> Array:
    nothing = np.full(width, np.nan, np.float32)
    return np.stack([nothing if row.features is None else row.features for row in rows])


def _read_parquet(path: Path) -> Iterator[tuple[list[str], Array]]:
    file = require("pyarrow.parquet").ParquetFile(path)
    width = file.schema_arrow.field("embedding").type.list_size
    for batch in file.iter_batches(ROWS, columns=["path", "embedding"]):
        kept = batch.filter(batch.column("embedding").is_valid())
        values = kept.column("embedding").flatten().to_numpy(zero_copy_only=False)
        yield kept.column("path").to_pylist(), np.asarray(values, np.float32).reshape(-1, width)


def _write_npz(file: BinaryIO, batches: Iterable[list[Embedded]], width: int, facts: dict[str, str]) -> None:
    """Write the rows into files first, because an array's header has the number of its rows and its widest text."""
    with tempfile.TemporaryFile() as vectors, tempfile.TemporaryFile() as texts:
        count, widest = 0, {"path": 1, "error": 1}
        for rows in batches:
            vectors.write(_stacked(rows, width).tobytes())
            for row in rows:
                for key, value in (("path", row.path or ""), ("error", row.error or "")):
                    widest[key] = max(widest[key], len(value))
                    texts.write(len(data := value.encode()).to_bytes(8, "little") + data)
            count += len(rows)
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for key, fact in facts.items():
                with archive.open(f"{key}.npy", "w") as member:
                    np.lib.format.write_array(member, np.array(fact), allow_pickle=False)
            for key in ("path", "error"):
                _write_texts(archive, key, texts, count, widest[key])
            with archive.open("embedding.npy", "w", force_zip64=True) as member:
                _write_header(member, (count, width), np.dtype("<f4"))
                vectors.seek(0)
                while block := vectors.read(2**20):
                    member.write(block)


def _write_texts(archive: zipfile.ZipFile, key: str, texts: IO[bytes], count: int, widest: int) -> None:
    """Write every second text of a file, the first ones for ``path``, as an array of strings."""
    dtype = np.dtype(f"<U{widest}")
    with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
        _write_header(member, (count,), dtype)
        texts.seek(0)
        for number in range(2 * count):
            value = texts.read(int.from_bytes(texts.read(8), "little")).decode()
            if (number % 2 == 0) == (key == "path"):
                member.write(np.array(value, dtype).tobytes())


def _write_header(member: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(member, header)


def _read_npz(path: Path) -> Iterator[tuple[list[str], Array]]:
    with zipfile.ZipFile(path) as archive, archive.open("path.npy") as texts, archive.open("embedding.npy") as member:
        (count,), text = _header(texts)
        (rows, width), number = _header(member)
        if rows != count or text.kind != "U" or number != np.float32:
            raise ValueError("arrays of another kind")
        for start in range(0, count, ROWS):
            some = min(ROWS, count - start)
            paths = np.frombuffer(_exactly(texts, some * text.itemsize), text).tolist()
            values = np.frombuffer(_exactly(member, some * width * 4), "<f4")
            yield paths, values.astype(np.float32).reshape(some, width)


def _header(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Read the header of an array in C order."""
    np.lib.format.read_magic(member)
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
    if fortran:
        raise ValueError("an array in Fortran order")
    return shape, dtype


def _exactly(member: IO[bytes], size: int) -> bytes:
    data = member.read(size)
    if len(data) != size:
        raise ValueError("cut short")
    return data
