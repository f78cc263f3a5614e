"""One picture of many: thumbnails with their names and top predictions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

from PIL import Image, ImageDraw

from seresnet.common.drawing import draw_text, text_font
from seresnet.common.files import atomic_file
from seresnet.data.decode import decode
from seresnet.errors import ConfigError, DataError

Row = tuple[Image.Image | None, str, Sequence[tuple[str, float]]]

MAX_TILES = 200

_WIDTH, _HEIGHT = 288, 216  # of a thumbnail's panel, in pixels
_GAP, _MARGIN, _PADDING = 22, 30, 14
_TITLE, _TEXT, _HEADING = 17, 15, 24  # font sizes
_LINE, _BAR, _REASON = 34, 4, 20  # height of one prediction, of its bar, and of one line of a reason
_PAGE, _CARD, _PANEL, _EDGE = "#f4f5f7", "#ffffff", "#e9ecf0", "#dde1e6"
_INK, _SOFT, _ACCENT, _QUIET, _TRACK, _ALARM = "#1d2733", "#66727f", "#2f6fb0", "#9db8d3", "#eceff3", "#a8483a"
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_MAX_SIDE = 16_000  # WEBP ends at 16,383 pixels, JPEG at 65,535


def contact_sheet(
    rows: Iterable[Row], path: str | Path, columns: int = 4, *, heading: str = "", max_tiles: int = MAX_TILES
) -> Path:
    """Draw thumbnails with their titles and predictions, write them to ``path`` (PNG, JPEG or WEBP), and return it.

    A row is (image, title, [(label, probability), ...]), best prediction first; where the image is None, the first
    label is the reason why it could not be read. At most ``max_tiles`` rows are shown, and only thumbnails are kept.
    The file appears whole or not at all. Raises ConfigError for another file type, DataError where there are no rows.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"{path.name}: a contact sheet is a .png, .jpg or .webp file")
    if columns < 1 or max_tiles < 1:
        raise ConfigError(f"a contact sheet needs at least one column and one tile, not {columns} and {max_tiles}")
    stream = iter(rows)
    tiles = [(_thumbnail(image), title, list(found)) for image, title, found in islice(stream, max_tiles)]
    if not tiles:
        raise DataError("no pictures for a contact sheet")
    more = next(stream, None) is not None
    note = f"the first {len(tiles)} pictures" if more else ""
    _write(_draw(tiles, columns, heading, note), path)
    return path


def _thumbnail(image: Image.Image | None) -> Image.Image | None:
    """Fit a picture into the panel; very small ones are enlarged in whole pixels, so that they stay what they are."""
    if image is None:
        return None
    scale = min(_WIDTH / image.width, _HEIGHT / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    resample = Image.Resampling.NEAREST if scale >= 3 else Image.Resampling.LANCZOS
    small = image.resize(size, resample, reducing_gap=3.0) if image.mode in ("RGB", "L") else decode(image).resize(size)
    return small.convert("RGB")


def _draw(tiles: Sequence[Row], columns: int, heading: str, note: str) -> Image.Image:
    """Lay the tiles out row by row; every card of a sheet has the same size."""
    card_w = _WIDTH + 2 * _PADDING
    card_h = _HEIGHT + 3 * _PADDING + _TITLE + 8 + max(_text_height(image, found) for image, _, found in tiles)
    columns = min(columns, len(tiles))
    columns = max(columns, math.ceil(len(tiles) * (card_h + _GAP) / (_MAX_SIDE - 200)))
    top = _MARGIN + (_HEADING + 26 if heading or note else 0)
    width = 2 * _MARGIN + columns * (card_w + _GAP) - _GAP
    height = top + math.ceil(len(tiles) / columns) * (card_h + _GAP) - _GAP + _MARGIN
    sheet = Image.new("RGB", (width, height), _PAGE)
    draw = ImageDraw.Draw(sheet)
    if heading or note:
        draw_text(draw, (_MARGIN, _MARGIN), heading or note, _HEADING, _INK, width - 2 * _MARGIN)
    if heading and note:
        font = text_font(_TEXT)
        draw_text(draw, (width - _MARGIN - font.getlength(note), _MARGIN + 8), note, _TEXT, _SOFT, width)
    for index, (image, title, found) in enumerate(tiles):
        left = _MARGIN + index % columns * (card_w + _GAP)
        upper = top + index // columns * (card_h + _GAP)
        box = (left, upper, left + card_w - 1, upper + card_h - 1)
        draw.rounded_rectangle(box, 8, fill=_CARD, outline=_EDGE)
        _tile(sheet, draw, (left + _PADDING, upper + _PADDING), (image, title, found))
    return sheet


def _text_height(image: Image.Image | None, found: Sequence[tuple[str, float]]) -> int:
    """Return the height of what stands below the title."""
    return len(found) * _LINE if image is not None else len(_wrap(_reason(found), _WIDTH)) * _REASON


def _reason(found: Sequence[tuple[str, float]]) -> str:
    return found[0][0] if found else "could not be read"


def _tile(sheet: Image.Image, draw: ImageDraw.ImageDraw, corner: tuple[int, int], row: Row) -> None:
    """Draw one card's contents: the picture, the title, then a line and a thin bar for each prediction."""
    (left, top), (image, title, found) = corner, row
    draw.rectangle((left, top, left + _WIDTH - 1, top + _HEIGHT - 1), fill=_PANEL)
    below = top + _HEIGHT + 12
    draw_text(draw, (left, below), title, _TITLE, _INK, _WIDTH, keep_end=True)
    below += _TITLE + 14
    if image is None:
        mark = _cross()
        sheet.paste(_ALARM, (left + (_WIDTH - mark.width) // 2, top + (_HEIGHT - mark.height) // 2), mark)
        for offset, line in enumerate(_wrap(_reason(found), _WIDTH)):
            draw_text(draw, (left, below + offset * _REASON), line, _TEXT, _ALARM, _WIDTH)
        return
    sheet.paste(image, (left + (_WIDTH - image.width) // 2, top + (_HEIGHT - image.height) // 2))
    for rank, (label, probability) in enumerate(found):
        share = min(max(probability, 0.0), 1.0) if probability == probability else 0.0
        ink, bar = (_INK, _ACCENT) if rank == 0 else (_SOFT, _QUIET)
        number = f"{100 * share:.1f} %"
        number_w = text_font(_TEXT).getlength(number)
        draw_text(draw, (left, below), label, _TEXT, ink, _WIDTH - number_w - 12)
        draw_text(draw, (left + _WIDTH - number_w, below), number, _TEXT, ink, _WIDTH)
        y = below + _TEXT + 7
        draw.rectangle((left, y, left + _WIDTH - 1, y + _BAR - 1), fill=_TRACK)
        if round(_WIDTH * share):
            draw.rectangle((left, y, left + round(_WIDTH * share) - 1, y + _BAR - 1), fill=bar)
        below += _LINE


def _cross() -> Image.Image:
    """Return the mark of a picture that could not be read, as a mask; drawn large and reduced for smooth edges."""
    mark = Image.new("L", (192, 192))
    draw = ImageDraw.Draw(mark)
    draw.ellipse((6, 6, 185, 185), outline=255, width=12)
    draw.line((64, 64, 128, 128), fill=255, width=12)
    draw.line((64, 128, 128, 64), fill=255, width=12)
    return mark.resize((48, 48), Image.Resampling.LANCZOS)


def _wrap(text: str, width: int) -> list[str]:
    """Break a reason into lines between words."""
    font = text_font(_TEXT)
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _write(sheet: Image.Image, path: Path) -> None:
    options = {} if path.suffix.lower() == ".png" else {"quality": 90}
    with atomic_file(path) as file:
        sheet.save(file, FORMATS[path.suffix.lower()], **options)
