"""What a file may ask of the decoders, checked before they run: bytes, chunks, tags and scans.

Pillow reads headers in Python and libjpeg decodes every scan of a progressive picture, so a small file can keep them
busy for minutes, and a large one with nothing in it (a sparse file) can fill the memory.
"""

from __future__ import annotations

import re
import struct
from io import SEEK_END
from typing import IO

from seresnet.errors import ImageError

FREE_BYTES = 2**26  # that any image file may have
MAX_BYTES = 2**31 - 1
MAX_SCANS = 100  # of a progressive JPEG; encoders write about ten
MAX_SCANNED = 3_000_000_000  # pixels times scans, some five seconds
_PER_PIXEL = 4  # bytes, compressed
_JUNK = 2**16  # bytes between segments or blocks, skipped one at a time by Pillow
_MAX_CHUNKS = 10_000
_SIZED = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}  # start of frame (T.81, B.1)
_TIFF_WIDTHS = (1, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 1, 1, 8, 8, 8)
_TAG_BYTES = 2**24


def check_bounds(format_name: str, file: IO[bytes]) -> None:
    """Raise ImageError for a file that would cost far more to decode than images do."""
    size = file.seek(0, SEEK_END)
    if size > MAX_BYTES:
        raise ImageError(f"a file of {size / 2**30:,.1f} GiB: larger than any image that can be read here")
    file.seek(0)
    if format_name == "JPEG":
        _check_jpeg(file, size)
    elif format_name == "PNG":
        _check_png(file, size)
    elif format_name == "GIF":
        _check_gif(file)
    elif format_name == "TIFF":
        _check_tiff(file)
    elif format_name in ("WEBP", "AVIF") and size > 2**29:
        raise ImageError(f"a {format_name} of {size / 2**20:,.0f} MiB: larger than any that can be read here")
    elif format_name == "PPM":
        _check_ppm(file, size)
    elif format_name == "BMP":
        _check_bmp(file, size)


def _too_large(size: int, pixels: int) -> None:
    """Refuse a compressed file of far more bytes than its pixels need."""
    if size > FREE_BYTES + 2 * _PER_PIXEL * pixels:
        raise ImageError(f"a file of {size / 2**20:,.0f} MiB for {pixels / 1e6:,.2f} megapixels")


def _check_jpeg(file: IO[bytes], size: int) -> None:
    position, pixels = 2, 0
    for _ in range(_MAX_CHUNKS):
        file.seek(position)
        head = file.read(9)
        if len(head) < 4:
            return  # cut off; the decoder says so
        if head[0] != 0xFF:
            position = _next_marker(file, position)
            continue
        if head[1] in (0xFF, 0x00, 0x01) or 0xD0 <= head[1] <= 0xD8:
            position += 1 if head[1] == 0xFF else 2
            continue
        if head[1] in _SIZED and len(head) == 9:
            height, width = struct.unpack(">HH", head[5:9])
            pixels = height * width
        if head[1] == 0xDA:
            break
        position += 2 + int.from_bytes(head[2:4], "big")
    else:
        raise ImageError(f"a JPEG with more than {_MAX_CHUNKS:,} segments")
    _too_large(size, pixels)
    file.seek(position)
    scans = _count_scans(file.read())
    if scans > MAX_SCANS or scans * pixels > MAX_SCANNED:
        raise ImageError(f"a JPEG of {scans:,} scans, which would take too long to decode")


def _next_marker(file: IO[bytes], position: int) -> int:
    """Return the place of the next marker behind bytes that belong to nothing."""
    file.seek(position)
    found = file.read(_JUNK).find(b"\xff")
    if found < 0:
        raise ImageError("damaged JPEG")
    return position + found


def _count_scans(data: bytes) -> int:
    """Return the number of scans up to the end mark, in bytes that begin with a start of scan."""
    if data.count(b"\xff\xda") <= MAX_SCANS // 10:
        return data.count(b"\xff\xda")
    scans = 0
    for marker in re.finditer(rb"\xff[\xd9\xda]", data):
        if marker[0] == b"\xff\xd9":
            break
        scans += 1
    return scans


def _check_png(file: IO[bytes], size: int) -> None:
    position, chunks, pixels = 8, 0, 0
    while position < size:
        file.seek(position)
        head = file.read(16)
        if len(head) < 8:
            return
        length, kind = struct.unpack(">I4s", head[:8])
        if kind == b"IHDR" and len(head) == 16:
            width, height = struct.unpack(">II", head[8:16])
            pixels = width * height
            _too_large(size, pixels)
        if kind == b"IEND" or not kind.isalpha():
            return
        if kind not in (b"IDAT", b"fdAT") and length > 2**25:
            raise ImageError(f"a PNG with {length / 2**20:,.0f} MiB in a chunk {kind.decode('latin-1')}")
        chunks += 1
        if chunks > _MAX_CHUNKS + size // 1024:
            raise ImageError(f"a PNG with more than {_MAX_CHUNKS:,} chunks")
        position += 12 + length


def _check_gif(file: IO[bytes]) -> None:
    """Follow the blocks up to the first picture (GIF89a, section 12)."""
    head = file.read(13)
    position = 13 + (3 << (head[10] & 7) + 1 if len(head) > 10 and head[10] & 0x80 else 0)
    for _ in range(_MAX_CHUNKS):
        file.seek(position)
        block = file.read(2)
        if len(block) < 2 or block[0] in (0x2C, 0x3B):
            return
        position += 2
        if block[0] != 0x21:
            position -= 1
            continue
        for _ in range(_MAX_CHUNKS):
            file.seek(position)
            length = file.read(1)
            position += 1 + (length[0] if length else 0)
            if not length or not length[0]:
                break
        else:
            raise ImageError("a GIF with megabytes before its first picture")
    raise ImageError("damaged GIF")


def _check_tiff(file: IO[bytes]) -> None:
    """Bound the tags of the first directory (TIFF 6.0, section 2; BigTIFF: 8 bytes in place of 4)."""
    head = file.read(16)
    order = "<" if head.startswith(b"II") else ">"
    big = head[2:4] in (b"+\0", b"\0+")
    try:
        file.seek(struct.unpack_from(order + ("Q" if big else "I"), head, 8 if big else 4)[0])
        count = struct.unpack(order + ("Q" if big else "H"), file.read(8 if big else 2))[0]
        if count > 4096:
            raise ImageError(f"a TIFF with {count:,} tags")
        step = 20 if big else 12
        entries = file.read(step * count)
        for place in range(0, len(entries) - step + 1, step):
            tag, kind, number = struct.unpack_from(order + ("HHQ" if big else "HHI"), entries, place)
            width = _TIFF_WIDTHS[kind] if kind < len(_TIFF_WIDTHS) else 1
            if number * width > (_TAG_BYTES if width > 1 else 16 * _TAG_BYTES):
                raise ImageError(f"a TIFF with {number * width / 2**20:,.0f} MiB in tag {tag}")
    except (struct.error, OSError, OverflowError, ValueError):
        return  # damaged; the decoder says so


def _check_ppm(file: IO[bytes], size: int) -> None:
    """Bound the kinds that Pillow reads value by value: text, and levels other than 255 or 65535."""
    head = file.read(1024)
    values = re.sub(rb"#[^\n]*\n", b" ", head).split(None, 4)
    plain = head[1:2] in b"123"
    odd = head[1:2] in b"56" and len(values) > 3 and values[3] not in (b"255", b"65535")
    if (plain or odd) and size > 2**24:
        raise ImageError(f"a PPM of {size / 2**20:,.0f} MiB that is not plain bytes: convert it")


def _check_bmp(file: IO[bytes], size: int) -> None:
    head = file.read(34)
    if len(head) == 34 and head[30] in (1, 2) and size > 2**24:
        raise ImageError(f"a compressed BMP of {size / 2**20:,.0f} MiB: convert it")
