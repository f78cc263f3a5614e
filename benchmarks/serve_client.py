"""A small HTTP client for load: asyncio streams, connections that are kept, and answers that are compared."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

HOST = "127.0.0.1"
PATIENCE = 60.0  # seconds after which an answer counts as lost


@dataclass
class Answer:
    """What a request got: its status (0: none), its time in seconds, and when it was sent (time.monotonic)."""

    status: int
    seconds: float
    sent: float
    image: int
    right: bool = True


@dataclass
class Load:
    """The answers of one scenario."""

    answers: list[Answer] = field(default_factory=list)
    seconds: float = 0.0

    def of(self, *statuses: int) -> list[Answer]:
        return [answer for answer in self.answers if answer.status in statuses]

    def quantile(self, share: float, *statuses: int) -> float:
        """Return a quantile of the milliseconds of the answers with these statuses."""
        times = sorted(1000 * answer.seconds for answer in self.of(*statuses))
        return times[min(len(times) - 1, int(share * len(times)))] if times else float("nan")

    @property
    def times(self) -> str:
        """The median and the 99th percentile of the answers with status 200."""
        return f"p50 {self.quantile(0.5, 200):.0f} ms, p99 {self.quantile(0.99, 200):.0f} ms"

    @property
    def rate(self) -> float:
        """Answers with status 200 per second."""
        return len(self.of(200)) / self.seconds

    @property
    def wrong(self) -> int:
        return sum(not answer.right for answer in self.answers)


class Client:
    """Connections to one server, kept and used again."""

    def __init__(
        self,
        port: int,
        images: Sequence[bytes],
        is_right: Callable[[int, Any], bool] = lambda image, answer: True,
        kind: str = "image/jpeg",
    ) -> None:
        self.port, self.images, self.is_right, self.kind = port, images, is_right, kind
        self.idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, image: int) -> Answer:
        """Send one image, and return its answer; status 0 where the connection ended without one."""
        sent = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE):
                status, body = await self._exchange(self.images[image])
        except (OSError, asyncio.IncompleteReadError, TimeoutError, ValueError):
            return Answer(0, time.monotonic() - sent, sent, image)
        seconds = time.monotonic() - sent
        return Answer(status, seconds, sent, image, status != 200 or self.is_right(image, json.loads(body)))

    async def _exchange(self, data: bytes) -> tuple[int, bytes]:
        reader, writer = self.idle.pop() if self.idle else await asyncio.open_connection(HOST, self.port)
        fields = f"Host: {HOST}\r\nContent-Type: {self.kind}\r\nContent-Length: {len(data)}\r\n"
        head = f"POST /predict HTTP/1.1\r\n{fields}\r\n"
        try:
            writer.write(head.encode() + data)
            lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
            body = await reader.readexactly(int(headers.get("content-length", "0")))
        except BaseException:
            writer.close()
            raise
        if headers.get("connection") == "close":
            writer.close()
        else:
            self.idle.append((reader, writer))
        return int(lines[0].split()[1]), body

    def close(self) -> None:
        for _, writer in self.idle:
            writer.close()


async def closed_loop(client: Client, clients: int, seconds: float) -> Load:
    """Let so many clients ask, each with an image of its own, and again when it is answered."""
    load, until = Load(), time.monotonic() + seconds

    async def ask_on(number: int) -> None:
        while time.monotonic() < until:
            load.answers.append(await client.ask(number % len(client.images)))

    began = time.monotonic()
    await asyncio.gather(*(ask_on(number) for number in range(clients)))
    load.seconds = time.monotonic() - began
    client.close()
    return load


async def poisson(client: Client, rate: float, seconds: float) -> Load:
    """Send images at random times, so many a second on average, whether earlier ones were answered or not."""
    load, chance = Load(), random.Random(0)
    began = at = time.monotonic()
    tasks = []
    while (at := at + chance.expovariate(rate)) < began + seconds:
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        tasks.append(asyncio.create_task(client.ask(chance.randrange(len(client.images)))))
    load.seconds = time.monotonic() - began
    load.answers = list(await asyncio.gather(*tasks))
    client.close()
    return load


async def slow_clients(port: int, count: int, seconds: float) -> None:
    """Hold connections open whose bodies arrive a byte at a time."""
    writers = []
    for _ in range(count):
        _, writer = await asyncio.open_connection(HOST, port)
        writer.write(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
        writers.append(writer)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for writer in writers:
            writer.write(b"x")
        await asyncio.sleep(1.0)
    for writer in writers:
        writer.close()
