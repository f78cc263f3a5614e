"""``seresnet serve`` as a process: its lines, its port, its signals, its end."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

import seresnet
from tests.cli.terminal import ENVIRONMENT, here
from tests.networks import seresnet20


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("weights") / "kinds"
    seresnet.save(seresnet20(), directory)
    return directory


class Process:
    """A server in a process of its own, and what it wrote to stderr so far."""

    def __init__(self, *arguments: str | Path, cwd: Path | None = None) -> None:
        command = [sys.executable, "-m", "seresnet", "serve", "--port", "0", "--offline", *map(str, arguments)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, cwd=cwd)
        self.lines: list[str] = []
        self.reader = threading.Thread(target=lambda: self.lines.extend(self.process.stderr))
        self.reader.start()
        self.port = int(self.wait_for(r"serving at http://[\d.]+:(\d+)")[1])

    def wait_for(self, pattern: str) -> re.Match[str]:
        until = time.monotonic() + 60
        while not (found := re.search(pattern, "".join(self.lines))):
            assert time.monotonic() < until and self.process.poll() is None, self.lines
            time.sleep(0.02)
        return found

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(30)
        self.reader.join()
        return code


@contextmanager
def started(*arguments: str | Path):
    server = Process(*arguments)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()


def test_a_server_from_its_start_to_its_end(model, tmp_path, photo):
    """Two models and a key on every address; SIGHUP reads the keys again; SIGTERM answers what was admitted."""
    keys = tmp_path / "keys"
    keys.write_text("first-key-0123456789")
    arguments = "--model", f"a={model}", "--model", f"b={model}", "--host", "0.0.0.0", "--log-format", "json"
    with started(*arguments, "--api-key-file", keys, "--max-wait-ms", "1000", "--drain-s", "20") as server:
        first, second = ({"Authorization": f"Bearer {name}-key-0123456789"} for name in ("first", "second"))
        assert not any("warning" in line for line in server.lines)  # a key is needed: no warning
        assert server.ask("POST", "/predict", photo)[0] == 401
        assert json.loads(server.ask("POST", "/predict?model=b", photo, **first)[1])["model"] == "b"
        keys.write_text("second-key-0123456789")
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("API keys read again: 1")
        assert [server.ask("GET", "/model", **key)[0] for key in (first, second)] == [401, 200]

        # Ten requests wait for companions, one more has sent only part of its body: then the server has to end.
        codes: list[int] = []
        clients = [
            threading.Thread(target=lambda: codes.append(server.ask("POST", "/predict", photo, **second)[0]))
            for _ in range(10)
        ]
        head = (
            "POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n"
            f"Authorization: {second['Authorization']}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", server.port), 10) as slow:
            slow.sendall(head.encode() + b"abc")
            for client in clients:
                client.start()
            while 'seresnet_queue_depth{model="a"} 10.0' not in server.ask("GET", "/metrics", **second)[1].decode():
                time.sleep(0.01)
            server.process.send_signal(signal.SIGTERM)
            assert slow.recv(65536).startswith(b"HTTP/1.1 503 ")
            assert server.ask("GET", "/health/ready")[0] == 503 and server.ask("GET", "/health/live")[0] == 200
            assert server.ask("POST", "/predict", photo, **second)[0] == 503
            assert server.process.wait(20) == 0
        for client in clients:
            client.join(20)
        assert codes == [200] * 10
        server.reader.join()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port), 5)
    logged = [json.loads(line) for line in server.lines]
    assert sum(line.get("status") == 200 and line["path"] == "/predict" for line in logged) == 11
    assert not any("key-0123456789" in line for line in server.lines)


def test_a_port_in_use_is_one_line(model):
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        done = here("serve", "--model", model, "--port", str(port))
    assert done.returncode == 2
    assert done.stderr.decode() == (
        f"seresnet: error: port {port} of 127.0.0.1 is in use: stop the program that has it, or give another --port\n"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--host", "no.such.host.invalid"), "is no address"),
        (("--host", "192.0.2.1"), "no address of this machine"),  # for documentation (RFC 5737)
        (("--model", "a=x", "--model", "a=y"), "two models are called a"),
        (("--model", "../..=x"), "give it a name"),
        (("--model", "a="), "give a model behind the name"),
        (("--model", "a=no-such-model"), "no-such-model"),
        (("--max-batch", "0"), "--max-batch must lie between 1 and 1024"),
        (("--workers", "0"), "--workers must lie between"),
        (("--api-key-file", "no-such-file"), "--api-key-file no-such-file"),
        (("--cors", "example.org"), "--cors example.org"),
    ],
)
def test_a_setting_that_is_wrong_is_one_line(arguments, words):
    done = here("serve", "--port", "0", *arguments)
    lines = done.stderr.decode().splitlines()
    assert done.returncode == 2 and lines[-1].startswith("seresnet: error: ") and words in lines[-1], lines


def test_without_the_extra_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr("seresnet.serving.serve.find_spec", lambda name: None if name == "uvicorn" else object())
    done = here("serve")
    assert done.returncode == 2
    assert done.stderr.decode() == ('seresnet: error: uvicorn is not installed: run pip install "seresnet[serve]"\n')


def test_nothing_else_imports_the_web_packages():
    package = Path(seresnet.__file__).parent
    importing = {
        path.relative_to(package).parts[0]
        for path in package.rglob("*.py")
        if re.search(r"^\s*(import|from) (fastapi|starlette|uvicorn|h11|prometheus_client)\b", path.read_text(), re.M)
    }
    assert importing == {"serving"}
