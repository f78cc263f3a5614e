"""The linear probe: a classifier fitted to the features of a network that stays as it is.

Fine-tuning starts from it (LP-FT, arXiv 2202.10054): a classifier of random weights would send large, meaningless
gradients through the pretrained layers in the first steps, which a few images do not repair. Alone, it is a classifier
for the time of one pass over the images.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from numpy.typing import NDArray
from torch import Tensor, nn

from seresnet.common.progress import Progress
from seresnet.data.augment import TrainCrop
from seresnet.data.dataset import Stream
from seresnet.data.loader import Loader
from seresnet.errors import ConfigError
from seresnet.inference.load import Settings, open_network
from seresnet.models.resnet import SEResNet
from seresnet.training.losses import ImageLoss, soft_targets

log = logging.getLogger("seresnet")

WEIGHT_DECAYS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001)  # from the simplest classifier to the freest
PATIENCE = 2  # weaker decays that are tried although the held-out loss gets worse
MAX_ITERATIONS = 100  # of L-BFGS for each weight decay
MAX_FEATURE_BYTES = 2**31  # over all ranks; beyond, evenly spaced images are taken


@dataclass(frozen=True)
class Features:
    """The pooled features of images, float32 ``(N, num_features)``, and their soft targets ``(N, num_classes)``."""

    x: Tensor
    targets: Tensor


@dataclass(frozen=True)
class ProbeResult:
    """A fitted classifier: ``weight`` is ``(num_classes, num_features)``, ``bias`` is ``(num_classes,)``.

    ``train_loss`` and ``train_top1`` (0 to 1) are those of the images that it was fitted to, without augmentation.
    """

    weight: Tensor
    bias: Tensor
    weight_decay: float
    train_loss: float
    train_top1: float
    images: int
    seconds: float


def linear_probe(
    model: SEResNet,
    train_data: Loader,
    val_data: Loader,
    loss: ImageLoss,
    val_loss: ImageLoss,
    accelerator: Accelerator,
    precision: str,
) -> ProbeResult:
    """Fit a classifier to the features of ``model``, the same one on all ranks; ``model`` is not changed.

    - `train_data`, `val_data`: this rank's images; all are cropped as in evaluation. Those of ``val_data`` choose the
      weight decay.
    - `loss`, `val_loss`: what is minimized on the training images, and what is compared on the held-out ones.
    - `precision`: "float32", "bfloat16" or "auto", of the engine that computes the features.

    Each rank computes the features of its own images, the first one fits. Raises DataError where no image can be read.
    """
    start = time.perf_counter()
    quiet = not accelerator.is_main_process
    engine: Any = open_network(_copy(model), Settings(device=str(accelerator.device), precision=precision)).engine
    sets = []
    for name, data in (("training images", _as_evaluated(train_data, model)), ("validation images", val_data)):
        own = features(engine, replace(data, batch_size=engine.preferred_batch), name, quiet=quiet)
        sets.append(_gathered(own, model.num_classes))
    result: list[ProbeResult | None] = [None]
    if accelerator.is_main_process:
        fitted = fit(sets[0], sets[1], loss, val_loss, accelerator.device)
        result = [replace(fitted, seconds=time.perf_counter() - start)]
    return broadcast_object_list(result)[0]


def features(engine: Any, loader: Loader, name: str, *, quiet: bool) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the features of a rank's images ``(N, num_features)``, and their targets as the loader has them."""
    rows, targets, done = [], [], 0
    total = math.ceil(len(loader.samples) / loader.world)
    with Progress(bar=not quiet) as progress:
        for batch in loader.in_order():
            rows.append(engine.embed(loader.crop.preprocess.normalize(batch.pixels)))
            targets.append(batch.targets)
            done += len(batch.targets)
            if not quiet and done < total:
                progress.update(f"features of the {name}", done, total)
    if not rows:  # more ranks than images
        return np.empty((0, 0), np.float32), np.empty(0, np.int64)
    return np.concatenate(rows), np.concatenate(targets)


def fit(
    train_set: Features, val_set: Features, loss: ImageLoss, val_loss: ImageLoss, device: torch.device
) -> ProbeResult:
    """Return the classifier whose weight decay, of `WEIGHT_DECAYS`, has the lowest loss on ``val_set``.

    L-BFGS on standardized features; the decay is of the weights alone, and each fit starts from the previous one. The
    path ends after `PATIENCE` decays without a lower held-out loss.
    """
    x, targets = train_set.x.to(device), train_set.targets.to(device)
    val_x, val_targets = val_set.x.to(device), val_set.targets.to(device)
    spread, mean = torch.std_mean(x, 0, correction=0)
    scale = torch.where(spread > 1e-6 * spread.max().clamp(min=1e-30), spread, torch.inf).reciprocal()  # 0: constant
    standardized = (x - mean) * scale
    linear = nn.Linear(x.shape[1], targets.shape[1], device=device)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    best: tuple[float, float, Tensor, Tensor] | None = None
    worse = 0
    for decay in WEIGHT_DECAYS:
        minimize(linear, standardized, targets, loss, decay)
        with torch.no_grad():
            held_out = val_loss(linear((val_x - mean) * scale), val_targets).mean().item()
        if best is None or held_out < best[0]:
            best, worse = (held_out, decay, linear.weight.detach().clone(), linear.bias.detach().clone()), 0
        elif (worse := worse + 1) > PATIENCE:
            break
    assert best is not None
    with torch.no_grad():
        weight = best[2] * scale
        bias = best[3] - weight @ mean
        logits = x @ weight.T + bias
        correct = targets.gather(1, logits.argmax(1, keepdim=True)) > 0
        train_loss = loss(logits, targets).mean().item()
    return ProbeResult(weight.cpu(), bias.cpu(), best[1], train_loss, correct.float().mean().item(), len(x), 0.0)


def minimize(linear: nn.Linear, x: Tensor, targets: Tensor, loss: ImageLoss, weight_decay: float) -> None:
    """Change ``linear`` to the minimum of the mean loss plus half of ``weight_decay`` times its squared weights."""
    optimizer = torch.optim.LBFGS(
        linear.parameters(), max_iter=MAX_ITERATIONS, line_search_fn="strong_wolfe", tolerance_change=1e-6
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        total: Tensor = loss(linear(x), targets).mean() + weight_decay / 2 * linear.weight.square().sum()
        total.backward()
        return total

    optimizer.step(closure)


def set_classifier(model: SEResNet, result: ProbeResult) -> None:
    """Put a fitted classifier into ``model``. Raises ConfigError for a model without one."""
    if not isinstance(model.fc, nn.Linear):
        raise ConfigError("this model has no classifier to fit")
    with torch.no_grad():
        model.fc.weight.copy_(result.weight)
        model.fc.bias.copy_(result.bias)


def _copy(model: SEResNet) -> SEResNet:
    """Return a copy for an engine, which changes the network that it is given; without what training has put in."""
    copy = SEResNet(model.cfg)
    copy.load_state_dict(model.state_dict())
    return copy.eval()


def _as_evaluated(data: Loader, model: SEResNet) -> Loader:
    """Return the images of ``data`` cropped as in evaluation: all, or as many as fit into `MAX_FEATURE_BYTES`."""
    crop = TrainCrop("center", model.preprocess)
    cache = data._cache if crop == replace(data.crop, scale=crop.scale) else None
    every = math.ceil(len(data.samples) * 4 * model.num_features / MAX_FEATURE_BYTES)
    if every > 1 and not isinstance(data.samples, Stream):
        log.info("linear probe: fitted to one of %d training images, whose features fit into 2 GiB", every)
        return replace(data, crop=crop, repeated_aug=1, samples=data.samples[::every], _cache=None)
    return replace(data, crop=crop, repeated_aug=1, _cache=cache)


def _gathered(own: tuple[NDArray[Any], NDArray[Any]], num_classes: int) -> Features:
    """Return the features of all ranks."""
    parts = [part for part in gather_object([own]) if len(part[0])]
    x, targets = (torch.from_numpy(np.concatenate(arrays)) for arrays in zip(*parts, strict=True))
    return Features(x.float(), soft_targets(targets, num_classes))
