"""The style of every plot: figures that need no display, faint grids, three colours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from seresnet.common.extras import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, GREY, RED, AMBER, INK = "#1f6feb", "#c3cad3", "#d1242f", "#d4a72c", "#24292f"


def new_figure(
    width: float, height: float, title: str, layout: Literal["constrained", "none"] = "constrained"
) -> Figure:
    """Return an empty figure, in inches; no display is needed. ``layout`` "none" saves the time of finding margins."""
    figure: Figure = require("matplotlib.figure").Figure(figsize=(width, height), layout=layout)
    figure.suptitle(title, fontsize=12, parse_math=False)  # a name may hold $ signs
    return figure


def tidy(axes: Axes) -> None:
    """Put a faint grid behind the data, and take off the frame above and to the right."""
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
