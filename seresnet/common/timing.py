"""Measure how long several things take, side by side: rounds in turn, medians and spread, ratios within a round."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

WARM_UP_CALLS = 2  # before the first round: shapes are compiled, memory is found
SLOT_SECONDS = 0.25  # calls of one subject in one round go on for this long
SLOT_CALLS = 100  # and are at most this many


@dataclass(frozen=True)
class Spread:
    """The median of some numbers, and how far they lie apart."""

    median: float
    lower_quartile: float
    upper_quartile: float
    least: float
    most: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Spread:
        """Return the spread of at least one number; quartiles are interpolated between the nearest two."""
        low, lower, middle, upper, high = np.percentile(numbers, (0, 25, 50, 75, 100)).tolist()
        return cls(middle, lower, upper, low, high)


@dataclass(frozen=True)
class Timing:
    """What one subject took for a batch: one figure a round, in milliseconds, the median of that round's calls."""

    name: str
    batch_size: int
    rounds_ms: tuple[float, ...]

    @property
    def latency_ms(self) -> Spread:
        """Milliseconds for the whole batch, over the rounds."""
        return Spread.of(self.rounds_ms)

    @property
    def images_per_second(self) -> float:
        """Images a second at the median latency."""
        return 1000 * self.batch_size / self.latency_ms.median

    def speedup_over(self, other: Timing) -> Spread:
        """Return how many times faster than ``other`` this is, image for image: a ratio a round.

        What slows the machine down for a while slows both of a round, and so leaves their ratio alone.
        """
        scale = self.batch_size / other.batch_size
        pairs = zip(other.rounds_ms, self.rounds_ms, strict=True)
        return Spread.of([scale * theirs / ours for theirs, ours in pairs])


def order_of_round(count: int, index: int) -> list[int]:
    """Return which subject comes when in round ``index``: every other round backwards, and each pair starts one later.

    In ``2 * count`` rounds each subject stands twice in each place.
    """
    order = [(index // 2 + place) % count for place in range(count)]
    return order[::-1] if index % 2 else order


def interleaved(
    calls: Sequence[Callable[[], object]],
    rounds: int,
    slot_seconds: float = SLOT_SECONDS,
    on_round: Callable[[int], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[list[float]]:
    """Call each in turn, round after round, and return for each its median milliseconds, one figure a round.

    In a round each has its slot: a first call that is not counted (it wakes the threads, and brings the weights back
    into the caches), then calls until ``slot_seconds`` are over, at least one. ``on_round`` is told each round's
    number, from 1, when it is done.
    """
    for call in calls:
        for _ in range(WARM_UP_CALLS):
            call()
    figures: list[list[float]] = [[] for _ in calls]
    for index in range(rounds):
        for which in order_of_round(len(calls), index):
            figures[which].append(1000 * _slot(calls[which], slot_seconds, clock))
        if on_round:
            on_round(index + 1)
    return figures


def _slot(call: Callable[[], object], seconds: float, clock: Callable[[], float]) -> float:
    """Return the median seconds of a slot's calls."""
    call()
    taken: list[float] = []
    start = now = clock()
    while not taken or (now - start < seconds and len(taken) < SLOT_CALLS):
        call()
        before, now = now, clock()
        taken.append(now - before)
    return median(taken)
