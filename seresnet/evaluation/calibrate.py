"""Temperature scaling: probabilities that agree with how often a model is right (arXiv 1706.04599, section 4.2).

The logits are divided by one temperature, which is fitted to held-out images. That is the same as dividing weight and
bias of the classifier, and so it is stored: every use of the saved model has it, also those that know nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import islice, tee
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from seresnet.data.classes import match_classes
from seresnet.data.dataset import ImageSet
from seresnet.data.open_dataset import open_labelled
from seresnet.errors import ConfigError, DataError
from seresnet.evaluation.evaluate import check_same_task
from seresnet.inference.classifier import Classifier, load
from seresnet.inference.load import network_of_name
from seresnet.metrics.single_label import SingleLabelMeter
from seresnet.weights.derived import check_model_folder, save_into

Progress = Callable[[str, str | None], object]  # a path, and the reason where it could not be read

LOWEST, HIGHEST = 0.05, 20.0  # temperatures; beyond, the likelihood has no optimum on these images
FEW = 200  # images; with fewer the temperature is uncertain
ITERATIONS = 100  # of L-BFGS on one number; it takes about ten


@dataclass(frozen=True)
class TemperatureFit:
    """A temperature, and what it changes on the images that it was fitted to.

    ``nll`` is the mean negative log likelihood in nats (of a multi-label model, of each label by itself), ``ece`` the
    expected calibration error in 15 bins of confidence, 0 to 1; both before and after. ``top1`` is the accuracy, which
    stays (of a multi-label model, of each yes or no).
    """

    temperature: float
    images: int
    nll: tuple[float, float]
    ece: tuple[float, float]
    top1: float
    data: str
    unreadable: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    def summary(self) -> dict[str, Any]:
        """Return what ``config.json`` keeps as ``calibration``, as plain values."""
        values = asdict(self)
        return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items() if key != "unreadable"}


def calibrate(
    model: str | PathLike[str],
    data: str | PathLike[str] | ImageSet,
    out: str | PathLike[str],
    exist_ok: bool = False,
    device: str | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    offline: bool | None = None,
    progress: Progress | None = None,
) -> TemperatureFit:
    """Fit the temperature of a model to labelled images that it was not trained on, and save it to the folder ``out``.

    ``data`` is what `seresnet.evaluate` takes, with the same rules. The logits of all images are held, 4 bytes a class
    and image. Raises DataError where the images do not determine a temperature, such as where all are predicted right,
    and otherwise as `seresnet.evaluate`; ConfigError for a model without weights or of one class.
    """
    out = Path(out)
    check_model_folder(out, exist_ok)
    network = network_of_name(str(model), offline)
    if network.num_classes < (1 if network.multi_label else 2):
        raise ConfigError(f"{model} has no two classes to tell apart, so that no temperature can be fitted")
    clf = load(network, precision="float32", device=device, offline=offline)
    clf.model_name = str(model)
    images = data if isinstance(data, ImageSet) else open_labelled(data, offline)
    fit = _fitted(clf, images, batch_size, workers, progress)
    assert isinstance(network.fc, nn.Linear)
    with torch.no_grad():
        for parameter in network.fc.parameters():
            parameter.copy_(parameter.double() / fit.temperature)
    save_into(out, network, {"calibration": fit.summary()}, Path(model))
    return fit


def _fitted(
    clf: Classifier, images: ImageSet, batch_size: int | None, workers: int | None, progress: Progress | None
) -> TemperatureFit:
    check_same_task(clf, images)
    indices, notes = match_classes(images.classes, clf.labels, clf.label_ids)
    logits: list[NDArray[np.float32]] = []
    targets: list[Any] = []
    unreadable: list[tuple[str, str]] = []
    given, samples = tee(images.samples)
    for batch in clf.scored((image for image, _ in given), batch_size, workers):
        for item, (_, target) in zip(batch, islice(samples, len(batch)), strict=True):
            if item.logits is None:
                unreadable.append((str(item.path), str(item.error)))
            else:
                logits.append(item.logits)
                targets.append(indices[target] if isinstance(target, int) else [indices[i] for i in target])
            if progress is not None:
                progress(str(item.path), item.error)
    if not logits:
        raise DataError(f"none of the {len(unreadable)} images can be read: give images with their labels")
    scores, truth = np.stack(logits), _targets(targets, clf)
    if clf.multi_label:  # each label is a question of two answers, whose logits are 0 and its own
        scores = np.stack([np.zeros(scores.size, np.float32), scores.ravel()], axis=1)
    temperature = fit_temperature(torch.from_numpy(scores), torch.from_numpy(truth))
    before, after = (measured(scores / np.float64(t), truth) for t in (1.0, temperature))
    if len(logits) < FEW:
        notes += (f"{len(logits)} images are few: the temperature is uncertain, {FEW} or more are better",)
    return TemperatureFit(
        temperature,
        len(logits),
        (before.nll, after.nll),
        (before.ece, after.ece),
        before.top1,
        str(images),
        tuple(unreadable),
        notes,
    )


def _targets(targets: list[Any], clf: Classifier) -> NDArray[np.int64]:
    """Return class indices (N,), or of a multi-label model 0 or 1 for each image and label (N * labels,)."""
    if not clf.multi_label:
        return np.array(targets, np.int64)
    rows = np.zeros((len(targets), len(clf.labels)), np.int64)
    for row, labels in zip(rows, targets, strict=True):
        row[labels if isinstance(labels, list) else [labels]] = 1
    return rows.ravel()


def measured(scores: NDArray[Any], truth: NDArray[np.int64]) -> Any:
    """Return the metrics of logits (N, C) with their class indices (N,)."""
    meter = SingleLabelMeter(scores.shape[1])
    meter.update(scores, truth)
    return meter.compute()


def fit_temperature(logits: Tensor, targets: Tensor) -> float:
    """Return the temperature with the least cross-entropy of logits (N, C) with class indices (N,), by L-BFGS.

    The loss is convex in the inverse temperature b. Raises DataError where it falls with every b (all are right), grows
    from b = 0 on (no better than chance), or has its optimum beyond `LOWEST` or `HIGHEST`.
    """
    logits = logits.double()
    log_t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_t], max_iter=ITERATIONS, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(logits * torch.exp(-log_t), targets)
        value.backward()
        return value

    why = ""
    if bool((logits.argmax(1) == targets).all()):
        why = "all are predicted right, so that any confidence seems too low"
    elif float((logits[torch.arange(len(targets)), targets] - logits.mean(1)).mean()) <= 0:
        why = "the predictions are no better than chance"
    else:
        optimizer.step(loss)
    temperature = float(log_t.detach().exp())
    if why or not LOWEST <= temperature <= HIGHEST:
        why = why or f"it would be {temperature:.3g}"
        raise DataError(f"{len(targets):,} answers determine no temperature: {why}; give more held-out images")
    return temperature
