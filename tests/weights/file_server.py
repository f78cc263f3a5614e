"""An HTTP server on this machine that has a few files and can misbehave; what it does not have, it answers with 404."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

PAGE = b"<!DOCTYPE html><html><body>Please log in to the network</body></html>"


@dataclass(frozen=True)
class Fault:
    """How one request is answered, apart from the usual."""

    status: int | None = None  # answer with this and no body
    page: bool = False  # answer 200 with a web page
    break_after: int | None = None  # bytes of the body, then the connection is cut
    ranges: bool = True  # False: send the whole file whatever range is asked for
    length: int | Literal["right", "none"] = "right"  # Content-Length
    pause: float = 0.0  # seconds before each tenth of the body
    stall: float = 0.0  # seconds in the middle of the body
    shift: int = 0  # start the range this many bytes off
    location: str | None = None  # redirect to this


USUAL = Fault()


@dataclass
class FileServer:
    """What the server has, and what it was asked."""

    files: dict[str, bytes] = field(default_factory=dict)  # path -> content
    faults: list[Fault] = field(default_factory=list)  # for the next requests; the last one stays if `lasting`
    lasting: bool = False
    head_status: int | None = None  # refuse HEAD with this
    etags: bool = True
    requests: list[tuple[str, str, str | None, str | None]] = field(default_factory=list)  # verb, path, range, if-range
    url: str = ""

    def next_fault(self) -> Fault:
        if not self.faults:
            return USUAL
        return self.faults[0] if self.lasting and len(self.faults) == 1 else self.faults.pop(0)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_state: Any  # what the server has: `FileServer`, or what another handler answers from

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        state = self.server_state
        state.requests.append((self.command, self.path, self.headers.get("Range"), self.headers.get("If-Range")))
        if not body and state.head_status:
            return self.plain(state.head_status)
        fault = state.next_fault()
        if fault.location:
            return self.plain(302, location=fault.location)
        if fault.page:
            return self.plain(200, PAGE, "text/html; charset=utf-8")
        if fault.status:
            return self.plain(fault.status)
        if self.path not in state.files:
            return self.plain(404)
        self.send_content(state.files[self.path], fault, body)

    def plain(self, status: int, content: bytes = b"", kind: str = "text/plain", location: str | None = None) -> None:
        self.send_response(status)
        if location:
            self.send_header("Location", location)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def send_content(self, content: bytes, fault: Fault, body: bool) -> None:
        tag = f'"{hashlib.sha1(content).hexdigest()}"'
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked and (not fault.ranges or self.headers.get("If-Range", tag) != tag):
            asked = None
        if asked and int(asked[1]) >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        start = int(asked[1]) + fault.shift if asked else 0
        end = int(asked[2]) + 1 if asked and asked[2] else len(content)
        self.send_response(206 if asked else 200)
        if self.server_state.etags:
            self.send_header("ETag", tag)
        self.send_header("Content-Type", "application/octet-stream")
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        if fault.length == "none":
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(end - start if fault.length == "right" else fault.length))
        self.end_headers()
        if body:
            self.send_body(content[start:end], fault)

    def send_body(self, content: bytes, fault: Fault) -> None:
        if fault.break_after is not None:
            content = content[: fault.break_after]
        step = max(1, len(content) // 10)
        for begin in range(0, len(content), step):
            time.sleep(fault.pause + (fault.stall if begin == 5 * step else 0))
            try:
                self.wfile.write(content[begin : begin + step])
                self.wfile.flush()
            except OSError:  # the client has left
                break
        if fault.break_after is not None or fault.length != "right":
            self.close_connection = True


@contextmanager
def serve_files(state: Any, answered_by: type[Handler] = Handler) -> Iterator[Any]:
    """Serve ``state`` in a thread, and set its ``url``."""
    handler = type("BoundHandler", (answered_by,), {"server_state": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
