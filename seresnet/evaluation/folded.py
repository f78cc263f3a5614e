"""A model whose excitations were folded against the model as it was: accuracy on the same images, and speed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from seresnet.common.timing import Timing, interleaved
from seresnet.data.dataset import ImageSet
from seresnet.evaluation.compare import Comparison, compare
from seresnet.evaluation.evaluate import evaluate
from seresnet.inference.classifier import Classifier, load

BATCH_SIZES = (1, 16)  # that the speed is measured at
ROUNDS, SLOT_SECONDS = 7, 0.2  # in which both take turns, and how long each of them then has


@dataclass(frozen=True)
class Folded:
    """``comparison`` is of the predictions, None without labels; ``timings`` are of the model and of the folded one."""

    engine: str
    comparison: Comparison | None
    timings: tuple[tuple[Timing, Timing], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values: milliseconds a batch, and how many times faster the folded model is."""
        speed = []
        for before, after in self.timings:
            ratio = after.speedup_over(before)
            speed.append(
                {
                    "batch_size": before.batch_size,
                    "ms": before.latency_ms.median,
                    "folded_ms": after.latency_ms.median,
                    "speedup": ratio.median,
                    "speedup_quartiles": [ratio.lower_quartile, ratio.upper_quartile],
                }
            )
        compared = None if self.comparison is None else self.comparison.summary()
        return {"engine": self.engine, "comparison": compared, "speed": speed}


def measure_folded(
    model: str,
    folded: str,
    images: ImageSet | None,
    device: str | None = None,
    workers: int | None = None,
    offline: bool | None = None,
    progress: Callable[[str, str | None], object] | None = None,
) -> Folded:
    """Measure both models in float32, on labelled images where there are any."""
    first, second = (load(name, precision="float32", device=device, offline=offline) for name in (model, folded))
    comparison = None
    if images is not None:
        results = [evaluate(clf, images, workers=workers, progress=progress) for clf in (first, second)]
        comparison = compare(*results)
    timings = tuple(_timed(first, second, batch_size) for batch_size in BATCH_SIZES)
    return Folded(second.engine.describe(), comparison, timings)


def _timed(first: Classifier, second: Classifier, batch_size: int) -> tuple[Timing, Timing]:
    """Time both in turn, on random images of the model's own size."""
    size = first.preprocess.input_size
    images = np.random.default_rng(0).normal(size=(batch_size, *size)).astype(np.float32)
    calls = [partial(clf.logits, images) for clf in (first, second)]
    one, two = interleaved(calls, ROUNDS, SLOT_SECONDS)
    return Timing("model", batch_size, tuple(one)), Timing("folded", batch_size, tuple(two))
