"""Zip files as other systems write them: names of Windows and of old programs, and a bound on their directory."""

from __future__ import annotations

import contextlib
import struct
import zipfile
import zlib
from pathlib import Path

from seresnet.errors import DataError

_END = b"PK\x05\x06"  # of the end record, 22 bytes and a comment of at most 65,535 (APPNOTE.TXT 6.3.10, 4.3.16)
_END64 = b"PK\x06\x06"
_UTF8 = 0x800  # the flag that says that a name is UTF-8
_UNICODE_PATH = 0x7075  # the extra field with the name in UTF-8 (4.6.9)
FREE_DIRECTORY = 2**24  # bytes that the directory of any zip may have: some 150,000 names


def check_directory(path: Path) -> None:
    """Raise DataError where most of a zip is its directory: millions of names, and next to nothing in the files."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - 65557 - 76))
        tail = file.read()
    end = tail.rfind(_END)
    if end < 0 or len(tail) < end + 22:
        return  # zipfile says what is wrong with it
    directory = struct.unpack_from("<I", tail, end + 12)[0]
    end64 = tail.rfind(_END64, 0, end)
    if directory == 0xFFFFFFFF and end64 >= 0 and len(tail) >= end64 + 56:
        directory = struct.unpack_from("<Q", tail, end64 + 40)[0]
    if directory > FREE_DIRECTORY and directory > size // 3:
        raise DataError(f"{path}: has more members than an archive of images of its size; unpack it yourself")


def member_name(entry: zipfile.ZipInfo) -> str:
    """Return the name of a member with slashes, decoded as the program that wrote it meant it.

    Without the flag for UTF-8 a name is in the code page 437 by the specification; many programs write UTF-8 all the
    same, and some add the name in UTF-8 beside it.
    """
    name = entry.orig_filename
    if not entry.flag_bits & _UTF8:
        raw = name.encode("cp437", "replace")
        name = _unicode_path(entry.extra, raw) or name
        if not raw.isascii():
            with contextlib.suppress(UnicodeDecodeError):
                name = raw.decode("utf-8")
    return name.replace("\\", "/") if entry.create_system in (0, 10, 11) or "/" not in name else name


def _unicode_path(extra: bytes, raw: bytes) -> str | None:
    """Return the name of the Unicode path field, where it belongs to the name ``raw``."""
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        data = extra[position + 4 : position + 4 + length]
        if kind == _UNICODE_PATH and len(data) > 5 and struct.unpack_from("<I", data, 1)[0] == zlib.crc32(raw):
            return data[5:].decode("utf-8", "replace")
        position += 4 + length
    return None
