"""``seresnet embed`` and ``seresnet search``: from photographs to the most similar ones."""

import csv
import io

import numpy as np
import pytest
from PIL import Image

import seresnet
from tests.cli.terminal import here
from tests.photographs import pieces


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number, piece in zip(range(14), pieces(32), strict=False):
        piece.save(folder / f"{number}.png")
    return folder


def test_embeddings_are_those_of_the_classifier(photographs, tmp_path):
    (photographs / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    done = here("embed", photographs, "--out", tmp_path / "v.npz", "--precision", "float32")
    assert done.returncode == 1 and b"cannot read" in done.stderr and b"broken.png" in done.stderr
    with np.load(tmp_path / "v.npz") as arrays:
        assert arrays["path"][0] == str(photographs / "0.png") and arrays["error"][-1] != ""
        expected = seresnet.load(precision="float32").embed([photographs / f"{i}.png" for i in range(14)])
        np.testing.assert_allclose(arrays["embedding"][:-1], expected, rtol=1e-4, atol=1e-5)


def test_an_image_finds_its_changed_copy_first(photographs, tmp_path):
    assert here("embed", photographs, "--out", tmp_path / "v.parquet").returncode == 0
    Image.open(photographs / "3.png").save(tmp_path / "query.jpg", quality=85)
    sheet = tmp_path / "sheet.png"
    done = here("search", tmp_path / "v.parquet", tmp_path / "query.jpg", "--topk", "3", "--sheet", sheet)
    assert done.returncode == 0
    rows = list(csv.DictReader(io.StringIO(done.stdout.decode())))
    assert len(rows) == 3 and {row["query"] for row in rows} == {str(tmp_path / "query.jpg")}
    assert rows[0]["path"] == str(photographs / "3.png") and float(rows[0]["similarity"]) > 0.95
    assert float(rows[0]["similarity"]) > float(rows[1]["similarity"]) >= float(rows[2]["similarity"])
    assert Image.open(sheet).width > 4 * 288


def test_what_cannot_run_is_one_line(photographs, tmp_path):
    assert b".parquet or .npz" in here("embed", photographs, "--out", tmp_path / "v.csv").stderr
    assert b"no images" in here("search", tmp_path / "v.npz").stderr
    (tmp_path / "v.npz").write_bytes(b"text")
    done = here("search", tmp_path / "v.npz", photographs)
    assert done.returncode == 2 and b"not a file that seresnet embed wrote" in done.stderr
