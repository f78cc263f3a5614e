"""Measure a classifier on labelled images: each image counts once, and what cannot be read is named."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice, tee
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from seresnet.data.open import open_labelled
from seresnet.data.samples import ImageSet, Sample, StoredImage
from seresnet.errors import ConfigError, DataError
from seresnet.metrics import Meter, Metrics
from seresnet.predict import Classifier, Scored, exact_precision, load
from seresnet.weights.index import default_entry, entries

if TYPE_CHECKING:
    from torch import Tensor

    from seresnet.models.resnet import SEResNet

Progress = Callable[[str, str | None], object]  # a path, and the reason where it could not be read


@dataclass(frozen=True)
class Result:
    """What the model said about one image: class indices, and the probability of ``top1``.

    ``image`` is where its bytes are, if ``path`` is no file and they can be read again.
    """

    path: str | None
    target: int
    top1: int
    probability: float
    image: StoredImage | None = None


@dataclass(frozen=True)
class Published:
    """Accuracies that were published of named weights, between 0 and 1, and on what."""

    top1: float
    top5: float | None
    data: str


@dataclass(frozen=True)
class Evaluation(Metrics):
    """`Metrics`, with where they come from: the result of each image, and the images that could not be read."""

    labels: tuple[str, ...] = ()  # by class index
    results: tuple[Result, ...] = ()
    unreadable: tuple[tuple[str, str], ...] = ()  # path, reason; not in the metrics
    model: str = ""
    engine: str = ""  # what computed, and in which precision
    data: str = ""
    notes: tuple[str, ...] = ()  # what a reader of the figures has to know
    published: Published | None = None  # what others reported of these weights

    def summary(self) -> dict[str, Any]:
        """Return the figures as plain values, in the shape of ``metrics.json``; seven digits, as float32 has."""
        values = {
            "model": self.model,
            "engine": self.engine,
            "data": self.data,
            "images": self.n,
            "unreadable": len(self.unreadable),
            "classes": len(self.labels),
            "classes_with_images": int((self.support > 0).sum()),
            "top1": self.top1,
            "top5": self.top5,
            "macro_precision": self.macro_precision,
            "macro_recall": self.macro_recall,
            "macro_f1": self.macro_f1,
            "negative_log_likelihood": self.nll,
            "expected_calibration_error": self.ece,
            "published": None if self.published is None else vars(self.published),
            "notes": list(self.notes),
            "unreadable_images": [{"path": path, "reason": reason} for path, reason in self.unreadable],
        }
        return {key: float(f"{v:.7g}") if isinstance(v, float) else v for key, v in values.items()}

    def most_confused(self, count: int) -> list[tuple[int, int, int]]:
        """Return the ``count`` commonest mistakes as (class, taken for, images), the commonest first."""
        mistakes = self.confusion.copy()
        np.fill_diagonal(mistakes, 0)
        order = np.argsort(-mistakes, axis=None, kind="stable")[:count]
        pairs = zip(*np.unravel_index(order, mistakes.shape), strict=True)
        return [(int(i), int(j), int(mistakes[i, j])) for i, j in pairs if mistakes[i, j]]

    def mistakes(self) -> list[Result]:
        """Return the results that are wrong, the most confident first."""
        return sorted((r for r in self.results if r.top1 != r.target), key=lambda r: -r.probability)

    def save(self, directory: str | PathLike[str], exist_ok: bool = False) -> Path:
        """Write ``metrics.json``, tables (CSV) and pictures (PNG) into a folder, and return it. See `seresnet.report`.

        Raises ConfigError where the folder has something in it already and ``exist_ok`` is not set.
        """
        from seresnet.report import write_report

        return write_report(self, Path(directory), exist_ok=exist_ok)


def evaluate(
    classifier: Classifier | str | PathLike[str] | SEResNet,
    data: str | PathLike[str] | ImageSet,
    batch_size: int | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure a classifier on labelled images, each image once, with its own transform.

    ``classifier`` may also be what `seresnet.load` takes; it then runs in float32, or in int8 if it was quantized.
    ``data`` is what `seresnet.data.open.open_labelled` takes, class folders (``data/<class>/*.jpg``) among others; of
    a data set in parts it is the test part, or else the validation part. Its classes are matched to the model's by
    `match_classes`. ``progress`` is called after each image with its path, and the reason where it could not be read.
    Raises DataError where the data's classes do not fit the model's, or no image can be read.
    """
    clf = classifier if isinstance(classifier, Classifier) else load(classifier, precision=exact_precision(classifier))
    if not clf.labels:
        raise ConfigError("this model has no classifier, so that there is nothing to evaluate")
    folder = data if isinstance(data, ImageSet) else open_labelled(data)
    if folder.multi_label:
        raise DataError(f"{folder.root}: has several labels an image; seresnet eval measures one class an image")
    indices, notes = match_classes(folder.classes, clf.labels, clf.label_ids)
    meter = Meter(len(clf.labels))
    results: list[Result] = []
    unreadable: list[tuple[str, str]] = []
    given, samples = tee(folder.samples)
    for batch in clf.scored((image for image, _ in given), batch_size, workers):
        # The classifier answers in the order of the images, each exactly once.
        rows = list(zip(batch, islice(samples, len(batch)), strict=True))
        results += _count(meter, rows, indices)
        unreadable += [(str(item.path), item.error) for item in batch if item.error is not None]
        if progress is not None:
            for item in batch:
                progress(str(item.path), item.error)
    if not results:
        path, reason = unreadable[0]
        raise DataError(f"none of the {len(unreadable)} images can be read, among them {path}: {reason}")
    return Evaluation(
        **vars(meter.compute()),
        labels=tuple(clf.labels),
        results=tuple(results),
        unreadable=tuple(unreadable),
        model=clf.model_name,
        engine=clf.engine.describe(),
        data=str(folder.root),
        notes=notes,
        published=published(clf.model_name, len(clf.labels)),
    )


def evaluate_logits(logits: ArrayLike | Tensor, targets: ArrayLike | Tensor, labels: Sequence[str]) -> Evaluation:
    """Return the evaluation of logits (N, classes) against class indices (N,), without paths."""
    meter = Meter(len(labels))
    tops, probabilities = meter.update(logits, targets)
    rows = zip(np.asarray(targets).tolist(), tops.tolist(), probabilities.tolist(), strict=True)
    results = tuple(Result(None, *row) for row in rows)
    return Evaluation(**vars(meter.compute()), labels=tuple(labels), results=results)


def match_classes(
    classes: Sequence[str], labels: Sequence[str], label_ids: Sequence[str] = ()
) -> tuple[list[int], tuple[str, ...]]:
    """Return the model's class index of each class folder, and notes on what was assumed.

    Names must be equal to the model's labels, or to its WordNet ids; or else equal but for case, and for underscores
    and hyphens in place of spaces. Only where the model has no names at all are the folders taken in their sorted
    order, which the notes say. Raises DataError where a folder fits no class, or more than one.
    """
    if not label_ids and not _are_names(labels):
        if len(classes) != len(labels):
            raise DataError(
                f"the model has {len(labels)} classes without names, the data {len(classes)}: they cannot be matched"
            )
        note = f"the model has no class names: folders taken in sorted order, from {classes[0]!r} as class 0"
        return list(range(len(classes))), (note,)
    attempts = [_lookup(classes, labels), _lookup(classes, label_ids)]
    attempts.append(_lookup([_plain(c) for c in classes], [_plain(label) for label in labels]))
    fitting = next((found for found in attempts if all(len(indices) == 1 for indices in found)), None)
    if fitting is None:
        raise DataError(_misfit(classes, labels, max(attempts, key=lambda found: sum(map(bool, found)))))
    with_images = len({indices[0] for indices in fitting})
    note = f"{with_images} of the model's {len(labels)} classes have images; macro averages are over these"
    return [indices[0] for indices in fitting], (note,) if with_images < len(labels) else ()


def published(name: str, num_classes: int) -> Published | None:
    """Return what was published of the weights ``name`` (``arch.tag``, or ``arch`` for its first), if anything."""
    entry = entries().get(name) or (None if "." in name else default_entry(name))
    if entry is None or entry.bundled or entry.top1 is None or entry.num_classes != num_classes:
        return None
    data = {"imagenet-1k": "ImageNet-1k validation"}.get(entry.labels or "", entry.labels or "its own test images")
    top5 = None if entry.top5 is None else round(entry.top5 / 100, 7)
    return Published(round(entry.top1 / 100, 7), top5, data)


def _count(meter: Meter, rows: Sequence[tuple[Scored, Sample]], indices: Sequence[int]) -> list[Result]:
    """Count a batch of images, but for the unreadable ones; return what became of each."""
    good = [(item, item.logits, image, target) for item, (image, target) in rows if item.logits is not None]
    if not good:
        return []
    targets = [indices[target] for *_, target in good if isinstance(target, int)]
    tops, probabilities = meter.update(np.stack([logits for _, logits, _, _ in good]), targets)
    return [
        Result(item.path, target, top, probability, image if isinstance(image, StoredImage) and image.lasts else None)
        for (item, _, image, _), target, top, probability in zip(
            good, targets, tops.tolist(), probabilities.tolist(), strict=True
        )
    ]


def _lookup(wanted: Sequence[str], names: Sequence[str]) -> list[list[int]]:
    """Return all positions of each wanted name."""
    positions = defaultdict(list)
    for index, name in enumerate(names):
        positions[name].append(index)
    return [positions.get(name, []) for name in wanted]


def _are_names(labels: Sequence[str]) -> bool:
    return list(labels) != [f"class {i}" for i in range(len(labels))]


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _misfit(classes: Sequence[str], labels: Sequence[str], found: list[list[int]]) -> str:
    """Say which folders fit no class of the model, or more than one."""
    missing = [name for name, indices in zip(classes, found, strict=True) if not indices]
    if not missing:
        twice = [name for name, indices in zip(classes, found, strict=True) if len(indices) > 1]
        return (
            f"class folders whose name stands for several classes of the model: {_few(twice)}; name them by WordNet id"
        )
    return (
        f"class folders that the model does not know: {_few(missing)}; its {len(labels)} classes are {_few(labels)}: "
        "rename the folders, or give --model trained on these classes"
    )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
