"""Archives of labelled images, unpacked once into the cache, with no way out of their folder.

Only folders and ordinary files come out, under names that stay below the folder (of a tar, also by the ``data`` filter
of the standard library), and each file is written here, byte by byte and counted: a link, a device, an absolute path,
``..``, a name that is there twice, or more than an honest archive of photographs would hold ends it, and nothing is
left behind.
"""

from __future__ import annotations

import hashlib
import logging
import lzma
import os
import re
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from seresnet.common.files import cache_folder, locked
from seresnet.data.names import shown, split_named
from seresnet.data.tars import BoundedInfo
from seresnet.data.walk import is_hidden, list_folder
from seresnet.data.zips import check_directory, member_name
from seresnet.errors import DataError

log = logging.getLogger("seresnet")

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")
MAX_RATIO = 100  # unpacked bytes for each byte of the archive: photographs are compressed already
FREE_BYTES = 2**28  # that any archive may unpack to, whatever its size
FREE_MEMBERS = 20_000  # that any archive may have
MAX_FOLDERS = 50_000  # ImageNet-21k has 21,841 classes
MAX_EMPTY_FILES = 500  # no image is empty, and writing many files takes time
BYTES_PER_MEMBER = 64  # of the archive, for each further member: the smallest images are larger
_CHUNK = 2**20
_DAMAGED = (
    *(tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error),
    *(EOFError, NotImplementedError, UnicodeDecodeError, TypeError),  # the last by tarfile, of a cut gzip header
)

# A member: its name, whether it is a folder, and a way to its bytes (None: it is neither file nor folder).
Member = tuple[str, bool, IO[bytes] | None]


def is_archive(path: Path) -> bool:
    """Return whether a file has the name of an archive."""
    return path.name.lower().endswith(SUFFIXES) and path.is_file()


def unpack(archive: Path) -> Path:
    """Return the folder with the content of an archive, unpacked at the first call; the same file is never done twice.

    It lies in the cache (``$SERESNET_CACHE``), or beside the archive where there is none. A single folder at the top is
    stepped into. Raises DataError for an archive that is damaged or dangerous; then nothing of it stays.
    """
    status = archive.stat()
    facts = f"{archive.resolve()}\0{status.st_size}\0{status.st_mtime_ns}"
    cache = cache_folder()
    root = cache / "archives" if cache else archive.parent
    folder = root / f"{_plain(archive.name)}-{hashlib.sha256(os.fsencode(facts)).hexdigest()[:16]}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with locked(folder.with_name(f".{folder.name}.lock")):
            if not folder.is_dir():
                log.info("unpacking %s into %s, once", archive, folder)
                _unpack_into(archive, folder)
    except OSError as error:
        raise DataError(f"{archive}: cannot be unpacked into {root}: {error.strerror or error}") from None
    return _only_folder(folder)


def _unpack_into(archive: Path, folder: Path) -> None:
    """Unpack into a temporary folder that is renamed when it is complete."""
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        _extract(archive, temporary)
        temporary.rename(folder)
    except _DAMAGED as error:
        raise DataError(f"{archive}: the archive is damaged ({shown(error, 200)})") from None
    except RuntimeError as error:  # zipfile says so of a password
        raise DataError(f"{archive}: {error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _extract(archive: Path, folder: Path) -> None:
    size = archive.stat().st_size
    room = max(FREE_BYTES, MAX_RATIO * size)
    free = shutil.disk_usage(folder).free
    written = empty = folders = 0
    for number, (name, is_folder, file) in enumerate(_members(archive, folder), 1):
        if number > FREE_MEMBERS + size // BYTES_PER_MEMBER or folders > MAX_FOLDERS:
            raise DataError(f"{archive}: has more members than an archive of images of its size; unpack it yourself")
        if empty > MAX_EMPTY_FILES:
            raise DataError(f"{archive}: has more than {MAX_EMPTY_FILES:,} empty files; unpack it yourself")
        path = _safe_name(archive, name)
        if any(map(is_hidden, path.parts)):
            continue
        if is_folder:
            (folder / path).mkdir(parents=True, exist_ok=True)
            folders += 1
            continue
        if file is None:
            raise DataError(f"{archive}: {name!r} is a link or a device; only folders and files are unpacked")
        copied = _copy(archive, name, file, folder / path, min(room, free) - written, free < room)
        written += copied
        empty += not copied


def _copy(archive: Path, name: str, file: IO[bytes], target: Path, room: int, disk: bool) -> int:
    """Write one member, at most ``room`` bytes; ``disk`` says that the disk sets the limit. Return its size."""
    written = 0
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with file, target.open("xb") as out:
            while chunk := file.read(_CHUNK):
                written += len(chunk)
                if written > room and disk:
                    raise DataError(f"{archive}: needs more than the space that is free in {target.anchor}")
                if written > room:
                    raise DataError(f"{archive}: unpacks to more than {MAX_RATIO} times its size; unpack it yourself")
                out.write(chunk)
    except FileExistsError:
        raise DataError(f"{archive}: {name!r} is in it twice") from None
    return written


def _members(archive: Path, folder: Path) -> Iterator[Member]:
    """Yield the members of an archive, in order."""
    if archive.suffix.lower() == ".zip":
        check_directory(archive)
        with zipfile.ZipFile(archive) as bag:
            for entry in bag.infolist():
                name = member_name(entry)
                kind = entry.external_attr >> 16 & 0o170000  # the file type of Unix, 0 where another system wrote it
                plain = kind in (0, 0o100000) and not name.endswith("/")
                yield name, name.endswith("/") and kind in (0, 0o040000), bag.open(entry) if plain else None
        return
    with tarfile.open(archive, "r|*", tarinfo=BoundedInfo) as tar:  # a stream: headers and bytes in one pass
        for member in tar:
            if member.isdir() or member.isreg():
                _safe_name(archive, member.name)
                tarfile.data_filter(member, os.fspath(folder))
            yield member.name, member.isdir(), tar.extractfile(member) if member.isreg() else None


def _safe_name(archive: Path, name: str) -> Path:
    """Return the name of a member as a relative path below the folder. Raises DataError where it leads elsewhere."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    outside = name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or bool(re.match("[A-Za-z]:", name))
    if outside:
        raise DataError(f"{archive}: {name!r} leads out of the archive's folder; do not trust this archive")
    return Path(*parts)


def _only_folder(folder: Path) -> Path:
    """Step into a folder of folders that is alone, as ``data/`` in most archives; but not into a split."""
    listing = list_folder(folder)
    alone = len(listing.folders) == 1 and split_named(listing.folders[0]) is None
    inner = folder / listing.folders[0] if alone else folder
    return inner if alone and list_folder(inner).folders else folder


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)
