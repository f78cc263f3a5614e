"""The plots of a study of excitations, after figure 6 of the SE paper (arXiv 1709.01507)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from seresnet.common.plots import BLUE, GREY, RED, new_figure, tidy
from seresnet.common.text import short
from seresnet.explanation.ablation import Ablation
from seresnet.explanation.excitations import BlockGates, Excitations

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = 12  # blocks in the plot of the gates; of more, the last of each stage and all of the last stage
COLUMNS = 3
LONGEST = 24  # characters of a class name


def panels(blocks: Sequence[BlockGates]) -> list[BlockGates]:
    """Return the blocks that are drawn: all, or as the paper does the last of each stage and all of the last one."""
    if len(blocks) <= PANELS:
        return list(blocks)
    stages: dict[str, list[BlockGates]] = {}
    for block in blocks:
        stages.setdefault(block.name.partition(".")[0], []).append(block)
    *before, last = stages.values()
    return [stage[-1] for stage in before] + last[-PANELS + len(before) :]


def draw_gates(e: Excitations, classes: Sequence[int]) -> Figure:
    """Draw the mean gate of each channel, one line a class, one panel a block."""
    shown = panels(e.blocks)
    rows = -(-len(shown) // COLUMNS)
    figure = new_figure(12, 1.2 + 2.3 * rows, "Mean gate of each channel, by class")
    grid = figure.subplots(rows, COLUMNS, squeeze=False, sharey=True)
    colours = _colours(len(classes))
    for place, axes in enumerate(grid.flat):
        if place >= len(shown):
            axes.set_visible(False)
            continue
        block = shown[place]
        for colour, index in zip(colours, classes, strict=True):
            axes.plot(block.mean[index], color=colour, lw=0.9, label=short(e.classes[index], LONGEST))
        axes.set_title(f"{block.name}: class explains {100 * block.explained:.0f} % of the variance", fontsize=9)
        axes.set(xlim=(0, block.channels - 1), ylim=(0, 1))
        tidy(axes)
    for axes in grid[:, 0]:
        axes.set_ylabel("gate")
    for axes in grid[-1]:
        axes.set_xlabel("channel")
    handles, names = grid[0, 0].get_legend_handles_labels()
    for text in figure.legend(handles, names, loc="outside lower center", ncols=5, frameon=False).get_texts():
        text.set_parse_math(False)
    return figure


def draw_distances(e: Excitations, classes: Sequence[int]) -> Figure:
    """Draw how far each class's mean gates are from the mean of all images: a row a class, a column a block."""
    values = np.stack([block.from_overall()[list(classes)] for block in e.blocks], axis=1)
    figure = new_figure(2.6 + 0.55 * max(8, len(e.blocks)), 1.9 + 0.36 * max(4, len(classes)), "")
    figure.suptitle("Distance of each class's mean gates from all images' (root mean square)", fontsize=11)
    axes = figure.subplots()
    image = axes.imshow(values, cmap="viridis", aspect="auto", vmin=0)
    axes.set_xticks(range(len(e.blocks)), [block.name for block in e.blocks], rotation=90, fontsize=8)
    axes.set_yticks(range(len(classes)), [short(e.classes[i], LONGEST) for i in classes], fontsize=8)
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    figure.colorbar(image, ax=axes, pad=0.01)
    return figure


def draw_blocks(e: Excitations) -> Figure:
    """Draw for each block the deviations within and between classes, and the fractions that move and are saturated."""
    figure = new_figure(2.6 + 0.55 * max(8, len(e.blocks)), 5.4, "Gates by block")
    upper, lower = figure.subplots(2, 1, sharex=True)
    places = np.arange(len(e.blocks))
    upper.bar(places - 0.2, [b.within for b in e.blocks], 0.4, color=GREY, label="within a class")
    upper.bar(places + 0.2, [b.between for b in e.blocks], 0.4, color=BLUE, label="between classes")
    upper.set_ylabel("standard deviation")
    moving = [100 * b.moving / b.channels for b in e.blocks]
    lower.plot(places, moving, color=BLUE, marker="o", ms=4, label="channels that move by more than 0.1")
    lower.plot(
        places,
        [100 * b.saturated for b in e.blocks],
        color=RED,
        marker="s",
        ms=4,
        label="channels with a mean gate within 0.1 of 0 or 1",
    )
    lower.set(ylabel="% of channels", ylim=(-3, 103))
    lower.set_xticks(places, [block.name for block in e.blocks], rotation=90, fontsize=8)
    for axes in (upper, lower):
        axes.legend(frameon=False, fontsize=8)
        tidy(axes)
    return figure


def draw_ablation(ablation: Ablation) -> Figure:
    """Draw the loss of accuracy with each block's gates constant, with two standard errors."""
    blocks = ablation.blocks
    title = f"Top-1 accuracy lost with constant gates ({100 * ablation.accuracy:.2f} % as it is)"
    figure = new_figure(2.6 + 0.55 * max(8, len(blocks)), 3.6, title)
    axes = figure.subplots()
    places = range(len(blocks))
    errors = [200 * block.standard_error for block in blocks]
    axes.bar(places, [100 * block.loss for block in blocks], color=BLUE, yerr=errors, ecolor=GREY, capsize=3)
    axes.set_xticks(places, [block.block for block in blocks], rotation=90, fontsize=8)
    axes.set_ylabel("points (line: two standard errors)", fontsize=8)
    tidy(axes)
    return figure


def _colours(count: int) -> list[object]:
    from seresnet.common.extras import require

    palette = require("matplotlib").colormaps["tab10"]
    return [palette(i % 10) for i in range(count)]
