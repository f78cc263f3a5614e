"""Connections that send slowly, nothing, or what is not HTTP: bounded, and in nobody's way."""

from __future__ import annotations

import http.client
import json
import socket
import time
from contextlib import ExitStack

import pytest

from tests.serving.running import running

HEAD = b"POST /predict HTTP/1.1\r\nHost: a\r\n"


@pytest.fixture(scope="module")
def hasty(clf):
    """A server that waits for little."""
    with running(clf, read_timeout_s=0.5, max_connections=40) as server:
        yield server


def status_and_problem(response: bytes) -> tuple[int, dict]:
    head, _, body = response.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    return int(head.split()[1]), json.loads(body)


def status_of_next(connection: socket.socket) -> int:
    """Read one response of a connection to its end."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    response.read()
    return response.status


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"hello\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),  # TLS
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 70_000 + b"\r\n\r\n", 431),
        (HEAD + b"Content-Length: ten\r\n\r\n", 400),
        (HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc", 400),
        (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 5000, 400),
        (b"", 408),
        (b"GET / HTTP/1.1\r\nHost: a\r\n", 408),
        (HEAD + b"Content-Length: 10\r\n\r\nabc", 408),
    ],
)
def test_a_request_that_cannot_be_read_or_does_not_arrive(sent, status, hasty):
    found, problem = status_and_problem(hasty.raw(sent))
    assert found == status == problem["status"] and problem["detail"]


def test_a_connection_serves_request_after_request_and_may_idle(hasty):
    with socket.create_connection(("127.0.0.1", hasty.port), 10) as connection:
        for pause in (0, 0.7, 0):  # longer than the headers of one request may take
            time.sleep(pause)
            connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n")
            assert status_of_next(connection) == 200


def test_a_refused_body_is_read_to_its_end_and_the_connection_goes_on(clf):
    with (
        running(clf, max_body_mb=0.1) as server,
        socket.create_connection(("127.0.0.1", server.port), 10) as connection,
    ):
        connection.sendall(HEAD + b"Content-Length: 3000000\r\n\r\n")
        assert status_of_next(connection) == 413
        connection.sendall(b"x" * 3_000_000 + b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n")
        assert status_of_next(connection) == 200


def test_too_many_connections_are_refused_and_slow_ones_end(hasty, photo):
    with ExitStack() as stack:
        for _ in range(40):
            slow = stack.enter_context(socket.create_connection(("127.0.0.1", hasty.port), 10))
            slow.sendall(HEAD + b"Content-Length: 1000\r\n\r\nabc")
        status, problem = status_and_problem(hasty.raw(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"))
        assert status == 503 and "connections" in problem["detail"]
        until = time.monotonic() + 10
        while hasty.server.server_state.connections and time.monotonic() < until:
            time.sleep(0.05)
        assert hasty.post("/predict", photo).status == 200


def test_slow_clients_do_not_block_others(server, photo):
    with ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 10)) for _ in range(200)]
        for i, connection in enumerate(slow):
            connection.sendall(HEAD + (b"Content-Length: 1000\r\n\r\nabc" if i % 2 else b"X: "))
        for _ in range(3):
            assert server.post("/predict", photo).status == 200
        assert server.metric("seresnet_connections") >= 200


def test_a_client_that_does_not_read_is_cut_off(hasty):
    """Answers that nobody reads fill the buffers; then the connection ends."""
    with socket.create_connection(("127.0.0.1", hasty.port), 10) as connection:
        connection.settimeout(0.2)
        request = b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n" * 100
        with pytest.raises((ConnectionError, BrokenPipeError)):
            until = time.monotonic() + 15
            while time.monotonic() < until:
                try:
                    connection.send(request)
                except TimeoutError:
                    continue
