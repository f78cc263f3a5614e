import io
import os
import subprocess
import sys
import threading
from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageFile
from PIL.ImageCms import applyTransform, buildTransform, createProfile

from seresnet.data.decode import decode
from seresnet.errors import ImageError
from tests.data import odd_images
from tests.data.odd_images import BLACK, COLOURS, GREEN, GREYS, HEIGHT, RED, WHITE, WIDTH, YELLOW, encode, quadrants

READABLE = odd_images.readable()
UNREADABLE = odd_images.unreadable()


def colours_of(image):
    """The colours in the middle of the four quadrants."""
    width, height = image.size
    spots = [(x, y) for y in (height // 4, height * 3 // 4) for x in (width // 4, width * 3 // 4)]
    return [image.getpixel(spot) for spot in spots]


def assert_colours(image, expected, tolerance=0):
    assert image.mode == "RGB"
    difference = np.abs(np.array(colours_of(image)) - np.array(expected)).max()
    assert difference <= tolerance, f"{colours_of(image)} instead of {expected}"


def test_the_corpus_is_large_and_its_names_are_unique():
    names = [odd.name for odd in READABLE + UNREADABLE]
    assert len(names) == len(set(names)) and len(READABLE) >= 30 and len(UNREADABLE) >= 20


@pytest.mark.parametrize("odd", READABLE, ids=lambda odd: odd.name)
def test_reads(odd, tmp_path):
    path = tmp_path / odd.name
    path.write_bytes(odd.data)
    for source in (path, str(path), odd.data, io.BytesIO(odd.data)):
        image = decode(source)
        assert image.size == odd.size
        assert type(image) is Image.Image and not image.info
        assert_colours(image, odd.colours, odd.tolerance)


@pytest.mark.parametrize("odd", UNREADABLE, ids=lambda odd: odd.name)
def test_refuses(odd, tmp_path):
    path = tmp_path / odd.name
    path.write_bytes(odd.data)
    for source in (path, odd.data, io.BytesIO(odd.data)):
        with pytest.raises(ImageError) as caught:
            decode(source)
        assert str(caught.value) == odd.reason


def test_refuses_what_is_no_readable_file(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    reasons = {
        tmp_path / "missing.jpg": "no such file",
        "a\0b.jpg": "no such file",
        "x" * 300: "no such file (the name is too long)",
        tmp_path / "photos": "is a folder without images",
        "https://example.com/cat.jpg": "a web address: download it first",
        os.devnull: "not a regular file",
        3.5: "no image can be read from float: give a path, bytes, a file object, a Pillow image or an array",
        io.StringIO("text"): "a file object in text mode: open it with mode 'rb'",
    }
    for source, reason in reasons.items():
        with pytest.raises(ImageError) as caught:
            decode(source)
        assert str(caught.value) == reason
    (tmp_path / "photos" / "a.jpg").touch()
    with pytest.raises(ImageError, match=r"^is a folder$"):
        decode(tmp_path / "photos")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_names_a_denied_permission(tmp_path):
    path = tmp_path / "secret.jpg"
    path.write_bytes(READABLE[0].data)
    path.chmod(0)
    with pytest.raises(ImageError, match=r"^permission denied$"):
        decode(path)


def test_explains_operating_system_errors(tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    path.write_bytes(READABLE[0].data)

    def denied(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("seresnet.data.decode.open", denied, raising=False)
    with pytest.raises(ImageError, match=r"^permission denied$"):
        decode(path)


def test_nothing_is_partly_grey_wherever_a_file_is_cut_off():
    noise = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((112, 80), Image.Resampling.BICUBIC)
    palette = image.quantize(32)
    files = {
        "JPEG": encode(image, "JPEG"),
        "progressive": encode(image, "JPEG", progressive=True),
        "CMYK": encode(image.convert("CMYK"), "JPEG"),
        "PNG": encode(image, "PNG"),
        "GIF": encode(palette, "GIF"),
        "BMP": encode(palette, "BMP"),
        "WEBP": encode(image, "WEBP"),
        "AVIF": encode(image, "AVIF"),
        "TIFF": encode(image, "TIFF"),
        "LZW": encode(image, "TIFF", compression="tiff_lzw"),
    }
    for name, data in files.items():
        whole = decode(data).tobytes()
        outcomes = Counter()
        for cut in [*range(1, len(data), max(1, len(data) // 50)), *range(len(data) - 12, len(data))]:
            for rest in (b"", bytes(len(data) - cut)) if "JPEG" in name else (b"",):
                try:
                    assert decode(data[:cut] + rest).tobytes() == whole, f"{name} cut at {cut} of {len(data)}"
                    outcomes["whole"] += 1
                except ImageError:
                    outcomes["refused"] += 1
        assert outcomes["refused"] > 40, name


def test_a_jpeg_closed_after_it_was_cut_off_is_refused():
    noise = np.random.default_rng(1).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    for options in ({}, {"subsampling": 0}, {"restart_marker_rows": 1}):
        data = encode(Image.fromarray(noise), "JPEG", **options)
        for percent in (20, 50, 80, 95):
            with pytest.raises(ImageError, match="truncated JPEG"):
                decode(data[: len(data) * percent // 100] + b"\xff\xd9")


def test_files_without_their_end_are_refused_even_where_a_program_asks_pillow_for_them(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    for odd in UNREADABLE:
        if odd.name.startswith("half") and odd.name != "half.tif":  # TIFF has no end mark
            with pytest.raises(ImageError):
                decode(odd.data)
    for odd in READABLE:
        assert_colours(decode(odd.data), odd.colours, odd.tolerance)


def test_a_disk_that_fails_is_an_unreadable_image(monkeypatch):
    class Failing(io.BytesIO):
        def read(self, *args):
            raise OSError(5, "Input/output error")

    monkeypatch.setattr("seresnet.data.decode.open", lambda *args: Failing(), raising=False)
    with pytest.raises(ImageError, match="input/output error"):
        decode(__file__)


def test_orientation_switch_reproduces_the_plain_pixels():
    turned = {odd.name: odd for odd in READABLE}["exif_orientation_6.jpg"]
    plain = decode(turned.data, exif_orientation=False)
    assert plain.tobytes() == Image.open(io.BytesIO(turned.data)).convert("RGB").tobytes()
    assert plain.size == (WIDTH, HEIGHT) and decode(turned.data).size == (HEIGHT, WIDTH)


@pytest.mark.parametrize(
    "name", ["grey_16bit.png", "uint16.tif", "uint16_big_endian.tif", "int32_of_16_bits.tif", "float_255.tif"]
)
def test_16bit_switch_reproduces_the_plain_pixels(name):
    data = {odd.name: odd for odd in READABLE}[name].data
    assert decode(data, scale_16bit=False).tobytes() == Image.open(io.BytesIO(data)).convert("RGB").tobytes()


def test_16bit_levels_are_rounded_to_the_nearest():
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    grey = np.asarray(decode(encode(Image.fromarray(levels), "PNG")))[..., 0].astype(np.float64)
    assert np.abs(grey - levels / 257).max() <= 0.5


def test_published_modes_equal_pillows_plain_conversion():
    for odd in READABLE:
        if odd.name.endswith((".jpg", "rgb.png", "rgb_16bit.png")) and "alpha" not in odd.name:
            plain = Image.open(io.BytesIO(odd.data)).convert("RGB")
            assert decode(odd.data, exif_orientation=False).tobytes() == plain.tobytes(), odd.name


def test_arrays():
    rgb = quadrants(COLOURS)
    assert_colours(decode(rgb), COLOURS)
    assert_colours(decode(rgb[:, ::-1]), [COLOURS[1], COLOURS[0], COLOURS[3], COLOURS[2]])  # not contiguous
    assert_colours(decode(quadrants([0, 85, 170, 255])), GREYS)
    assert_colours(decode(quadrants([[0], [85], [170], [255]])), GREYS)
    assert_colours(decode(quadrants([0, 1 / 3, 2 / 3, 1], np.float64)), GREYS)
    assert_colours(decode((rgb / 255).astype(np.float32)), COLOURS)
    assert_colours(decode((rgb / 255).astype(np.float16)), COLOURS)
    alpha = quadrants([(*RED, 255), (*GREEN, 0), (0, 0, 0, 128), (*YELLOW, 255)])
    assert_colours(decode(alpha), [RED, WHITE, (127, 127, 127), YELLOW])


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((3, 224, 224), np.uint8), r"array of shape \(3, 224, 224\): give \(H, W\)"),
        (np.zeros((1, 8, 8, 3), np.uint8), "array of shape"),
        (np.zeros((8, 8), np.uint16), "array of uint16: give uint8, or floats from 0 to 1"),
        (np.zeros((8, 8), np.int64), "array of int64"),
        (np.full((8, 8), 255.0), "array of floats outside 0 to 1: divide by 255, or give uint8"),
        (np.full((8, 8), -0.1), "outside 0 to 1"),
        (np.full((8, 8), np.nan), "outside 0 to 1"),
        (np.zeros((0, 8, 3), np.uint8), "no pixels"),
        (np.zeros((8, 8), object), "array of object"),
    ],
)
def test_refuses_other_arrays(array, reason):
    with pytest.raises(ImageError, match=reason):
        decode(array)


def test_pillow_images():
    rgb = Image.fromarray(quadrants(COLOURS))
    result = decode(rgb)
    assert_colours(result, COLOURS)
    assert result is not rgb
    result.paste((0, 0, 0), (0, 0, WIDTH, HEIGHT))
    assert_colours(rgb, COLOURS)
    lab = applyTransform(rgb, buildTransform(createProfile("sRGB"), createProfile("LAB"), "RGB", "LAB"))
    modes = ["1", "L", "P", "RGBX", "CMYK", "YCbCr", "HSV", "LA", "RGBA", "PA", "RGBa", "I", "F", "I;16", "I;16B"]
    for image in [lab, *(Image.new(mode, (8, 8)) for mode in modes)]:
        assert decode(image).mode == "RGB"
    with pytest.raises(ImageError, match=r"colours that cannot be converted \(La\)"):
        decode(Image.new("La", (8, 8)))
    turned = {odd.name: odd for odd in READABLE}["exif_orientation_6.jpg"]
    upright = decode(Image.open(io.BytesIO(turned.data)))
    assert_colours(upright, COLOURS, turned.tolerance)
    assert_colours(decode(upright), COLOURS, turned.tolerance)  # not turned twice
    with pytest.raises(ImageError, match="truncated JPEG"):
        decode(Image.open(io.BytesIO(turned.data[:-100])))


def test_file_objects_are_read_from_their_start_and_stay_open():
    file = io.BytesIO(READABLE[0].data)
    file.seek(0, io.SEEK_END)
    decode(file)
    assert not file.closed

    class Stream(io.RawIOBase):
        def readable(self):
            return True

        def readinto(self, buffer, source=io.BytesIO(READABLE[0].data)):  # noqa: B008
            return source.readinto(buffer)

    assert_colours(decode(Stream()), COLOURS, 3)


def test_the_pixel_limit_is_a_parameter_and_inclusive():
    data = encode(Image.new("L", (100, 50)), "PNG")
    assert decode(data, max_pixels=5000).size == (100, 50)
    for source in (data, Image.new("L", (100, 50)), np.zeros((50, 100), np.uint8)):
        with pytest.raises(ImageError, match=r"^0.005 megapixels: over the limit of 0.005$"):
            decode(source, max_pixels=4999)


def test_an_over_limit_picture_is_refused_before_its_pixels_are_decoded(monkeypatch):
    def never(self):
        raise AssertionError("decoded")

    data = encode(Image.new("L", (100, 50)), "PNG")
    monkeypatch.setattr(ImageFile.ImageFile, "load", never)
    with pytest.raises(ImageError, match="over the limit"):
        decode(data, max_pixels=4999)


def test_pillows_own_limit_neither_interferes_nor_warns_nor_changes(tmp_path):
    """In a new process: 180 megapixels are more than twice Pillow's limit, and damaged metadata would warn."""
    path = tmp_path / "large.png"
    path.write_bytes(odd_images.png(np.zeros((12_000, 1_875), np.uint8), 1, 0))  # 15,000 pixels a row
    odd = tmp_path / "odd.jpg"
    odd.write_bytes({o.name: o for o in READABLE}["exif_bad_types.jpg"].data)
    code = (
        "import sys, PIL.Image; limit = PIL.Image.MAX_IMAGE_PIXELS\n"
        "from seresnet.data.decode import decode\n"
        "from seresnet.errors import ImageError\n"
        "for most in (50_000_000, 180_000_000):\n"
        "    try: print(decode(sys.argv[1], max_pixels=most).size)\n"
        "    except ImageError as error: print(error)\n"
        "print(decode(sys.argv[2]).size, PIL.Image.MAX_IMAGE_PIXELS == limit, 'torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", code, str(path), str(odd)], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "180 megapixels: over the limit of 50",
        "(15000, 12000)",
        f"({WIDTH}, {HEIGHT}) True False",
    ]


def test_threads_get_the_same_pictures():
    single = [decode(odd.data).tobytes() for odd in READABLE]
    wrong = []

    def work():
        for odd, expected in zip(READABLE, single, strict=True):
            if decode(odd.data).tobytes() != expected:
                wrong.append(odd.name)
        for odd in UNREADABLE:
            try:
                decode(odd.data)
                wrong.append(odd.name)
            except ImageError as error:
                if str(error) != odd.reason:
                    wrong.append(odd.name)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_black_stays_black_under_opaque_alpha():
    assert_colours(decode(quadrants([(0, 0, 0, 255)] * 4)), [BLACK] * 4)
