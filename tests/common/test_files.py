"""A file is whole or not there, whatever happens while it is written."""

import os
from pathlib import Path

import pytest

from seresnet.common.files import atomic_file, atomic_folder, read_bounded, write_text


def test_replaces_the_file_when_all_is_written(tmp_path):
    path = tmp_path / "new" / "file.txt"
    write_text(path, "one")
    write_text(path, "two é")
    assert path.read_text(encoding="utf-8") == "two é"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(KeyboardInterrupt), atomic_file(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_others_may_read_it_as_usual(tmp_path):
    (tmp_path / "usual").touch()
    write_text(tmp_path / "atomic", "x")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_folder_takes_the_place_of_another_whole(tmp_path):
    place = tmp_path / "deep" / "folder"
    for number in (1, 2):
        with atomic_folder(place) as folder:
            assert folder.parent == place.parent
            (folder / f"file {number}").write_text(str(number))
        assert [path.name for path in place.iterdir()] == [f"file {number}"]
    assert [path.name for path in place.parent.iterdir()] == ["folder"]


def test_a_folder_that_fails_leaves_the_one_before(tmp_path):
    place = tmp_path / "folder"
    with atomic_folder(place) as folder:
        (folder / "file").write_text("old")

    def fail() -> None:
        with atomic_folder(place) as folder:
            (folder / "file").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (place / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_reading_is_bounded_and_waits_for_nobody(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(b"x" * 1000)
    assert read_bounded(path, 1000) == b"x" * 1000
    with pytest.raises(OSError, match="larger than 0 kB"):
        read_bounded(path, 999)
    with pytest.raises(FileNotFoundError):
        read_bounded(tmp_path / "missing", 1000)
    os.mkfifo(tmp_path / "pipe")
    for other in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(OSError, match="not a regular file"):
            read_bounded(other, 1000)
