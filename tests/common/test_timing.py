"""Rounds that take turns, and statistics against known numbers. The clock is made: nothing here depends on speed."""

import pytest

from seresnet.common.timing import SLOT_CALLS, WARM_UP_CALLS, Spread, Timing, interleaved, order_of_round


class Clock:
    """A clock that goes on by what each call is said to take."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def __call__(self) -> float:
        return self.now

    def subject(self, name: str, *seconds: float):
        """Return a call that takes these seconds, one after the other and again."""
        count = 0

        def call() -> None:
            nonlocal count
            self.now += seconds[count % len(seconds)]
            count += 1
            self.calls.append(name)

        return call


def test_every_subject_stands_twice_in_each_place():
    for count in (1, 2, 3, 5):
        orders = [order_of_round(count, index) for index in range(2 * count)]
        assert all(sorted(order) == list(range(count)) for order in orders)
        for place in range(count):
            assert sorted(order[place] for order in orders) == sorted(2 * list(range(count)))
    assert [order_of_round(2, index) for index in range(4)] == [[0, 1], [1, 0], [1, 0], [0, 1]]


def test_subjects_take_turns_in_each_round_after_a_warm_up():
    clock = Clock()
    done = []
    figures = interleaved(
        [clock.subject("a", 1.0), clock.subject("b", 2.0)], 2, slot_seconds=0.0, on_round=done.append, clock=clock
    )
    warm_up = ["a"] * WARM_UP_CALLS + ["b"] * WARM_UP_CALLS
    assert clock.calls == [*warm_up, *"aabb", *"bbaa"]  # of each slot, the first call is not counted
    assert figures == [[1000.0, 1000.0], [2000.0, 2000.0]]
    assert done == [1, 2]


def test_a_slot_ends_with_its_time_and_gives_the_median_of_its_calls():
    clock = Clock()
    warm_up_and_first = (9.0,) * (WARM_UP_CALLS + 1)
    (figures,) = interleaved([clock.subject("a", *warm_up_and_first, 1.0, 5.0, 2.0)], 1, slot_seconds=7.5, clock=clock)
    assert figures == [2000.0]
    assert len(clock.calls) == len(warm_up_and_first) + 3  # 1 + 5 < 7.5, and the third call ends it


def test_a_slot_of_quick_calls_ends_too():
    clock = Clock()
    interleaved([clock.subject("a", 0.0)], 1, slot_seconds=1.0, clock=clock)
    assert len(clock.calls) == WARM_UP_CALLS + 1 + SLOT_CALLS


def test_a_spread_of_known_numbers():
    assert Spread.of([4.0, 1.0, 2.0, 3.0, 5.0]) == Spread(3.0, 2.0, 4.0, 1.0, 5.0)
    assert Spread.of([1.0, 2.0]) == Spread(1.5, 1.25, 1.75, 1.0, 2.0)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0, 7.0, 7.0)


def test_ratios_are_taken_within_a_round():
    # The machine was ten times slower in the second round: latencies show it, the ratio does not.
    slow = Timing("slow", 1, (20.0, 200.0, 22.0))
    fast = Timing("fast", 1, (10.0, 100.0, 11.0))
    assert fast.speedup_over(slow) == Spread(2.0, 2.0, 2.0, 2.0, 2.0)
    assert slow.speedup_over(fast).median == 0.5
    assert slow.latency_ms.median == 22.0


def test_ratios_and_rates_are_image_for_image():
    one, four = Timing("one", 1, (10.0,)), Timing("four", 4, (20.0,))
    assert one.images_per_second == pytest.approx(100.0)
    assert four.images_per_second == pytest.approx(200.0)
    assert four.speedup_over(one).median == pytest.approx(2.0)
