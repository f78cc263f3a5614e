"""Run a function over a stream with threads, in order, a bounded number of items ahead.

Pillow and NumPy release the interpreter's lock while they decode and resize, so threads use all cores, and nothing
has to be copied between processes.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from seresnet.common.machine import usable_cores

T = TypeVar("T")
R = TypeVar("R")


def ordered_map(function: Callable[[T], R], items: Iterable[T], workers: int, ahead: int = 16) -> Iterator[R]:
    """Yield ``function(item)`` for each item, in the order of ``items``, at most ``ahead`` items in advance.

    With ``workers=0`` the function runs here, when its result is asked for. An exception of the function is raised
    where its result would have been yielded. Memory is bounded by ``ahead`` results, however long the stream.
    """
    if workers == 0:
        yield from map(function, items)
        return
    stream = iter(items)
    with ThreadPoolExecutor(workers, thread_name_prefix="seresnet") as pool:
        waiting: deque[Future[R]] = deque(pool.submit(function, item) for item in islice(stream, max(ahead, workers)))
        try:
            while waiting:
                result = waiting.popleft().result()
                for item in islice(stream, 1):
                    waiting.append(pool.submit(function, item))
                yield result
        finally:
            for future in waiting:
                future.cancel()


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of ``size`` items; the last one may be shorter."""
    stream = iter(items)
    while batch := list(islice(stream, size)):
        yield batch


def default_workers() -> int:
    """Return one decoding thread for each core of this process; ranks on one machine divide its cores.

    ``LOCAL_WORLD_SIZE`` is the number of processes that torchrun started on this machine.
    """
    return max(1, min(usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 32))
