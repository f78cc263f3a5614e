"""The server itself: its socket, its signals, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Generator, Mapping
from functools import partial
from typing import Any

import uvicorn

from seresnet.serving.keys import ApiKeys
from seresnet.serving.layers import make_app
from seresnet.serving.metrics import ServerMetrics
from seresnet.serving.model import ServedModel
from seresnet.serving.protocol import KEEP_ALIVE_SECONDS, ConnectionLimits, LimitedProtocol
from seresnet.serving.settings import ServeSettings
from seresnet.serving.state import ServerState

log = logging.getLogger("seresnet")


class DrainingServer(uvicorn.Server):
    """uvicorn's server, which on SIGTERM or SIGINT answers what was admitted, and on SIGHUP reads its keys again."""

    def __init__(self, state: ServerState) -> None:
        settings = state.settings
        limits = ConnectionLimits(settings.max_connections, settings.read_timeout_s)
        protocol: Any = partial(LimitedProtocol, limits=limits)
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # the application logs its own errors
        app, self._later = make_app(state)
        super().__init__(
            uvicorn.Config(
                app,
                http=protocol,
                ws="none",
                lifespan="off",
                loop="asyncio",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=1,
            )
        )
        self.state = state
        self.unanswered = 0  # requests that were not answered in the end
        state.metrics.watch_connections(lambda: list(self.server_state.connections))
        self._drain: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Handle signals while the server runs; only the main thread can."""
        loop, handled = asyncio.get_running_loop(), []
        loop.call_soon(self._later.begin)  # while the first images are answered
        actions = {signal.SIGTERM: self.end, signal.SIGINT: self.end}
        if self.state.keys is not None and hasattr(signal, "SIGHUP"):
            actions[signal.SIGHUP] = self.state.keys.reload
        for number, action in actions.items():
            with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):
                loop.add_signal_handler(number, action)
                handled.append(number)
        try:
            yield
        finally:
            for number in handled:
                loop.remove_signal_handler(number)

    def end(self) -> None:
        """Begin to end the server; a second call does not wait for what was admitted."""
        if self._drain is not None:
            self._drain.cancel()
            self.unanswered, self.should_exit = self.state.active, True
            return
        self.state.drain()
        self._drain = asyncio.get_running_loop().create_task(self._drained())

    async def _drained(self) -> None:
        """Wait for what was admitted, and let the server exit."""
        until = time.monotonic() + self.state.settings.drain_s
        while self.state.active and time.monotonic() < until:
            await asyncio.sleep(0.02)
        self.unanswered, self.should_exit = self.state.active, True


def run(models: Mapping[str, ServedModel], settings: ServeSettings, keys: ApiKeys | None, sock: socket.socket) -> int:
    """Serve on a listening socket until a signal ends the server; return 0, or 1 where a request was cut off."""
    state = ServerState(settings, models, ServerMetrics(), keys)
    for model in models.values():
        state.metrics.watch(model)
    server = DrainingServer(state)
    server.run(sockets=[sock])
    left = 0.0 if server.unanswered else 5.0
    ended = [model.batcher.close(left) for model in models.values()]
    ended += [explanations.close(left) for explanations in state.explanations.values()]
    if server.unanswered:
        log.warning("cut off %d requests, which were not answered in time", server.unanswered)
    if not all(ended):  # a batch or an explanation still runs: do not wait for it
        time.sleep(0.2)  # for the log
        os._exit(1)
    return 1 if server.unanswered else 0
