"""Measure a classifier on labelled images: each image counts once, and what cannot be read is named."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from itertools import islice, tee
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from seresnet.data.classes import match_classes
from seresnet.data.dataset import ImageSet, Sample, StoredImage
from seresnet.data.names import few
from seresnet.data.open_dataset import open_labelled
from seresnet.errors import ConfigError, DataError
from seresnet.evaluation.result import Evaluation, MultiLabelResult, Published, Result, SingleLabelResult
from seresnet.inference.classifier import Classifier, exact_precision, load
from seresnet.inference.prediction import Scored
from seresnet.metrics.base import Meter
from seresnet.metrics.multi_label import MultiLabelMeter
from seresnet.metrics.single_label import SingleLabelMeter
from seresnet.weights.index import default_entry, find_entry

if TYPE_CHECKING:
    from seresnet.models.resnet import SEResNet

Progress = Callable[[str, str | None], object]  # a path, and the reason where it could not be read


def evaluate(
    classifier: Classifier | str | PathLike[str] | SEResNet,
    data: str | PathLike[str] | ImageSet,
    batch_size: int | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Evaluation[Any]:
    """Measure a classifier on labelled images, each image once, with its own transform.

    Its metrics are `SingleLabelMetrics` for a model of one label an image, `MultiLabelMetrics` for several.
    ``classifier`` may also be what `seresnet.load` takes; it then runs in float32, or in int8 if it was quantized.
    ``data`` is what `seresnet.data.open_dataset.open_labelled` takes, class folders (``data/<class>/*.jpg``) among
    others; of a data set in parts it is the test part, or else the validation part. Its classes are matched to the
    model's by `match_classes`. ``progress`` is called after each image with its path, and the reason where it could not
    be read. Raises DataError where the data's classes do not fit the model's, where only one of the two knows several
    labels an image, or where no image can be read.
    """
    clf = classifier if isinstance(classifier, Classifier) else load(classifier, precision=exact_precision(classifier))
    if not clf.labels:
        raise ConfigError("this model has no classifier, so that there is nothing to evaluate")
    folder = data if isinstance(data, ImageSet) else open_labelled(data)
    check_same_task(clf, folder)
    indices, notes = match_classes(folder.classes, clf.labels, clf.label_ids)
    meter: Meter = MultiLabelMeter(len(clf.labels)) if clf.multi_label else SingleLabelMeter(len(clf.labels))
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
    metrics = meter.compute()
    return Evaluation(
        metrics,
        labels=tuple(clf.labels),
        results=tuple(results),
        unreadable=tuple(unreadable),
        model=clf.model_name,
        engine=clf.engine.describe(),
        data=str(folder),
        notes=notes + coverage(clf.labels, set(np.flatnonzero(metrics.support))),
        published=published(clf.model_name, len(clf.labels)),
    )


def coverage(labels: Sequence[str], present: Set[int]) -> tuple[str, ...]:
    """Return the note that not all classes have images, which names those that have none."""
    absent = [label for index, label in enumerate(labels) if index not in present]
    have = f"{len(labels) - len(absent)} of the model's {len(labels)} classes have images"
    return (f"{have}; macro averages are over these; no images of {few(absent)}",) if absent else ()


def published(name: str, num_classes: int) -> Published | None:
    """Return what was published of the weights ``name`` (``arch.tag``, or ``arch`` for its first), if anything."""
    entry = find_entry(name) or (None if "." in name else default_entry(name))
    if entry is None or entry.bundled or entry.top1 is None or entry.num_classes != num_classes:
        return None
    data = {"imagenet-1k": "ImageNet-1k validation"}.get(entry.labels or "", entry.labels or "its own test images")
    top5 = None if entry.top5 is None else round(entry.top5 / 100, 7)
    return Published(round(entry.top1 / 100, 7), top5, data)


def check_same_task(clf: Classifier, data: ImageSet) -> None:
    """Raise DataError where only one of model and data has several labels an image."""
    if clf.multi_label == data.multi_label:
        return
    if data.multi_label:
        raise DataError(
            f"an image of {data} has several labels, and {clf.model_name} predicts one: give a model trained on such "
            "data, or a list with the column 'label'"
        )
    raise DataError(
        f"an image of {data} has one label, and {clf.model_name} predicts several: give a list with the column "
        "'labels', or a model trained on one label an image"
    )


def _count(meter: Meter, rows: Sequence[tuple[Scored, Sample]], indices: Sequence[int]) -> list[Result]:
    """Count the readable images of a batch; return the result of each."""
    good = [(item, item.logits, image, target) for item, (image, target) in rows if item.logits is not None]
    if not good:
        return []
    known = [indices[t] if isinstance(t, int) else tuple(indices[i] for i in t) for *_, t in good]
    targets = meter.targets(known)
    predicted, probabilities = meter.update(np.stack([logits for _, logits, _, _ in good]), targets)
    result: type[Result] = MultiLabelResult if isinstance(meter, MultiLabelMeter) else SingleLabelResult
    return [
        result.of(item.path, *row, image if isinstance(image, StoredImage) and image.lasts else None)
        for (item, _, image, _), row in zip(good, zip(targets, predicted, probabilities, strict=True), strict=True)
    ]
