"""Damaged TIFF files are named as damaged, with nothing on stderr, in many threads."""

from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from seresnet.data import libtiff
from seresnet.data.decode import decode
from seresnet.errors import ImageError

pytestmark = pytest.mark.skipif(libtiff._loaded_library() is None, reason="Pillow's libtiff is out of reach here")

NOISE = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
CODECS = ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "group3", "group4")


def tiff(codec: str, damaged: bool) -> bytes:
    buffer = BytesIO()
    image = Image.fromarray(NOISE)
    (image.convert("1") if codec.startswith("group") else image).save(buffer, "TIFF", compression=codec)
    data = bytearray(buffer.getvalue())
    if damaged:
        data[40 : len(data) // 2 : 7] = bytes(byte ^ 0x55 for byte in data[40 : len(data) // 2 : 7])
    return bytes(data)


@pytest.mark.parametrize("codec", CODECS)
def test_a_damaged_tiff_is_named_and_a_whole_one_decoded(codec, capfd):
    assert decode(tiff(codec, damaged=False)).size == (64, 64)
    with pytest.raises(ImageError, match="damaged TIFF"):
        decode(tiff(codec, damaged=True))
    assert capfd.readouterr().err == ""


def test_errors_of_one_thread_are_not_those_of_another(capfd):
    def outcome(number: int) -> bool:
        try:
            decode(tiff(CODECS[number % 5], damaged=number % 3 == 0))
        except ImageError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(outcome, range(120))) == [number % 3 != 0 for number in range(120)]
    assert capfd.readouterr().err == ""


def test_others_that_use_the_library_still_see_its_messages(capfd):
    decode(tiff("tiff_lzw", damaged=False))
    with pytest.raises(OSError, match="decoder error"):
        Image.open(BytesIO(tiff("tiff_lzw", damaged=True))).load()
    assert "Using code not yet in table" in capfd.readouterr().err
