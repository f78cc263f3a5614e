"""Time several functions in interleaved rounds: medians and quartiles over the rounds, ratios within a round."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

WARM_UP_CALLS = 2  # before the first round: compilation, memory allocation
SLOT_SECONDS = 0.25  # time for the calls of one function in one round
SLOT_CALLS = 100  # at most this many calls


@dataclass(frozen=True)
class Spread:
    """Median, quartiles, minimum and maximum of some numbers."""

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
    """The latency of one candidate for a batch: per round the median of its calls, in milliseconds."""

    name: str
    batch_size: int
    rounds_ms: tuple[float, ...]

    @property
    def latency_ms(self) -> Spread:
        """Milliseconds for the whole batch, over the rounds."""
        return Spread.of(self.rounds_ms)

    @property
    def images_per_second(self) -> float:
        """Images per second at the median latency."""
        return 1000 * self.batch_size / self.latency_ms.median

    def speedup_over(self, other: Timing) -> Spread:
        """Return the speedup over ``other`` per image: one ratio per round.

        A temporary slowdown of the machine affects both of a round, and so hardly changes their ratio.
        """
        scale = self.batch_size / other.batch_size
        pairs = zip(other.rounds_ms, self.rounds_ms, strict=True)
        return Spread.of([scale * theirs / ours for theirs, ours in pairs])


def order_of_round(count: int, index: int) -> list[int]:
    """Return the order of the functions in round ``index``: odd rounds are reversed, and each pair starts one later.

    In ``2 * count`` rounds each function has each place twice.
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
    """Call the functions in interleaved rounds, and return for each its median milliseconds per round.

    In a round each function has a slot: a first call that is not timed (it wakes threads and fills caches), then calls
    for ``slot_seconds``, at least one. ``on_round`` is called with the number of each finished round, from 1.
    """
    for call in calls:
        for _ in range(WARM_UP_CALLS):
            call()
    medians: list[list[float]] = [[] for _ in calls]
    for index in range(rounds):
        for which in order_of_round(len(calls), index):
            medians[which].append(1000 * _slot(calls[which], slot_seconds, clock))
        if on_round:
            on_round(index + 1)
    return medians


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
