"""A real server in a thread, a client of it, and an engine that waits until a test lets it go."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from seresnet.inference.classifier import Classifier, load
from seresnet.serving.keys import ApiKeys
from seresnet.serving.listening import bind, listen
from seresnet.serving.metrics import ServerMetrics
from seresnet.serving.model import ServedModel
from seresnet.serving.server import DrainingServer
from seresnet.serving.settings import ServeSettings
from seresnet.serving.state import ServerState
from tests.networks import seresnet20

BOUNDARY = "3d6b6a416f9b5"


@dataclass
class Answer:
    """A response."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Running:
    """A server that runs, and how to ask it."""

    port: int
    state: ServerState
    server: DrainingServer
    loop: Any = field(repr=False, default=None)

    def ask(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())

    def post(self, path: str, body: Any, **headers: str) -> Answer:
        return self.ask("POST", path, body, {name.replace("_", "-"): value for name, value in headers.items()})

    def form(self, path: str, *files: tuple[str, bytes]) -> Answer:
        return self.post(path, form_body(*files), content_type=f"multipart/form-data; boundary={BOUNDARY}")

    def raw(self, sent: bytes, timeout: float = 10.0) -> bytes:
        """Return all that the server sends on a connection until it closes it."""
        with closing(socket.create_connection(("127.0.0.1", self.port), timeout)) as connection:
            connection.sendall(sent)
            received = b""
            while piece := connection.recv(65536):
                received += piece
            return received

    def metric(self, name: str, **labels: str) -> float:
        return self.state.metrics.registry.get_sample_value(name, labels) or 0.0

    def reaches(self, value: float, name: str, **labels: str) -> bool:
        """Wait until a metric is at least this: a request is counted a moment after its client has the answer."""
        deadline = time.monotonic() + 10
        while self.metric(name, **labels) < value and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.metric(name, **labels) >= value


def form_body(*files: tuple[str, bytes]) -> bytes:
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
        + data
        + b"\r\n"
        for name, data in files
    ]
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


class GatedEngine:
    """A real engine that runs a batch only while its gate is open, and notes the sizes of its batches."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.gate, self.sizes = engine, threading.Event(), []
        self.gate.set()
        self.forget()

    def forget(self) -> None:
        """Count batches from now on."""
        self.sizes.clear()
        self.started = threading.Semaphore(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def logits(self, x: Any) -> Any:
        self._wait(x)
        return self.engine.logits(x)

    def embed(self, x: Any) -> Any:
        self._wait(x)
        return self.engine.embed(x)

    def _wait(self, x: Any) -> None:
        self.sizes.append(len(x))
        self.started.release()
        assert self.gate.wait(30)


def classifier() -> Classifier:
    return load(seresnet20(), device="cpu")


@contextmanager
def running(
    models: Classifier | Mapping[str, Classifier], keys: ApiKeys | None = None, **settings: Any
) -> Iterator[Running]:
    """Serve models from a thread of this process."""
    chosen = ServeSettings(port=0, **{"read_timeout_s": 5.0, "drain_s": 5.0, **settings})
    named = {"kinds": models} if isinstance(models, Classifier) else models
    with bind(chosen) as sock, ThreadPoolExecutor(2) as decoders:
        served = {name: ServedModel(name, clf, chosen, decoders) for name, clf in named.items()}
        state = ServerState(chosen, served, ServerMetrics(), keys)
        for model in served.values():
            model.warm_up()
            if isinstance(model.classifier.engine, GatedEngine):
                model.classifier.engine.forget()
            state.metrics.watch(model)
        server = DrainingServer(state)
        port = int(listen(sock, chosen).rpartition(":")[2])
        found = Running(port, state, server)
        thread = threading.Thread(target=server.run, args=([sock],))
        thread.start()
        try:
            yield found
        finally:
            server.should_exit = True
            thread.join(20)
            assert all(model.batcher.close(10.0) for model in served.values())


def in_threads(calls: int, call: Any) -> list[Any]:
    """Return what ``call(i)`` returns for each number, all of them at once."""
    with ThreadPoolExecutor(calls) as pool:
        return list(pool.map(call, range(calls)))


def noise(seed: int, size: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
