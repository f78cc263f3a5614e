"""Dynamic batching: inputs wait in a queue, and one thread runs them on an engine, several at a time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seresnet.engines.base import Engine

Array = NDArray[np.float32]
SLOWER, FASTER = 0.4, 0.7  # weights of a batch that was slower or faster than those before it


@dataclass(frozen=True)
class Row:
    """One input's output, with the milliseconds that it waited and those that its batch took."""

    values: Array
    queue_ms: float
    compute_ms: float
    batch_size: int


@dataclass(eq=False)
class QueuedInput:
    """An input that waits for its batch: float32 (C, H, W), or uint8 (H, W, C) that is not normalised yet."""

    pixels: Array | NDArray[np.uint8]
    output: str  # "logits" or "features"
    deadline: float  # of time.monotonic
    answer: asyncio.Future[Row]
    queued_at: float

    def is_wanted(self, now: float) -> bool:
        """Return whether someone still waits for the answer, and its deadline has not passed."""
        return now < self.deadline and not self.answer.done()

    def joins(self, first: QueuedInput) -> bool:
        """Return whether it can be in one batch with another."""
        alike = self.pixels.shape == first.pixels.shape and self.pixels.dtype == first.pixels.dtype
        return alike and self.output == first.output


class Pace:
    """The seconds that an image takes while there is a queue, from the batches that ended last."""

    def __init__(self, max_batch: int) -> None:
        self.seconds_per_image = 0.0  # 0: not known yet
        self._max_batch = max_batch
        self._last_end = 0.0
        self._was_busy = False

    def note(self, images: int, started: float, ended: float, busy: bool) -> None:
        """Note a batch; ``busy``: more images were on their way when it ended.

        Between two batches of a busy server lies all that it does for an image, decoding included. A small batch is
        slow for its size: it says little of how long an image takes in a full one, and never less than that.
        """
        seen = (ended - (self._last_end if self._was_busy else started)) / images
        self._last_end, self._was_busy = ended, busy
        weight = FASTER if seen < self.seconds_per_image else SLOWER * images / self._max_batch
        self.seconds_per_image += weight * (seen - self.seconds_per_image)

    def images_within(self, seconds: float) -> int:
        """Return how many images are done in a time, at least 1."""
        return max(1, int(seconds / self.seconds_per_image)) if self.seconds_per_image else self._max_batch


class Batcher:
    """Runs inputs on an engine in batches, in one thread; `put` is called from the event loop, `add` from anywhere.

    - `max_batch`: inputs that run together.
    - `max_wait`: seconds that an input waits for others.
    - `normalize`: turns uint8 pixels (N, H, W, C) into the engine's float32 (N, C, H, W).
    """

    def __init__(
        self, engine: Engine, max_batch: int, max_wait: float, normalize: Callable[[Any], Array] | None = None
    ) -> None:
        self.engine, self.max_batch, self.max_wait, self.normalize = engine, max_batch, max_wait, normalize
        # Is told the size of each batch and its seconds.
        self.observe: Callable[[int, float], None] = lambda size, seconds: None
        # Returns how many inputs are on their way, those that run and that are not yet queued included.
        self.outstanding: Callable[[], int] = self.__len__
        # Returns whether no other input is on its way, so that there is nothing to wait for.
        self.is_last: Callable[[], bool] = lambda: False
        self.pace = Pace(max_batch)
        self._waiting: deque[QueuedInput] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="seresnet-engine", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Return how many inputs wait for a batch."""
        return len(self._waiting)

    def put(self, pixels: Array, output: str, deadline: float) -> asyncio.Future[Row]:
        """Queue an input (C, H, W), and return the future of its answer; an input whose future is cancelled never runs.

        - `output`: "logits" or "features".
        - `deadline`: a time of ``time.monotonic`` at which the answer is of no use any more.
        """
        answer = asyncio.get_running_loop().create_future()
        self.add(QueuedInput(pixels, output, deadline, answer, time.monotonic()))
        return answer

    def add(self, item: QueuedInput) -> None:
        """Queue an input; the engine's thread is woken only where it waits for this one."""
        with self._changed:
            self._waiting.append(item)
            if len(self._waiting) in (1, self.max_batch) or self.is_last():
                self._changed.notify()

    def close(self, timeout: float | None = None) -> bool:
        """Answer what waits, end the thread, and return whether it ended within ``timeout`` seconds."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while batch := self._next_batch():
            started = time.monotonic()
            try:
                outcome: list[Any] = list(self._compute(batch))
            except Exception as error:  # whatever an engine raises is the answer of this batch, and the next one runs
                outcome = [error] * len(batch)
            ended = time.monotonic()
            seconds = ended - started
            self.pace.note(len(batch), started, ended, self.outstanding() > len(batch))
            self.observe(len(batch), seconds)
            answers = [
                value
                if isinstance(value, Exception)
                else Row(value, 1000 * (started - item.queued_at), 1000 * seconds, len(batch))
                for item, value in zip(batch, outcome, strict=True)
            ]
            _deliver(batch, answers)

    def _compute(self, batch: list[QueuedInput]) -> Array:
        run = self.engine.logits if batch[0].output == "logits" else self.engine.embed
        stacked: Any = np.stack([item.pixels for item in batch])
        if stacked.dtype == np.uint8 and self.normalize is not None:
            stacked = self.normalize(stacked)  # (N, H, W, C) -> (N, C, H, W)
        return run(stacked)

    def _next_batch(self) -> list[QueuedInput]:
        """Wait for inputs, and return those of the next batch; an empty list when the batcher was closed."""
        with self._changed:
            while True:
                self._drop_unwanted()
                if self._waiting:
                    left = self._waiting[0].queued_at + self.max_wait - time.monotonic()
                    if left <= 0 or len(self._waiting) >= self.max_batch or self._closed or self.is_last():
                        return self._take()
                    self._changed.wait(left)
                elif self._closed:
                    return []
                else:
                    self._changed.wait()

    def _drop_unwanted(self) -> None:
        now = time.monotonic()
        while self._waiting and not self._waiting[0].is_wanted(now):
            self._waiting.popleft()

    def _take(self) -> list[QueuedInput]:
        """Take the first input, and those behind it that can run with it and be done before its deadline."""
        now, batch = time.monotonic(), [self._waiting.popleft()]
        most = min(self.max_batch, self.pace.images_within(batch[0].deadline - now))
        while self._waiting and len(batch) < most:
            if self._waiting[0].is_wanted(now):
                if not self._waiting[0].joins(batch[0]):
                    break
                batch.append(self._waiting[0])
            self._waiting.popleft()
        return batch


def _deliver(batch: list[QueuedInput], answers: list[Row | Exception]) -> None:
    """Set the futures of a batch, on their event loop: one call for all of them."""

    def set_answers() -> None:
        for item, answer in zip(batch, answers, strict=True):
            if item.answer.done():  # the client left meanwhile
                continue
            if isinstance(answer, Exception):
                item.answer.set_exception(answer)
            else:
                item.answer.set_result(answer)

    loop = batch[0].answer.get_loop()
    if not loop.is_closed():
        loop.call_soon_threadsafe(set_answers)
