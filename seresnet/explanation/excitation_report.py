"""The files of a study of excitations: tables, numbers, plots, and one page."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seresnet.common.files import atomic_file, json_text, write_text
from seresnet.common.page import PAGE_END, SORT_SCRIPT, card, page_start, png_picture, sortable_table, text
from seresnet.common.text import csv_text
from seresnet.explanation.ablation import Ablation
from seresnet.explanation.excitation_plots import PANELS, draw_ablation, draw_blocks, draw_distances, draw_gates
from seresnet.explanation.excitations import MOVES, Excitations

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = "index.html"
SHOWN = 10  # classes in the plots, and in gates.csv
Facts = dict[str, Any]


def write_excitations(
    e: Excitations, folder: Path, model: str, data: str, ablation: Ablation | None = None, more: Facts | None = None
) -> Path:
    """Write the study to a folder, and return its page.

    ``blocks.csv`` has a row for each block, ``classes.csv`` for each block and class, ``channels.csv`` for each channel
    over all images, ``gates.csv`` for each channel and class of the plots; ``excitations.json`` has the same numbers of
    blocks, and ``gates.npz`` the mean, variance and image count of every class. With an ablation there is
    ``ablation.csv``. ``more`` is added to the JSON.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shown = e.most_frequent(SHOWN)
    blocks = [block.summary() for block in e.blocks]
    write_text(folder / "blocks.csv", csv_text([blocks[0].keys(), *(_cells(row.values()) for row in blocks)]))
    write_text(folder / "classes.csv", csv_text(_classes(e)))
    write_text(folder / "channels.csv", csv_text(_channels(e)))
    write_text(folder / "gates.csv", csv_text(_gates(e, shown)))
    with atomic_file(folder / "gates.npz") as file:
        arrays = {f"{b.name}.{key}": getattr(b, key) for b in e.blocks for key in ("mean", "variance")}
        np.savez(file, allow_pickle=False, classes=np.array(e.classes), images=e.counts, **arrays)
    facts: Facts = {"model": model, "data": data, "images": e.images, "classes": len(e.classes)}
    facts |= {"plotted": [e.classes[i] for i in shown], "blocks": blocks, **(more or {})}
    if ablation is not None:
        facts["ablation"] = ablation.to_dict()
        write_text(folder / "ablation.csv", csv_text(_ablated(ablation)))
    write_text(folder / "excitations.json", json_text(facts))
    figures = {"gates.png": draw_gates(e, shown), "blocks.png": draw_blocks(e)}
    if len(shown) > 1:
        figures["distances.png"] = draw_distances(e, shown)
    if ablation is not None:
        figures["ablation.png"] = draw_ablation(ablation)
    images = {name: _png(figure) for name, figure in figures.items()}
    for name, png in images.items():
        with atomic_file(folder / name) as file:
            file.write(png)
    write_text(folder / PAGE, _page(e, facts, images))
    return folder / PAGE


def _cells(values: Any) -> list[object]:
    return [f"{value:.6g}" if isinstance(value, float) else value for value in values]


def _classes(e: Excitations) -> Iterator[list[object]]:
    yield ["block", "class", "images", "mean_gate", "distance_from_all", "std_within"]
    for block in e.blocks:
        distances = block.from_overall()
        for i in np.flatnonzero(e.counts):
            values = (float(block.mean[i].mean()), float(distances[i]), float(np.sqrt(block.variance[i].mean())))
            yield [block.name, e.classes[i], int(e.counts[i]), *_cells(values)]


def _channels(e: Excitations) -> Iterator[list[object]]:
    yield ["block", "channel", "mean", "lowest", "highest"]
    for block in e.blocks:
        for i, row in enumerate(zip(block.overall, block.lowest, block.highest, strict=True)):
            yield [block.name, i, *_cells(map(float, row))]


def _gates(e: Excitations, shown: list[int]) -> Iterator[list[object]]:
    yield ["block", "class", "channel", "mean", "variance"]
    for block in e.blocks:
        for i in shown:
            for channel, pair in enumerate(zip(block.mean[i], block.variance[i], strict=True)):
                yield [block.name, e.classes[i], channel, *_cells(map(float, pair))]


def _ablated(ablation: Ablation) -> Iterator[list[object]]:
    rows = [vars(block) for block in ablation.blocks]
    yield list(rows[0])
    for row in rows:
        yield _cells(row.values())


def _png(figure: Figure) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _page(e: Excitations, facts: Facts, images: dict[str, bytes]) -> str:
    """Return the page, which needs no other file."""
    with_images = int((e.counts > 0).sum())
    note = f"{e.images:,} images of {with_images:,} classes"
    if with_images > SHOWN:
        note += f"; the plots show the {SHOWN} classes with the most images"
    if len(e.blocks) > PANELS:
        note += "; of the blocks, the plot of the gates shows the last of each stage and those of the last stage"
    parts = [page_start(f"Excitations of {facts['model']}"), f'<p class="soft">{text(facts["data"])}: {note}.</p>\n']
    alts = {
        "gates.png": ("Gates by channel", "mean gate of each channel, one line a class"),
        "distances.png": ("Distances between classes", "distance of each class from all images, by block"),
        "ablation.png": ("Ablation", "loss of accuracy with constant gates, block by block"),
        "blocks.png": ("Blocks", "deviations within and between classes by block"),
    }
    parts += [card(alts[name][0], png_picture(png, alts[name][1]), name) for name, png in images.items()]
    parts.append(card("Numbers", _block_table(e), "numbers"))
    return "".join((*parts, SORT_SCRIPT, PAGE_END))


def _block_table(e: Excitations) -> str:
    heads = ["block", "channels", "mean gate", "moving", "saturated", "within", "between", "explained"]
    rows = []
    for b in e.blocks:
        moving, mean = b.moving / b.channels, float(b.overall.mean())
        cells = [(f"{b.channels}", b.channels), (f"{mean:.3f}", mean)]
        cells += [(f"{100 * part:.0f} %", part) for part in (moving, b.saturated)]
        cells += [(f"{deviation:.4f}", deviation) for deviation in (b.within, b.between)]
        rows.append((b.name, [*cells, (f"{100 * b.explained:.1f} %", b.explained)]))
    legend = (
        f'<p class="soft">Moving: channels whose gate differs by more than {MOVES:g} between two images. Saturated: '
        "channels whose mean gate is within 0.1 of 0 or 1. Within and between: standard deviations of the gates within "
        "a class, and of the classes' means. Explained: the fraction of the variance that the class explains.</p>"
    )
    return sortable_table(heads, rows) + legend
