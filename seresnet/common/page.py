"""Self-contained HTML pages: no outside hosts, no scripts, readable on a phone and in the dark."""

from __future__ import annotations

import base64
from html import escape
from io import BytesIO

from PIL import Image

from seresnet.common.text import printable

STYLE = """
:root { color-scheme: light dark; --ink: light-dark(#1d2733, #e6e9ed); --soft: light-dark(#5b6672, #a4aeb9);
  --paper: light-dark(#f4f5f7, #14181d); --card: light-dark(#ffffff, #1e242b); --edge: light-dark(#dde1e6, #38414b);
  --bar: light-dark(#2f6fb0, #6aa5e0); --up: light-dark(#b2182b, #f08a8a); --down: light-dark(#2166ac, #86b8ea); }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 16px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0.5rem 0; } h2 { font-size: 1.15rem; margin: 0 0 0.5rem; overflow-wrap: anywhere; }
p { margin: 0.4rem 0; } .soft { color: var(--soft); } .up { color: var(--up); } .down { color: var(--down); }
.card { background: var(--card); border: 1px solid var(--edge); border-radius: 8px; padding: 1rem; margin: 1rem 0; }
.grid { display: grid; gap: 0.75rem; grid-template-columns: repeat(auto-fill, minmax(7.25rem, 1fr)); }
.pair { display: grid; gap: 0.75rem; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); align-items: start; }
figure { margin: 0; } figcaption { font-size: 0.85rem; overflow-wrap: anywhere; }
img { max-width: 100%; display: block; } .pixels { image-rendering: pixelated; }
.wide { width: 100%; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; }
th, td { text-align: left; padding: 0.2rem 0.5rem 0.2rem 0; vertical-align: middle; }
th { font-weight: 600; } td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
a { color: var(--bar); } img + img { margin-top: 3px; }
meter { width: 100%; min-width: 5rem; } td.meter { width: 45%; } table + h2, .pair + table { margin-top: 1rem; }
"""


def page_start(title: str) -> str:
    """Return the beginning of a page, up to its heading."""
    shown = text(title)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{shown}</title><style>{STYLE}</style></head>\n<body><h1>{shown}</h1>\n"
    )


PAGE_END = "</body></html>\n"


def text(value: str) -> str:
    """Return text for HTML: markup and control characters are shown, not obeyed."""
    return escape(printable(value))


def picture(image: Image.Image, alt: str, classes: str = "", lossy: bool = False) -> str:
    """Return an image element with its pixels in it, as PNG or, where ``lossy``, as JPEG."""
    buffer = BytesIO()
    image.save(buffer, "JPEG" if lossy else "PNG", **({"quality": 85} if lossy else {"optimize": True}))
    data = base64.b64encode(buffer.getvalue()).decode()
    kind = "jpeg" if lossy else "png"
    shape = f'width="{image.width}" height="{image.height}"' if not classes else ""
    return f'<img src="data:image/{kind};base64,{data}" alt="{text(alt)}" class="{classes}" {shape}>'
