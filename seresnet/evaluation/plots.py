"""The plots of a report: confusion matrix, reliability, metrics of each class, the most confident mistakes."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

from seresnet.common.plots import AMBER, BLUE, GREY, INK, RED, new_figure, tidy
from seresnet.errors import ImageError
from seresnet.evaluation.coverage import coverage_at, coverage_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from seresnet.evaluation.result import Evaluation, Result
    from seresnet.metrics.single_label import SingleLabelMetrics

MATRIX_CLASSES = 40  # more of them, and the most frequent confusions are listed instead
COUNTED_CLASSES = 20  # more of them, and the cells of the matrix hold no numbers
LISTED = 30  # rows of a list of classes or mistakes
TILES, TILE_COLUMNS = 24, 6


def draw_confusion(e: Evaluation[SingleLabelMetrics]) -> Figure:
    """Draw the confusion matrix, each row as fractions of its class; of many classes, the most frequent confusions."""
    shown = np.flatnonzero((e.metrics.support > 0) | (e.metrics.confusion.sum(axis=0) > 0))
    return _matrix(e, shown) if len(shown) <= MATRIX_CLASSES else _pairs(e)


def draw_reliability(e: Evaluation[SingleLabelMetrics]) -> Figure:
    """Draw accuracy against confidence, bin by bin, with the gap hatched, and below it the images in each bin."""
    m = e.metrics
    figure = new_figure(6.4, 7.0, f"Reliability: expected calibration error {100 * m.ece:.2f} %")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.5))
    edges = np.linspace(0, 1, len(m.bin_count) + 1)
    full = m.bin_count > 0
    left, width = edges[:-1][full], np.diff(edges)[full]
    accuracy, confidence = m.bin_accuracy[full], m.bin_confidence[full]
    upper.bar(left, accuracy, width, align="edge", color=BLUE, edgecolor="white", label="accuracy")
    for name, gap, color in (("over", confidence - accuracy, RED), ("under", accuracy - confidence, AMBER)):
        bottom, some = np.minimum(accuracy, confidence), gap > 0
        style = {"facecolor": "none", "edgecolor": color, "hatch": "////", "linewidth": 0.8}
        upper.bar(left[some], gap[some], width[some], bottom[some], align="edge", label=f"{name}confidence", **style)
    upper.plot([0, 1], [0, 1], color=INK, lw=1, ls="--", label="perfect calibration")
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    upper.legend(frameon=False, loc="upper left")
    bars = lower.bar(left, m.bin_count[full], width, align="edge", color=GREY, edgecolor="white")
    lower.bar_label(bars, [f"{count:,}" for count in m.bin_count[full]], fontsize=7, color=INK, padding=1)
    mean = float((m.bin_confidence * m.bin_count).sum() / m.n)
    for value, color, name in ((mean, INK, "mean confidence"), (m.top1, BLUE, "accuracy")):
        lower.axvline(value, color=color, lw=1.4, ls="--", label=f"{name} {100 * value:.1f} %")
    lower.set(xlabel="confidence (probability of the top class)", ylabel="images", ylim=(0, 1.2 * m.bin_count.max()))
    lower.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    for axes in (upper, lower):
        tidy(axes)
        axes.xaxis.set_major_formatter(_percent)
    upper.yaxis.set_major_formatter(_percent)
    return figure


def draw_coverage(e: Evaluation[SingleLabelMetrics]) -> Figure:
    """Draw the accuracy on the images that are answered against their fraction, with some thresholds marked."""
    curve = coverage_curve(e)
    figure = new_figure(6.4, 4.6, "Accuracy where only confident predictions count")
    axes = figure.subplots()
    axes.plot(curve.coverage, curve.accuracy, color=BLUE, lw=1.6)
    lowest = max(0.0, min(float(curve.accuracy[-1]), *curve.accuracy[len(curve.accuracy) // 20 :]) - 0.03)
    for row in coverage_at(curve):
        if row.accuracy is not None and row.threshold:
            axes.scatter([row.coverage], [row.accuracy], color=INK, s=18, zorder=3)
            offset: dict[str, Any] = {"textcoords": "offset points", "xytext": (4, 5)}
            axes.annotate(f"{row.threshold:g}", (row.coverage, row.accuracy), fontsize=8, color=INK, **offset)
    axes.set(xlim=(0, 1.02), ylim=(lowest, 1.005), xlabel="images answered (number: the threshold)")
    axes.set_ylabel("accuracy on these")
    tidy(axes)
    axes.xaxis.set_major_formatter(_percent)
    axes.yaxis.set_major_formatter(_percent)
    return figure


def draw_per_class(e: Evaluation[Any]) -> Figure:
    """Draw the score of each class that has images, the best on top; of many, highest, lowest and a histogram."""
    present, (name, values, average) = np.flatnonzero(e.metrics.support), e.metrics.score
    order = present[np.argsort(values[present], kind="stable")]  # the lowest first
    many, half = len(order) > MATRIX_CLASSES, LISTED // 2
    rows = np.concatenate([order[:half], order[-half:]]) if many else order
    places = np.arange(len(rows)) + (np.arange(len(rows)) >= half) * many  # an empty row between the halves
    size = (11 if many else 7.2), 1.6 + 0.27 * max(len(rows), 4)
    figure = new_figure(*size, f"{name[0].upper()}{name[1:]} by class: macro average {100 * average:.1f} %")
    axes = figure.subplots(1, 2, width_ratios=(3, 2)) if many else [figure.subplots()]
    _class_bars(axes[0], e, rows, places)
    if many:
        axes[0].set_xlabel(f"{name} of the {half} highest and {half} lowest of {len(order)} classes")
        axes[1].hist(values[order], bins=25, range=(0, 1), color=BLUE, edgecolor="white")
        axes[1].axvline(average, color=INK, lw=1, ls="--")
        axes[1].set(xlim=(0, 1), xlabel=f"{name} of all classes", ylabel="classes")
    for ax in axes:
        tidy(ax)
        ax.xaxis.set_major_formatter(_percent)
    axes[0].grid(axis="y", visible=False)
    return figure


def _class_bars(axes: Axes, e: Evaluation[Any], rows: Any, places: Any) -> None:
    """Draw a bar for each class of ``rows`` at ``places``, with marks at its precision and recall."""
    name, values, average = e.metrics.score
    axes.barh(places, values[rows], color=BLUE, height=0.72)
    marks: dict[str, Any] = {"zorder": 3, "clip_on": False}
    axes.scatter(e.metrics.precision[rows], places, marker="|", color=INK, s=70, label="precision", **marks)
    circle: dict[str, Any] = {"marker": "o", "facecolor": "white", "edgecolor": INK, "s": 22, **marks}
    axes.scatter(e.metrics.recall[rows], places, label="recall", **circle)
    axes.axvline(average, color=INK, lw=1, ls="--", label="macro average")
    axes.set(xlim=(0, 1), xlabel=name, ylim=(-0.6, places[-1] + 0.6))
    names = [f"{_short(e.labels[i])} ({e.metrics.support[i]:,})" for i in rows]
    axes.set_yticks(places, names, fontsize=8, parse_math=False)
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize=8)


def draw_mistakes(e: Evaluation[Any]) -> Figure | None:
    """Draw the most confident mistakes as thumbnails; None where there are none, or no image files."""
    tiles, mistakes = [], e.mistakes()
    for result, mistake in mistakes:
        picture = _thumbnail(result)
        if picture is not None:
            tiles.append((mistake, picture))
        if len(tiles) == TILES:
            break
    if not tiles:
        return None
    columns = min(TILE_COLUMNS, max(3, len(tiles)))
    rows = ceil(len(tiles) / columns)
    some = len(mistakes) > len(tiles)
    which = f"The {len(tiles)} most confident of {len(mistakes):,} mistakes" if some else "All mistakes"
    figure = new_figure(1.95 * columns, 0.5 + 2.6 * rows, f"{which}; predicted class in red")
    figure.set_layout_engine("constrained", hspace=0.12)
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.set_axis_off()
    for axes, (mistake, picture) in zip(figure.axes, tiles, strict=False):
        axes.imshow(picture, interpolation="nearest" if max(picture.shape[:2]) < 96 else "antialiased")
        text = f"{_short(mistake.predicted, 17)} ({100 * mistake.confidence:.1f} %)"
        axes.set_title(text, fontsize=8.5, color=RED, pad=3, parse_math=False)
        caption = f"true: {_short(mistake.true, 18)}"
        below: dict[str, Any] = {"ha": "center", "va": "top", "transform": axes.transAxes}
        axes.text(0.5, -0.04, caption, fontsize=8.5, color=INK, parse_math=False, **below)
    return figure


def _matrix(e: Evaluation[SingleLabelMetrics], shown: Any) -> Figure:
    """Draw the matrix of the classes ``shown``."""
    counts = e.metrics.confusion[np.ix_(shown, shown)]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    cell = 0.52 if len(shown) <= COUNTED_CLASSES else 0.27
    size = max(4.4, cell * len(shown) + 2.2)
    figure = new_figure(
        size + 0.6, size - 0.3, f"Confusion: top-1 accuracy {100 * e.metrics.top1:.2f} % of {e.metrics.n:,} images"
    )
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    names = [_short(e.labels[i]) for i in shown]
    fontsize = 9 if len(shown) <= COUNTED_CLASSES else 7
    axes.set_xticks(
        range(len(shown)), names, rotation=45, ha="right", rotation_mode="anchor", fontsize=fontsize, parse_math=False
    )
    axes.set_yticks(range(len(shown)), names, fontsize=fontsize, parse_math=False)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_xticks(np.arange(len(shown) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(shown) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", lw=1)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    if len(shown) <= COUNTED_CLASSES:
        for (i, j), count in np.ndenumerate(counts):
            if count:
                color = "white" if shares[i, j] > 0.5 else INK
                axes.text(j, i, f"{count:,}", ha="center", va="center", fontsize=7.5, color=color)
    figure.colorbar(image, ax=axes, shrink=0.7, label="fraction of the class", format=_percent)
    return figure


def _pairs(e: Evaluation[SingleLabelMetrics]) -> Figure:
    """Draw the most frequent confusions as bars."""
    pairs = e.metrics.most_confused(LISTED)[::-1]
    title = f"Most frequent confusions: top-1 accuracy {100 * e.metrics.top1:.2f} % of {e.metrics.n:,} images"
    figure = new_figure(8.6, 1.6 + 0.27 * max(len(pairs), 4), title)
    axes, counts = figure.subplots(), [count for *_, count in pairs]
    axes.barh(range(len(pairs)), counts, color=BLUE, height=0.72)
    names = [f"{_short(e.labels[i])} → {_short(e.labels[j])}" for i, j, _ in pairs]
    axes.set_yticks(range(len(pairs)), names, fontsize=8, parse_math=False)
    for place, (i, _, count) in enumerate(pairs):
        note = f"{count:,} of {e.metrics.support[i]:,} ({_percent(count / e.metrics.support[i])})"
        axes.annotate(note, (count, place), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set(xlabel="images", xlim=(0, 1.25 * max(counts, default=1)), ylim=(-0.6, len(pairs) - 0.4))
    axes.locator_params(axis="x", integer=True)
    tidy(axes)
    axes.grid(axis="y", visible=False)
    return figure


def _percent(value: float, _: float | None = None) -> str:
    return f"{100 * value:.0f} %"


def _short(text: str, width: int = 26) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _thumbnail(result: Result) -> Any | None:
    """Return the image, at most 192 pixels wide and high, or None where its file cannot be read."""
    from seresnet.data.decode import decode

    source = result.image or result.path
    if source is None:
        return None
    try:
        picture = decode(source)
    except ImageError:
        return None
    picture.thumbnail((192, 192))
    return np.asarray(picture)
