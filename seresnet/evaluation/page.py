"""The report of an evaluation as one page, ``report.html``, that needs no other file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seresnet.common.page import (
    PAGE_END,
    SORT_SCRIPT,
    card,
    page_start,
    picture,
    png_picture,
    sortable_table,
    table,
    text,
)
from seresnet.data.dataset import StoredImage
from seresnet.data.decode import decode
from seresnet.errors import ImageError
from seresnet.evaluation.compare import Comparison
from seresnet.evaluation.coverage import coverage_at, coverage_curve
from seresnet.evaluation.result import Evaluation, Result
from seresnet.metrics.intervals import Interval, bootstrap, wilson
from seresnet.metrics.single_label import SingleLabelMetrics

if TYPE_CHECKING:
    from PIL import Image

    from seresnet.explanation.explain import Explainer

SHOWN = 24  # mistakes, or images on which two models differ
THUMBNAIL = 224  # pixels of the longer side
PROPORTIONS = ("top1", "top5", "exact_match")  # of images, which have Wilson's interval
ALT = {
    "confusion.png": "confusion matrix, or the most frequent confusions",
    "reliability.png": "accuracy against confidence, and the images in each bin",
    "coverage.png": "accuracy against the fraction of images that are answered",
}


def report_page(
    e: Evaluation[Any], pictures: Mapping[str, bytes], explainer: Explainer | None, comparison: Comparison | None
) -> Iterator[str]:
    """Yield the parts of the page. ``pictures``: PNG files by the names of `seresnet.evaluation.report`."""
    yield page_start(f"Evaluation of {e.model}")
    facts = f"{text(e.data)}: {e.metrics.n:,} images, {int((e.metrics.support > 0).sum()):,} classes"
    yield f'<p class="soft">{facts}; {text(e.engine)}</p>'
    yield "".join(f"<p>{text(note)}</p>" for note in e.notes)
    yield card("Metrics", _metrics(e))
    if comparison is not None:
        yield card("Comparison", _comparison(comparison, explainer))
    if isinstance(e.metrics, SingleLabelMetrics):
        yield card("Confusion", png_picture(pictures["confusion.png"], ALT["confusion.png"]))
        yield card("Calibration", png_picture(pictures["reliability.png"], ALT["reliability.png"]))
        yield card("Threshold", _threshold(e, pictures["coverage.png"]))
    yield card("Mistakes", _mistakes(e, explainer))
    yield card("Classes", _classes(e))
    if e.unreadable:
        rows = [(text(path), text(reason)) for path, reason in e.unreadable]
        yield card("Images that could not be read", table(("path", "reason"), rows), "unreadable")
    yield SORT_SCRIPT + PAGE_END


def _metrics(e: Evaluation[Any]) -> str:
    """Return the headline metrics, with their 95 % intervals, and published values where they are known."""
    intervals = bootstrap(e.metrics) if isinstance(e.metrics, SingleLabelMetrics) else {}
    rows = []
    for metric in e.metrics.headline():
        interval = wilson(metric.value, e.metrics.n) if metric.key in PROPORTIONS else intervals.get(metric.key)
        published = getattr(e.published, metric.key, None)
        cells = [text(metric.name), _percent(metric.value, 2), _interval(interval)]
        rows.append([*cells, "" if published is None else _percent(published, 2)])
    rows.append(["negative log likelihood", f"{e.metrics.nll:.4f}", "", ""])
    heads = "metric", "value", "95 % interval", "published"
    known = any(row[-1] for row in rows)
    shown = table(heads if known else heads[:-1], rows if known else [row[:-1] for row in rows])
    sources = "Intervals: Wilson's for proportions of images, else the percentile bootstrap of 1,000 resamples."
    where = f" Published on {text(e.published.data)}." if e.published and known else ""
    return f'{shown}<p class="soft">{sources}{where}</p>'


def _threshold(e: Evaluation[SingleLabelMetrics], png: bytes) -> str:
    places = coverage_at(coverage_curve(e))
    rows = [
        (
            f"{row.threshold:g}" if row.threshold else "none",
            _percent(row.coverage),
            "" if row.accuracy is None else _percent(row.accuracy),
        )
        for row in places
    ]
    example = next((row for row in places if row.threshold == 0.8 and row.accuracy is not None), None)
    said = (
        f"Answering only where the confidence is 0.8 or more: {_percent(example.coverage)} of the images, of which "
        f"{_percent(example.accuracy)} are right. "
        if example and example.accuracy is not None
        else ""
    )
    note = f'<p>{said}<span class="soft">seresnet predict --threshold T does that.</span></p>'
    shown = table(("threshold", "images answered", "of these, right"), rows)
    return f'{note}<div class="pair">{png_picture(png, ALT["coverage.png"])}{shown}</div>'


def _classes(e: Evaluation[Any]) -> str:
    metrics, support = e.metrics.per_class(), e.metrics.support.tolist()
    rows = []
    for i, label in enumerate(e.labels):
        values = [float(metric.values[i]) if support[i] else None for metric in metrics]
        numbers: list[tuple[str, float | None]] = [("" if v is None else _percent(v), v) for v in values]
        rows.append((label, [*numbers, (f"{support[i]:,}", float(support[i]))]))
    return sortable_table(["class", *(metric.name for metric in metrics), "images"], rows)


def _mistakes(e: Evaluation[Any], explainer: Explainer | None) -> str:
    tiles, mistakes = [], e.mistakes()
    for result, mistake in mistakes:
        caption = f"{text(mistake.predicted)} {_percent(mistake.confidence)}<br>true: {text(mistake.true)}"
        if tile := _tile(result, caption, explainer, mistake.class_index):
            tiles.append(tile)
        if len(tiles) == SHOWN:
            break
    if not mistakes:
        return "<p>None.</p>"
    heat = (
        " Below each image: what raises that class most (Grad-CAM)."
        if explainer
        else " Without heat maps: this model's network is not at hand."
    )
    shown = f"{len(tiles)} of {len(mistakes):,}, the most confident first.{heat if tiles else ''}"
    return f'<p class="soft">{shown}</p><div class="grid">{"".join(tiles)}</div>'


def _comparison(c: Comparison, explainer: Explainer | None) -> str:
    names = text(c.first.model), text(c.second.model)
    rows = [
        (names[0], _percent((c.both + c.only_first) / c.n, 2), f"{c.only_first:,}"),
        (names[1], _percent((c.both + c.only_second) / c.n, 2), f"{c.only_second:,}"),
    ]
    shown = table(("model", "accuracy", "images that it alone has right"), rows)
    points = f"{100 * c.difference:+.2f} points (95 %: {100 * c.interval.low:+.2f} to {100 * c.interval.high:+.2f})"
    test = f"McNemar's exact test: p = {c.p_value:.2g}."
    counts = f"Both right: {c.both:,}; neither: {c.neither:,}."
    tiles = []
    for difference in c.differences:
        answers = (difference.first.row(c.first.labels), difference.second.row(c.second.labels))
        right = names[0] if difference.first_is_right else names[1]
        caption = f"true: {text(answers[0][1])}<br>{text(answers[0][2])} / {text(answers[1][2])}<br>right: {right}"
        if tile := _tile(difference.first, caption, None, None):
            tiles.append(tile)
        if len(tiles) == SHOWN:
            break
    grid = f'<p class="soft">{len(tiles)} of {len(c.differences):,} images on which one is right:</p>' if tiles else ""
    return f'{shown}<p>{points}. {test} {counts}</p>{grid}<div class="grid">{"".join(tiles)}</div>'


def _tile(result: Result, caption: str, explainer: Explainer | None, label: int | None) -> str:
    """Return the thumbnail of an image, with its heat map for a class below it; "" where it cannot be read."""
    source: StoredImage | str | None = result.image or result.path
    if source is None:
        return ""
    name = Path(result.path or "").name
    try:
        if explainer is None or label is None:
            shown = [decode(source, reduction=lambda size: 4 if min(size) > 4 * THUMBNAIL else 1)]
        else:
            explanation = explainer.explain(source, label)
            shown = [explanation.image, explanation.overlay()]
    except ImageError:  # it went away
        return ""
    images = "".join(_thumbnail(image, alt) for image, alt in zip(shown, (name, f"heat map of {name}"), strict=False))
    return f'<figure>{images}<figcaption>{caption}<br><span class="soft">{text(name)}</span></figcaption></figure>'


def _thumbnail(image: Image.Image, alt: str) -> str:
    small = image.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    large = max(small.size) > 64
    return picture(small, alt, "wide" if large else "wide pixels", lossy=large)


def _percent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f} %"


def _interval(interval: Interval | None) -> str:
    return "" if interval is None else f"{100 * interval.low:.2f} to {100 * interval.high:.2f}"
