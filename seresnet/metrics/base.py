"""What the figures of both kinds of classifier share, one label an image or several; torchmetrics counts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from seresnet.data.dataset import Target
from seresnet.errors import ConfigError, DataError, WeightsError

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Metrics:
    """What ``n`` images with known labels say about a classifier. Shares are between 0 and 1.

    ``precision``, ``recall``, ``f1`` and ``support``, the number of images, are by class index; a share whose divisor
    is zero is 0. The macro averages are over the classes that have images. ``nll`` is the mean negative log likelihood
    in nats.
    """

    n: int
    nll: float
    macro_precision: float
    macro_recall: float
    macro_f1: float
    precision: Floats
    recall: Floats
    f1: Floats
    support: Ints


class Meter(ABC):
    """Collect logits batch by batch, and compute `Metrics` at the end."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes

    @abstractmethod
    def targets(self, labels: Sequence[Target]) -> ArrayLike:
        """Return what `update` takes for the labels of images, as class indices."""

    @abstractmethod
    def update(self, logits: ArrayLike | Tensor, targets: ArrayLike | Tensor) -> tuple[NDArray[Any], Floats]:
        """Count logits (N, num_classes) with their targets; return what the model says of each image, how probably.

        Raises WeightsError for logits that are not finite, DataError for targets that do not fit.
        """

    @abstractmethod
    def compute(self) -> Metrics:
        """Return the metrics of everything counted so far. Raises DataError where that is nothing."""

    def _tensors(self, logits: ArrayLike | Tensor, targets: ArrayLike | Tensor, *each: int) -> tuple[Tensor, Tensor]:
        """Return logits in float64 and targets in int64, of which an image has a row of the shape ``each``."""
        import torch

        scores = torch.as_tensor(logits).detach().cpu().double()
        given = torch.as_tensor(targets).detach().cpu().long()
        if scores.ndim != 2 or scores.shape[1] != self.num_classes or given.shape != (len(scores), *each):
            shapes = f"logits {tuple(scores.shape)}, targets {tuple(given.shape)}"
            expected = f"(N, {self.num_classes}) and (N,{''.join(f' {size}' for size in each)})"
            raise DataError(f"{shapes}: expected {expected}")
        if not scores.isfinite().all():
            raise WeightsError(
                "the model's logits are not finite numbers: its weights are damaged, or it needs precision float32"
            )
        return scores, given


def by_class(found: dict[str, NDArray[Any]], support: Ints) -> dict[str, Any]:
    """Return the fields of `Metrics` that are by class, with their averages, from torchmetrics' arrays."""
    shares = {name: found[name].astype(np.float64).reshape(-1) for name in ("precision", "recall", "f1")}
    averages = {f"macro_{name}": float(values[support > 0].mean()) for name, values in shares.items()}
    return {**shares, **averages, "support": support}


def double() -> Any:
    """Return torch's type of 64-bit numbers."""
    import torch

    return torch.float64


def torchmetrics_parts() -> Any:
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
