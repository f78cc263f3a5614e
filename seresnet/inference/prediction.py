"""What a model says about one image: its logits, and its most probable classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seresnet.common.text import printable
from seresnet.errors import ConfigError

UNKNOWN = "unknown"  # the label of an image whose best probability is below the threshold
NOT_FINITE = "the network's output is not finite (NaN or infinity): check the weights, or use --precision float32"


@dataclass(frozen=True)
class Scored:
    """The logits (num_classes,) of one image, all of them finite, or the reason where there are none."""

    path: str | None
    logits: NDArray[np.float32] | None = None
    error: str | None = None


@dataclass(frozen=True)
class Embedded:
    """The pooled features (num_features,) of one image, all of them finite, or the reason where there are none."""

    path: str | None
    features: NDArray[np.float32] | None = None
    error: str | None = None


@dataclass(frozen=True)
class Prediction:
    """What a model says about one image, the most probable class first.

    ``path`` is None for an image that came from memory. ``error`` is the reason where the image could not be read or
    the network's output was not finite; labels, indices and probabilities are empty then. Below a threshold the one
    label is "unknown", its index None, and its probability that of the most probable class.
    """

    path: str | None
    labels: tuple[str, ...] = ()
    indices: tuple[int | None, ...] = ()
    probabilities: tuple[float, ...] = ()
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the prediction as plain values, in the shape of a line of ``seresnet predict --format jsonl``."""
        keys = "label", "index", "probability"
        rows = zip(self.labels, self.indices, self.probabilities, strict=True)
        predictions = [dict(zip(keys, row, strict=True)) for row in rows]
        return {"path": self.path, "predictions": predictions, "error": self.error}

    def __str__(self) -> str:
        if self.error is not None:
            return f"{self._name}: error: {printable(self.error)}"
        pairs = zip(self.labels, self.probabilities, strict=True)
        return f"{self._name}: " + ", ".join(f"{printable(label)} {100 * p:.1f} %" for label, p in pairs)

    def _repr_html_(self) -> str:
        """Return a table of the classes with a bar for each probability, for notebooks."""
        from html import escape  # costs a command that never needs it 2 ms

        if self.error is not None:
            return f"<b>{escape(self._name)}</b>: error: {escape(printable(self.error))}"
        rows = "".join(
            f"<tr><td style='text-align:left'>{escape(printable(label))}</td><td>{100 * p:.1f} %</td>"
            f"<td style='text-align:left'><meter min='0' max='1' value='{p:.4f}'></meter></td></tr>"
            for label, p in zip(self.labels, self.probabilities, strict=True)
        )
        return f"<table><caption>{escape(self._name)}</caption>{rows}</table>"

    @property
    def _name(self) -> str:
        return printable(self.path) if self.path is not None else "image"


def predict_row(
    scored: Scored, labels: list[str], topk: int, independent: bool, threshold: float | None = None
) -> Prediction:
    """Return the prediction for the logits of one image.

    - `topk`: classes to keep, 1 to num_classes.
    - `independent`: whether each label has a probability of its own (sigmoid), or all sum to 1 (softmax).
    - `threshold`: the least probability of the best class, 0 to 1; below it the answer is "unknown".
    """
    if scored.logits is None:
        return Prediction(scored.path, error=scored.error)
    probabilities = sigmoid(scored.logits) if independent else softmax(scored.logits)
    best = np.argsort(-probabilities, kind="stable")[:topk].tolist()
    if threshold is not None and (highest := float(probabilities[best[0]])) < threshold:
        return Prediction(scored.path, (UNKNOWN,), (None,), (highest,))
    return Prediction(
        scored.path, tuple(labels[i] for i in best), tuple(best), tuple(probabilities[best].astype(float).tolist())
    )


def check_threshold(threshold: float | None, name: str = "threshold") -> None:
    """Raise ConfigError for a threshold that is no probability."""
    if threshold is not None and not 0 <= threshold <= 1:
        raise ConfigError(f"{name} must lie between 0 and 1, not {threshold}")


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return probabilities of logits, float32 (..., classes); they sum to 1 over the last axis."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the probability of each label by itself, float32 (..., labels), without overflow."""
    return 0.5 + 0.5 * np.tanh(0.5 * logits)
