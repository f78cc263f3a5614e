import numpy as np
import pytest
from PIL import Image, ImageDraw

from seresnet.errors import ConfigError, DataError
from seresnet.inference.contact_sheet import contact_sheet

RED, GREEN = (220, 20, 30), (20, 200, 40)
ACCENT = (0x2F, 0x6F, 0xB0)


def tile(colour=RED, title="a.jpg", probabilities=(0.5, 0.25)):
    return Image.new("RGB", (400, 300), colour), title, [(f"class {i}", p) for i, p in enumerate(probabilities)]


def count(image, colour):
    return int((np.asarray(image) == colour).all(-1).sum())


def extent(image, colour):
    """The box (left, top, right, bottom) around all pixels of a colour."""
    rows, columns = np.nonzero((np.asarray(image) == colour).all(-1))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def open_sheet(path):
    with Image.open(path) as image:
        return image.convert("RGB")


def written(monkeypatch):
    """Collect every line of text that is drawn, with where it ends."""
    lines = []
    plain = ImageDraw.ImageDraw.text

    def text(self, xy, text, *args, font, **kwargs):
        lines.append((text, xy[0], xy[0] + font.getlength(text)))
        return plain(self, xy, text, *args, font=font, **kwargs)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    return lines


def test_every_picture_fills_its_panel_in_order_from_left_to_right(tmp_path):
    path = contact_sheet([tile(RED), tile(GREEN), tile(GREEN)], tmp_path / "sheet.png", columns=2)
    sheet = open_sheet(path)
    left, top, right, bottom = extent(sheet, RED)
    assert (right - left, bottom - top) == (288, 216) and count(sheet, RED) == 288 * 216
    assert count(sheet, GREEN) == 2 * 288 * 216
    green = extent(sheet, GREEN)
    assert green[0] == left and green[1] == top  # the third tile starts the second row, the second one shares the first
    assert green[2] > right and green[3] > bottom
    assert sheet.getpixel((left + 10, green[3] - 10)) == GREEN and sheet.getpixel((green[2] - 10, top + 10)) == GREEN


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_a_bar_is_as_long_as_its_probability(tmp_path, share):
    sheet = open_sheet(contact_sheet([tile(probabilities=[share])], tmp_path / "sheet.png"))
    pixels = count(sheet, ACCENT)
    assert pixels == round(288 * share) * 4


def test_text_says_what_was_given_and_stays_in_its_card(tmp_path, monkeypatch):
    lines = written(monkeypatch)
    label = "a label that is far longer than any card is wide, and goes on"
    rows = [
        (Image.new("RGB", (40, 30)), "folder/" * 12 + "IMG_2034.jpg", [(label, 0.987), ("cat", 0.004)]),
        (Image.new("RGB", (40, 30)), "odd\nname\x00\udce9.jpg", [("cat", float("nan"))]),
    ]
    sheet = open_sheet(contact_sheet(rows, tmp_path / "sheet.png", heading="Two pictures"))
    texts = [text for text, _, _ in lines]
    assert {"Two pictures", "98.7 %", "0.4 %", "cat"} <= set(texts)
    assert any(text.startswith("folder/") and "…" in text and text.endswith("IMG_2034.jpg") for text in texts)
    assert any(text.startswith("a label that") and text.endswith("…") for text in texts)
    assert any(text.startswith("odd name") and text.endswith(".jpg") for text in texts)
    middle = sheet.width / 2
    for text, start, end in lines:
        assert start > 0 and end < (middle if start < middle else sheet.width), text


def test_an_unreadable_picture_shows_its_whole_reason(tmp_path, monkeypatch):
    lines = written(monkeypatch)
    reason = "not an image that can be read here (HEIC picture): convert it to JPEG"
    sheet = open_sheet(contact_sheet([(None, "phone.heic", [(reason, 0.0)])], tmp_path / "sheet.png"))
    texts = [text for text, _, _ in lines]
    assert texts[0] == "phone.heic" and " ".join(texts[1:]) == reason and len(texts) > 2
    assert not any("%" in text for text in texts)
    assert count(sheet, (0xA8, 0x48, 0x3A)) > 100  # the mark
    lowest = np.nonzero((np.asarray(sheet) == (0xA8, 0x48, 0x3A)).all(-1))[0].max()
    assert lowest < sheet.height - 30  # the last line ends inside the card


def test_small_pictures_are_enlarged_in_whole_pixels(tmp_path):
    digit = Image.new("RGB", (8, 8), RED)
    digit.putpixel((0, 0), GREEN)
    sheet = open_sheet(contact_sheet([(digit, "7", [])], tmp_path / "sheet.png"))
    left, top, right, bottom = extent(sheet, GREEN)
    assert (right - left, bottom - top) == (27, 27) and count(sheet, GREEN) == 27 * 27


def test_shapes_and_modes(tmp_path):
    sizes = [(5000, 10), (10, 5000), (1, 1), (288, 216)]
    rows = [(Image.new("RGB", size, RED), "x", [("a", 0.5)]) for size in sizes]
    rows += [(Image.new(mode, (60, 40)), mode, []) for mode in ("L", "P", "RGBA", "CMYK", "1", "I;16")]
    given = [row[0].tobytes() for row in rows]
    assert open_sheet(contact_sheet(rows, tmp_path / "sheet.png")).width == 4 * 316 + 3 * 22 + 60
    assert [row[0].tobytes() for row in rows] == given


def test_only_thumbnails_are_kept_and_the_number_is_capped(tmp_path, monkeypatch):
    lines = written(monkeypatch)
    taken = []

    def rows():
        while True:
            taken.append(1)
            yield tile(probabilities=[0.5])

    path = contact_sheet(rows(), tmp_path / "sheet.jpg", columns=10, max_tiles=25)
    assert len(taken) == 26  # one more, to know that there are more
    assert "the first 25 pictures" in [text for text, _, _ in lines]
    assert open_sheet(path).size == (10 * 316 + 9 * 22 + 60, open_sheet(path).height)


def test_one_column_of_many_stays_within_what_formats_can_hold(tmp_path):
    sheet = open_sheet(contact_sheet([tile(probabilities=[0.1] * 5)] * 60, tmp_path / "sheet.webp", columns=1))
    assert max(sheet.size) <= 16_383


@pytest.mark.parametrize(
    ("name", "format_name"),
    [("sheet.png", "PNG"), ("sheet.JPG", "JPEG"), ("sheet.jpeg", "JPEG"), ("sheet.webp", "WEBP")],
)
def test_formats_follow_the_name(tmp_path, name, format_name):
    path = contact_sheet([tile()], tmp_path / "new" / "folder" / name)
    with Image.open(path) as image:
        assert image.format == format_name
    assert [entry.name for entry in path.parent.iterdir()] == [name]


def test_a_failure_leaves_the_previous_sheet_and_nothing_else(tmp_path, monkeypatch):
    path = contact_sheet([tile()], tmp_path / "sheet.png")
    before = path.read_bytes()

    def full(self, file, *args, **kwargs):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="no space left"):
        contact_sheet([tile(GREEN)], path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["sheet.png"]


def test_refusals(tmp_path):
    with pytest.raises(ConfigError, match=r"is a \.png, \.jpg or \.webp file"):
        contact_sheet([tile()], tmp_path / "sheet.pdf")
    with pytest.raises(ConfigError, match="at least one column"):
        contact_sheet([tile()], tmp_path / "sheet.png", columns=0)
    with pytest.raises(DataError, match="no pictures"):
        contact_sheet([], tmp_path / "sheet.png")
