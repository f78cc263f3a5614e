"""One line for each request on stderr, as text or JSON: never what was in an image, a file name or a query."""

from __future__ import annotations

import json
import logging
import logging.handlers
import queue
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from seresnet.common.text import short

log = logging.getLogger("seresnet").getChild("requests")
GROUP_SECONDS = 0.05
QUEUED_LINES = 10_000  # more are dropped while stderr is not read


@dataclass
class RequestRecord:
    """What is noted of one request."""

    request_id: str
    method: str
    path: str
    client: str
    route: str = "other"
    status: int = 499  # where no response was sent: the client closed its connection
    duration_ms: float = 0.0
    queue_ms: float | None = None
    images: int = 0


class JsonFormatter(logging.Formatter):
    """Writes each line as a JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields: dict[str, Any] = {"time": _time(record), "level": record.levelname.lower()}
        request = getattr(record, "request", None)
        if isinstance(request, RequestRecord):
            fields |= {
                "request_id": request.request_id,
                "client": request.client,
                "method": request.method,
                "path": request.path,
                "status": request.status,
                "duration_ms": round(request.duration_ms, 2),
                "queue_ms": None if request.queue_ms is None else round(request.queue_ms, 2),
                "images": request.images,
            }
        else:
            fields["message"] = record.getMessage()
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields)


class TextFormatter(logging.Formatter):
    """Writes each line as plain text."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        request = getattr(record, "request", None)
        if isinstance(request, RequestRecord):
            waited = "" if request.queue_ms is None else f", waited {request.queue_ms:.1f} ms"
            text = (
                f"{request.client} {request.method} {request.path} {request.status}"
                f" {request.duration_ms:.1f} ms{waited} {request.request_id}"
            )
        else:
            text = record.getMessage()
        if record.exc_info:
            text = f"{text}\n{self.formatException(record.exc_info)}"
        return f"{_time(record)} {text}"


@contextmanager
def logging_to_stderr(log_format: str) -> Iterator[None]:
    """Write what this package logs to stderr, from a thread: a reader of stderr that stalls does not stop the server.

    - `log_format`: "text" or "json".
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    lines: queue.Queue[Any] = queue.Queue(QUEUED_LINES)
    listener = _UnhurriedListener(lines, handler)
    package = logging.getLogger("seresnet")
    before = package.handlers, package.propagate
    package.handlers, package.propagate = [_DroppingHandler(lines)], False
    log.setLevel(logging.INFO)
    listener.start()
    try:
        yield
    finally:
        package.handlers, package.propagate = before
        listener.stop()


class _UnhurriedListener(logging.handlers.QueueListener):
    """Writes lines in groups: under load, a thread that wakes for each of them would take the time of requests."""

    def __init__(self, lines: queue.Queue[Any], handler: logging.Handler) -> None:
        super().__init__(lines, handler)
        self.lines = lines

    def dequeue(self, block: bool) -> Any:
        """Return the next line; where it has to be waited for, wait for others, too."""
        try:
            return self.lines.get_nowait()
        except queue.Empty:
            line = self.lines.get(block)
            if line is not None:  # the sign to end
                time.sleep(GROUP_SECONDS)
            return line


class _DroppingHandler(logging.handlers.QueueHandler):
    """Queues lines for the thread that writes them; where they are too many, counts those that are dropped."""

    dropped = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1
            return
        if self.dropped:
            dropped, self.dropped = self.dropped, 0
            log.warning("%d lines of the log were dropped: stderr was not read", dropped)


def announce(text: str, level: int = logging.INFO) -> None:
    """Log a line about the server itself."""
    log.log(level, "%s", text)


def log_request(record: RequestRecord) -> None:
    """Log one request."""
    record.path = short(record.path, 200)
    log.info("request", extra={"request": record})


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
