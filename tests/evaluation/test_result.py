"""What an evaluation says of its mistakes."""

import numpy as np

from tests.evaluation.made import evaluation_of
from tests.metrics.test_single_label import scores


def test_mistakes_are_the_wrong_results_by_confidence() -> None:
    logits, targets = scores(40, 4)
    found = evaluation_of(logits, targets, ["a", "b", "c", "d"])
    assert [r.target for r in found.results] == targets.tolist()
    assert [r.top1 for r in found.results] == logits.argmax(axis=1).tolist()
    assert all(r.path is None for r in found.results)
    wrong = found.mistakes()
    assert len(wrong) == round(40 * (1 - found.metrics.top1))
    assert all(r.top1 != r.target for r, _ in wrong)
    assert [m.confidence for _, m in wrong] == sorted((r.probability for r, _ in wrong), reverse=True)


def test_most_confused_counts_mistakes_alone() -> None:
    top = np.array([0, 1, 1, 1, 2, 0, 0, 2, 2])
    targets = np.array([0, 0, 0, 1, 2, 1, 2, 2, 0])
    found = evaluation_of(np.eye(3)[top] * 5, targets, ["a", "b", "c"])
    assert found.metrics.most_confused(2) == [(0, 1, 2), (0, 2, 1)]
    assert sorted(found.metrics.most_confused(99)) == [(0, 1, 2), (0, 2, 1), (1, 0, 1), (2, 0, 1)]
    assert evaluation_of(np.eye(3), np.arange(3), ["a", "b", "c"]).metrics.most_confused(5) == []
