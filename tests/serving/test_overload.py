"""A full queue, late answers, clients that leave, bodies that are too many: refused at once, and nothing is lost."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from seresnet.inference.classifier import Classifier
from seresnet.serving.model import give_way
from tests.serving.running import GatedEngine, in_threads, running


@pytest.fixture
def gated(clf):
    """A classifier whose engine runs only while the test lets it."""
    found = Classifier(GatedEngine(clf.engine), clf.preprocess, clf.labels, "gated")
    yield found
    found.engine.gate.set()


def waiting(server, images: int) -> None:
    """Wait until so many images are in the queue."""
    model = next(iter(server.state.models.values()))
    until = time.monotonic() + 20
    while model.pending != images:
        assert time.monotonic() < until, model.pending
        time.sleep(0.005)


def test_a_full_queue_refuses_at_once_and_answers_what_it_admitted(gated, pngs):
    with running(gated, max_queue=6, max_batch=4) as server:
        gated.engine.gate.clear()
        truth = [p.to_dict()["predictions"][0]["index"] for p in Classifier.predict(_open(gated), pngs[:6])]
        answers = {}

        def ask(i):
            answers[i] = server.post("/predict", pngs[i])

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(6)]
        for thread in threads:
            thread.start()
        waiting(server, 6)
        refused = server.post("/predict", pngs[6])
        assert refused.status == 503 and int(refused.headers["retry-after"]) >= 1
        assert refused.headers["content-type"] == "application/problem+json" and "full" in refused.json()["detail"]
        assert server.form("/predict", ("a", pngs[0]), ("b", pngs[1])).status == 503
        assert server.ask("GET", "/health/ready").status == 200 and server.ask("GET", "/model").status == 200
        assert server.metric("seresnet_shed_total", reason="queue") == 2
        assert server.metric("seresnet_queue_depth", model="kinds") == 6
        gated.engine.gate.set()
        for thread in threads:
            thread.join(20)
        assert [answers[i].status for i in range(6)] == [200] * 6
        assert [answers[i].json()["predictions"][0]["index"] for i in range(6)] == truth
        assert server.post("/predict", pngs[6]).status == 200
        assert server.metric("seresnet_queue_depth", model="kinds") == 0


def _open(gated: Classifier) -> Classifier:
    """The same network without its gate."""
    return Classifier(gated.engine.engine, gated.preprocess, gated.labels, "open")


def test_a_full_queue_refuses_before_the_body_is_sent(gated, pngs):
    """The headers of a large upload are enough: the client learns it before it has sent megabytes."""
    with running(gated, max_queue=1) as server:
        gated.engine.gate.clear()
        blocked = threading.Thread(target=server.post, args=("/predict", pngs[0]))
        blocked.start()
        waiting(server, 1)
        with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nabc")
            assert connection.recv(65536).startswith(b"HTTP/1.1 503 ")
        gated.engine.gate.set()
        blocked.join(20)


def test_what_is_not_answered_in_time_gets_504_and_is_not_computed(gated, pngs):
    with running(gated, timeout_s=0.3, max_batch=1) as server:
        gated.engine.gate.clear()
        answers = in_threads(3, lambda i: server.post("/predict", pngs[i]))
        assert [answer.status for answer in answers] == [504] * 3 and "0.3 s" in answers[0].json()["detail"]
        assert gated.engine.sizes == [1]
        gated.engine.gate.set()
        assert server.post("/predict", pngs[0]).status == 200
        assert gated.engine.sizes == [1, 1]  # the two that were late never ran


def test_a_request_that_would_be_late_is_refused(gated, pngs):
    """Once the server knows how long an image takes, it admits no more than it can answer in time."""
    with running(gated, timeout_s=10.0, max_batch=1, max_queue=1000) as server:
        model = server.state.models["kinds"]
        gated.engine.gate.clear()
        threads = [threading.Thread(target=server.post, args=("/predict", pngs[i])) for i in range(4)]
        for thread in threads:
            thread.start()
        waiting(server, 4)
        model.batcher.pace.seconds_per_image = 3.0  # five images take fifteen seconds
        refused = server.post("/predict", pngs[5])
        assert refused.status == 503 and "too late" in refused.json()["detail"]
        assert int(refused.headers["retry-after"]) == 8
        model.batcher.pace.seconds_per_image = 0.5
        gated.engine.gate.set()
        for thread in threads:
            thread.join(20)
        assert server.post("/predict", pngs[5]).status == 200


def test_the_time_of_an_image_is_known_from_the_start_and_corrected(gated, pngs):
    with running(gated, max_batch=1) as server:
        pace = server.state.models["kinds"].batcher.pace
        assert 0 < pace.seconds_per_image < 5  # from when it was warmed up
        for wrong in (0.0, 50.0):
            pace.seconds_per_image = wrong
            assert [server.post("/predict", pngs[i]).status for i in range(8)] == [200] * 8
            assert 0 < pace.seconds_per_image < 5


def test_a_client_that_leaves_frees_its_place_and_is_not_computed(gated, pngs):
    with running(gated, max_batch=1) as server:
        gated.engine.gate.clear()
        blocked = threading.Thread(target=server.post, args=("/predict", pngs[0]))
        blocked.start()
        gated.engine.started.acquire()
        head = f"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: {len(pngs[1])}\r\n\r\n".encode()
        with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
            connection.sendall(head + pngs[1])
            waiting(server, 2)
        waiting(server, 1)
        gated.engine.gate.set()
        blocked.join(20)
        assert server.post("/predict", pngs[2]).status == 200
        assert gated.engine.sizes == [1, 1]
        assert server.reaches(1, "seresnet_requests_total", route="/predict", status="499")


def test_bodies_in_memory_are_bounded_together(server, pngs):
    held = server.state.held_bytes = server.state.settings.max_held - 100
    refused = server.post("/predict", pngs[0])
    assert refused.status == 503 and refused.headers["retry-after"]
    assert server.state.held_bytes == held
    server.state.held_bytes = 0
    assert server.post("/predict", pngs[0]).status == 200 and server.state.held_bytes == 0


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priorities of their own")
def test_threads_that_decode_give_way_to_the_event_loop():
    with ThreadPoolExecutor(1, initializer=give_way) as decoders:
        here = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        there = decoders.submit(lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id())).result()
    assert there == min(19, here + 5)
