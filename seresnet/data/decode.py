"""From any picture to plain RGB: by content, within a size limit, completely or not at all. No torch."""

from __future__ import annotations

import errno
import os
import stat
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from io import BytesIO, TextIOBase
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from seresnet.data.bounds import check_bounds
from seresnet.data.libtiff import count_errors
from seresnet.data.pixels import flatten, from_array, to_rgb
from seresnet.data.sniff import HEAD_BYTES, identify, is_cut_short, jpeg_ran_dry
from seresnet.data.walk import Walk
from seresnet.errors import ConfigError, ImageError

MAX_PIXELS = 178_956_970  # Pillow's own limit, at which it refuses a picture: 2 * Image.MAX_IMAGE_PIXELS
LARGE_PIXELS = 50_000_000  # beyond which one picture at a time is decoded
_large = threading.Semaphore(1)

# The decoders are called directly: Image.open would apply Pillow's own size limit, a setting of the process.
_DECODERS: dict[str, type[ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
    "PPM": PpmImagePlugin.PpmImageFile,
}

# Pillow warns of damaged metadata and large sizes, which are handled here. (catch_warnings is not safe among threads.)
warnings.filterwarnings("ignore", module=r"PIL\.\w*Image\w*")

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS = frozenset(_TRANSPOSE[number] for number in (5, 6, 7, 8))  # width becomes height
_ORIENTATION, _TILE_WIDTH, _TILE_LENGTH = 0x0112, 322, 323  # tags of TIFF 6.0


def pixel_limit(megapixels: float | None) -> int:
    """Return ``--max-megapixels`` in pixels, `MAX_PIXELS` for None. Raises ConfigError unless it is positive."""
    if megapixels is None:
        return MAX_PIXELS
    if not 0 < megapixels <= 1e6:
        raise ConfigError(f"--max-megapixels must be more than 0, not {megapixels}")
    return int(megapixels * 1e6)


class Readable(Protocol):
    """What gives the bytes of an image file."""

    def read(self) -> bytes:
        """Return them."""


def decode(
    source: str | os.PathLike[str] | bytes | Readable | Image.Image | NDArray[Any],
    *,
    max_pixels: int = MAX_PIXELS,
    exif_orientation: bool = True,
    scale_16bit: bool = True,
    reduction: Callable[[tuple[int, int]], int] | None = None,
) -> Image.Image:
    """Return a picture as a new RGB image, or raise ImageError with a short reason (without the path).

    ``source`` is a path, the bytes of a file, a binary file object (or anything whose ``read()`` returns such bytes), a
    Pillow image, or an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of uint8 or of floats from 0 to 1. JPEG PNG WEBP
    GIF BMP TIFF AVIF PPM are told by their content; of an animation the first frame counts; transparency lies over
    white. More than ``max_pixels`` are refused on the header; beyond `LARGE_PIXELS` one picture at a time is decoded.
    ``exif_orientation=False`` and ``scale_16bit=False`` (grey levels beyond 255 are clipped) reproduce Pillow's plain
    ``convert("RGB")``, with which most published numbers were measured. ``reduction`` is told the size (width, height)
    of the upright picture, and says by which factor (1, 2, 4 or 8) a JPEG may be made smaller while it is decoded,
    which saves most of the work; other formats stay as they are. May be called from several threads.
    """
    if isinstance(source, np.ndarray):
        image = from_array(source)
        _check_size(image.size, max_pixels)
        return flatten(image)
    if isinstance(source, Image.Image):
        return _finish(source, None, source.format or "image", max_pixels, exif_orientation, scale_16bit)
    with _opened(source) as file:
        try:
            format_name = identify(file.read(HEAD_BYTES))
            check_bounds(format_name, file)
            file.seek(0)
        except OSError as error:
            raise ImageError(_explain(error)) from error
        try:
            image = _DECODERS[format_name](file)
        except MemoryError:
            raise ImageError("not enough memory") from None
        except Exception as error:  # decoders raise almost anything on damaged bytes
            raise _damaged(format_name, file, error) from error
        if reduction is not None and format_name == "JPEG":
            _check_size(image.size, max_pixels)
            factor = reduction(image.size[::-1] if exif_orientation and _turn(image) in _SWAPS else image.size)
            if factor > 1:
                image.draft(None, (image.width // factor, image.height // factor))
        return _finish(image, file, format_name, max_pixels, exif_orientation, scale_16bit)


def encoded(source: str | os.PathLike[str] | Readable) -> bytes:
    """Return the bytes of an image file as they are. Raises ImageError."""
    with _opened(source) as file:
        try:
            return file.read()
        except OSError as error:
            raise ImageError(_explain(error)) from error


@contextmanager
def _opened(source: Any) -> Iterator[IO[bytes]]:
    """Open a path, or wrap what is in memory; the caller's own file object stays open."""
    if isinstance(source, bytes | bytearray | memoryview):
        yield BytesIO(source)
    elif isinstance(source, str | os.PathLike):
        try:
            file = _open_path(os.fspath(source))
        except OSError as error:
            raise ImageError(_explain(error)) from error
        with file:
            yield file
    elif isinstance(source, TextIOBase):
        raise ImageError("a file object in text mode: open it with mode 'rb'")
    elif hasattr(source, "read"):
        if hasattr(source, "seekable") and source.seekable():
            source.seek(0)
        try:
            data = source.read()
        except OSError as error:
            raise ImageError(_explain(error)) from error
        yield BytesIO(data)
    else:
        kind = type(source).__name__
        raise ImageError(
            f"no image can be read from {kind}: give a path, bytes, a file object, a Pillow image or an array"
        )


def _open_path(path: str | bytes) -> IO[bytes]:
    if isinstance(path, str) and path.lower().startswith(("http://", "https://", "s3://", "gs://", "hf://")):
        raise ImageError("a web address: download it first")
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 (a path may be bytes)
    except ValueError:
        raise ImageError("no such file") from None  # a NUL in the name
    if stat.S_ISDIR(mode):
        os.scandir(path).close()  # raises where the folder itself is closed to us
        empty = next(Walk(os.fsdecode(path)).images(), None) is None
        raise ImageError("is a folder without images" if empty else "is a folder")
    if not stat.S_ISREG(mode):
        raise ImageError("not a regular file")
    return open(path, "rb")  # noqa: PTH123 (closed by the caller)


def _explain(error: OSError) -> str:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "no such file"
    if isinstance(error, PermissionError):
        return "permission denied"
    if error.errno == errno.ENAMETOOLONG:
        return "no such file (the name is too long)"
    return (error.strerror or str(error)).lower()


def _finish(
    image: Image.Image, file: IO[bytes] | None, format_name: str, max_pixels: int, orientation: bool, scale: bool
) -> Image.Image:
    """Check the size, decode the pixels, turn the picture upright, and convert it."""
    size = _decoded_size(image)
    _check_size(size, max_pixels)
    with _large if size[0] * size[1] > LARGE_PIXELS else nullcontext():
        return _loaded(image, file, format_name, orientation, scale)


def _loaded(
    image: Image.Image, file: IO[bytes] | None, format_name: str, orientation: bool, scale: bool
) -> Image.Image:
    """Return the pixels, upright and RGB."""
    try:
        if format_name == "TIFF" and count_errors(image.load):
            raise ImageError("damaged TIFF")
        image.load()
        short = file is not None and _is_short(format_name, file, image)
        # A picture that was opened here has no other user: its pixels need no copy.
        own = file is not None and image.mode == "RGB" and not image.has_transparency_data
        rgb = _own(image) if own else to_rgb(image, scale)
        rgb = _upright(rgb, image) if orientation else rgb
    except ImageError:
        raise
    except MemoryError:
        raise ImageError("not enough memory") from None
    except Exception as error:
        raise _damaged(format_name, file, error) from error
    if short:
        raise ImageError(f"truncated {format_name}")
    return rgb


def _is_short(format_name: str, file: IO[bytes], image: Image.Image) -> bool:
    """Return whether a picture that was decoded without an error lacks rows all the same."""
    if ImageFile.LOAD_TRUNCATED_IMAGES and is_cut_short(format_name, file):  # some program's choice, not ours
        return True
    return format_name == "JPEG" and jpeg_ran_dry(file, image)


def _decoded_size(image: Image.Image) -> tuple[int, int]:
    """Return the size of the canvas that decoding allocates: of a TIFF, one tile may be larger than the picture."""
    width, height = image.size
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tile = image.tag_v2.get(_TILE_WIDTH, 0), image.tag_v2.get(_TILE_LENGTH, 0)
        width, height = (
            max(size, int(t)) if isinstance(t, int) else size for size, t in zip(image.size, tile, strict=True)
        )
    return width, height


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    pixels = size[0] * size[1]
    if pixels == 0:
        raise ImageError("no pixels")
    if pixels > max_pixels:
        raise ImageError(f"{_mega(pixels)} megapixels: over the limit of {_mega(max_pixels)}")


def _mega(pixels: int) -> str:
    return f"{pixels / 1e6:,.0f}" if pixels >= 100e6 else f"{pixels / 1e6:.3g}"


def _damaged(format_name: str, file: IO[bytes] | None, error: Exception) -> ImageError:
    cut = "truncated" in str(error).lower() or (file is not None and is_cut_short(format_name, file))
    return ImageError(f"{'truncated' if cut else 'damaged'} {format_name}")


def _upright(rgb: Image.Image, original: Image.Image) -> Image.Image:
    """Apply the EXIF orientation of ``original``."""
    turn = _turn(original)
    return rgb.transpose(turn) if turn is not None else rgb


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Return what makes a picture upright, or None; EXIF that cannot be read says nothing."""
    try:
        return _TRANSPOSE.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # the parser raises many kinds on garbage, and the pixels are good
        return None


def _own(image: Image.Image) -> Image.Image:
    """Return a plain image of the pixels of an opened one, without its metadata."""
    rgb = image._new(image.im)
    rgb.info.clear()
    return rgb
