"""Explanations of one model, computed one at a time in a thread of their own; torch is imported for the first one."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

from seresnet.errors import ConfigError, ImageError, SeresnetError
from seresnet.inference.prediction import NOT_FINITE
from seresnet.serving.model import SHARE_OF_TIMEOUT, ServedModel, give_way
from seresnet.serving.problems import Problem, overloaded

if TYPE_CHECKING:
    from seresnet.explanation.explain import Explainer, Explanation

MAX_DETAIL = 300  # characters of an error that names a label
PNG, JSON = "image/png", "application/json"

log = logging.getLogger("seresnet")


@dataclass(frozen=True)
class Explained:
    """A body that explains a prediction, its media type, and the milliseconds that it waited and was computed."""

    body: bytes
    kind: str
    queue_ms: float
    compute_ms: float


class Explanations:
    """Explains predictions of a served model, one after the other: Grad-CAM records what the network computes."""

    def __init__(self, served: ServedModel) -> None:
        self.served = served
        self.pending = 0  # admitted and not yet answered
        self.seconds = 0.0  # that the last one took; 0: not known yet
        self._thread = ThreadPoolExecutor(1, "seresnet-explain", give_way)

    def check_room(self) -> None:
        """Raise `Problem` 404 for a model without classes, and 503 where there is no room or too little time."""
        if not self.served.classifier.num_classes:
            raise Problem(404, "this model has no classifier, so that there is no class to explain")
        settings, waiting = self.served.settings, self.pending + self.served.pending
        wait = (self.pending + 1) * self.seconds
        if waiting + 1 > settings.max_queue:
            raise overloaded("queue", f"{waiting} images are waiting, the queue is full: try again later", wait / 2)
        if self.pending and wait > SHARE_OF_TIMEOUT * settings.timeout_s:
            raise overloaded("deadline", "the answer would come too late: try again later", wait / 2)

    async def explain(self, file: bytes, label: str | None, kind: str) -> Explained:
        """Return the heat map over an image as PNG, or the numbers as JSON. Raises `Problem`.

        - `label`: the name of the class to explain; None: the most probable one.
        - `kind`: ``image/png`` or ``application/json``.
        """
        self.check_room()
        self.pending += 1
        queued = time.perf_counter()
        work = asyncio.get_running_loop().run_in_executor(self._thread, self._explained, file, label, kind, queued)
        try:
            async with asyncio.timeout(self.served.settings.timeout_s):
                return await work  # cancelled, it does not begin; what has begun ends unseen
        except TimeoutError:
            seconds = self.served.settings.timeout_s
            raise Problem(504, f"not answered within {seconds:g} s: try again later") from None
        finally:
            self.pending -= 1

    def close(self, timeout: float) -> bool:
        """Begin no more, and return whether the thread is free within ``timeout`` seconds."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        until = time.monotonic() + timeout
        threads = list(self._thread._threads)
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def _explained(self, file: bytes, label: str | None, kind: str, queued: float) -> Explained:
        began = time.perf_counter()
        explainer = self._explainer()
        loaded = time.perf_counter()
        try:
            target = None if label is None else explainer.index_of(label)
        except ConfigError as error:
            raise Problem(400, str(error)[:MAX_DETAIL]) from None
        try:
            found = explainer.explain(file, target, self.served.max_pixels)
            body = _WRITERS[kind](found)
        except ImageError as error:
            if "not finite" in str(error):
                raise Problem(500, NOT_FINITE) from None
            raise Problem(422, f"the image cannot be read: {error}") from None
        except MemoryError:
            raise Problem(422, "the image cannot be read: not enough memory to decode it") from None
        self.seconds = time.perf_counter() - loaded
        return Explained(body, kind, 1000 * (began - queued), 1000 * (time.perf_counter() - began))

    def _explainer(self) -> Explainer:
        try:
            return self.served.classifier.explainer()
        except SeresnetError as error:  # may name a path
            log.warning("%s cannot be explained: %s", self.served.name, error)
            raise Problem(404, "this model cannot be explained: the server's log says why") from None


def _png(explanation: Explanation) -> bytes:
    buffer = BytesIO()
    explanation.overlay().save(buffer, "PNG", compress_level=1)  # the level of zlib that is fastest
    return buffer.getvalue()


def _json(explanation: Explanation) -> bytes:
    return json.dumps(explanation.to_dict()).encode()


_WRITERS: dict[str, Callable[[Explanation], bytes]] = {PNG: _png, JSON: _json}
