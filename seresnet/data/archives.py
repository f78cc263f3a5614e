"""Archives of labelled images, unpacked once into the cache, with no way out of their folder.

Only folders and ordinary files come out, under names that stay below the folder, and each file is written here, byte by
byte and counted: a link, a device, an absolute path, ``..``, a name that is there twice, or more than an honest archive
of photographs would hold ends it, and nothing is left behind.
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
from seresnet.data.dataset import SPLITS
from seresnet.errors import DataError

log = logging.getLogger("seresnet")

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")
MAX_FILES = 50_000_000
MAX_RATIO = 100  # unpacked bytes for each byte of the archive: photographs are compressed already
FREE_BYTES = 2**28  # that any archive may unpack to, whatever its size
_CHUNK = _HEADER_BYTES = 2**20
_TEXT_TYPES = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, b"X")

# A member: its name, whether it is a folder, and a way to its bytes (None: it is neither file nor folder).
Member = tuple[str, bool, IO[bytes] | None]


def is_archive(path: Path) -> bool:
    """Tell whether a file has the name of an archive."""
    return path.name.lower().endswith(SUFFIXES) and path.is_file()


def unpacked(archive: Path) -> Path:
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
                _unpack(archive, folder)
    except OSError as error:
        raise DataError(f"{archive}: cannot be unpacked into {root}: {error.strerror or error}") from None
    return _only_folder(folder)


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack into a temporary folder that takes its place when it is whole."""
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        _extract(archive, temporary)
        temporary.rename(folder)
    except (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, NotImplementedError) as error:
        raise DataError(f"{archive}: the archive is damaged ({error})") from None
    except RuntimeError as error:  # zipfile says so of a password
        raise DataError(f"{archive}: {error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _extract(archive: Path, folder: Path) -> None:
    room = max(FREE_BYTES, MAX_RATIO * archive.stat().st_size)
    free = shutil.disk_usage(folder).free
    written = 0
    for number, (name, is_folder, file) in enumerate(_members(archive), 1):
        if number > MAX_FILES:
            raise DataError(f"{archive}: has more than {MAX_FILES:,} members")
        if name.startswith("__MACOSX/"):
            continue
        target = folder / _safe_name(archive, name)
        if is_folder:
            target.mkdir(parents=True, exist_ok=True)
            continue
        if file is None:
            raise DataError(f"{archive}: {name!r} is a link or a device; only folders and files are unpacked")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with file, target.open("xb") as out:
                while chunk := file.read(_CHUNK):
                    written += len(chunk)
                    if written > room:
                        raise DataError(
                            f"{archive}: unpacks to more than {MAX_RATIO} times its size; unpack it yourself"
                        )
                    if written > free:
                        raise DataError(
                            f"{archive}: needs more than the {free / 2**30:.1f} GiB free in {folder.parent}"
                        )
                    out.write(chunk)
        except FileExistsError:
            raise DataError(f"{archive}: {name!r} is in it twice") from None


def _members(archive: Path) -> Iterator[Member]:
    """Yield the members of an archive, in order."""
    if archive.suffix.lower() == ".zip":
        with zipfile.ZipFile(archive) as bag:
            for entry in bag.infolist():
                kind = entry.external_attr >> 16 & 0o170000  # the file type of Unix, 0 where another system wrote it
                plain = kind in (0, 0o100000) and not entry.is_dir()
                yield entry.filename, entry.is_dir() and kind in (0, 0o040000), bag.open(entry) if plain else None
        return
    with tarfile.open(archive, "r|*", tarinfo=_BoundedInfo) as tar:  # a stream: headers and bytes in one pass
        for member in tar:
            yield member.name, member.isdir(), tar.extractfile(member) if member.isreg() else None


class _BoundedInfo(tarfile.TarInfo):
    """A header that is refused where it announces more text than names need: tarfile reads that text into memory."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _TEXT_TYPES and self.size > _HEADER_BYTES:
            raise tarfile.ReadError("a header of more than a megabyte")
        return super()._proc_member(tar)  # type: ignore[misc]


def _safe_name(archive: Path, name: str) -> Path:
    """Return the name of a member as a relative path below the folder. Raises DataError where it is none."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    outside = name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or bool(re.match("[A-Za-z]:", name))
    if outside:
        raise DataError(f"{archive}: {name!r} leads out of the archive's folder; do not trust this archive")
    return Path(*parts)


def _only_folder(folder: Path) -> Path:
    """Step into a folder of folders that is alone, as ``data/`` in most archives; but not into a part of a data set."""
    top = [path for path in folder.iterdir() if not path.name.startswith(".")]
    parts = {name for names in SPLITS.values() for name in names}
    alone = len(top) == 1 and top[0].is_dir() and top[0].name not in parts
    return top[0] if alone and any(path.is_dir() for path in top[0].iterdir()) else folder


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)
