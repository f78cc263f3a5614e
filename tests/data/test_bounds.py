"""Small files that would keep a decoder busy, and large ones with nothing in them: refused before they are decoded."""

import struct
import time
import zlib
from io import BytesIO

import pytest
from PIL import Image

from seresnet.data.decode import decode
from seresnet.errors import ImageError


def progressive(size: int, scans: int) -> bytes:
    """Return a progressive JPEG whose last scan is there ``scans`` times more."""
    buffer = BytesIO()
    Image.new("RGB", (size, size), (10, 200, 30)).save(buffer, "JPEG", progressive=True, quality=90)
    data = buffer.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * scans + b"\xff\xd9"


def sparse(path, head: bytes, size: int):
    with path.open("wb") as file:
        file.write(head)
        file.truncate(size)
    return path


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_scans_of_a_progressive_jpeg_are_bounded():
    assert decode(progressive(64, 0)).size == (64, 64)
    assert decode(progressive(64, 20)).size == (64, 64)
    with pytest.raises(ImageError, match="scans, which would take too long"):
        decode(progressive(64, 500))
    with pytest.raises(ImageError, match="scans, which would take too long"):
        decode(progressive(7000, 60))


PNG = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
TIFF = b"II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 273, 4, 2**28, 64)
HEADS = {
    "jpeg": b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0",
    "gif": b"GIF89a\x08\0\x08\0\0\0\0",
    "png": PNG,
    "png chunk": PNG + struct.pack(">I4s", 2**31 - 1, b"zTXt"),
    "tiff": TIFF,
    "webp": b"RIFF\xff\xff\xff\x7fWEBPVP8 ",
    "avif": b"\0\0\0\x18ftypavif\0\0\0\0avifmif1",
    "bmp": b"BM" + bytes(12) + struct.pack("<IiiHHIIiiII", 40, 8, 8, 1, 8, 1, 0, 0, 0, 0, 0),
    "ppm": b"P3\n8 8\n255\n",
}


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("size", [2**30, 5 * 2**30])
def test_sparse_files_are_refused_at_once(tmp_path, name, size):
    start = time.perf_counter()
    with pytest.raises(ImageError):
        decode(sparse(tmp_path / "x", HEADS[name], size))
    assert time.perf_counter() - start < 8


def test_many_small_chunks_and_blocks_are_refused():
    with pytest.raises(ImageError, match="chunks"):
        decode(PNG + chunk(b"tEXt", b"a\0b") * 50_000)
    with pytest.raises(ImageError):
        decode(HEADS["gif"] + b"\0" * 200_000)


@pytest.mark.parametrize(("mode", "magic"), [("RGB", b"P6"), ("L", b"P5"), ("1", b"P4")])
def test_portable_pixmaps_are_images(mode, magic):
    buffer = BytesIO()
    Image.new("RGB", (9, 7), (250, 250, 250)).convert(mode).save(buffer, "PPM")
    assert buffer.getvalue().startswith(magic)
    assert decode(buffer.getvalue()).size == (9, 7)
