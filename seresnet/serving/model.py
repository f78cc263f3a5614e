"""A model that is served: images are admitted, decoded in threads, batched and answered, or refused at once."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import numpy as np

from seresnet.data.decode import decode
from seresnet.errors import ImageError
from seresnet.inference.classifier import Classifier
from seresnet.serving.batcher import Array, Batcher, QueuedInput, Row
from seresnet.serving.problems import Problem, overloaded
from seresnet.serving.settings import ServeSettings

SHARE_OF_TIMEOUT = 0.6  # an image whose wait is estimated to be longer than this part of the timeout is refused
DECODE_NICENESS = 5  # a third of the event loop's share of a busy core
SMALL_PIXELS = 2**14  # engines run smaller images several to a request, on graphs of their own


@dataclass(frozen=True)
class Output:
    """One image's output with its times in milliseconds, or the reason why the image could not be read."""

    row: Row | None
    decode_ms: float = 0.0
    error: str | None = None


@dataclass(eq=False)
class Work:
    """An image on its way: the future of its answer, and the milliseconds that decoding it took."""

    answer: asyncio.Future[Row]
    decode_ms: float = 0.0

    async def output(self) -> Output:
        """Wait for the answer, or the reason why the image cannot be read."""
        try:
            return Output(await self.answer, self.decode_ms)
        except ImageError as error:
            return Output(None, self.decode_ms, str(error))


def give_way() -> None:
    """Give the CPU to other threads of this process first: to the event loop, which refuses what is too much.

    On Linux a thread has a priority of its own (setpriority(2), "C library/kernel differences"); elsewhere, no change.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + DECODE_NICENESS)


def _fail(answer: asyncio.Future[Row], error: BaseException) -> None:
    if not answer.done():
        answer.set_exception(error)


def _abandon(answers: Iterable[asyncio.Future[Row]]) -> None:
    """Cancel what is not answered yet, so that it is not computed; errors that nobody waited for are dropped."""
    for answer in answers:
        if not answer.cancel() and not answer.cancelled():
            answer.exception()


class ServedModel:
    """A classifier behind a bounded queue.

    - `name`: that clients know it by.
    - `decoders`: the threads that decode images, which all models share.
    """

    def __init__(
        self, name: str, classifier: Classifier, settings: ServeSettings, decoders: ThreadPoolExecutor
    ) -> None:
        self.name, self.classifier, self.settings = name, classifier, settings
        self.max_pixels = int(settings.max_megapixels * 1e6)
        self.batcher = Batcher(
            classifier.engine, settings.max_batch, settings.max_wait_ms / 1000, classifier.preprocess.normalize
        )
        self.batcher.outstanding = lambda: self.pending
        self.batcher.is_last = lambda: self.pending <= len(self.batcher)
        self.num_features = 0  # known when it was warmed up
        self.pending = 0  # images that were admitted and not yet answered
        self._decoders = decoders

    def check_room(self, images: int = 1) -> None:
        """Raise `Problem` 503 where the queue has no room, or an answer would come too late."""
        pending, most = self.pending, self.settings.max_queue
        wait = (pending + images) * self.batcher.pace.seconds_per_image
        if images > most:
            raise Problem(413, f"{images} images in one request: send at most {most}")
        if pending + images > most:
            raise overloaded("queue", f"{pending} images are waiting, the queue is full: try again later", wait / 2)
        if pending and wait > SHARE_OF_TIMEOUT * self.settings.timeout_s:
            raise overloaded("deadline", "the answer would come too late: try again later", wait / 2)

    async def images(self, files: Sequence[bytes], output: str) -> list[Output]:
        """Decode image files and return their outputs in order. Raises `Problem` 503 or 504."""
        with self._places(len(files)):
            until = time.monotonic() + self.settings.timeout_s
            works = [self._start(file, output, until) for file in files]
            try:
                async with self._deadline():
                    return [await work.output() for work in works]
            finally:
                _abandon(work.answer for work in works)

    async def tensors(self, inputs: Array, output: str) -> list[Row]:
        """Return the outputs of preprocessed inputs (N, C, H, W). Raises `Problem` 503 or 504."""
        with self._places(len(inputs)):
            until = time.monotonic() + self.settings.timeout_s
            answers = [self.batcher.put(x, output, until) for x in inputs]
            try:
                async with self._deadline():
                    return [await answer for answer in answers]
            finally:
                _abandon(answers)

    @contextmanager
    def _places(self, images: int) -> Iterator[None]:
        """Hold places in the queue. Raises `Problem` 503 where there are none."""
        self.check_room(images)
        self.pending += images
        try:
            yield
        finally:
            self.pending -= images

    @asynccontextmanager
    async def _deadline(self) -> AsyncIterator[None]:
        """Bound the time of what is awaited. Raises `Problem` 504."""
        try:
            async with asyncio.timeout(self.settings.timeout_s):
                yield
        except TimeoutError:
            raise Problem(504, f"not answered within {self.settings.timeout_s:g} s: try again later") from None

    def _start(self, file: bytes, output: str, deadline: float) -> Work:
        """Let a thread decode an image file, and queue it for its batch: the event loop only waits for the answer."""
        work = Work(asyncio.get_running_loop().create_future())
        self._decoders.submit(self._decode, work, file, output, deadline)
        return work

    def _decode(self, work: Work, file: bytes, output: str, deadline: float) -> None:
        if work.answer.done() or time.monotonic() >= deadline:  # the client left, or the answer is late: 504
            return
        began = time.perf_counter()
        try:
            pixels = self.classifier.preprocess.pixels(decode(file, max_pixels=self.max_pixels))
        except BaseException as error:  # also a fault of the decoder is the answer of this image
            failure = ImageError("not enough memory to decode it") if isinstance(error, MemoryError) else error
            loop = work.answer.get_loop()
            if not loop.is_closed():
                loop.call_soon_threadsafe(_fail, work.answer, failure)
            return
        work.decode_ms = 1000 * (time.perf_counter() - began)
        self.batcher.add(QueuedInput(pixels, output, deadline, work.answer, time.monotonic()))

    def warm_up(self) -> None:
        """Run the network for one image and for several, so that no request waits for its compilation."""
        channels, height, width = self.classifier.preprocess.input_size
        sizes = {1, min(2, self.settings.max_batch)}
        if height * width <= SMALL_PIXELS:
            sizes.add(self.settings.max_batch)
        blank = [np.zeros((size, channels, height, width), np.float32) for size in sorted(sizes)]
        for batch in blank:
            self.classifier.logits(batch)
        began = time.monotonic()
        self.classifier.logits(blank[-1])
        self.batcher.pace.note(len(blank[-1]), began, time.monotonic(), busy=False)
        self.num_features = self.classifier.engine.embed(blank[0]).shape[1]
