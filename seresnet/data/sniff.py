"""What a file is, from its content and never from its name, and whether its end is missing."""

from __future__ import annotations

from io import SEEK_END, BytesIO
from typing import IO

from PIL import Image, JpegImagePlugin

from seresnet.errors import ImageError

HEAD_BYTES = 4096

_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)  # the sizes of the second header, by version

# (the bytes a file begins with, what it is). Files that people meet where they expect a photograph.
_STRANGERS = (
    (b"%PDF", "PDF document"),
    (b"8BPS", "Photoshop document"),
    (b"PK\x03\x04", "ZIP archive"),
    (b"\x1f\x8b", "gzip archive"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000 picture"),
    (b"\xff\x0a", "JPEG XL picture"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL picture"),
    (b"\x00\x00\x01\x00", "icon"),
    (b"\x1aE\xdf\xa3", "video"),
    (b"\x93NUMPY", "NumPy array: load it, then pass the array"),
)


def identify(head: bytes) -> str:
    """Return the format of a file that begins with ``head``: JPEG PNG WEBP GIF BMP TIFF AVIF or PPM.

    Raises ImageError for anything else, and says what it is where that is known.
    """
    if not head:
        raise ImageError("empty file")
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if head.startswith((b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")):
        return "TIFF"
    if head[4:8] == b"ftyp":
        return _identify_ftyp(head)
    if head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3] in b" \t\r\n#" and len(head) > 3:
        return "PPM"
    raise ImageError(_describe_stranger(head))


def _identify_ftyp(head: bytes) -> str:
    """Tell AVIF from its relatives by the brands that the first box declares (ISO/IEC 14496-12, 4.3)."""
    size = int.from_bytes(head[:4], "big")
    brands = {head[8:12]} | {head[i : i + 4] for i in range(16, min(size, len(head)), 4)}
    if brands & {b"avif", b"avis"}:
        return "AVIF"
    if brands & {b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1"}:
        raise ImageError("not an image that can be read here (HEIC picture): convert it to JPEG")
    raise ImageError("not an image (video)")


def _describe_stranger(head: bytes) -> str:
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        return "Git LFS pointer: run git lfs pull"
    for magic, name in _STRANGERS:
        if head.startswith(magic):
            return f"not an image that can be read here ({name})"
    if not head.strip(b"\x00"):
        return "not an image (only zero bytes)"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "not an image (HTML page)"
    if b"<svg" in text[:1024]:
        return "not an image that can be read here (SVG drawing)"
    if text.startswith(b"<?xml"):
        return "not an image (XML document)"
    if text.startswith((b"{", b"[")):
        return "not an image (JSON text)"
    try:
        head[:512].decode("utf-8")
    except UnicodeDecodeError:
        return "not an image"
    return "not an image" if b"\x00" in head[:512] else "not an image (text)"


def is_cut_short(format_name: str, file: IO[bytes]) -> bool:
    """Return whether a file lacks its end mark, or is shorter than its header says."""
    size = file.seek(0, SEEK_END)
    file.seek(0)
    head = file.read(32)
    file.seek(max(0, size - 65536))
    tail = file.read()
    if format_name == "JPEG":
        return b"\xff\xd9" not in tail
    if format_name == "PNG":
        return b"IEND" not in tail
    if format_name == "GIF":
        return not tail.rstrip(b"\x00").endswith(b"\x3b")
    if format_name == "WEBP":
        return size < int.from_bytes(head[4:8], "little") + 8
    if format_name == "BMP":
        return size < int.from_bytes(head[2:6], "little")
    if format_name == "TIFF":  # where the first directory starts
        return size <= int.from_bytes(head[4:8], "little" if head.startswith(b"II") else "big")
    return format_name == "AVIF" and size < _boxes_end(file, size)


def _boxes_end(file: IO[bytes], size: int) -> int:
    """Return where the last box of an ISO base media file ends, by the sizes that the boxes declare."""
    position = 0
    for _ in range(10_000):
        if position >= size:
            break
        file.seek(position)
        box = file.read(16)
        length = int.from_bytes(box[:4], "big")
        if length == 1:
            length = int.from_bytes(box[8:16], "big")
        if length < 8:  # 0: up to the end of the file
            return size
        position += length
    return position


def jpeg_ran_dry(file: IO[bytes], image: Image.Image) -> bool:
    """Return whether the last rows of a decoded JPEG are only filled up.

    Without an end mark, the file was cut off (and the rest of its disk blocks is zeros). With one, libjpeg warns, which
    Pillow does not pass on, and fills up with mid-grey. So where the last pixel is mid-grey, put more data before the
    end mark and decode again: a complete picture does not change, one that ran dry takes the data up.
    """
    file.seek(-2, SEEK_END)
    has_end = file.read() == b"\xff\xd9"
    corner = image.getpixel((image.width - 1, image.height - 1))
    values = corner if isinstance(corner, tuple) else (corner,)
    grey = all(value is not None and abs(value - 128) <= 8 for value in values)
    if has_end and not grey:
        return False
    file.seek(0)
    data = file.read()
    end = data.find(b"\xff\xd9", _first_scan(data))
    if end < 0 or not grey:
        return end < 0
    more = bytes((73 * i + 41) % 251 for i in range(4096))
    again = JpegImagePlugin.JpegImageFile(BytesIO(data[:end] + more + data[end:]))
    factor = round(again.width / image.width)
    if factor > 1:  # it was made smaller while it was decoded
        again.draft(None, (again.width // factor, again.height // factor))
    return again.tobytes() != image.tobytes()


def _first_scan(data: bytes) -> int:
    """Return the position of the first start-of-scan marker, past thumbnails that hide in the segments before it."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF and data[position + 1] != 0xDA:
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big") if data[position + 1] != 0xFF else 1
    return position
