"""The whole application: what every request passes, the short path, and FastAPI, which is made after the start."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib import import_module

from starlette.middleware.cors import CORSMiddleware

from seresnet.serving.edge import App, Edge, Receive, Scope, Send
from seresnet.serving.short_path import ShortPath
from seresnet.serving.state import ServerState


class LaterApp:
    """An application that is made in a thread; requests wait until it is there."""

    def __init__(self, make: Callable[[], App]) -> None:
        self._make = make
        self._made: asyncio.Task[App] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        app = await asyncio.shield(self.begin())
        await app(scope, receive, send)

    def begin(self) -> asyncio.Task[App]:
        """Begin to make the application, where that was not begun yet."""
        if self._made is None:
            self._made = asyncio.get_running_loop().create_task(asyncio.to_thread(self._make))
        return self._made


def make_app(state: ServerState) -> tuple[App, LaterApp]:
    """Return the whole application, and the part of it that is still to be made: FastAPI's import takes a second."""
    later = LaterApp(lambda: import_module("seresnet.serving.app").routed_app(state))
    edge: App = Edge(ShortPath(later, state), state)
    if state.settings.cors:
        edge = CORSMiddleware(
            edge,
            allow_origins=state.settings.cors,
            allow_methods=("GET", "POST"),
            allow_headers=("Authorization", "Content-Type", "X-Request-ID"),
            expose_headers=("X-Request-ID", "Retry-After"),
        )
    return edge, later
