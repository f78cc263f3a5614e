"""The heat map is that of the library, the class can be chosen, and explanations are bounded like predictions."""

from __future__ import annotations

import threading
import time
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from seresnet.inference.classifier import Classifier
from tests.serving.running import running

HOSTILE = "<script>alert(1)</script>"


def test_the_heat_map_is_that_of_the_library(server, clf, photo):
    answer = server.post("/explain", photo)
    assert answer.status == 200 and answer.headers["content-type"] == "image/png"
    assert "compute;dur=" in answer.headers["server-timing"]
    expected = clf.explain(photo)
    np.testing.assert_array_equal(np.asarray(Image.open(BytesIO(answer.body))), np.asarray(expected.overlay()))
    chosen = Image.open(BytesIO(server.post("/explain?label=kind%207", photo).body))
    np.testing.assert_array_equal(np.asarray(chosen), np.asarray(clf.explain(photo, "kind 7").overlay()))


def test_the_numbers_are_those_of_the_library(server, clf, photo):
    answer = server.form("/explain?label=kind%203", ("a.jpg", photo))
    assert answer.headers["content-type"] == "image/png" and answer.headers["vary"] == "Accept"
    answer = server.post("/explain?label=kind%203", photo, accept="application/json, image/png")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == clf.explain(photo, "kind 3").to_dict()
    assert set(answer.json()) >= {"explained", "predictions", "hottest_box", "gates"}


def test_what_cannot_be_explained(server, photo, pngs):
    for path, body, status, words in (
        ("/explain?label=%3Cscript%3Ealert(1)%3C/script%3E", photo, 400, f"no class '{HOSTILE}'"),
        ("/explain?label=kinx%203", photo, 400, "did you mean kind"),
        ("/explain?label=" + "x" * 501, photo, 422, "label"),
        ("/explain?model=other", photo, 404, "kinds"),
        ("/explain", b"a text", 422, "cannot be read"),
        ("/explain", b"", 400, "empty"),
    ):
        answer = server.post(path, body)
        assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json"), path
        assert words in answer.json()["detail"] and len(answer.json()["detail"]) <= 300
    assert server.form("/explain", ("a", pngs[0]), ("b", pngs[1])).status == 400


def test_a_model_without_its_network_or_without_classes(clf, photo):
    without = Classifier(clf.engine, clf.preprocess, clf.labels, "without")
    bare = Classifier(clf.engine, clf.preprocess, [], "bare")
    with running({"without": without, "bare": bare}) as server:
        assert "log says why" in server.post("/explain", photo).json()["detail"]
        refused = server.post("/explain?model=bare", photo)
        assert refused.status == 404 and "no classifier" in refused.json()["detail"]


@pytest.fixture
def blocked(clf):
    """A classifier whose network is there only when the test lets it be."""
    gate = threading.Event()
    found = Classifier(clf.engine, clf.preprocess, clf.labels, "slow", network=lambda: gate.wait(30) and clf._network())
    yield found, gate
    gate.set()


def test_explanations_wait_in_a_bounded_queue(blocked, photo):
    clf, gate = blocked
    with running(clf, max_queue=2) as server:
        answers = []
        threads = [threading.Thread(target=lambda: answers.append(server.post("/explain", photo))) for _ in range(2)]
        for thread in threads:
            thread.start()
        waits = server.state.explanations["kinds"]
        until = time.monotonic() + 20
        while waits.pending < 2:
            assert time.monotonic() < until
            time.sleep(0.005)
        refused = server.post("/explain", photo)
        assert refused.status == 503 and int(refused.headers["retry-after"]) >= 1
        assert server.post("/predict", photo).status == 200  # classification goes on meanwhile
        gate.set()
        for thread in threads:
            thread.join(20)
        assert [answer.status for answer in answers] == [200, 200] and waits.pending == 0


def test_an_explanation_that_takes_too_long_gets_504(blocked, photo):
    clf, gate = blocked
    with running(clf, timeout_s=0.3) as server:
        assert server.post("/explain", photo).status == 504
        gate.set()
        until = time.monotonic() + 20
        while server.post("/explain", photo).status != 200:  # the network is read once
            assert time.monotonic() < until
