"""The files of explanations: a picture and its numbers for each image, and one page for all of them."""

from __future__ import annotations

import re
import tempfile
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from PIL import Image

from seresnet.common.files import json_text
from seresnet.common.page import PAGE_END, page_start, picture, text
from seresnet.data.placing import Placer, shortened
from seresnet.explanation.explain import REFERENCE, Explanation
from seresnet.explanation.picture import change_row, draw_explanation, feature_tile, framed_overlay, gate_row

PAGE = "index.html"
LONGEST_STEM = 200  # bytes of a name, without its ending
SHOWN = 480  # pixels of the longer side of an image in the page


class ExplanationReport:
    """Writes ``<name>.png`` and ``<name>.json`` for each image and one ``index.html`` at the end, into a folder.

    Names are those of the images; nothing is overwritten: a number is added where another file has the name. The page
    grows in a file, so that memory is flat however many images come. Use it as a context manager.
    """

    def __init__(self, folder: Path, model: str) -> None:
        self.folder, self.model = folder, model
        self.placer = Placer()
        self.page: Path | None = None  # where it is, in the end
        self.images = 0

    def __enter__(self) -> ExplanationReport:
        self._temporary = tempfile.TemporaryDirectory(prefix="seresnet-explain-")
        self._growing: TextIO = (Path(self._temporary.name) / PAGE).open("w", encoding="utf-8")
        self._growing.write(page_start(f"Explanations by {self.model}"))
        self._growing.write(_legend())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with self._temporary, self._growing:
            self._growing.write(PAGE_END)
            self._growing.flush()
            if kind is None and self.images:
                self.page = self.placer.copy(self._growing.name, self.folder)

    def put(self, path: str, explanation: Explanation) -> Path:
        """Write the files of one image, and return the picture's path."""
        stem = shortened(Path(path).stem or "image", LONGEST_STEM)
        buffer = BytesIO()
        draw_explanation(explanation, Path(path).name).save(buffer, "PNG")
        written = self.placer.write(self.folder, f"{stem}.png", buffer.getvalue())
        facts: dict[str, Any] = {"path": path, "model": self.model, "picture": written.name, **explanation.to_dict()}
        self.placer.write(
            self.folder, f"{written.stem}.json", _compact(json_text(facts)).encode("utf-8", "surrogateescape")
        )
        self._growing.write(_card(path, explanation))
        self.images += 1
        return written


def _compact(json: str) -> str:
    """Return JSON with each list of numbers on one line; no string in it holds a line end."""
    return re.sub(r'\[\n[^][{}"]*\]', lambda found: "[" + " ".join(found[0][1:-1].split()) + "]", json)


def _legend() -> str:
    return (
        '<p class="soft">Bright: the places that raise the explained class most (Grad-CAM); the frame is around the '
        "hottest one, and what the network does not see is dark. A row of the strips is a block, a column is a "
        "channel: dark gates are near 0, bright ones near 1; red channels are raised, blue ones lowered against the "
        f"reference, {text(REFERENCE)}.</p>\n"
    )


def _card(path: str, explanation: Explanation) -> str:
    """Return the section of one image."""
    heat = framed_overlay(explanation)
    pair = "".join(
        f"<figure>{_thumbnail(image, alt)}</figure>"
        for image, alt in ((explanation.image, "the image"), (heat, f"heat map for {explanation.label}"))
    )
    explained = f"explained: {text(explanation.label)}, {100 * explanation.probability:.1f} %"
    box = "" if explanation.box is None else f"; hottest place {explanation.box} (left, top, right, bottom)"
    return (
        f'<section class="card"><h2>{text(path)}</h2><p class="soft">{explained}{box}</p><div class="pair">{pair}'
        f"{_classes(explanation)}</div>{_strips(explanation)}{_channels(explanation)}</section>\n"
    )


def _thumbnail(image: Image.Image, alt: str) -> str:
    """Return an image for the page: large ones reduced, very small ones enlarged in whole pixels."""
    shown = image.copy()
    shown.thumbnail((SHOWN, SHOWN))
    small = max(shown.size) < SHOWN // 2
    return picture(shown, alt, "wide pixels" if small else "wide", lossy=not small)


def _classes(explanation: Explanation) -> str:
    rows = "".join(
        f'<tr><td>{text(label)}</td><td class="number">{100 * p:.1f} %</td>'
        f'<td class="meter"><meter min="0" max="1" value="{p:.4f}" aria-label="{text(label)}"></meter></td></tr>'
        for label, _, p in explanation.top()
    )
    return f"<table>{rows}</table>"


def _strips(explanation: Explanation) -> str:
    if not explanation.gates:
        return '<p class="soft">This network has no excitation, so there are no gates.</p>'
    rows = []
    for name, gates in explanation.gates.items():
        change = gates - explanation.reference[name]
        strips = (
            picture(row, alt, "wide pixels strip")
            for row, alt in ((gate_row(gates), f"gates of {name}"), (change_row(change), f"changes of {name}"))
        )
        cells = "".join(f"<td>{strip}</td>" for strip in strips)
        rows.append(f"<tr><th>{text(name)} ({len(gates)})</th>{cells}</tr>")
    head = "<tr><th>block</th><th>gates</th><th>change</th></tr>"
    style = "<style>.strip { height: 0.9rem; } .gates td { width: 45%; } .gates th { white-space: nowrap; }</style>"
    return f'{style}<table class="gates">{head}{"".join(rows)}</table>'


def _channels(explanation: Explanation) -> str:
    if not explanation.channels:
        return ""
    figures = "".join(
        f"<figure>{picture(feature_tile(channel), f'feature map of {channel.block}', 'wide pixels')}"
        f'<figcaption>{text(channel.block)} #{channel.index}<br><span class="{"up" if channel.change > 0 else "down"}">'
        f"{channel.gate:.2f}</span> (reference {channel.reference:.2f})</figcaption></figure>"
        for channel in explanation.channels
    )
    return f'<h2>Channels raised and lowered most</h2><div class="grid">{figures}</div>'
