"""Self-contained HTML pages: no outside hosts, readable on a phone and in the dark; the only script sorts tables."""

from __future__ import annotations

import base64
from collections.abc import Sequence
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
th button { font: inherit; font-weight: 600; color: inherit; background: none; border: 0; padding: 0;
  cursor: pointer; }
th[aria-sort="ascending"] button::after { content: " ↑"; } th[aria-sort="descending"] button::after { content: " ↓"; }
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


# Each column of a table.sortable is sorted by a click on its head; numbers (data-value) as numbers, else by text.
SORT_SCRIPT = """<script>
for (const button of document.querySelectorAll("table.sortable th button")) button.onclick = () => {
  const head = button.parentElement, table = head.closest("table"), place = head.cellIndex;
  const down = head.getAttribute("aria-sort") !== "descending";
  for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const value = (row) => row.cells[place].dataset.value ?? row.cells[place].textContent;
  const order = (a, b) => { const x = value(a), y = value(b);
    return x === "" || y === "" ? (x === "") - (y === "") || 0 : (down ? -1 : 1) *
      (isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y); };
  table.tBodies[0].append(...[...table.tBodies[0].rows].sort(order));
};
</script>
"""

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


def card(title: str, inner: str, name: str = "") -> str:
    """Return a section with a heading, which is HTML already; ``name`` is its anchor."""
    return f'<section class="card" id="{name or title.split()[0].lower()}"><h2>{title}</h2>{inner}</section>\n'


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose last column is a number, of cells that are HTML already."""
    last = len(heads) - 1

    def cells(row: Sequence[str], tag: str) -> str:
        return "".join(f"<{tag}{' class=number' if i == last else ''}>{cell}</{tag}>" for i, cell in enumerate(row))

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{cells(heads, "th")}</tr>{body}</table></div>'


def sortable_table(heads: Sequence[str], rows: Sequence[tuple[str, Sequence[tuple[str, float | None]]]]) -> str:
    """Return a table that `SORT_SCRIPT` sorts: a name, as text, and numbers as (shown, value), None for no value."""
    body = []
    for name, numbers in rows:
        cells = "".join(
            f'<td class="number" data-value="{"" if value is None else f"{value:.9g}"}">{shown}</td>'
            for shown, value in numbers
        )
        body.append(f"<tr><td>{text(name)}</td>{cells}</tr>")
    head = "".join(
        f'<th scope="col"{" class=number" if i else ""}><button type="button">{text(name)}</button></th>'
        for i, name in enumerate(heads)
    )
    inner = f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody>"
    return f'<div class="scroll"><table class="sortable">{inner}</table></div>'


def png_picture(png: bytes, alt: str) -> str:
    """Return an image element with the bytes of a PNG file in it, as wide as its place."""
    return f'<img src="data:image/png;base64,{base64.b64encode(png).decode()}" alt="{text(alt)}">'
