"""Several ranks, perhaps on several machines, that train one model: start, communicate, notice when one dies.

A rank that is killed leaves the others in the middle of a collective operation. gloo sees the closed connection at
once; NCCL, or a machine that is cut off, may leave them waiting for the process group's timeout, which has to be long
because a slow disk is not a failure. So each rank also sends a heartbeat from its own thread, and exits when another's
stops.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor
from torch import distributed as dist

from seresnet.errors import SeresnetError

T = TypeVar("T")

COLLECTIVE_TIMEOUT = timedelta(minutes=30)  # the longest that one rank may keep the others waiting while it is alive
HEARTBEAT_INTERVAL = 2.0  # seconds between two heartbeats
HEARTBEAT_TIMEOUT = 45.0  # seconds without a heartbeat after which a rank counts as dead
RESUME_HINT = "the last checkpoint is complete; run the same command with --resume"


def average_across_ranks(accelerator: Accelerator, tensors: list[Tensor]) -> None:
    """Replace each tensor by its mean over all ranks, in one exchange."""
    flat = accelerator.reduce(torch.cat([tensor.reshape(-1) for tensor in tensors]), "mean")
    parts = flat.split([tensor.numel() for tensor in tensors])
    torch._foreach_copy_(tensors, [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)])


def sum_over_ranks(accelerator: Accelerator, *values: float) -> list[float]:
    """Return the sums of ``values`` over all ranks."""
    if accelerator.num_processes == 1:
        return list(values)
    own = torch.tensor(values, device=accelerator.device, dtype=torch.float64)
    sums: Tensor = accelerator.reduce(own, "sum")
    return sums.tolist()


def on_main_rank(accelerator: Accelerator, function: Callable[[], T]) -> T | None:
    """Run ``function`` on rank 0 and return its value there, None elsewhere; a SeresnetError is raised on all ranks."""
    value, reason = None, None
    if accelerator.is_main_process:
        try:
            value = function()
        except SeresnetError as error:
            reason = str(error)
    (reason,) = broadcast_object_list([reason])
    if reason is not None:
        raise SeresnetError(reason)
    return value


def broadcast_from_rank0(accelerator: Accelerator, function: Callable[[], T]) -> T:
    """As `on_main_rank`, with the value on all ranks: rank 0 may be the only one that sees the run's folder."""
    (value,) = broadcast_object_list([on_main_rank(accelerator, function)])
    return value


@contextmanager
def dead_ranks_as_errors(accelerator: Accelerator) -> Iterator[None]:
    """Turn the death of another rank into a SeresnetError, or exit with one line, within a minute."""
    if accelerator.num_processes == 1:
        yield
        return
    heartbeat = Heartbeat(accelerator)
    heartbeat.start()
    try:
        yield
        accelerator.wait_for_everyone()  # no heartbeat stops while another rank is still at work
    except SeresnetError:
        raise
    except (dist.DistError, RuntimeError) as error:
        if not isinstance(error, dist.DistError) and not _is_communication_error(str(error)):
            raise
        raise SeresnetError(f"lost the connection to another rank of the run; {RESUME_HINT}") from error
    finally:
        heartbeat.stop()


def _is_communication_error(text: str) -> bool:
    """Return whether the text of a RuntimeError is gloo's or NCCL's, which have no class of their own for it."""
    return any(word in text for word in ("gloo", "NCCL", "Connection reset", "Connection closed"))


class Heartbeat:
    """Increment a counter in a store of rank 0, and watch the counters: rank 0 those of all others, they rank 0's.

    One thread talks to the store and may be left waiting for it; another one watches the time.
    """

    key = "heartbeat/{}".format

    def __init__(self, accelerator: Accelerator) -> None:
        self.rank, self.world = accelerator.process_index, accelerator.num_processes
        self.done = threading.Event()
        host, is_main = os.environ.get("MASTER_ADDR", "127.0.0.1"), self.rank == 0
        server = dist.TCPStore(host, 0, None, True, wait_for_workers=False) if is_main else None  # type: ignore[attr-defined]
        (port,) = broadcast_object_list([server.port if server else 0])
        self.store = server or dist.TCPStore(host, port, None, False, wait_for_workers=False)  # type: ignore[attr-defined]
        self.store.set(self.key(self.rank), "0")
        accelerator.wait_for_everyone()
        others = range(1, self.world) if is_main else (0,)
        self.last_seen: dict[int, tuple[bytes, float]] = dict.fromkeys(others, (b"", time.monotonic()))

    def start(self) -> None:
        """Begin to send heartbeats, and to expect them."""
        for target in (self.send, self.watch):
            threading.Thread(target=target, name="heartbeat", daemon=True).start()

    def stop(self) -> None:
        """Watch no longer. The others have the usual time to end as well."""
        self.done.set()

    def send(self) -> None:
        """Send heartbeats and read the others', until `stop` or until the store is gone."""
        count = 0
        while not self.done.wait(HEARTBEAT_INTERVAL):
            count += 1
            try:
                self.store.set(self.key(self.rank), str(count))
                values = self.store.multi_get([self.key(rank) for rank in self.last_seen])
                lost = int(self.store.get("lost")) if self.rank and self.store.check(["lost"]) else None
            except (dist.DistError, RuntimeError):  # it went with rank 0
                values, lost = [], 0
            now = time.monotonic()
            for rank, value in zip(list(self.last_seen), values, strict=False):
                if value != self.last_seen[rank][0]:
                    self.last_seen[rank] = (value, now)
            if lost is not None:
                self.exit(lost)

    def watch(self) -> None:
        """Exit when another rank has sent no heartbeat for too long."""
        while not self.done.wait(HEARTBEAT_INTERVAL):
            for rank, (_, since) in list(self.last_seen.items()):
                if time.monotonic() - since > HEARTBEAT_TIMEOUT:
                    self.exit(rank)

    def exit(self, lost: int) -> None:
        """End this process from here: its main thread may wait for an exchange that never comes."""
        if self.rank == 0:
            self.store.set("lost", str(lost))  # for the others, who do not watch each other
        if self.done.wait(2 * HEARTBEAT_INTERVAL):  # time for them to read it, and for this one to end by itself
            return
        reason = f"rank {lost} of the run sends no heartbeat; {RESUME_HINT}"
        print(f"seresnet: error: {reason}", file=sys.stderr, flush=True)
        os._exit(2)
