"""Errors as JSON: problem details (RFC 9457), without paths and tracebacks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

JSON_PROBLEM = "application/problem+json"


class Problem(Exception):
    """A request that is answered with an error.

    - `status`: the HTTP status, 400 to 599.
    - `detail`: one line that says what to do.
    - `headers`: of the response.
    - `shed`: why the server refuses work that it could do at another time; None for all other errors.
    """

    def __init__(
        self, status: int, detail: str, headers: Mapping[str, str] | None = None, shed: str | None = None
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers, self.shed = status, detail, dict(headers or {}), shed


class ClientGone(Exception):
    """The client closed its connection before the answer was there."""


def overloaded(reason: str, detail: str, retry_after: float = 1.0) -> Problem:
    """Return the answer of a server that cannot take more work now: 503, and when to try again.

    - `reason`: one word, for the metrics.
    - `retry_after`: seconds; at least 1 and at most 60 are told to the client.
    """
    return Problem(503, detail, {"Retry-After": str(max(1, min(60, round(retry_after))))}, reason)


def ending() -> Problem:
    """Return the answer of a server that is about to end."""
    return overloaded("ending", "the server is shutting down: try again later")


def problem_json(status: int, detail: str, request_id: str | None = None, protocol_v2: bool = False) -> bytes:
    """Return problem details (RFC 9457, section 3) as JSON; with the Open Inference Protocol's ``error`` besides."""
    fields: dict[str, Any] = {"type": "about:blank", "title": title(status), "status": status, "detail": detail}
    if request_id is not None:
        fields["request_id"] = request_id
    if protocol_v2:
        fields["error"] = detail
    return json.dumps(fields).encode()


def title(status: int) -> str:
    """Return the phrase of an HTTP status."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"
