"""Several processes, perhaps on several machines, that train one model: start, speak to each other, notice a death.

A process that is killed leaves the others in the middle of an exchange. gloo sees the closed connection at once; NCCL,
or a machine that is cut off, may leave them waiting for the process group's timeout, which has to be long, for a slow
disk is no death. So each process also sends a sign of life from a thread of its own, and goes when another's stop.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor
from torch import distributed as dist

from seresnet.errors import SeresnetError

T = TypeVar("T")

PAUSE = timedelta(minutes=30)  # the longest that one process may keep the others waiting while it lives
BEAT = 2.0  # seconds between two signs of life
SILENCE = 45.0  # seconds without one after which a process counts as dead
GO_ON = "the last checkpoint is whole: start the same command again with --resume"


def average(tensors: list[Tensor]) -> None:
    """Replace each tensor by its mean over all processes, in one exchange."""
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    parts = flat.split([tensor.numel() for tensor in tensors])
    torch._foreach_copy_(tensors, [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)])


def gathered(accelerator: Accelerator, value: T) -> list[T]:
    """Return the ``value`` of every process, in their order."""
    if accelerator.num_processes == 1:
        return [value]
    values: list[Any] = [None] * accelerator.num_processes
    dist.all_gather_object(values, value)
    return values


def first_only(accelerator: Accelerator, function: Callable[[], T]) -> T | None:
    """Run ``function`` in the first process, and return its value there, None elsewhere; its SeresnetError is all's."""
    value, reason = None, None
    if accelerator.is_main_process:
        try:
            value = function()
        except SeresnetError as error:
            reason = str(error)
    if (reasons := gathered(accelerator, reason))[0] is not None:
        raise SeresnetError(reasons[0])
    return value


def from_first(accelerator: Accelerator, function: Callable[[], T]) -> T:
    """As `first_only`, with the value for all: the first process may be the only one that sees the run's folder."""
    values: list[Any] = [first_only(accelerator, function)]
    if accelerator.num_processes > 1:
        dist.broadcast_object_list(values, src=0)
    return values[0]


@contextmanager
def watched(accelerator: Accelerator) -> Iterator[None]:
    """Turn the death of another process into a SeresnetError, or leave this process with one line, within a minute."""
    if accelerator.num_processes == 1:
        yield
        return
    signs = SignsOfLife(accelerator)
    signs.start()
    try:
        yield
        accelerator.wait_for_everyone()  # nobody's silence may be taken for a death while others are at work
    except SeresnetError:
        raise
    except (dist.DistError, RuntimeError) as error:
        if not isinstance(error, dist.DistError) and not _is_exchange(str(error)):
            raise
        raise SeresnetError(f"lost the connection to another process of the run; {GO_ON}") from error
    finally:
        signs.stop()


def _is_exchange(text: str) -> bool:
    """Tell whether the text of a RuntimeError is of gloo or NCCL, which have no class of their own for it."""
    return any(word in text for word in ("gloo", "NCCL", "Connection reset", "Connection closed"))


class SignsOfLife:
    """Count up in a store of the first process, and watch the counts: it those of all others, they its own.

    One thread speaks to the store and may be left waiting for it; another one watches the time.
    """

    key = "alive/{}".format

    def __init__(self, accelerator: Accelerator) -> None:
        self.rank, self.world = accelerator.process_index, accelerator.num_processes
        self.done = threading.Event()
        host, first = os.environ.get("MASTER_ADDR", "127.0.0.1"), self.rank == 0
        server = dist.TCPStore(host, 0, None, True, wait_for_workers=False) if first else None  # type: ignore[attr-defined]
        port = [server.port if server else 0]
        dist.broadcast_object_list(port, src=0)
        self.store = server or dist.TCPStore(host, port[0], None, False, wait_for_workers=False)  # type: ignore[attr-defined]
        self.store.set(self.key(self.rank), "0")
        dist.barrier()
        others = range(1, self.world) if first else (0,)
        self.seen: dict[int, tuple[bytes, float]] = dict.fromkeys(others, (b"", time.monotonic()))

    def start(self) -> None:
        """Begin to give signs of life, and to expect them."""
        for target in (self.speak, self.watch):
            threading.Thread(target=target, name="signs of life", daemon=True).start()

    def stop(self) -> None:
        """Watch no longer. The others have the usual time to end as well."""
        self.done.set()

    def speak(self) -> None:
        """Count up, and read the others' counts, until `stop` or until the store is gone."""
        count = 0
        while not self.done.wait(BEAT):
            count += 1
            try:
                self.store.set(self.key(self.rank), str(count))
                values = self.store.multi_get([self.key(rank) for rank in self.seen])
                lost = int(self.store.get("lost")) if self.rank and self.store.check(["lost"]) else None
            except (dist.DistError, RuntimeError):  # it went with the first process
                values, lost = [], 0
            now = time.monotonic()
            for rank, value in zip(list(self.seen), values, strict=False):
                if value != self.seen[rank][0]:
                    self.seen[rank] = (value, now)
            if lost is not None:
                self.leave(lost)

    def watch(self) -> None:
        """Leave when another process has been silent for too long."""
        while not self.done.wait(BEAT):
            for rank, (_, since) in list(self.seen.items()):
                if time.monotonic() - since > SILENCE:
                    self.leave(rank)

    def leave(self, silent: int) -> None:
        """End this process from here: its main thread may wait for an exchange that never comes."""
        if self.rank == 0:
            self.store.set("lost", str(silent))  # for the others, who do not watch each other
        if self.done.wait(2 * BEAT):  # time for them to read it, and for this one to end in its own way
            return
        reason = f"process {silent} of the run gives no sign of life; {GO_ON}"
        print(f"seresnet: error: {reason}", file=sys.stderr, flush=True)
        os._exit(2)
