"""Copies of images with their predictions written below."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from seresnet.common.drawing import draw_text
from seresnet.data.decode import MAX_PIXELS, decode
from seresnet.data.placing import Placer
from seresnet.inference.contact_sheet import FORMATS
from seresnet.inference.images import as_array
from seresnet.inference.prediction import Prediction

PAPER, INK, SOFT, BAR, TRACK = "#ffffff", "#1d2733", "#66727f", "#2f6fb0", "#eceff3"
LEAST_WIDTH = 160  # smaller images are enlarged, so that the text can be read
LARGEST_SIDE = 16_000  # WEBP ends at 16,383 pixels


class AnnotatedCopies:
    """Writes a copy of each image, with its predictions below it, into a folder. Nothing is overwritten.

    The name is kept; a number is added where another file has it, and ``.jpg`` where its format cannot be written.
    """

    def __init__(self, folder: Path, max_pixels: int = MAX_PIXELS) -> None:
        self.folder, self.max_pixels = folder, max_pixels
        self.placer = Placer()

    def put(self, source: Any, prediction: Prediction) -> Path | None:
        """Write a copy and return its path; None for an image without a prediction."""
        if prediction.error is not None:
            return None
        name = str(getattr(source, "key", None) or Path(prediction.path or "image").name)
        suffix = Path(name).suffix.lower()
        if suffix not in FORMATS:
            name, suffix = f"{name}.jpg", ".jpg"
        pairs = list(zip(prediction.labels, prediction.probabilities, strict=True))
        image = annotated(decode(as_array(source), max_pixels=self.max_pixels), pairs)
        buffer = BytesIO()
        image.save(buffer, FORMATS[suffix], **({} if suffix == ".png" else {"quality": 90}))
        return self.placer.write(self.folder, name, buffer.getvalue())


def annotated(image: Image.Image, pairs: Sequence[tuple[str, float]]) -> Image.Image:
    """Return an image with a line for each (label, probability) below it, the most probable first."""
    scale = max(1, -(-LEAST_WIDTH // image.width))
    if max(image.size) * scale > LARGEST_SIDE:
        image.thumbnail((LARGEST_SIDE // 2, LARGEST_SIDE // 2))
        scale = 1
    if scale > 1:
        image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    size = max(12, min(48, image.width // 28))  # of the text, in pixels
    line = size * 2
    page = Image.new("RGB", (image.width, image.height + line * len(pairs) + size // 2), PAPER)
    page.paste(image, (0, 0))
    draw = ImageDraw.Draw(page)
    for rank, (label, probability) in enumerate(pairs):
        top, margin = image.height + size // 2 + rank * line, size // 2
        inner = image.width - 2 * margin
        ink = INK if rank == 0 else SOFT
        number = f"{100 * probability:.1f} %"
        number_width = draw_text(draw, (margin, top), number, size, ink, inner, right=True)
        draw_text(draw, (margin, top), label, size, ink, inner - number_width - size)
        bar = top + size + size // 3
        height = max(2, size // 5)
        draw.rectangle((margin, bar, margin + inner - 1, bar + height), fill=TRACK)
        if round(inner * probability):
            draw.rectangle((margin, bar, margin + round(inner * probability) - 1, bar + height), fill=BAR)
    return page
