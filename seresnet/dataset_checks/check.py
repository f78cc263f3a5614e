"""Check a data set, and write what was found: a page with thumbnails, and a list of faults to act on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from seresnet.common.files import check_output_folder, write_text
from seresnet.common.page import PAGE_END, card, page_start, picture, table, text
from seresnet.common.text import csv_text
from seresnet.data.dataset import ImageSet
from seresnet.data.decode import decode
from seresnet.dataset_checks.faults import Fault, copies, outliers, tiny, unreadable
from seresnet.dataset_checks.images import CheckedImage, check_images
from seresnet.dataset_checks.labels import wrong_labels
from seresnet.errors import DataError, ImageError
from seresnet.inference.classifier import Classifier

FILE, PAGE = "faults.csv", "index.html"
KINDS = {
    "unreadable": "files that cannot be decoded",
    "tiny": "a shorter side below a quarter of the model's input size",
    "duplicate": "the same file as an earlier one of its class and split",
    "near_duplicate": "almost the picture of an earlier one of its class and split: reduced, saved again or brightened",
    "leak": "in the training split and, the same or almost, in another one",
    "conflict": "the same or almost the same picture under two classes",
    "label": "a label that the other images do not suggest; the detail is the likelier class",
    "outlier": "far from the other images of its class",
}
SHOWN = 48  # of each kind on the page, those with the highest score
THUMBNAIL = 160  # pixels


@dataclass(frozen=True)
class Report:
    """The images of a data set, its classes, and its faults: by kind, and within a kind by score."""

    data: str
    classes: tuple[str, ...]
    images: list[CheckedImage]
    faults: list[Fault]

    def counts(self) -> dict[str, int]:
        """Return the number of faults of each kind."""
        found = Counter(fault.kind for fault in self.faults)
        return {kind: found[kind] for kind in KINDS}


def check(
    data: str,
    sets: dict[str, ImageSet],
    clf: Classifier,
    progress: Callable[[str, str | None], object] = lambda path, error: None,
    workers: int | None = None,
) -> Report:
    """Check the splits of a data set with a model's embeddings, see `KINDS` for what is found.

    Memory holds an embedding of each image, and 2 kB. Raises DataError where the splits have different classes.
    """
    classes = next(iter(sets.values())).classes
    if any(images.classes != classes for images in sets.values()):
        raise DataError(f"{data}: the splits have different classes: {', '.join(sets)}")
    images = check_images(sets, clf, progress, workers)
    least = max(1, min(clf.preprocess.input_size[1:]) // 4)
    found = [*unreadable(images), *tiny(images, least), *copies(images), *outliers(images)]
    best: dict[tuple[str, str], Fault] = {}
    for fault in [*found, *wrong_labels(images, classes)]:
        key = str(fault.image), fault.kind
        if key not in best or fault.score > best[key].score:
            best[key] = fault
    order = list(KINDS)
    return Report(data, classes, images, sorted(best.values(), key=lambda f: (order.index(f.kind), -f.score)))


def write_check(report: Report, folder: Path, exist_ok: bool = False) -> None:
    """Write ``faults.csv`` (path, kind, detail, score) and ``index.html``, which needs no other file, into a folder."""
    check_output_folder(folder, exist_ok)
    rows = ([str(f.image), f.kind, f.detail, f"{f.score:.4f}"] for f in report.faults)
    write_text(folder / FILE, csv_text([["path", "kind", "detail", "score"], *rows]))
    write_text(folder / PAGE, "".join(_page(report)))


def _page(report: Report) -> Iterator[str]:
    yield page_start(f"Check of {report.data}")
    splits = Counter(image.split for image in report.images)
    parts = ", ".join(f"{count:,} {split}" for split, count in splits.items())
    yield f'<p class="soft">{len(report.images):,} images of {len(report.classes):,} classes: {parts}</p>'
    rows = [(f'<a href="#{kind}">{kind}</a>', text(KINDS[kind]), f"{n:,}") for kind, n in report.counts().items()]
    yield card("Faults", table(("kind", "what it is", "images"), rows))
    yield card("Classes", _classes(report))
    yield card("Sizes and formats", _sizes(report.images))
    for kind, meaning in KINDS.items():
        faults = [fault for fault in report.faults if fault.kind == kind]
        if faults:
            more = f", {SHOWN} of {len(faults):,}" if len(faults) > SHOWN else ""
            tiles = "".join(_tile(fault, report.classes) for fault in faults[:SHOWN])
            inner = f'<p class="soft">{text(meaning)}{more}</p><div class="grid">{tiles}</div>'
            yield card(f"{kind}: {len(faults):,}", inner, kind)
    yield PAGE_END


def _classes(report: Report) -> str:
    counts = Counter(image.target for image in report.images)
    most, least = max(counts.values(), default=0), min((counts[i] for i in range(len(report.classes))), default=0)
    ratio = f"{most / least:.1f} times" if least else "a class without images;"
    rows = [
        (
            text(name),
            f'<meter min="0" max="{max(1, most)}" value="{counts[i]}" aria-label="{text(name)}"></meter>',
            f"{counts[i]:,}",
        )
        for i, name in sorted(enumerate(report.classes), key=lambda item: -counts[item[0]])
    ]
    note = f'<p class="soft">The largest class has {ratio} the images of the smallest.</p>' if least else ""
    return note + table(("class", "", "images"), rows)


def _sizes(images: Sequence[CheckedImage]) -> str:
    readable = [image for image in images if image.error is None]
    if not readable:
        return "<p>No image can be read.</p>"
    sides = sorted(min(image.size) for image in readable)
    places = {"smallest": 0, "5 %": 5, "median": 50, "95 %": 95, "largest": 100}
    rows = [(name, f"{sides[round((len(sides) - 1) * p / 100)]:,}") for name, p in places.items()]
    modes = Counter(image.mode for image in readable).most_common()
    kinds = table(("format and mode", "images"), [(text(mode), f"{count:,}") for mode, count in modes])
    return f'<div class="pair">{table(("shorter side", "pixels"), rows)}{kinds}</div>'


def _tile(fault: Fault, classes: Sequence[str]) -> str:
    shown = [image for image in (fault.image, fault.other) if image is not None and image.error is None]
    pictures = "".join(_thumbnail(image) for image in shown)
    label = f"{text(classes[fault.image.target])} ({fault.image.split})"
    if fault.other is not None:
        label += f" / {text(classes[fault.other.target])} ({fault.other.split})"
    detail = "" if fault.other is not None else f"<br>{text(fault.detail)}"
    name = f'<span class="soft">{text(Path(str(fault.image)).name)}</span>'
    caption = f"{label}{detail}<br>{fault.score:.3f} {name}"
    return f"<figure>{pictures}<figcaption>{caption}</figcaption></figure>"


def _thumbnail(image: CheckedImage) -> str:
    try:
        small = decode(image.image, reduction=lambda size: 4 if min(size) > 4 * THUMBNAIL else 1)
    except ImageError:  # it went away
        return ""
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return picture(small, str(image), lossy=max(small.size) > 64)
