"""What every response carries, who may ask, and what is logged."""

from __future__ import annotations

import io
import json
import sys
import threading
import time

import pytest

from seresnet.errors import ConfigError
from seresnet.serving.keys import ApiKeys
from seresnet.serving.logs import logging_to_stderr
from seresnet.serving.settings import ServeSettings
from tests.serving.running import running

FIRST, SECOND = "first-key-0123456789", "second-key-0123456789"
ORIGIN = "https://example.org"


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"# keys\n\n{FIRST}\n  {SECOND}  \n")
    return path


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_a_request_needs_one_of_the_keys(clf, photo, key_file):
    with running(clf, ApiKeys(key_file)) as server:
        for headers in (
            {},
            bearer("wrong-key-0123456789"),
            bearer(""),
            {"Authorization": f"Basic {FIRST}"},
            bearer("é"),
        ):
            refused = server.ask("POST", "/predict", photo, headers)
            assert refused.status == 401 and refused.headers["www-authenticate"] == "Bearer", headers
        for key in (FIRST, SECOND):
            assert server.ask("POST", "/predict", photo, bearer(key)).status == 200
        for path in ("/model", "/metrics", "/v2/models/kinds", "/nothing"):
            assert server.ask("GET", path).status == 401
        for path in ("/health/live", "/health/ready", "/openapi.json"):
            assert server.ask("GET", path).status == 200


def test_keys_are_rotated_and_a_bad_file_changes_nothing(key_file, caplog):
    keys = ApiKeys(key_file)
    key_file.write_text(f"{SECOND}\nthird-key-0123456789")
    keys.reload()
    assert not keys.accept(f"Bearer {FIRST}") and keys.accept(f"bearer {SECOND}")
    key_file.write_text("short")
    keys.reload()
    assert keys.accept(f"Bearer {SECOND}") and "stay as they are" in caplog.text


@pytest.mark.parametrize("text", ["", "# nothing\n", "short\n", "a key with spaces in it\n", "é" * 20])
def test_a_file_without_good_keys_is_refused(text, tmp_path):
    (tmp_path / "keys").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="--api-key-file"):
        ApiKeys(tmp_path / "keys")
    with pytest.raises(ConfigError, match="no such file"):
        ApiKeys(tmp_path / "none")


def test_request_ids_are_kept_where_they_are_harmless(server):
    assert server.ask("GET", "/health/live", headers={"X-Request-ID": "a-1.b_2"}).headers["x-request-id"] == "a-1.b_2"
    for odd in ("a b", "x" * 65, "<b>"):
        assert len(server.ask("GET", "/health/live", headers={"X-Request-ID": odd}).headers["x-request-id"]) == 32


def test_every_response_has_the_security_headers(server):
    for method, path in (("GET", "/model"), ("GET", "/nothing"), ("POST", "/predict"), ("GET", "/metrics")):
        headers = server.ask(method, path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        assert "server" not in headers and "access-control-allow-origin" not in headers


def test_other_origins_may_call_only_where_that_was_asked_for(clf, server, photo):
    asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in server.ask("OPTIONS", "/predict", headers=asked).headers
    with running(clf, cors=(ORIGIN,)) as open_server:
        assert open_server.ask("OPTIONS", "/predict", headers=asked).headers["access-control-allow-origin"] == ORIGIN
        for body in (photo, b"a text"):  # errors too, or a page could not read them
            answer = open_server.ask("POST", "/predict", body, {"Origin": ORIGIN})
            assert answer.headers["access-control-allow-origin"] == ORIGIN
        other = open_server.ask("POST", "/predict", photo, {"Origin": "https://example.com"})
        assert "access-control-allow-origin" not in other.headers


def test_status_pages(server, clf):
    assert server.ask("GET", "/health/live").json() == {"status": "live"}
    assert server.ask("HEAD", "/health/ready").status == 200
    card = server.ask("GET", "/model").json()
    assert card["labels"] == clf.labels and card["preprocess"] == clf.preprocess.to_timm()
    assert card["num_classes"] == 10 and card["card"] == {}
    described = server.ask("GET", "/openapi.json").json()
    assert {"/predict", "/embed", "/model", "/health/live", "/health/ready", "/metrics"} <= set(described["paths"])
    metrics = server.ask("GET", "/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    for name in ("requests_total", "request_seconds_bucket", "queue_depth", "batch_size_bucket", "shed_total"):
        assert f"seresnet_{name}" in metrics.body.decode()


def test_unknown_addresses_do_not_grow_the_metrics(server):
    before = server.ask("GET", "/metrics").body.count(b"\n")
    for i in range(5):
        server.ask("GET", f"/nothing/{i}")
    assert server.ask("GET", "/metrics").body.count(b"\n") <= before + 20
    assert server.reaches(5, "seresnet_requests_total", route="other", status="404")


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_a_line_is_logged_for_each_request(log_format, clf, photo, monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with running(clf) as server, logging_to_stderr(log_format):  # one that has no requests but these
        server.ask("POST", "/predict?topk=2", photo, {"X-Request-ID": "mine"})
        server.ask("GET", "/%1b%5b31m%0a%e2%80%aeodd")
        until = time.monotonic() + 10
        while sys.stderr.getvalue().count("\n") < 2 and time.monotonic() < until:
            time.sleep(0.01)  # a line is written when its response has been sent
    lines = sys.stderr.getvalue().splitlines()
    assert len(lines) == 2 and "topk" not in lines[0]
    if log_format == "json":
        first, second = map(json.loads, lines)
        assert (first["request_id"], first["path"], first["status"], first["images"]) == ("mine", "/predict", 200, 1)
        assert first["duration_ms"] >= first["queue_ms"] > 0 and first["time"].endswith("Z")
        assert second["queue_ms"] is None and second["status"] == 404
    else:
        assert " POST /predict 200 " in lines[0] and lines[0].endswith(" mine")
        assert "\\x1b[31m" in lines[1] and lines[1].isprintable()


def test_a_log_that_is_not_read_stops_nobody_and_says_what_it_dropped(server, monkeypatch):
    class Stalled(io.StringIO):
        def write(self, text):
            reading.wait(20)
            return super().write(text)

    reading = threading.Event()
    monkeypatch.setattr(sys, "stderr", Stalled())
    monkeypatch.setattr("seresnet.serving.logs.QUEUED_LINES", 3)
    with logging_to_stderr("text"):
        for _ in range(10):
            assert server.ask("GET", "/health/live").status == 200
        reading.set()
        until = time.monotonic() + 10
        while "lines of the log were dropped" not in sys.stderr.getvalue() and time.monotonic() < until:
            server.ask("GET", "/health/live")
    assert "lines of the log were dropped" in sys.stderr.getvalue()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", 70_000),
        ("max_batch", 0),
        ("max_queue", 0),
        ("max_body_mb", -1),
        ("max_wait_ms", -1),
        ("timeout_s", 0),
        ("timeout_s", float("nan")),
        ("cors", ("example.org",)),
        ("cors", ("https://example.org/page",)),
    ],
)
def test_settings_are_checked(name, value):
    with pytest.raises(ConfigError, match="--" + name.replace("_", "-")):
        ServeSettings(**{name: value})
