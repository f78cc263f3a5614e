"""``seresnet explain``: pictures, numbers and one page, under the images' names."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from tests.cli.terminal import here
from tests.photographs import pieces


def test_each_image_has_a_picture_and_numbers_and_there_is_one_page(tmp_path):
    images = [next(pieces(48)) for _ in range(2)]
    for folder, image in zip(("a", "b"), images, strict=True):
        (tmp_path / folder).mkdir()
        image.save(tmp_path / folder / "cat.png")
    (tmp_path / "notes.bin").write_bytes(b"no image")
    out = tmp_path / "out"
    done = here("explain", tmp_path / "a", tmp_path / "b", tmp_path / "notes.bin", "--out", out, "--label", "frog")
    assert done.returncode == 1 and b"cannot read" in done.stderr and b"notes.bin" in done.stderr
    names = ["cat (2).json", "cat (2).png", "cat.json", "cat.png", "index.html"]
    assert sorted(path.name for path in out.iterdir()) == names
    rows = done.stdout.decode().splitlines()
    assert len(rows) == 2 and all("  frog  " in row for row in rows) and rows[1].endswith("cat (2).png")
    facts = json.loads((out / "cat (2).json").read_text())
    assert facts["path"] == str(tmp_path / "b" / "cat.png") and facts["picture"] == "cat (2).png"
    assert facts["explained"]["label"] == "frog" and len(facts["predictions"]) == 5 and facts["size"] == [48, 48]
    assert [len(gate) for gate in facts["gates"].values()] == [16] * 3 + [32] * 3 + [64] * 3
    assert np.shape(facts["cam"]) == (8, 8)
    assert Image.open(out / "cat.png").width >= 640


def test_a_large_image_is_in_its_picture_at_full_size(tmp_path):
    next(pieces(900, 1)).save(tmp_path / "large.png")
    assert here("explain", tmp_path / "large.png", "--out", tmp_path / "out").returncode == 0
    assert Image.open(tmp_path / "out" / "large.png").width > 900


def test_the_page_needs_no_other_host_and_shows_names_as_text(tmp_path):
    next(pieces(32)).save(tmp_path / "<script>alert(1)<-script>.png")
    assert here("explain", tmp_path, "--out", tmp_path.parent / f"{tmp_path.name}-out").returncode == 0
    page = (tmp_path.parent / f"{tmp_path.name}-out" / "index.html").read_text()
    assert "<script" not in page and "&lt;script&gt;" in page and page.endswith("</body></html>\n")
    assert not re.search(r'(src|href)="(?!data:)', page) and "url(" not in page


def test_a_repeated_run_adds_nothing_and_overwrites_nothing(tmp_path):
    next(pieces(32)).save(tmp_path / "cat.png")
    out = tmp_path / "out"
    for _ in range(2):
        assert here("explain", tmp_path / "cat.png", "--out", out).returncode == 0
    assert sorted(path.name for path in out.iterdir()) == ["cat.json", "cat.png", "index.html"]
    assert here("explain", tmp_path / "cat.png", "--out", out, "--label", "ship").returncode == 0
    names = {path.name for path in out.iterdir()}
    assert {"cat (2).png", "cat (2).json", "index (2).html"} <= names


def test_what_cannot_run_is_one_line(tmp_path):
    done = here("explain", "--out", tmp_path)
    assert done.returncode == 2 and b"no images" in done.stderr
    next(pieces(32)).save(tmp_path / "cat.png")
    done = here("explain", tmp_path / "cat.png", "--out", tmp_path / "cat.png")
    assert done.returncode == 2 and b"is a file" in done.stderr
    done = here("explain", tmp_path / "cat.png", "--out", tmp_path / "o", "--label", "kat")
    assert done.returncode == 2 and b"did you mean cat?" in done.stderr and not (tmp_path / "o").exists()


@pytest.mark.parametrize("command", ["explain", "excitations"])
def test_a_model_that_nobody_named_is_named(command, tmp_path):
    """Commands that read the network itself say which one, as those with an engine do."""
    (tmp_path / "images").mkdir()
    Image.new("RGB", (32, 32), "red").save(tmp_path / "images" / "red.png")
    done = here(command, tmp_path / "images", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(b"no --model given: using the bundled seresnet20.cifar10\n")
