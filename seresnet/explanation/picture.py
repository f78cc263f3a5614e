"""The picture of an explanation: the heat map at full size, the gates of each block, the channels that stand out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from seresnet.common.drawing import draw_text
from seresnet.explanation.explain import Channel, Explanation
from seresnet.explanation.heat_map import colours

PAPER, INK, SOFT, FRAME = "#ffffff", "#1d2733", "#66727f", "#ffffff"
LEAST_WIDTH = 640  # of a picture; smaller images are enlarged by a whole factor
MARGIN, TEXT, SMALL, ROW = 16, 18, 13, 18  # pixels
NAME_WIDTH = 92  # left of the strip
RAISED, LOWERED = (178, 24, 43), (33, 102, 172)  # ColorBrewer's RdBu (Apache-2.0): the ends of a diverging scale
TILE_GAP = 8


def draw_explanation(explanation: Explanation, title: str) -> Image.Image:
    """Return the picture of an explanation, at least 672 pixels wide."""
    shown = framed_overlay(explanation)
    width = max(shown.width, LEAST_WIDTH)
    tile = (width - 7 * TILE_GAP) // 8
    strip = ROW * len(explanation.gates) + 3 * TEXT if explanation.gates else 0
    tiles = tile + 5 * TEXT if explanation.channels else 0
    page = Image.new("RGB", (width + 2 * MARGIN, 3 * TEXT + shown.height + strip + tiles + 3 * MARGIN), PAPER)
    draw = ImageDraw.Draw(page)
    number = f"{100 * explanation.probability:.1f} %"
    used = draw_text(draw, (MARGIN, MARGIN), f"{explanation.label}  {number}", TEXT, INK, width * 0.6)
    draw_text(draw, (MARGIN + used + TEXT, MARGIN), title, TEXT, SOFT, width - used - TEXT, keep_end=True, right=True)
    top = MARGIN + 2 * TEXT
    page.paste(shown, (MARGIN + (width - shown.width) // 2, top))
    top += shown.height + MARGIN
    if strip:
        _strips(page, draw, (MARGIN, top), width, explanation)
    if tiles:
        _tiles(page, draw, (MARGIN, top + strip), tile, explanation.channels)
    return page


def framed_overlay(explanation: Explanation) -> Image.Image:
    """Return the overlay with the hottest place framed, enlarged where it is small."""
    shown = explanation.overlay()
    scale = max(1, LEAST_WIDTH // 2 // max(shown.size))
    if scale > 1:
        shown = shown.resize((shown.width * scale, shown.height * scale), Image.Resampling.NEAREST)
    if explanation.box is not None:
        left, top, right, bottom = (edge * scale for edge in explanation.box)
        line = max(1, max(shown.size) // 240)
        ImageDraw.Draw(shown).rectangle((left, top, right - 1, bottom - 1), outline=FRAME, width=line)
    return shown


def _strips(
    page: Image.Image, draw: ImageDraw.ImageDraw, corner: tuple[int, int], width: int, explanation: Explanation
) -> None:
    """Draw a row for each block: its gates on the left, their changes against the reference on the right."""
    left, top = corner
    half = (width - NAME_WIDTH - TILE_GAP) // 2
    starts = left + NAME_WIDTH, left + NAME_WIDTH + half + TILE_GAP
    for start, heading in zip(starts, ("gates, 0 to 1", "against the reference, -1 to 1"), strict=True):
        draw_text(draw, (start, top), f"{heading}, by channel", SMALL, SOFT, half)
    top += TEXT + 4
    for name, gates in explanation.gates.items():
        draw_text(draw, (left, top), f"{name} ({len(gates)})", SMALL, INK, NAME_WIDTH - 6)
        rows = gate_row(gates), change_row(gates - explanation.reference[name])
        for start, row in zip(starts, rows, strict=True):
            page.paste(_stretched(row, half), (start, top))
        top += ROW


def _stretched(row: Image.Image, width: int) -> Image.Image:
    resample = Image.Resampling.NEAREST if row.width <= width else Image.Resampling.BOX
    return row.resize((width, ROW - 4), resample)


def gate_row(gates: NDArray[np.float32]) -> Image.Image:
    """Return gates (C,) as a picture of C x 1 pixels."""
    return Image.fromarray(colours(gates)[None].round().astype(np.uint8))


def change_row(changes: NDArray[np.float32]) -> Image.Image:
    """Return changes of gates (C,), -1 to 1, as C x 1 pixels: red where raised, blue where lowered, white for none."""
    strength = np.sqrt(np.abs(changes))[:, None]  # small changes are seen, too
    end = np.where(changes[:, None] > 0, np.array(RAISED), np.array(LOWERED))
    return Image.fromarray((255 * (1 - strength) + end * strength)[None].round().astype(np.uint8))


def feature_tile(channel: Channel) -> Image.Image:
    """Return the feature map of a channel as a picture of h x w pixels, its smallest value dark, its largest bright."""
    low, high = float(channel.features.min()), float(channel.features.max())
    values = (channel.features - low) / (high - low) if high > low else np.zeros_like(channel.features)
    return Image.fromarray(colours(values).round().astype(np.uint8))


def _tiles(
    page: Image.Image, draw: ImageDraw.ImageDraw, corner: tuple[int, int], size: int, channels: Sequence[Channel]
) -> None:
    """Draw the feature maps of channels in a row, with their gates below."""
    left, top = corner
    heading = "channels raised and lowered most: feature map before the gate; gate (reference)"
    draw_text(draw, (left, top), heading, SMALL, SOFT, page.width - 2 * left)
    top += TEXT + 4
    for channel in channels:
        page.paste(_fitted(feature_tile(channel), size), (left, top))
        colour = "#%02x%02x%02x" % (RAISED if channel.change > 0 else LOWERED)
        numbers = f"{channel.gate:.2f} ({channel.reference:.2f})"
        lines = (channel.block, INK), (f"#{channel.index}", INK), (numbers, colour)
        for line, (text, ink) in enumerate(lines):
            draw_text(draw, (left, top + size + 4 + line * (SMALL + 4)), text, SMALL, ink, size)
        left += size + TILE_GAP


def _fitted(tile: Image.Image, size: int) -> Image.Image:
    scale = size / max(tile.size)
    fitted = max(1, round(tile.width * scale)), max(1, round(tile.height * scale))
    canvas = Image.new("RGB", (size, size), PAPER)
    canvas.paste(tile.resize(fitted, Image.Resampling.NEAREST), ((size - fitted[0]) // 2, (size - fitted[1]) // 2))
    return canvas
