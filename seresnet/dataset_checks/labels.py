"""The likeliest wrong labels: those that classifiers fitted to the other images do not expect."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from seresnet.dataset_checks.faults import Fault
from seresnet.dataset_checks.images import CheckedImage
from seresnet.training.config import TrainConfig
from seresnet.training.linear_probe import Features, fit
from seresnet.training.losses import ImageLoss, soft_targets

FOLDS = 5


def wrong_labels(images: Sequence[CheckedImage], classes: Sequence[str]) -> Iterator[Fault]:
    """Yield the images whose label is probably wrong, with the likelier class; the score is 1 - self-confidence.

    Self-confidence is the out-of-fold probability of the given label (arXiv 1911.00068, section 3.3). An image is named
    where another class is the most probable one.
    """
    known = [image for image in images if image.features is not None]
    targets = np.array([image.target for image in known], np.int64)
    if len(np.unique(targets)) < 2 or len(known) < 2 * FOLDS:
        return
    features = np.stack([image.features for image in known if image.features is not None])
    probabilities = out_of_fold(features, targets, len(classes))
    own = probabilities[np.arange(len(known)), targets]
    for image, confidence, row in zip(known, own.tolist(), probabilities, strict=True):
        best = int(row.argmax())
        if best != image.target:
            yield Fault(image, "label", classes[best], 1 - confidence)


def out_of_fold(x: NDArray[np.float32], targets: NDArray[np.int64], num_classes: int) -> NDArray[np.float32]:
    """Return the probability of each class (N, num_classes) by linear probes, each fitted without the image's fold.

    - `x`: embeddings (N, num_features).
    - `targets`: class indices (N,). The images of each class are spread evenly over the folds.
    """
    order = np.lexsort((np.random.default_rng(0).permutation(len(x)), targets))
    fold = np.empty(len(x), int)
    fold[order] = np.arange(len(x)) % FOLDS
    loss = ImageLoss(TrainConfig().updated({"label_smoothing": 0.0}), multi_label=False)
    data = Features(torch.from_numpy(x), soft_targets(torch.from_numpy(targets), num_classes))
    probabilities = torch.zeros(len(x), num_classes)
    for number in range(FOLDS):
        held = torch.from_numpy(fold == number)
        rest, own = (Features(data.x[some], data.targets[some]) for some in (~held, held))
        result = fit(rest, own, loss, loss, torch.device("cpu"))
        probabilities[held] = (own.x @ result.weight.T + result.bias).softmax(1)
    return probabilities.numpy()
