"""The queue: which inputs run together, which never run, and what happens when an engine fails."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest

from seresnet.errors import ConfigError
from seresnet.serving.batcher import Batcher, Pace
from tests.serving.running import GatedEngine

FAR = 1e12  # a deadline that never comes


def inputs(count: int, size: int = 32) -> np.ndarray:
    return np.random.default_rng(count).normal(size=(count, 3, size, size)).astype(np.float32)


@pytest.fixture
def engine(clf):
    return GatedEngine(clf.engine)


@pytest.fixture
def batcher(engine):
    found = Batcher(engine, max_batch=4, max_wait=0.002)
    yield found
    engine.gate.set()
    assert found.close(10)


async def all_of(futures):
    return await asyncio.gather(*futures, return_exceptions=True)


def test_each_input_gets_its_own_output(batcher, clf):
    x = inputs(11)

    async def run():
        return await all_of([batcher.put(row, "logits", FAR) for row in x])

    rows = asyncio.run(run())
    np.testing.assert_allclose([row.values for row in rows], clf.engine.logits(x), rtol=1e-4, atol=1e-5)
    assert sum(1 / row.batch_size for row in rows) == pytest.approx(len(batcher.engine.sizes))


def test_what_comes_during_a_batch_is_the_next_batch(batcher, engine):
    async def run():
        engine.gate.clear()
        futures = [batcher.put(inputs(1)[0], "logits", FAR)]
        await asyncio.to_thread(engine.started.acquire)
        futures += [batcher.put(row, "logits", FAR) for row in inputs(6)]
        engine.gate.set()
        return await all_of(futures)

    rows = asyncio.run(run())
    assert engine.sizes == [1, 4, 2] == [rows[0].batch_size, rows[1].batch_size, rows[5].batch_size]


def test_the_last_input_waits_for_nobody(engine):
    batcher = Batcher(engine, max_batch=8, max_wait=1000.0)
    batcher.is_last = lambda: len(batcher) == 3  # a third one is on its way when the first is queued

    async def run():
        return await all_of([batcher.put(row, "logits", FAR) for row in inputs(3)])

    assert [row.batch_size for row in asyncio.run(run())] == [3, 3, 3] and engine.sizes == [3]
    assert batcher.close(10)


def test_an_input_waits_for_others(engine):
    batcher = Batcher(engine, max_batch=2, max_wait=20.0)

    async def run():
        first = batcher.put(inputs(1)[0], "logits", FAR)
        await asyncio.sleep(0.05)
        assert engine.sizes == [] and len(batcher) == 1
        return await all_of([first, batcher.put(inputs(1)[0], "logits", FAR)])

    asyncio.run(run())
    assert engine.sizes == [2] and batcher.close(10)


def test_other_outputs_and_shapes_run_apart_and_in_order(batcher, engine, clf):
    small, large = inputs(2), inputs(2, 40)

    async def run():
        engine.gate.clear()
        blocked = batcher.put(small[0], "logits", FAR)
        await asyncio.to_thread(engine.started.acquire)
        futures = [
            batcher.put(small[0], "features", FAR),
            batcher.put(small[1], "features", FAR),
            batcher.put(large[0], "logits", FAR),
            batcher.put(small[1], "logits", FAR),
        ]
        engine.gate.set()
        return await all_of([blocked, *futures])

    rows = asyncio.run(run())
    assert engine.sizes == [1, 2, 1, 1]
    np.testing.assert_allclose(rows[2].values, clf.engine.embed(small[1:])[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(rows[3].values, clf.engine.logits(large[:1])[0], rtol=1e-4, atol=1e-5)


def test_an_input_that_nobody_waits_for_is_not_computed(batcher, engine):
    async def run():
        engine.gate.clear()
        blocked = batcher.put(inputs(1)[0], "logits", FAR)
        await asyncio.to_thread(engine.started.acquire)
        left, late, wanted = (
            batcher.put(inputs(1)[0], "logits", FAR),
            batcher.put(inputs(1)[0], "logits", time.monotonic() - 1),
            batcher.put(inputs(1)[0], "logits", FAR),
        )
        left.cancel()
        engine.gate.set()
        await all_of([blocked, wanted])
        return late

    late = asyncio.run(run())
    assert engine.sizes == [1, 1] and not late.done()


def test_an_engine_that_fails_answers_its_batch_and_goes_on(batcher, engine):
    async def run():
        bad, good = inputs(1)[0][:2], inputs(1)[0]  # two channels are too few for the network
        return await all_of([batcher.put(bad, "logits", FAR), batcher.put(good, "logits", FAR)])

    failed, fine = asyncio.run(run())
    assert isinstance(failed, ConfigError) and "must be (N, 3, H, W)" in str(failed)
    assert fine.values.shape == (10,)


def test_closing_answers_what_waits(engine):
    batcher = Batcher(engine, max_batch=8, max_wait=30.0)

    async def run():
        futures = [batcher.put(row, "logits", FAR) for row in inputs(3)]
        assert await asyncio.to_thread(batcher.close, 10)
        return await all_of(futures)

    assert [row.batch_size for row in asyncio.run(run())] == [3, 3, 3]


def test_the_pace_is_that_of_full_batches_with_all_that_lies_between_them():
    pace = Pace(max_batch=10)
    assert pace.images_within(1.0) == 10  # nothing is known
    pace.note(10, started=0.0, ended=1.0, busy=True)
    for end in range(3, 41, 2):  # a batch takes one second, and one more passes before the next
        pace.note(10, started=end - 1.0, ended=float(end), busy=True)
    assert pace.seconds_per_image == pytest.approx(0.2, rel=0.01)
    assert pace.images_within(1.0) == 5 and pace.images_within(0.0) == 1
    pace.note(1, started=41.0, ended=42.0, busy=False)  # a single image is slow, and says little
    assert pace.seconds_per_image < 0.35
    for _ in range(10):
        pace.note(1, started=50.0, ended=50.01, busy=False)  # faster than was thought: believed at once
    assert pace.seconds_per_image == pytest.approx(0.01, rel=0.1)


def test_a_batch_is_no_larger_than_its_first_deadline_allows(batcher, engine):
    async def run():
        engine.gate.clear()
        blocked = batcher.put(inputs(1)[0], "logits", FAR)
        await asyncio.to_thread(engine.started.acquire)
        batcher.pace.note = lambda *_: None
        batcher.pace.seconds_per_image = 10.0
        futures = [batcher.put(row, "logits", time.monotonic() + 25.0) for row in inputs(4)]
        engine.gate.set()
        return await all_of([blocked, *futures])

    asyncio.run(run())
    assert engine.sizes == [1, 2, 2]
