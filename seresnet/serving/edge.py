"""What every request passes first and last: refusals before anything is read, security headers, metrics, logs."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from starlette.responses import Response

from seresnet.serving.body import too_large
from seresnet.serving.logs import RequestRecord, log_request
from seresnet.serving.problems import JSON_PROBLEM, ClientGone, Problem, ending, problem_json
from seresnet.serving.state import ServerState

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

RECORD = "seresnet_record"  # in a request's scope
OPEN = ("/", "/docs", "/openapi.json")  # need no key: they show nothing of the models
HEALTH = ("/health/", "/v2/health/")  # need no key, and are answered until the end
REQUEST_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}

log = logging.getLogger("seresnet")


class Edge:
    """The outermost application: it refuses what must not be read, and notes how each request ended."""

    def __init__(self, app: App, state: ServerState) -> None:
        self.app, self.state = app, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        headers = _headers(scope)
        record = scope[RECORD] = _record(scope, headers)
        began = time.perf_counter()
        self.state.active += 1
        try:
            outgoing = self._sender(record, send)
            problem = self._refusal(scope["path"], headers)
            if problem is None:
                await self.app(scope, receive, outgoing)
            else:
                await problem_response(self.state, record, problem)(scope, receive, outgoing)
        except ClientGone:
            record.status = 499
        except Exception:
            log.exception("request %s failed", record.request_id)
            raise
        finally:
            self.state.active -= 1
            record.duration_ms = 1000 * (time.perf_counter() - began)
            record.route = getattr(scope.get("route"), "path", record.route)
            self._note(record)

    def _refusal(self, path: str, headers: Mapping[str, str]) -> Problem | None:
        """Return the answer to a request that is refused for what its headers say."""
        if path.startswith(HEALTH):
            return None
        keys = self.state.keys
        if keys is not None and path not in OPEN and not keys.accept(headers.get("authorization")):
            return Problem(401, "send an API key: Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"})
        if self.state.draining:
            return ending()
        if headers.get("content-encoding", "identity").lower() != "identity":
            return Problem(415, "compressed bodies are not read: send it without", {"Accept-Encoding": "identity"})
        if int(headers.get("content-length", "0")) > self.state.settings.max_body:
            return too_large(self.state)
        return None

    def _sender(self, record: RequestRecord, send: Send) -> Send:
        """Return a ``send`` that adds the headers of every response."""

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                given = {name.lower() for name, _ in message["headers"]}
                extra = {**HEADERS, "X-Request-ID": record.request_id}
                if self.state.draining:
                    extra["Connection"] = "close"
                message["headers"] = [
                    *message["headers"],
                    *((k.lower().encode(), v.encode()) for k, v in extra.items() if k.lower().encode() not in given),
                ]
            await send(message)

        return sending

    def _note(self, record: RequestRecord) -> None:
        metrics = self.state.metrics
        metrics.requests.labels(record.route, str(record.status)).inc()
        metrics.seconds.labels(record.route).observe(record.duration_ms / 1000)
        log_request(record)


def problem_response(state: ServerState, record: RequestRecord, problem: Problem) -> Response:
    """Return the response for a problem, and count it where work was refused."""
    if problem.shed is not None:
        state.metrics.shed.labels(problem.shed).inc()
    body = problem_json(problem.status, problem.detail, record.request_id, record.path.startswith("/v2/"))
    return Response(body, problem.status, problem.headers, JSON_PROBLEM)


def _record(scope: Scope, headers: Mapping[str, str]) -> RequestRecord:
    given = headers.get("x-request-id", "")
    request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
    return RequestRecord(request_id, scope["method"], scope["path"], (scope.get("client") or ("-",))[0])


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
