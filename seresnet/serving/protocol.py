"""HTTP/1.1 connections with limits that come before any request: their number, slow headers, tiny chunks."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from seresnet.serving.problems import JSON_PROBLEM, problem_json, title

KEEP_ALIVE_SECONDS = 75  # more than the 60 s for which load balancers keep theirs
HEADER_SECONDS = 10.0
HEADER_BYTES = 16_384  # of a request: as much as the parser takes where they arrive in pieces
CLOSING_SECONDS = 1.0  # that a refused client has to read why; closed at once, it might lose the answer (RFC 9112, 9.6)
CLOSING = 200  # connections that are given this time
SMALL_CHUNK = 64  # bytes: each chunk costs the parser as much as kilobytes in one piece
SMALL_CHUNKS = 1000  # of one connection
UNREAD = 64_000_000  # bytes of a refused body that are discarded before its connection is closed


@dataclass
class ConnectionLimits:
    """The greatest number of connections, and the seconds within which headers have to come and responses to be read.

    ``closing`` are the connections that were refused, and whose clients have not yet read why.
    """

    connections: int
    seconds: float
    closing: set[LimitedProtocol] = field(default_factory=set)

    @property
    def header_seconds(self) -> float:
        """The seconds from a connection's beginning, or a request's first byte, to the end of the headers."""
        return min(HEADER_SECONDS, self.seconds)


class LimitedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol, with limits on connections that send or read slowly."""

    def __init__(self, *arguments: Any, limits: ConnectionLimits, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.limits = limits
        self._is_refused = False
        self._unread = self._small_chunks = 0
        self._timer: asyncio.TimerHandle | None = None  # for headers
        self._write_timer: asyncio.TimerHandle | None = None
        self._status = 400  # of the error that the parser found
        self._next_event = self.conn.next_event
        self.conn.next_event = self._checked_event  # type: ignore[method-assign]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a connection, or refuse it where there are too many."""
        if len(self.connections) >= self.limits.connections:
            self.transport = transport
            self._close_with(503, "too many connections: try again later", "Retry-After: 1\r\n")
            return
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        for timer in (self._timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        self.limits.closing.discard(self)
        if self.flow is not None:  # it was accepted
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take in bytes of a request."""
        if self._is_refused:
            return
        super().data_received(data)
        if self._is_refused:
            return
        if self._is_answering():
            self._stop_timer()
            self._unread = 0
            return
        self._unread += len(data)
        if self._unread > UNREAD:
            self.transport.abort()
        elif self._is_idle():  # what was left of a refused body has arrived
            self._stop_timer()
            self._start_timer(KEEP_ALIVE_SECONDS)
            self._unread = 0
        else:
            self._start_timer()

    def send_400_response(self, msg: str) -> None:
        """Answer a request that is not HTTP, and close the connection."""
        if self._is_answering() and self.cycle.response_started:
            self.transport.close()
        else:
            self._close_with(self._status, "not a request that can be read: check its headers and chunks")

    def pause_writing(self) -> None:
        """Close the connection if its client does not read for too long."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(self.limits.seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on writing."""
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _is_idle(self) -> bool:
        """Return whether at least one request was answered, and nothing of a next one has arrived."""
        return self.cycle is not None and self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]

    def _start_timer(self, seconds: float | None = None) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(seconds or self.limits.header_seconds, self._on_timeout)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timeout(self) -> None:
        self._timer = None
        if self._is_idle():
            self.transport.close()
        elif not self.transport.is_closing():
            self._close_with(408, f"the headers did not arrive within {self.limits.header_seconds:g} s")

    def _checked_event(self) -> Any:
        """Return the parser's next event. Raises h11.RemoteProtocolError for a body of very many tiny chunks."""
        try:
            event = self._next_event()
        except h11.RemoteProtocolError as error:
            self._status = error.error_status_hint
            raise
        if isinstance(event, h11.Data) and len(event.data) < SMALL_CHUNK:
            self._small_chunks += 1
            if self._small_chunks > SMALL_CHUNKS:
                raise h11.RemoteProtocolError("too many small chunks")
        elif isinstance(event, h11.Request):
            self._small_chunks = 0
            if sum(len(name) + len(value) for name, value in event.headers) + len(event.target) > HEADER_BYTES:
                self._status = 431
                raise h11.RemoteProtocolError("headers too long")
        return event

    def _close_with(self, status: int, detail: str, headers: str = "") -> None:
        """Write a response without the parser, and close the connection when it was read; what comes is ignored."""
        self._is_refused = True
        body = problem_json(status, detail)
        head = (
            f"HTTP/1.1 {status} {title(status)}\r\nContent-Type: {JSON_PROBLEM}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n{headers}\r\n"
        )
        self.transport.write(head.encode() + body)
        if len(self.limits.closing) >= CLOSING:
            self.transport.close()
            return
        self.transport.write_eof()
        self.limits.closing.add(self)
        self._stop_timer()
        self._timer = self.loop.call_later(CLOSING_SECONDS, self.transport.abort)
