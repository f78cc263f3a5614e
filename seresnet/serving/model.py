"""A model that is served: images are admitted, decoded in threads, batched and answered, or refused at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from seresnet.data.decode import decode
from seresnet.errors import ImageError
from seresnet.inference.classifier import Classifier
from seresnet.serving.batcher import Array, Batcher, Row
from seresnet.serving.problems import Problem, overloaded
from seresnet.serving.settings import ServeSettings

SHARE_OF_TIMEOUT = 0.6  # an image whose wait is estimated to be longer than this part of the timeout is refused
SMALL_PIXELS = 2**14  # engines run smaller images several to a request, on graphs of their own


@dataclass(frozen=True)
class Output:
    """One image's output with its times in milliseconds, or the reason why the image could not be read."""

    row: Row | None
    decode_ms: float = 0.0
    error: str | None = None


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
        self.batcher = Batcher(classifier.engine, settings.max_batch, settings.max_wait_ms / 1000)
        self.batcher.outstanding = lambda: self.pending
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
        return await self._within_deadline(
            len(files), lambda deadline: [self._image(file, output, deadline) for file in files]
        )

    async def tensors(self, inputs: Array, output: str) -> list[Row]:
        """Return the outputs of preprocessed inputs (N, C, H, W). Raises `Problem` 503 or 504."""
        return await self._within_deadline(
            len(inputs), lambda deadline: [self.batcher.put(x, output, deadline) for x in inputs]
        )

    async def _within_deadline(self, images: int, start: Callable[[float], list[Any]]) -> list[Any]:
        """Hold places in the queue until what ``start`` begins is done."""
        self.check_room(images)
        self.pending += images
        try:
            async with asyncio.timeout(self.settings.timeout_s):
                return list(await asyncio.gather(*start(time.monotonic() + self.settings.timeout_s)))
        except TimeoutError:
            raise Problem(504, f"not answered within {self.settings.timeout_s:g} s: try again later") from None
        finally:
            self.pending -= images

    async def _image(self, file: bytes, output: str, deadline: float) -> Output:
        loop = asyncio.get_running_loop()
        try:
            pixels, decode_ms = await loop.run_in_executor(self._decoders, self._pixels, file)
        except ImageError as error:
            return Output(None, error=str(error))
        except MemoryError:
            return Output(None, error="not enough memory to decode it")
        return Output(await self.batcher.put(pixels, output, deadline), decode_ms)

    def _pixels(self, file: bytes) -> tuple[Array, float]:
        """Return the preprocessed pixels (C, H, W) of an image file, and the milliseconds that this took."""
        began = time.perf_counter()
        pixels = self.classifier.preprocess.array(decode(file, max_pixels=self.max_pixels))
        return pixels, 1000 * (time.perf_counter() - began)

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
