"""A file is whole or not there, whatever happens while it is written."""

import pytest

from seresnet.files import atomic_file, write_text


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
