"""Text drawn into pictures, with the font that Pillow brings."""

from __future__ import annotations

from PIL import ImageDraw, ImageFont

from seresnet.common.text import printable
from seresnet.errors import ConfigError


def text_font(size: int) -> ImageFont.FreeTypeFont:
    """Return Pillow's own font at a size in pixels. Raises ConfigError where Pillow lacks FreeType."""
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise ConfigError("drawing text needs a Pillow with FreeType: install the wheel from the package index")
    return font


def draw_text(
    draw: ImageDraw.ImageDraw,
    corner: tuple[float, float],
    text: str,
    size: int,
    colour: str,
    width: float,
    keep_end: bool = False,
    right: bool = False,
) -> float:
    """Write one line, shortened to ``width`` pixels, and return its own width.

    It is shortened at its end, or in its middle where a file's ending matters; ``right`` sets it against the right.
    """
    font = text_font(size)
    text = printable(" ".join(text.split()))
    kept = len(text)
    shown = text
    while kept > 1 and font.getlength(shown) > width:
        kept = min(kept - 1, int(kept * width / font.getlength(shown)) + 1)
        tail = kept // 2 if keep_end else 0
        shown = text[: kept - tail].rstrip() + "…" + (text[len(text) - tail :] if tail else "")
    length = font.getlength(shown)
    draw.text((corner[0] + (width - length if right else 0), corner[1]), shown, fill=colour, font=font)
    return float(length)
