"""Archives: used as the folder that is in them, with no way out of it, and nothing left of a bad one."""

import io
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from seresnet.data import archives
from seresnet.data.open_dataset import open_data, open_labelled
from seresnet.errors import DataError
from tests.made_images import color_folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SERESNET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "archives"


@pytest.fixture
def colors(tmp_path) -> Path:
    color_folder(tmp_path / "colors" / "train", per_class=3)
    color_folder(tmp_path / "colors" / "test", per_class=1)
    return tmp_path / "colors"


def tar_of(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for member, data in members:
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def left_behind(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.suffix != ".lock"]


@pytest.mark.parametrize("form", ["zip", "tar", "gztar", "xztar"])
@pytest.mark.parametrize("top", [".", "colors"])
def test_an_archive_is_the_folder_in_it(tmp_path, colors, cache, form, top):
    root = colors if top == "." else colors.parent
    archive = shutil.make_archive(str(tmp_path / "data"), form, root, top)
    found, folder = open_data(archive), open_data(colors)
    assert found.train.fingerprint() == folder.train.fingerprint()
    tests = [open_labelled(source).samples for source in (archive, colors)]
    assert [p.read_bytes() for p, _ in tests[0]] == [p.read_bytes() for p, _ in tests[1]] and len(tests[0]) == 3
    first = {path: path.stat().st_mtime_ns for path, _ in found.train.samples}
    assert {path: path.stat().st_mtime_ns for path, _ in open_data(archive).train.samples} == first  # not done again
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 1


def test_a_changed_archive_is_unpacked_anew(tmp_path, colors):
    archive = shutil.make_archive(str(tmp_path / "data"), "zip", colors)
    assert len(open_data(archive).train.samples) == 9
    (colors / "train" / "red" / "000.png").unlink()
    os.utime(shutil.make_archive(str(tmp_path / "data"), "zip", colors), (1, 1))
    assert len(open_data(archive).train.samples) == 8


def test_the_debris_of_a_mac_is_passed_over(tmp_path, colors):
    archive = shutil.make_archive(str(tmp_path / "data"), "zip", colors)
    with zipfile.ZipFile(archive, "a") as bag:
        bag.writestr("__MACOSX/train/red/._000.png", b"x")
    assert len(open_data(archive).train.samples) == 9


EVIL = {
    "absolute": (member("/tmp/evil.jpg"), b"x", "leads out"),
    "above": (member("train/../../evil.jpg"), b"x", "leads out"),
    "backslash": (member("train\\..\\..\\evil.jpg"), b"x", "leads out"),
    "drive": (member("C:evil.jpg"), b"x", "leads out"),
    "symlink": (member("train", tarfile.SYMTYPE, "/etc"), b"", "is a link or a device"),
    "inner symlink": (member("train/a.jpg", tarfile.SYMTYPE, "b.jpg"), b"", "is a link or a device"),
    "hard link": (member("train/a.jpg", tarfile.LNKTYPE, "/etc/passwd"), b"", "is a link or a device"),
    "character device": (member("train/a.jpg", tarfile.CHRTYPE), b"", "is a link or a device"),
    "block device": (member("train/a.jpg", tarfile.BLKTYPE), b"", "is a link or a device"),
    "pipe": (member("train/a.jpg", tarfile.FIFOTYPE), b"", "is a link or a device"),
}


@pytest.mark.parametrize("name", EVIL)
def test_no_way_out_of_a_tar(tmp_path, cache, name):
    info, data, message = EVIL[name]
    archive = tar_of(tmp_path / "data.tar", (member("train/x/good.jpg"), b"x"), (info, data))
    before = set(tmp_path.rglob("*"))
    with pytest.raises(DataError, match=message) as refused:
        open_data(archive)
    assert "\n" not in str(refused.value) and str(archive) in str(refused.value)
    assert left_behind(cache) == []
    assert not [p for p in set(tmp_path.rglob("*")) - before if cache.parent not in (p, *p.parents)]
    assert not Path("/tmp/evil.jpg").exists()


@pytest.mark.parametrize("name", ["/etc/evil.jpg", "../evil.jpg", "a/../../evil.jpg", "a\\..\\evil.jpg", "C:/evil.jpg"])
def test_no_way_out_of_a_zip_by_name(tmp_path, cache, name):
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as bag:
        bag.writestr("train/x/good.jpg", b"x")
        bag.writestr(name, b"x")
    with pytest.raises(DataError, match="leads out"):
        open_data(tmp_path / "data.zip")
    assert left_behind(cache) == []


def test_no_link_comes_out_of_a_zip(tmp_path, cache):
    entry = zipfile.ZipInfo("train")
    entry.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as bag:
        bag.writestr(entry, "/etc")
    with pytest.raises(DataError, match="is a link or a device"):
        open_data(tmp_path / "data.zip")
    assert left_behind(cache) == []


def test_a_name_twice_is_refused(tmp_path):
    twice = (member("train/x/a.jpg"), b"1"), (member("train/x/./a.jpg"), b"2")
    with pytest.raises(DataError, match="is in it twice"):
        open_data(tar_of(tmp_path / "data.tar", *twice))


@pytest.mark.parametrize("form", ["zip", "gztar", "xztar"])
def test_a_bomb_is_stopped_by_its_size(tmp_path, cache, monkeypatch, form):
    monkeypatch.setattr(archives, "FREE_BYTES", 2**20)
    (tmp_path / "bomb" / "x").mkdir(parents=True)
    (tmp_path / "bomb" / "x" / "a.bmp").write_bytes(bytes(2**23))
    archive = shutil.make_archive(str(tmp_path / "data"), form, tmp_path / "bomb")
    with pytest.raises(DataError, match="unpacks to more than 100 times its size"):
        open_data(archive)
    assert left_behind(cache) == []


def test_a_bomb_is_stopped_by_its_count(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(archives, "FREE_MEMBERS", 50)
    with tarfile.open(tmp_path / "data.tar.gz", "w:gz") as tar:
        for i in range(60):
            tar.addfile(member(f"x/{i}.jpg"))
    with pytest.raises(DataError, match="more members than an archive of images of its size"):
        open_data(tmp_path / "data.tar.gz")
    assert left_behind(cache) == []


def test_many_empty_files_are_no_data_set(tmp_path, cache):
    with tarfile.open(tmp_path / "data.tar", "w") as tar:
        for i in range(600):
            tar.addfile(member(f"x/{i}.jpg"))
    with pytest.raises(DataError, match="more than 500 empty files"):
        open_data(tmp_path / "data.tar")
    assert left_behind(cache) == []


def test_a_header_that_would_fill_the_memory_is_refused(tmp_path):
    with tarfile.open(tmp_path / "data.tar.gz", "w:gz", format=tarfile.PAX_FORMAT) as tar:
        info = member("x/a.jpg")
        info.pax_headers = {"comment": "x" * 2**21}
        tar.addfile(info)
    with pytest.raises(DataError, match="a header of more than a megabyte"):
        open_data(tmp_path / "data.tar.gz")


@pytest.mark.parametrize("form", ["zip", "tar", "gztar", "xztar"])
def test_a_damaged_archive_is_refused(tmp_path, colors, cache, form):
    archive = Path(shutil.make_archive(str(tmp_path / "data"), form, colors))
    data = archive.read_bytes()
    for kept in (0, len(data) // 2):
        archive.write_bytes(data[:kept])
        with pytest.raises(DataError, match="damaged"):
            open_data(archive)
    assert left_behind(cache) == []


def test_a_locked_archive_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as bag:
        bag.writestr("x/a.jpg", b"secret")
    data = bytearray((tmp_path / "data.zip").read_bytes())
    data[6] |= 1  # the flag of an encrypted member, in both of its headers
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "data.zip").write_bytes(data)
    with pytest.raises(DataError, match="encrypted"):
        open_data(tmp_path / "data.zip")


def test_several_processes_unpack_it_once(tmp_path, colors, cache):
    archive = shutil.make_archive(str(tmp_path / "data"), "gztar", colors)
    program = (
        "import sys; from seresnet.data.open_dataset import open_data; print(len(open_data(sys.argv[1]).train.samples))"
    )
    command = [sys.executable, "-c", program, archive]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate(timeout=60)[0] for process in processes] == ["9\n"] * 3
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 1
