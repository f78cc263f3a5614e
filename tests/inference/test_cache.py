"""The cache: entries are whole or not there, bounded in size, and nothing that happens to them is fatal."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from seresnet.errors import ConfigError
from seresnet.inference import cache as module
from seresnet.inference.cache import Cache, cache_folder, cache_limit, digest_of, key_of

FACTS = {"labels": ["émeu", "cat"]}


def writer(size: int = 1000, fill: bytes = b"x"):
    def write(folder: Path) -> None:
        (folder / "model.bin").write_bytes(fill * size)
        (folder / "model.xml").write_text("<net/>")

    return write


@pytest.fixture
def cache(tmp_path) -> Cache:
    return Cache(tmp_path, limit=10_000)


def test_an_entry_comes_back_with_its_files_and_facts(cache):
    assert cache.find("k") is None
    stored = cache.store("k", writer(), FACTS)
    found = cache.find("k")
    assert stored == found and found.facts == FACTS and found.is_whole()
    assert (found.folder / "model.bin").read_bytes() == b"x" * 1000
    assert [path.name for path in cache.folder.iterdir()] == ["k"]


def test_keys_differ_with_what_they_are_made_of(monkeypatch):
    facts = {"weights": "abc", "precision": "float32"}
    assert key_of(facts) == key_of(dict(reversed(facts.items())))
    assert len({key_of(facts), key_of({**facts, "precision": "bfloat16"}), key_of({**facts, "cpu": "x"})}) == 3
    before = key_of(facts)
    monkeypatch.setattr(module, "FORMAT", module.FORMAT + 1)
    assert key_of(facts) != before


@pytest.mark.parametrize("noted", ["", "{", "[]", '{"facts": 3}', '{"facts": {}, "digests": 7}', "\0"])
def test_an_entry_whose_notes_are_damaged_is_gone_and_can_be_made_anew(cache, noted):
    (cache.store("k", writer(), FACTS).folder / module.ENTRY).write_text(noted)
    assert cache.find("k") is None
    assert list(cache.folder.iterdir()) == []
    assert cache.store("k", writer(), FACTS).is_whole()


def test_a_file_that_was_changed_cut_or_removed_is_noticed(cache):
    weights = cache.store("k", writer(), FACTS).folder / "model.bin"
    for content in (b"x" * 500 + b"y" + b"x" * 499, b"x" * 999, b""):
        weights.write_bytes(content)
        assert not cache.find("k").is_whole()
    weights.unlink()
    assert not cache.find("k").is_whole()


def test_a_folder_that_is_no_entry_gives_way(cache):
    (cache.folder / "k").mkdir(parents=True)
    (cache.folder / "k" / "model.xml").write_text("left by something else")
    assert cache.store("k", writer(), FACTS).is_whole()


def test_the_first_of_two_writers_stays(cache):
    def slow(folder: Path) -> None:
        cache.store("k", writer(fill=b"1"), FACTS)  # another process is quicker
        writer(fill=b"2")(folder)

    entry = cache.store("k", slow, FACTS)
    assert (entry.folder / "model.bin").read_bytes() == b"1" * 1000
    assert [path.name for path in cache.folder.iterdir()] == ["k"]


def test_what_was_not_used_for_longest_goes_first(cache):
    for hours, key in enumerate(("a", "b", "c"), start=-9):
        entry = cache.store(key, writer(2500), FACTS)
        os.utime(entry.folder / module.ENTRY, (time.time() + 3600 * hours,) * 2)
    cache.find("a")  # used just now
    cache.store("d", writer(2500), FACTS)  # 4 entries of some 2.7 kB are too many for 10 kB
    assert {key for key, _, _ in cache.entries()} == {"a", "c", "d"}


def test_what_is_larger_than_the_cache_is_not_kept(cache):
    cache.store("small", writer(), FACTS)
    assert cache.store("large", writer(20_000), FACTS) is None
    assert [key for key, _, _ in cache.entries()] == ["small"]


def test_a_limit_of_zero_keeps_nothing(tmp_path):
    cache = Cache(tmp_path, limit=0)
    assert cache.store("k", writer(), FACTS) is None and cache.find("k") is None
    assert list(tmp_path.iterdir()) == []


def test_clearing_leaves_what_is_not_its_own(cache, tmp_path):
    cache.store("a", writer(), FACTS)
    cache.store("b", writer(), FACTS)
    (cache.folder / ".new-dead").mkdir()
    (cache.folder / "notes").mkdir()
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    assert cache.clear() == 2
    assert [path.name for path in cache.folder.iterdir()] == ["notes"] and (tmp_path / "photo.jpg").exists()


def test_what_a_dead_process_left_goes_after_a_while(cache):
    cache.store("a", writer(), FACTS)
    old, new = cache.folder / ".new-old", cache.folder / ".new-new"
    old.mkdir(), new.mkdir()
    os.utime(old, (time.time() - 2 * module.LEFT_BEHIND_SECONDS,) * 2)
    cache.store("b", writer(), FACTS)
    assert not old.exists() and new.exists()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("cannot\nserialize")])
def test_a_disk_that_is_full_is_one_line_of_warning(cache, caplog, error):
    def write(folder: Path) -> None:
        (folder / "model.bin").write_bytes(b"half")
        raise error

    assert cache.store("k", write, FACTS) is None
    (record,) = caplog.records
    assert record.levelname == "WARNING" and record.getMessage().endswith("going on without it")
    assert "\n" not in record.getMessage()
    assert cache.find("k") is None and list(cache.folder.iterdir()) == []


def test_a_place_that_cannot_be_written_is_one_line_of_warning(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    cache = Cache(tmp_path / "file")
    assert cache.find("k") is None and cache.store("k", writer(), FACTS) is None
    assert len(caplog.records) == 1 and "cannot be written" in caplog.text
    assert (cache.entries(), cache.clear()) == ([], 0)


def test_other_errors_of_the_writer_are_raised(cache):
    def write(folder: Path) -> None:
        raise ConfigError("no such thing")

    with pytest.raises(ConfigError):
        cache.store("k", write, FACTS)
    assert list(cache.folder.iterdir()) == []


WRITER = """
import json, sys
from pathlib import Path
from seresnet.inference.cache import Cache
name, folder = sys.argv[1:]
def write(made):
    for i in range(3):
        (made / f"{i}.bin").write_bytes(name.encode() * 200_000)
sys.stdin.readline()
for turn in range(10):
    entry = Cache(Path(folder), 10**9).store(f"k{turn}", write, {"by": name})
    assert entry is not None and entry.is_whole(), turn
"""


def test_processes_that_make_the_same_entries_at_once(tmp_path):
    processes = [
        subprocess.Popen([sys.executable, "-c", WRITER, name, str(tmp_path)], stdin=subprocess.PIPE) for name in "abc"
    ]
    for process in processes:
        process.stdin.write(b"go\n")
        process.stdin.close()
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    cache = Cache(tmp_path, 10**9)
    assert sorted(path.name for path in cache.folder.iterdir()) == sorted(f"k{turn}" for turn in range(10))
    for key, _, _ in cache.entries():
        entry = cache.find(key)
        assert entry.is_whole() and entry.facts["by"] == (entry.folder / "0.bin").read_text()[0]  # never a mixture


def test_the_place_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("SERESNET_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path and Cache().folder == tmp_path / "models"
    monkeypatch.delenv("SERESNET_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "seresnet"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "seresnet"


def test_without_a_home_there_is_no_cache(monkeypatch):
    for name in ("SERESNET_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as it answers where nobody has a home
    cache = Cache(limit=1000)
    assert cache.folder is None and cache.store("k", writer(), FACTS) is None and cache.find("k") is None
    assert (cache.entries(), cache.clear()) == ([], 0)


@pytest.mark.parametrize(
    ("given", "expected"), [("", module.LIMIT), ("0", 0), ("500M", 500 * 2**20), ("1.5 GiB", 3 * 2**29), ("7kb", 7168)]
)
def test_the_limit_follows_the_environment(monkeypatch, given, expected):
    monkeypatch.setenv("SERESNET_CACHE_LIMIT", given)
    assert cache_limit() == expected


def test_a_limit_that_is_none_is_refused(monkeypatch):
    monkeypatch.setenv("SERESNET_CACHE_LIMIT", "lots")
    with pytest.raises(ConfigError, match="give bytes, such as 500M or 4G, or 0 for no cache"):
        Cache()


def test_notes_are_plain_json(cache):
    noted = json.loads((cache.store("k", writer(), FACTS).folder / module.ENTRY).read_text())
    assert sorted(noted["digests"]) == ["model.bin", "model.xml"] and noted["facts"] == FACTS


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions of Windows")
@pytest.mark.parametrize("which", ["models", "."])
def test_a_cache_that_all_can_write_to_is_refused(tmp_path, caplog, which):
    Cache(tmp_path).store("k", writer(), FACTS)
    (tmp_path / which).chmod(0o777)
    cache = Cache(tmp_path)
    assert cache.find("k") is None and cache.store("k", writer(), FACTS) is None
    assert "can be written to by all users; set SERESNET_CACHE" in caplog.text and "\n" not in caplog.messages[0]
    (tmp_path / which).chmod(0o755)
    assert Cache(tmp_path).find("k").is_whole()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
def test_a_cache_that_belongs_to_another_user_is_refused(tmp_path, caplog):
    Cache(tmp_path).store("k", writer(), FACTS)
    os.chown(tmp_path / "models", 1234, 1234)
    assert Cache(tmp_path).find("k") is None
    assert "belongs to another user (uid 1234)" in caplog.text


def test_folders_of_the_cache_are_for_their_user_alone(tmp_path):
    cache = Cache(tmp_path / "new" / "cache")
    cache.store("k", writer(), FACTS)
    modes = {path.stat().st_mode & 0o777 for path in (cache.folder, cache.folder.parent)}
    assert modes == {0o700}


def test_notes_that_were_changed_are_damage_whatever_they_say(cache):
    notes = cache.store("k", writer(), FACTS).folder / module.ENTRY
    notes.write_text(notes.read_text().replace("cat", "dog"))
    assert cache.find("k") is None


def test_a_file_that_was_added_is_damage(cache):
    entry = cache.store("k", writer(), FACTS)
    (entry.folder / "model.onnx").write_bytes(b"planted")
    assert not cache.find("k").is_whole()


def test_a_sparse_file_beyond_any_model_is_not_hashed(tmp_path):
    """Hashing 100 GB of zeros takes minutes, before anything would refuse the file."""
    path = tmp_path / "m.pth"
    path.touch()
    os.truncate(path, 100 << 30)
    with pytest.raises(OSError, match="more bytes than any model's file"):
        digest_of(path)
