"""What the parts of a server share: its models, settings, keys, metrics, and whether it is about to end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from seresnet.serving.explanations import Explanations
from seresnet.serving.keys import ApiKeys
from seresnet.serving.metrics import ServerMetrics
from seresnet.serving.model import ServedModel
from seresnet.serving.problems import Problem, ending, overloaded
from seresnet.serving.settings import ServeSettings


@dataclass
class ServerState:
    """The state of one server; the first of its models is the default."""

    settings: ServeSettings
    models: Mapping[str, ServedModel]
    metrics: ServerMetrics
    keys: ApiKeys | None = None
    draining: bool = False
    active: int = 0  # requests that are being read or answered
    held_bytes: int = 0  # of bodies
    explanations: Mapping[str, Explanations] = field(init=False)  # by the names of the models
    _reading: set[asyncio.Timeout] = field(default_factory=set)  # of the requests whose bodies are being received

    def __post_init__(self) -> None:
        self.explanations = {name: Explanations(served) for name, served in self.models.items()}

    def model(self, name: str | None) -> ServedModel:
        """Return a model by its name, or the default one. Raises `Problem` 404."""
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise Problem(404, f"no model has this name: the models are {', '.join(self.models)}")
        return self.models[name]

    def drain(self) -> None:
        """Admit nothing more; requests whose bodies are still being received are refused at once."""
        self.draining = True
        now = asyncio.get_running_loop().time()
        for timeout in self._reading:
            timeout.reschedule(now)

    def hold(self, size: int) -> None:
        """Note that more of a body has been received. Raises `Problem` 503 where all bodies together are too much."""
        if self.held_bytes + size > self.settings.max_held:
            raise overloaded("memory", "too many large requests at once: try again later")
        self.held_bytes += size

    @asynccontextmanager
    async def reading_body(self) -> AsyncIterator[None]:
        """Bound the time in which a body is received. Raises `Problem` 408, or 503 where the server is to end."""
        try:
            async with asyncio.timeout(self.settings.read_timeout_s) as timeout:
                self._reading.add(timeout)
                try:
                    yield
                finally:
                    self._reading.discard(timeout)
        except TimeoutError:
            if self.draining:
                raise ending() from None
            seconds = self.settings.read_timeout_s
            raise Problem(408, f"the body did not arrive within {seconds:g} s", {"Connection": "close"}) from None
