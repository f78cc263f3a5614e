"""What a classifier's logits are worth, by torchmetrics: accuracy, per-class figures, confusion, calibration."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from seresnet.errors import ConfigError, DataError, WeightsError

if TYPE_CHECKING:
    from torch import Tensor

BINS = 15  # of confidence, as in Guo et al., "On Calibration of Modern Neural Networks" (arXiv 1706.04599)

# torchmetrics has a bin of its own for a confidence of exactly 1, which belongs to the last one.
BELOW_ONE = 1 - 2**-24

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Metrics:
    """What ``n`` images with known classes say about a classifier. Shares are between 0 and 1.

    ``precision``, ``recall``, ``f1`` and ``support`` are by class index; a share whose divisor is zero is 0. The macro
    averages are over the classes that have images. ``confusion[i, j]`` counts images of class i that were taken for j.
    ``nll`` is the mean negative log likelihood in nats. ``ece``, the expected calibration error, is the mean distance
    between confidence and accuracy over ``BINS`` equal bins of confidence, of which ``bin_count``,
    ``bin_confidence`` and ``bin_accuracy`` tell the size and the means.
    """

    n: int
    top1: float
    top5: float  # 1.0 where there are five classes or fewer
    nll: float
    ece: float
    macro_precision: float
    macro_recall: float
    macro_f1: float
    precision: Floats
    recall: Floats
    f1: Floats
    support: Ints
    confusion: Ints
    bin_count: Ints
    bin_confidence: Floats
    bin_accuracy: Floats


class Meter:
    """Collect logits batch by batch, in memory that grows by a few bytes an image, and compute `Metrics` at the end."""

    def __init__(self, num_classes: int) -> None:
        parts = _torchmetrics()
        common: dict[str, Any] = {"num_classes": num_classes, "validate_args": False}
        self.num_classes = num_classes
        self._counts = parts.MetricCollection(
            {
                "top1": parts.MulticlassAccuracy(average="micro", **common),
                "top5": parts.MulticlassAccuracy(average="micro", top_k=min(5, num_classes), **common),
                "precision": parts.MulticlassPrecision(average="none", **common),
                "recall": parts.MulticlassRecall(average="none", **common),
                "f1": parts.MulticlassF1Score(average="none", **common),
                "confusion": parts.MulticlassConfusionMatrix(**common),
            },
            # Found by itself, from equal counts after the first batch, a group may join top-1 and top-5 for good.
            compute_groups=[["top1"], ["top5"], ["precision", "recall", "f1"], ["confusion"]],
        )
        self._ece = parts.MulticlassCalibrationError(n_bins=BINS, norm="l1", **common)
        self._nll = parts.MeanMetric(nan_strategy="disable")
        self._nll.set_dtype(_double())
        self._confidence: list[Floats] = []
        self._correct: list[NDArray[np.bool_]] = []

    def update(self, logits: ArrayLike | Tensor, targets: ArrayLike | Tensor) -> tuple[Ints, Floats]:
        """Count logits (N, num_classes) with their class indices (N,); return the top classes and probabilities (N,).

        Raises WeightsError for logits that are not finite, DataError for a class index out of range.
        """
        import torch

        scores = torch.as_tensor(logits).detach().cpu().double()
        classes = torch.as_tensor(targets).detach().cpu().long()
        self._check(scores, classes)
        if len(scores) == 0:
            return np.empty(0, np.int64), np.empty(0, np.float64)
        log_probabilities = scores.log_softmax(dim=1)
        self._counts.update(scores, classes)
        self._ece.update(log_probabilities.exp().clamp(max=BELOW_ONE), classes)
        self._nll.update(-log_probabilities.gather(1, classes[:, None]))
        best, top = log_probabilities.max(dim=1)
        confidence = best.exp().numpy()
        self._confidence.append(confidence)
        self._correct.append((top == classes).numpy())
        return top.numpy(), confidence

    def compute(self) -> Metrics:
        """Return the metrics of everything counted so far. Raises DataError where that is nothing."""
        if not self._confidence:
            raise DataError("no image to evaluate on")
        found = {name: value.numpy() for name, value in self._counts.compute().items()}
        confusion = found["confusion"].astype(np.int64)
        support = confusion.sum(axis=1)
        n, present = int(support.sum()), support > 0
        precision, recall, f1 = (found[name].astype(np.float64) for name in ("precision", "recall", "f1"))
        count, confidence, accuracy = self._bins()
        return Metrics(
            n=n,
            top1=round(float(found["top1"]) * n) / n,  # torchmetrics divides the counts in float32
            top5=round(float(found["top5"]) * n) / n,
            nll=float(self._nll.compute()),
            ece=float(self._ece.compute()),
            macro_precision=float(precision[present].mean()),
            macro_recall=float(recall[present].mean()),
            macro_f1=float(f1[present].mean()),
            precision=precision,
            recall=recall,
            f1=f1,
            support=support,
            confusion=confusion,
            bin_count=count,
            bin_confidence=confidence,
            bin_accuracy=accuracy,
        )

    def _bins(self) -> tuple[Ints, Floats, Floats]:
        """Return size, mean confidence and accuracy of each bin: torchmetrics' bins, which it keeps to itself."""
        confidence, correct = np.concatenate(self._confidence), np.concatenate(self._correct)
        edges = np.linspace(0, 1, BINS + 1, dtype=np.float32)
        index = np.minimum(np.digitize(confidence.astype(np.float32), edges) - 1, BINS - 1)
        count = np.bincount(index, minlength=BINS)
        confidences, hits = np.bincount(index, confidence, BINS), np.bincount(index, correct, BINS)
        return count, confidences / np.maximum(count, 1), hits / np.maximum(count, 1)

    def _check(self, scores: Tensor, classes: Tensor) -> None:
        if scores.ndim != 2 or scores.shape[1] != self.num_classes or classes.shape != scores.shape[:1]:
            shapes = f"logits {tuple(scores.shape)}, targets {tuple(classes.shape)}"
            raise DataError(f"{shapes}: expected (N, {self.num_classes}) and (N,)")
        if not scores.isfinite().all():
            raise WeightsError(
                "the model's logits are not finite numbers: its weights are damaged, or it needs precision float32"
            )
        if len(classes) and not ((classes >= 0) & (classes < self.num_classes)).all():
            span = f"{int(classes.min())} to {int(classes.max())}"
            raise DataError(f"class indices from {span}: the model has classes 0 to {self.num_classes - 1}")


def _double() -> Any:
    import torch

    return torch.float64


def _torchmetrics() -> Any:
    """Import torchmetrics, or say in one line what to do; return a namespace of what is needed."""
    try:
        with _tolerant_of_torchvision():
            import torchmetrics
            import torchmetrics.classification as classification
    except ModuleNotFoundError as error:
        raise ConfigError(f'{error.name} is not installed: run pip install "seresnet[train]"') from error
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"torchmetrics cannot be imported ({reason}): mend or uninstall what it names") from error
    return _Namespace(torchmetrics, classification)


class _Namespace:
    """Attributes of several modules."""

    def __init__(self, *modules: Any) -> None:
        self._modules = modules

    def __getattr__(self, name: str) -> Any:
        return next(getattr(module, name) for module in self._modules if hasattr(module, name))


@contextmanager
def _tolerant_of_torchvision() -> Iterator[None]:
    """Let torchvision be imported where its compiled operators are missing.

    torchmetrics imports torchvision wherever it is installed. A torchvision that was built for another torch (for
    CUDA, beside a CPU-only torch) fails at registering shapes of operators that it could not define; nothing here
    needs them. Operators that are there are registered as ever.
    """
    import torch

    register = torch.library.register_fake

    def tolerant(op: Any, *args: Any, **kwargs: Any) -> Any:
        library, _, name = op.partition("::") if isinstance(op, str) else ("", "", "")
        if library == "torchvision" and not hasattr(torch.ops.torchvision, name.partition(".")[0]):
            return lambda function: function
        return register(op, *args, **kwargs)

    torch.library.register_fake = tolerant
    try:
        yield
    finally:
        torch.library.register_fake = register
