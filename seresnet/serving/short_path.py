"""The usual requests, images to ``/predict`` and ``/embed``, without FastAPI's routing, as costly as a small network.

They run the functions of FastAPI's routes. A query that is not plainly valid goes to FastAPI, which says why it is not.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from seresnet.errors import SeresnetError
from seresnet.serving.edge import RECORD, App, Receive, Scope, Send, problem_response
from seresnet.serving.predictions import embed, predict
from seresnet.serving.problems import ClientGone, Problem
from seresnet.serving.state import ServerState

PREDICT = re.compile(rb"(?:topk=([1-9][0-9]{0,4}))?(?:(?:^|&)model=([\w.-]{1,64}))?", re.ASCII)
EMBED = re.compile(rb"(?:model=([\w.-]{1,64}))?", re.ASCII)
FAULT = "an unexpected error: see the server's log"
CANNOT_RUN = "the model cannot be run: see the server's log"

log = logging.getLogger("seresnet")


class ShortPath:
    """An application in front of FastAPI's, which answers what it can without it."""

    def __init__(self, app: App, state: ServerState) -> None:
        self.app, self.state = app, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        answer = _answer_of(scope) if scope["method"] == "POST" else None
        if answer is None:
            await self.app(scope, receive, send)
            return
        record = scope[RECORD]
        record.route = scope["path"]
        try:
            response = await answer(Request(scope, receive, send), self.state)
        except ClientGone:
            raise
        except Exception as error:
            response = problem_response(self.state, record, _problem(error, record.request_id))
        await response(scope, receive, send)


def _answer_of(scope: Scope) -> Callable[[Request, ServerState], Awaitable[Response]] | None:
    """Return what answers a request; None for other addresses, and for queries that FastAPI has to read."""
    path, query = scope["path"], scope["query_string"]
    if path == "/predict" and (found := PREDICT.fullmatch(query)):
        topk, model = found.groups()
        return lambda request, state: predict(request, state, _text(model), int(topk or 5))
    if path == "/embed" and (found := EMBED.fullmatch(query)):
        (model,) = found.groups()
        return lambda request, state: embed(request, state, _text(model))
    return None


def _text(value: Any) -> str | None:
    return None if value is None else value.decode()


def _problem(error: Exception, request_id: str) -> Problem:
    if isinstance(error, Problem):
        return error
    log.error("request %s failed", request_id, exc_info=error)
    return Problem(500, CANNOT_RUN if isinstance(error, SeresnetError) else FAULT)
