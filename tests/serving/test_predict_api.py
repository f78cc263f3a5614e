"""Answers are those of ``seresnet predict``, in every form of request; and what is refused is refused by name."""

from __future__ import annotations

import base64
import json
import subprocess
import sys

import numpy as np
import pytest

import seresnet
from tests.cli.terminal import here
from tests.networks import seresnet20
from tests.serving.running import in_threads, running


def alike(found, expected) -> bool:
    assert [(p["label"], p["index"]) for p in found] == [(p["label"], p["index"]) for p in expected]
    return all(
        a["probability"] == pytest.approx(b["probability"], rel=1e-4, abs=1e-9)
        for a, b in zip(found, expected, strict=True)
    )


@pytest.fixture(scope="module")
def expected(clf, photo):
    return clf.predict(photo)[0].to_dict()["predictions"]


def test_the_answer_is_that_of_the_command(tmp_path, server, photo):
    seresnet.save(seresnet20(), tmp_path / "model")
    (tmp_path / "rocket.jpg").write_bytes(photo)
    done = here("predict", tmp_path / "rocket.jpg", "--model", tmp_path / "model", "--device=cpu", "--format=jsonl")
    answer = server.post("/predict", photo).json()
    assert list(answer) == ["model", "predictions", "timing_ms"] and answer["model"] == "kinds"
    assert list(answer["predictions"][0]) == ["label", "index", "probability"]
    assert alike(answer["predictions"], json.loads(done.stdout)["predictions"])
    assert list(answer["timing_ms"]) == ["read", "decode", "queue", "compute", "total"]
    assert all(0 <= value <= answer["timing_ms"]["total"] for value in answer["timing_ms"].values())


@pytest.mark.parametrize("kind", ["image/jpeg", "application/octet-stream", "application/x-www-form-urlencoded", ""])
def test_a_raw_body_is_an_image_whatever_its_type(kind, server, photo, expected):
    assert alike(server.post("/predict", photo, content_type=kind).json()["predictions"], expected)


def test_a_chunked_body(server, photo, expected):
    pieces = iter([photo[:5000], photo[5000:]])
    assert alike(server.post("/predict", pieces).json()["predictions"], expected)


@pytest.mark.parametrize("prefix", ["", "data:image/jpeg;base64,"])
def test_json_with_base64(prefix, server, photo, expected):
    body = json.dumps({"image": prefix + base64.b64encode(photo).decode()})
    answer = server.post("/predict?topk=2", body, content_type="application/json; charset=utf-8").json()
    assert alike(answer["predictions"], expected[:2])


def test_a_form_with_one_file_is_one_image(server, photo, expected):
    assert alike(server.form("/predict", ("a.jpg", photo)).json()["predictions"], expected)


def test_a_form_with_several_files(server, clf, photo, pngs):
    odd = "<img src=x onerror=alert(1)>\u202e.png"
    answer = server.form("/predict?topk=3", ("a.jpg", photo), (odd, pngs[1]), ("text.png", b"a text"), ("e.png", b""))
    results = answer.json()["results"]
    assert [result["name"] for result in results] == ["a.jpg", odd, "text.png", "e.png"]
    for result, image in zip(results[:2], (photo, pngs[1]), strict=True):
        assert result["error"] is None
        assert alike(result["predictions"], clf.predict(image, topk=3)[0].to_dict()["predictions"])
    assert [result["error"] for result in results[2:]] == [p.error for p in clf.predict([b"a text", b""])]
    assert all(result["predictions"] == [] for result in results[2:])
    assert (
        answer.headers["content-type"] == "application/json" and answer.headers["x-content-type-options"] == "nosniff"
    )


def test_embeddings_are_those_of_the_library(server, clf, photo, pngs):
    one, two = clf.embed([photo, pngs[0]])
    np.testing.assert_allclose(server.post("/embed", photo).json()["embedding"], one, rtol=1e-4, atol=1e-5)
    results = server.form("/embed", ("a", photo), ("b", pngs[0]), ("c", b"?")).json()["results"]
    np.testing.assert_allclose(results[1]["embedding"], two, rtol=1e-4, atol=1e-5)
    assert results[2]["embedding"] is None and results[2]["error"]


def test_many_clients_get_their_own_answers(server, clf, pngs):
    truth = clf.predict(pngs, topk=10)
    answers = in_threads(16, lambda i: [server.post("/predict?topk=10", pngs[k]).json() for k in range(i, 48, 16)])
    for i in range(48):
        assert alike(answers[i % 16][i // 16]["predictions"], truth[i].to_dict()["predictions"])
    assert server.metric("seresnet_batch_size_sum", model="kinds") >= 48


def test_several_models_by_name(clf, photo):
    other = seresnet20()
    other.labels = [f"other {i}" for i in range(10)]
    with running({"first": clf, "second": seresnet.load(other, device="cpu")}) as server:
        asked = [server.post(f"/predict{query}", photo).json() for query in ("", "?model=second")]
        assert [answer["model"] for answer in asked] == ["first", "second"]
        assert asked[1]["predictions"][0]["label"].startswith("other ")
        assert server.ask("GET", "/model?model=second").json()["models"] == ["first", "second"]
        missing = server.post("/predict?model=third", photo)
        assert missing.status == 404 and "first, second" in missing.json()["detail"]


def test_the_short_path_and_that_of_fastapi_answer_alike(server, photo, expected):
    """Only queries in the usual order take the short path."""
    before = server.metric("seresnet_requests_total", route="/predict", status="200")
    for query in ("topk=2&model=kinds", "model=kinds&topk=2", "model=kinds&topk=2&more=1"):
        answer = server.post(f"/predict?{query}", photo)
        assert answer.status == 200 and alike(answer.json()["predictions"], expected[:2]), query
        assert answer.headers["content-security-policy"] and answer.headers["x-request-id"]
    assert server.reaches(before + 3, "seresnet_requests_total", route="/predict", status="200")


def test_images_are_answered_without_fastapi():
    """Its import takes longer than that of all else: the server begins without it."""
    code = "import sys, seresnet.serving.serve, seresnet.serving.models, seresnet.serving.server; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"fastapi", "pydantic", "torch"} & set(done.stdout.split())


JSON = {"content_type": "application/json"}
GZIP = {"content_encoding": "gzip"}
FORM = {"content_type": "multipart/form-data; boundary=x"}
REFUSED = [
    ("/predict", b"", {}, 400, "empty"),
    ("/predict", b"{", JSON, 400, "not JSON"),
    ("/predict", b"[" * 9000, JSON, 400, "nested"),
    ("/predict", b"[" * 200_000, JSON, 400, "too many values"),
    ("/predict", b"\xff\xfe\xfd", JSON, 400, "UTF-8"),
    ("/predict", b'{"image": 7}', JSON, 400, "no image"),
    ("/predict", b'["image"]', JSON, 400, "no image"),
    ("/predict", b'{"image": ""}', JSON, 400, "empty"),
    ("/predict", b'{"image": "http://127.0.0.1/a.jpg"}', JSON, 400, "a URL is not fetched"),
    ("/predict", b'{"image": "file:///etc/passwd"}', JSON, 400, "not base64"),
    ("/predict", b'{"image": "YSB0ZXh0"}', JSON, 422, "cannot be read"),
    ("/predict", b"a text", {}, 422, "cannot be read"),
    ("/predict", b"a text", {"content_type": "image/jpeg"}, 422, "cannot be read"),
    ("/predict", b"--x--\r\n", FORM, 400, "no file"),
    ("/predict", b"no form", FORM, 400, "form cannot be read"),
    ("/predict", b"?", {"content_type": "multipart/form-data"}, 400, "form cannot be read"),
    ("/predict?topk=0", b"a text", {}, 422, "topk"),
    ("/predict?topk=many", b"a text", {}, 422, "topk"),
    ("/predict?model=other", b"a text", {}, 404, "kinds"),
    ("/embed?model=../..", b"a text", {}, 404, "kinds"),
    ("/predict", b"\x1f\x8b", GZIP, 415, "compressed"),
    ("/predict", b"x" * 2_000_001, {}, 413, "larger than 2 MB"),
    ("/embed", iter([b"x" * 1_000_000] * 3), {}, 413, "larger than 2 MB"),
    ("/nothing/here", b"", {}, 404, "/docs"),
    ("/metrics", b"", {}, 405, "/docs"),
]


@pytest.mark.parametrize(("path", "body", "headers", "status", "words"), REFUSED)
def test_what_is_refused(path, body, headers, status, words, server):
    answer = server.post(path, body, **headers)
    problem = answer.json()
    assert answer.status == status == problem["status"], problem
    assert answer.headers["content-type"] == "application/problem+json"
    assert list(problem) == ["type", "title", "status", "detail", "request_id"]
    assert words in problem["detail"] and "/work" not in problem["detail"] and "Traceback" not in problem["detail"]
    assert problem["request_id"] == answer.headers["x-request-id"]


def test_a_form_may_not_have_more_files_than_the_queue_has_places(clf, pngs):
    with running(clf, max_queue=4) as server:
        assert server.form("/predict", *[("a", pngs[0])] * 4).status == 200
        refused = server.form("/predict", *[("a", pngs[0])] * 5)
        assert refused.status == 400 and "Maximum number of files is 4" in refused.json()["detail"]


def test_too_many_pixels_are_refused_before_decoding(clf, pngs):
    with running(clf, max_megapixels=0.001) as server:
        refused = server.post("/predict", pngs[0])
        assert refused.status == 422 and "over the limit of 0.001" in refused.json()["detail"]


def test_an_output_that_is_not_finite_is_an_error(clf, photo):
    broken = seresnet20()
    broken.fc.bias.data[0] = float("nan")
    with running(seresnet.load(broken, device="cpu")) as server:
        answer = server.post("/predict", photo)
        assert answer.status == 500 and "not finite" in answer.json()["detail"]
        assert "not finite" in server.form("/predict", ("a", photo), ("b", photo)).json()["results"][1]["error"]
