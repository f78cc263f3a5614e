import io
import os
import tracemalloc
from itertools import islice
from pathlib import Path

import pytest

from seresnet.data.decode import decode
from seresnet.data.names import natural_key
from seresnet.data.paths import expand
from seresnet.errors import ImageError

FILES = [
    "a/1.jpg",
    "a/10.JPG",
    "a/2.jpeg",
    "a/deep/er/x.png",
    "a/notes.txt",
    "a/.hidden.jpg",
    "b/y.webp",
    "b/z.tiff",
    "top.bmp",
]


@pytest.fixture
def photos(tmp_path, monkeypatch):
    for name in [*FILES, ".git/blob.png"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (["a"], ["a/1.jpg", "a/2.jpeg", "a/10.JPG", "a/deep/er/x.png"]),
        (["b/", "top.bmp"], ["b/y.webp", "b/z.tiff", "top.bmp"]),
        (["a/notes.txt"], ["a/notes.txt"]),  # named: taken, whatever its name
        ([Path("b"), "b"], ["b/y.webp", "b/z.tiff", "b/y.webp", "b/z.tiff"]),
        (["a/*.jp*g"], ["a/1.jpg", "a/2.jpeg"]),
        (["a/[12].*"], ["a/1.jpg", "a/2.jpeg"]),
        (["?"], ["a/1.jpg", "a/2.jpeg", "a/10.JPG", "a/deep/er/x.png", "b/y.webp", "b/z.tiff"]),
        (["**/*.png"], ["a/deep/er/x.png"]),
        (["./**/*.png"], ["./a/deep/er/x.png"]),
        (["a/**"], ["a/1.jpg", "a/2.jpeg", "a/10.JPG", "a/deep/er/x.png"]),
        (["a/**/*.txt"], ["a/notes.txt"]),
        (["*/**/e*/x.*"], ["a/deep/er/x.png"]),
        (["**/deep/**/x.png"], ["a/deep/er/x.png"]),
        (["missing.jpg", "top.bmp"], ["missing.jpg", "top.bmp"]),
        (["*.gif", "**/*.gif", "empty"], ["*.gif", "**/*.gif", "empty"]),
        ([], []),
    ],
)
def test_expand(photos, sources, expected):
    assert list(expand(sources)) == expected


def test_the_whole_folder_in_sorted_order_without_hidden_ones(photos):
    names = [name for name in FILES if ".txt" not in name and ".hidden" not in name]
    expected = [str(photos / name) for name in sorted(names, key=natural_key)]
    assert list(expand([photos])) == expected
    assert list(expand([f"{photos}/**"])) == expected


def test_what_cannot_be_read_is_named_and_not_lost(photos):
    for source in ("missing.jpg", "*.gif", "empty"):
        (path,) = expand([source])
        assert path == source
        with pytest.raises(ImageError):
            decode(path)


def test_a_list_on_stdin(photos):
    lines = "top.bmp\r\n\na/1.jpg\nb\nname with spaces \n*.bmp\nmissing.png"
    expected = ["top.bmp", "a/1.jpg", "b/y.webp", "b/z.tiff", "name with spaces ", "*.bmp", "missing.png"]
    assert list(expand(["-"], io.StringIO(lines))) == expected
    assert list(expand(["a/1.jpg", "-", "top.bmp"], io.StringIO("b/y.webp"))) == ["a/1.jpg", "b/y.webp", "top.bmp"]


def test_stdin_may_list_names_that_are_not_utf8(photos):
    name = os.fsdecode(b"caf\xe9.jpg")
    try:
        (photos / name).write_bytes(b"")
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    stdin = io.TextIOWrapper(io.BytesIO(b"caf\xe9.jpg\n"), encoding="utf-8")
    (path,) = expand(["-"], stdin)
    assert path == name and os.path.exists(path)
    assert name in list(expand(["."])) or f"./{name}" in list(expand(["."]))


def test_stdin_is_read_line_by_line(photos):
    read = []

    class Lines(io.StringIO):
        def readline(self, size=-1):
            read.append(1)
            return f"{len(read)}.jpg\n"

    assert list(islice(expand(["-"], Lines()), 3)) == ["1.jpg", "2.jpg", "3.jpg"]
    assert len(read) == 3


def test_names_with_glob_characters_are_files_first(photos):
    (photos / "[1].jpg").touch()
    (photos / "a[b]").mkdir()
    (photos / "a[b]" / "c.png").touch()
    assert list(expand(["[1].jpg", "a[b]"])) == ["[1].jpg", "a[b]/c.png"]


def test_links_are_followed_and_loops_end(photos):
    (photos / "b" / "linked").symlink_to(photos / "a" / "deep", target_is_directory=True)
    (photos / "b" / "loop").symlink_to(photos, target_is_directory=True)
    (photos / "b" / "broken.jpg").symlink_to(photos / "gone.jpg")
    inside = ["b/broken.jpg", "b/linked/er/x.png"]
    found = list(expand(["b"]))
    assert set(inside) < set(found) and len(found) == len(set(found)) < 20
    assert set(expand(["b/**/x.png"])) == {path for path in found if path.endswith("x.png")}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may list everything")
def test_a_closed_folder_is_named(photos):
    (photos / "a" / "deep").chmod(0)
    try:
        assert "a/deep" in list(expand(["a"])) and "a/deep" in list(expand(["a/**/*.png"]))
    finally:
        (photos / "a" / "deep").chmod(0o700)


def test_a_folder_that_cannot_be_listed_is_named(photos, monkeypatch):
    scandir = os.scandir

    def closed(path):
        if str(path).rstrip("/").endswith("deep"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    assert list(expand(["a"])) == ["a/1.jpg", "a/2.jpeg", "a/10.JPG", "a/deep"]
    assert list(expand(["a/**/*.png"])) == ["a/deep"]


def test_memory_holds_one_folder_and_not_the_list(tmp_path):
    """100 folders of 200 files: the peak stays near one folder's names, far below the list of all paths."""
    for folder in range(100):
        (tmp_path / f"{folder:03}").mkdir()
        for file in range(200):
            os.close(os.open(tmp_path / f"{folder:03}" / f"{file:04}.jpg", os.O_CREAT))
    tracemalloc.start()
    count = sum(1 for _ in expand([tmp_path]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    everything = list(expand([tmp_path]))
    peak_of_list = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == len(everything) == 20_000
    assert everything == sorted(everything)
    assert peak < peak_of_list / 10
