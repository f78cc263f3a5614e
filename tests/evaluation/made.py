"""Evaluations of made logits, without images."""

import numpy as np

from seresnet.evaluation.result import Evaluation, MultiLabelResult, SingleLabelResult
from seresnet.metrics.multi_label import MultiLabelMeter
from seresnet.metrics.single_label import SingleLabelMeter


def evaluation_of(logits: np.ndarray, targets: np.ndarray, labels: list[str]) -> Evaluation:
    """Return the evaluation of logits (N, C) with class indices (N,), or with 0 or 1 for each label (N, C)."""
    several = np.ndim(targets) == 2
    meter = (MultiLabelMeter if several else SingleLabelMeter)(len(labels))
    rows = zip(targets, *meter.update(logits, targets), strict=True)
    result = MultiLabelResult if several else SingleLabelResult
    return Evaluation(meter.compute(), tuple(labels), tuple(result.of(None, *row, None) for row in rows))
