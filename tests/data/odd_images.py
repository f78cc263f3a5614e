"""A corpus of odd image files, made here byte by byte or with Pillow's encoders, each with its required outcome.

A readable file shows four quadrants (top left, top right, bottom left, bottom right) of known colours, so that the
truth is the list of colours and not another decoder's result. An unreadable one has the reason that must be given.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 64, 48
RED, GREEN, BLUE, YELLOW = (200, 30, 40), (30, 160, 60), (40, 60, 210), (230, 220, 20)
COLOURS = [RED, GREEN, BLUE, YELLOW]
BLACK, WHITE = (0, 0, 0), (255, 255, 255)
GREYS = [(level, level, level) for level in (0, 85, 170, 255)]


@dataclass(frozen=True)
class Odd:
    """A file and what has to come of it: its four colours (each channel within ``tolerance``), or the reason."""

    name: str
    data: bytes
    colours: list[tuple[int, int, int]] | None = None
    reason: str | None = None
    tolerance: int = 0
    size: tuple[int, int] = (WIDTH, HEIGHT)


def quadrants(values: list, dtype: type = np.uint8) -> np.ndarray:
    """Return an array (H, W) or (H, W, C) that shows four values."""
    array = np.zeros((HEIGHT, WIDTH, *np.shape(values[0])), dtype)
    for index, value in enumerate(values):
        top, left = (index // 2) * HEIGHT // 2, (index % 2) * WIDTH // 2
        array[top : top + HEIGHT // 2, left : left + WIDTH // 2] = value
    return array


def encode(image: Image.Image, format_name: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format_name, **options)
    return file.getvalue()


def png(array: np.ndarray, bit_depth: int, colour_type: int, chunks: bytes = b"") -> bytes:
    """Write a PNG by hand: ``array`` holds rows of packed bytes (H, bytes a row)."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour_type]
    width = array.shape[1] * 8 // (bit_depth * channels)
    header = struct.pack(">IIBBBBB", width, array.shape[0], bit_depth, colour_type, 0, 0, 0)
    rows = b"".join(b"\x00" + row.tobytes() for row in array)
    body = chunk(b"IHDR", header) + chunks + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def exif(orientation: int) -> bytes:
    return b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01" + struct.pack(">HHIHHI", 0x0112, 3, 1, orientation, 0, 0)


def ycck_jpeg() -> bytes:
    """Return a JPEG in Adobe's YCCK: a CMYK file whose channels hold Y, Cb, Cr and K, with the transform flag set."""
    cmy = Image.fromarray(255 - quadrants(COLOURS)).convert("YCbCr").split()
    inverted = [Image.eval(channel, lambda value: 255 - value) for channel in cmy]
    data = encode(Image.merge("CMYK", (*inverted, Image.new("L", (WIDTH, HEIGHT)))), "JPEG", quality=95)
    flag = data.index(b"Adobe") + 11
    assert data[flag] == 0
    return data[:flag] + b"\x02" + data[flag + 1 :]


def rle_bmp(rows_missing: bool = False) -> bytes:
    """Return a run-length encoded BMP of four colours, bottom row first."""
    palette = b"".join(bytes((blue, green, red, 0)) for red, green, blue in COLOURS)
    half = WIDTH // 2
    rows = [bytes((half, 2, half, 3, 0, 0))] * (HEIGHT // 2) + [bytes((half, 0, half, 1, 0, 0))] * (HEIGHT // 2)
    pixels = b"".join(rows) + b"\x00\x01"
    start = 14 + 40 + len(palette)
    info = struct.pack("<IiiHHIIiiII", 40, WIDTH, HEIGHT, 1, 8, 1, len(pixels), 0, 0, 4, 4)
    data = b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + info + palette + pixels
    return data[: start + len(pixels) // 3] if rows_missing else data


def top_down_bmp() -> bytes:
    pixels = quadrants(COLOURS)[:, :, ::-1].tobytes()
    info = struct.pack("<IiiHHIIiiII", 40, WIDTH, -HEIGHT, 1, 24, 0, len(pixels), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(pixels), 0, 0, 54) + info + pixels


def tiff(array: np.ndarray, photometric: int, sample_format: int = 1, order: str = "<") -> bytes:
    """Write an uncompressed one-channel TIFF by hand."""
    data = array.astype(array.dtype.newbyteorder(order)).tobytes()
    entries = [
        (256, 3, array.shape[1]),
        (257, 3, array.shape[0]),
        (258, 3, array.dtype.itemsize * 8),
        (259, 3, 1),
        (262, 3, photometric),
        (273, 4, 8),
        (277, 3, 1),
        (278, 3, array.shape[0]),
        (279, 4, len(data)),
        (339, 3, sample_format),
    ]
    packed = struct.pack(order + "H", len(entries))
    for tag, kind, value in entries:
        packed += struct.pack(order + ("HHIHxx" if kind == 3 else "HHII"), tag, kind, 1, value)
    magic = b"II*\x00" if order == "<" else b"MM\x00*"
    return magic + struct.pack(order + "I", 8 + len(data)) + data + packed + b"\x00\x00\x00\x00"


def over_limit_png(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes that claims a huge size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def readable() -> list[Odd]:
    """Return the files that must be read, with their colours."""
    rgb = Image.fromarray(quadrants(COLOURS))
    return [*_jpegs(rgb), *_pngs(rgb), *_animations(rgb), *_bmps(rgb), *_tiffs(rgb), *_others(rgb)]


def _jpegs(rgb: Image.Image) -> list[Odd]:
    baseline = encode(rgb, "JPEG", quality=95)
    garbage = b"Exif\x00\x00MM\x00*\xff\xff\xff\xff" + bytes(range(256))
    bad_types = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x02\x00" + struct.pack("<HHII", 0x0112, 99, 7, 3) + b"\xff" * 9
    second = encode(Image.new("RGB", (8, 8)), "JPEG")
    files = [
        Odd("baseline.jpg", baseline, COLOURS, tolerance=3),
        Odd("progressive.jpg", encode(rgb, "JPEG", quality=95, progressive=True), COLOURS, tolerance=3),
        Odd("grey.jpg", encode(Image.fromarray(quadrants([0, 85, 170, 255])), "JPEG", quality=95), GREYS, tolerance=2),
        Odd("adobe_cmyk.jpg", encode(rgb.convert("CMYK"), "JPEG", quality=95), COLOURS, tolerance=3),
        Odd("adobe_ycck.jpg", ycck_jpeg(), COLOURS, tolerance=5),
        Odd("mid_grey.jpg", encode(Image.new("RGB", (WIDTH, HEIGHT), (128,) * 3), "JPEG"), [(128, 128, 128)] * 4),
        Odd("exif_garbage.jpg", encode(rgb, "JPEG", quality=95, exif=garbage), COLOURS, tolerance=3),
        Odd("exif_bad_types.jpg", encode(rgb, "JPEG", quality=95, exif=bad_types), COLOURS, tolerance=3),
        Odd("exif_orientation_99.jpg", encode(rgb, "JPEG", quality=95, exif=exif(99)), COLOURS, tolerance=3),
        Odd("zeros_after_the_end.jpg", baseline + bytes(5000), COLOURS, tolerance=3),
        Odd("another_jpeg_after_the_end.jpg", baseline + second, COLOURS, tolerance=3),
        Odd("jpeg_named.png", baseline, COLOURS, tolerance=3),
    ]
    return files + [_turned(rgb, orientation) for orientation in range(1, 9)]


def _turned(rgb: Image.Image, orientation: int) -> Odd:
    """Return a JPEG with the EXIF orientation, whose stored corners follow from the tag's definition.

    EXIF 2.3, 4.6.4: the tag says which side of the scene the stored row 0 and column 0 are.
    """
    tl, tr, bl, br = COLOURS
    stored = {  # top left, top right, bottom left, bottom right, as stored
        1: [tl, tr, bl, br],  # row 0 top, column 0 left
        2: [tr, tl, br, bl],  # top, right
        3: [br, bl, tr, tl],  # bottom, right
        4: [bl, br, tl, tr],  # bottom, left
        5: [tl, bl, tr, br],  # left, top
        6: [tr, br, tl, bl],  # right, top
        7: [br, tr, bl, tl],  # right, bottom
        8: [bl, tl, br, tr],  # left, bottom
    }[orientation]
    image = Image.fromarray(quadrants(stored))
    size = (WIDTH, HEIGHT) if orientation < 5 else (HEIGHT, WIDTH)
    data = encode(image, "JPEG", quality=95, exif=exif(orientation))
    return Odd(f"exif_orientation_{orientation}.jpg", data, COLOURS, tolerance=3, size=size)


def _pngs(rgb: Image.Image) -> list[Odd]:
    alpha = quadrants([(*RED, 255), (*GREEN, 0), (0, 0, 0, 128), (*YELLOW, 255)])
    over_white = [RED, WHITE, (127, 127, 127), YELLOW]
    levels16 = quadrants([0, 21845, 43690, 65535], np.uint16)
    rgb16 = (quadrants(COLOURS).astype(">u2") * 257).reshape(HEIGHT, -1).view(np.uint8)
    palette = b"".join(bytes(colour) for colour in COLOURS)
    index2 = np.packbits(np.unpackbits(quadrants([0, 1, 2, 3])[..., None], axis=2)[..., 6:].reshape(HEIGHT, -1), axis=1)
    bits = np.packbits(quadrants([0, 1, 1, 0]), axis=1)
    keyed = chunk(b"tRNS", struct.pack(">HHH", *GREEN))
    plain = quadrants(COLOURS).reshape(HEIGHT, -1)
    return [
        Odd("rgb.png", encode(rgb, "PNG"), COLOURS),
        Odd("png_named.jpg", encode(rgb, "PNG"), COLOURS),
        Odd("rgba.png", encode(Image.fromarray(alpha), "PNG"), over_white),
        Odd(
            "grey_alpha.png",
            encode(Image.fromarray(quadrants([(0, 255), (85, 255), (0, 0), (255, 128)])), "PNG"),
            [BLACK, (85, 85, 85), WHITE, WHITE],
        ),
        Odd("palette_2bit.png", png(index2, 2, 3, chunk(b"PLTE", palette)), COLOURS),
        Odd(
            "palette_transparent.png",
            png(quadrants([0, 1, 2, 3]), 8, 3, chunk(b"PLTE", palette) + chunk(b"tRNS", b"\xff\x00")),
            [RED, WHITE, BLUE, YELLOW],
        ),
        Odd("colour_key.png", png(plain, 8, 2, keyed), [RED, WHITE, BLUE, YELLOW]),
        Odd("one_bit.png", png(bits, 1, 0), [BLACK, WHITE, WHITE, BLACK]),
        Odd("grey_2bit.png", png(index2, 2, 0), GREYS),
        Odd("grey_16bit.png", encode(Image.fromarray(levels16), "PNG"), GREYS),
        Odd("rgb_16bit.png", png(rgb16, 16, 2), COLOURS),
        Odd("exif_turned.png", encode(rgb.transpose(Image.Transpose.ROTATE_180), "PNG", exif=exif(3)), COLOURS),
        Odd("checksum_of_a_comment_wrong.png", _bad_comment(rgb), COLOURS),
        Odd("one_pixel.png", encode(Image.new("RGB", (1, 1), RED), "PNG"), [RED] * 4, size=(1, 1)),
    ]


def _bad_comment(rgb: Image.Image) -> bytes:
    data = encode(rgb, "PNG")
    return data[:-12] + chunk(b"tEXt", b"Comment\x00hello")[:-1] + b"\x00" + data[-12:]


def _animations(rgb: Image.Image) -> list[Odd]:
    black = Image.new("RGB", (WIDTH, HEIGHT))
    both = {"save_all": True, "append_images": [black], "duration": 50}
    clear = quadrants([0, 1, 2, 3])
    see_through = Image.fromarray(clear, "P")
    see_through.putpalette([value for colour in COLOURS for value in colour])
    return [
        Odd("animated.gif", encode(rgb.quantize(4), "GIF", **both), COLOURS, tolerance=4),
        Odd("transparent.gif", encode(see_through, "GIF", transparency=1), [RED, WHITE, BLUE, YELLOW]),
        Odd("animated.png", encode(rgb, "PNG", **both), COLOURS),
        Odd("animated.webp", encode(rgb, "WEBP", lossless=True, **both), COLOURS),
        Odd("animated.avif", encode(rgb, "AVIF", quality=95, **both), COLOURS, tolerance=8),
    ]


def _bmps(rgb: Image.Image) -> list[Odd]:
    return [
        Odd("rgb.bmp", encode(rgb, "BMP"), COLOURS),
        Odd("palette.bmp", encode(rgb.quantize(4), "BMP"), COLOURS, tolerance=4),
        Odd("one_bit.bmp", encode(Image.fromarray(quadrants([0, 255, 255, 0])).convert("1"), "BMP"), _checks()),
        Odd("run_length.bmp", rle_bmp(), COLOURS),
        Odd("top_down.bmp", top_down_bmp(), COLOURS),
    ]


def _checks() -> list[tuple[int, int, int]]:
    return [BLACK, WHITE, WHITE, BLACK]


def _tiffs(rgb: Image.Image) -> list[Odd]:
    levels = [0, 21845, 43690, 65535]
    one_bit = Image.fromarray(quadrants([0, 255, 255, 0])).convert("1")
    pages = {"save_all": True, "append_images": [Image.new("RGB", (9, 9))]}
    turned = encode(rgb.transpose(Image.Transpose.ROTATE_180), "TIFF", tiffinfo={274: 3})
    return [
        *(Odd(f"{kind}.tif", encode(rgb, "TIFF", compression=kind), COLOURS) for kind in ("tiff_lzw", "packbits")),
        Odd("deflate.tif", encode(rgb, "TIFF", compression="tiff_adobe_deflate"), COLOURS),
        Odd("fax.tif", encode(one_bit, "TIFF", compression="group4"), _checks()),
        Odd("cmyk.tif", encode(rgb.convert("CMYK"), "TIFF"), COLOURS),
        Odd("pages.tif", encode(rgb, "TIFF", **pages), COLOURS),
        Odd("orientation.tif", turned, COLOURS),
        Odd("uint16.tif", tiff(quadrants(levels, np.uint16), 1), GREYS),
        Odd("uint16_big_endian.tif", tiff(quadrants(levels, np.uint16), 1, order=">"), GREYS),
        Odd("uint16_white_is_zero.tif", tiff(quadrants(levels[::-1], np.uint16), 0), GREYS),
        Odd("int32_of_16_bits.tif", tiff(quadrants(levels, np.int32), 1, 2), GREYS),
        Odd("int32_of_8_bits.tif", tiff(quadrants([0, 85, 170, 255], np.int32), 1, 2), GREYS),
        Odd("int32_wide.tif", tiff(quadrants([-3_000_000, -2_000_000, -1_000_000, 0], np.int32), 1, 2), GREYS),
        Odd("float_unit.tif", tiff(quadrants([0, 1 / 3, 2 / 3, 1], np.float32), 1, 3), GREYS),
        Odd("float_255.tif", tiff(quadrants([0, 85, 170, 255], np.float32), 1, 3), GREYS),
        Odd("float_wide.tif", tiff(quadrants([-30, 30, 90, 150], np.float32), 1, 3), GREYS),
        Odd("float_constant.tif", tiff(quadrants([-7] * 4, np.float32), 1, 3), [BLACK] * 4),
    ]


def _others(rgb: Image.Image) -> list[Odd]:
    alpha = Image.fromarray(quadrants([(*RED, 255), (*GREEN, 0), (0, 0, 0, 128), (*YELLOW, 255)]))
    over_white = [RED, WHITE, (127, 127, 127), YELLOW]
    upside_down = rgb.transpose(Image.Transpose.ROTATE_180)
    return [
        Odd("lossy.webp", encode(rgb, "WEBP", quality=95), COLOURS, tolerance=6),
        Odd("alpha.webp", encode(alpha, "WEBP", lossless=True, exact=True), over_white),
        Odd("exif_turned.webp", encode(upside_down, "WEBP", lossless=True, exif=exif(3)), COLOURS),
        Odd("still.avif", encode(rgb, "AVIF", quality=95), COLOURS, tolerance=8),
        Odd("exif_turned.avif", encode(upside_down, "AVIF", quality=95, exif=exif(3)), COLOURS, tolerance=8),
    ]


def unreadable() -> list[Odd]:
    """Return the files that must be refused, with the reason."""
    rgb = Image.fromarray(quadrants(COLOURS))
    jpeg = encode(Image.effect_noise((WIDTH, HEIGHT), 90), "JPEG")
    lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
    heic = struct.pack(">I", 24) + b"ftypheic" + b"\x00\x00\x00\x00mif1heic" + bytes(100)
    png_data = encode(rgb, "PNG")
    files = {
        "empty.jpg": (b"", "empty file"),
        "page.jpg": (b"\n<!DOCTYPE html><html><body>404 Not Found</body></html>", "not an image (HTML page)"),
        "pointer.jpg": (lfs, "Git LFS pointer: run git lfs pull"),
        "zeros.jpg": (bytes(3000), "not an image (only zero bytes)"),
        "text.jpg": (b"a photograph of a cat", "not an image (text)"),
        "error.jpg": (b'{"error": "rate limited"}', "not an image (JSON text)"),
        "noise.jpg": (bytes(range(7, 256)) * 9, "not an image"),
        "drawing.jpg": (b'<?xml version="1.0"?><svg/>', "not an image that can be read here (SVG drawing)"),
        "document.jpg": (b"%PDF-1.7\n", "not an image that can be read here (PDF document)"),
        "archive.jpg": (b"PK\x03\x04" + bytes(30), "not an image that can be read here (ZIP archive)"),
        "phone.heic": (heic, "not an image that can be read here (HEIC picture): convert it to JPEG"),
        "magic_only.jpg": (b"\xff\xd8\xff", "truncated JPEG"),
        "half.jpg": (jpeg[: len(jpeg) // 2], "truncated JPEG"),
        "half_then_end_mark.jpg": (jpeg[: len(jpeg) // 2] + b"\xff\xd9", "truncated JPEG"),
        "half_then_zeros.jpg": (jpeg[: len(jpeg) // 2] + bytes(len(jpeg) // 2), "truncated JPEG"),
        "half.png": (png_data[: len(png_data) // 2], "truncated PNG"),
        "no_data.png": (over_limit_png(10, 10), "truncated PNG"),
        "bad_stream.png": (_bad_stream(), "damaged PNG"),
        "half.gif": (encode(rgb.quantize(4), "GIF")[:-30], "truncated GIF"),
        "half.bmp": (encode(rgb, "BMP")[:4000], "truncated BMP"),
        "half_run_length.bmp": (rle_bmp(rows_missing=True), "truncated BMP"),
        "half.webp": (encode(rgb, "WEBP", lossless=True)[:-20], "truncated WEBP"),
        "half.avif": (encode(rgb, "AVIF")[:-50], "truncated AVIF"),
        "half.tif": (encode(rgb, "TIFF")[:-1000], "truncated TIFF"),
        "half_lzw.tif": (
            encode(Image.effect_noise((64, 64), 90), "TIFF", compression="tiff_lzw")[:2000],
            "truncated TIFF",
        ),
        "nan.tif": (tiff(quadrants([0, np.nan, 1, 1], np.float32), 1, 3), "pixels that are not finite numbers"),
        "bomb.png": (over_limit_png(60_000, 60_000), "3,600 megapixels: over the limit of 179"),
        "large.png": (over_limit_png(20_000, 9_500), "190 megapixels: over the limit of 179"),
        "large_tile.tif": (_large_tile(), "400 megapixels: over the limit of 179"),
    }
    return [Odd(name, data, reason=reason) for name, (data, reason) in files.items()]


def _bad_stream() -> bytes:
    header = struct.pack(">IIBBBBB", 10, 10, 8, 0, 0, 0, 0)
    noise = chunk(b"IHDR", header) + chunk(b"IDAT", b"\x78\x9c" + b"\xff" * 200) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + noise


def _large_tile() -> bytes:
    """Return a TIFF of 64 x 48 pixels that claims one tile of 20,000 x 20,000."""
    entries = [(256, 64), (257, 48), (258, 8), (259, 1), (262, 1), (277, 1), (322, 20_000), (323, 20_000)]
    entries += [(324, 8), (325, 100)]
    packed = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\x00\x08\x00\x00\x00" + struct.pack("<H", len(entries)) + packed + bytes(4)
