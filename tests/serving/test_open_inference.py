"""The Open Inference Protocol, spoken by Triton's own client, and requests that no client would send."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from seresnet.inference.prediction import softmax
from tests.serving.running import noise, running

SHAPE = [3, 32, 32]


@pytest.fixture(scope="module")
def client(server):
    found = triton.InferenceServerClient(f"127.0.0.1:{server.port}")
    yield found
    found.close()


@pytest.fixture(scope="module")
def x(clf) -> np.ndarray:
    return clf.preprocess.normalize(np.stack([noise(i, 32) for i in range(3)]))


def tensor(x: np.ndarray, binary: bool) -> triton.InferInput:
    found = triton.InferInput("images", list(x.shape), "FP32")
    found.set_data_from_numpy(x, binary_data=binary)
    return found


def test_health_and_metadata(client, server):
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("kinds") and client.is_model_ready("kinds", "1")
    assert not client.is_model_ready("other") and not client.is_model_ready("kinds", "2")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    assert client.get_model_metadata("kinds") == {
        "name": "kinds",
        "versions": ["1"],
        "platform": "seresnet_openvino",
        "inputs": [{"name": "images", "datatype": "FP32", "shape": [-1, 3, 32, 32]}],
        "outputs": [
            {"name": "logits", "datatype": "FP32", "shape": [-1, 10]},
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]},
            {"name": "features", "datatype": "FP32", "shape": [-1, 64]},
        ],
    }


@pytest.mark.parametrize("sent", [True, False], ids=["binary input", "JSON input"])
@pytest.mark.parametrize("received", [True, False], ids=["binary output", "JSON output"])
def test_outputs_are_those_of_the_engine(sent, received, client, clf, x):
    names = ["features", "logits"]
    wanted = [triton.InferRequestedOutput(name, binary_data=received) for name in names]
    found = client.infer("kinds", [tensor(x, sent)], outputs=wanted, request_id="mine", model_version="1")
    assert [output["name"] for output in found.get_response()["outputs"]] == names
    assert found.get_response()["id"] == "mine" and found.get_response()["model_name"] == "kinds"
    np.testing.assert_allclose(found.as_numpy("logits"), clf.engine.logits(x), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.as_numpy("features"), clf.engine.embed(x), rtol=1e-4, atol=1e-5)


def test_without_named_outputs_all_come(client, clf, x):
    found = client.infer("kinds", [tensor(x, True)])
    assert [output["name"] for output in found.get_response()["outputs"]] == ["logits", "probabilities", "features"]
    np.testing.assert_allclose(found.as_numpy("probabilities"), softmax(clf.engine.logits(x)), rtol=1e-3, atol=1e-6)


def test_errors_reach_the_client(client, x):
    for model, inputs, words in [
        ("other", [tensor(x, True)], "no model has this name"),
        ("kinds", [tensor(x[:, :, :16], True)], "the shape must be"),
        ("kinds", [tensor(np.full_like(x, np.inf), True)], "not finite"),
    ]:
        with pytest.raises(InferenceServerException, match=words):
            client.infer(model, inputs)
    with pytest.raises(InferenceServerException, match="the outputs are logits"):
        client.infer("kinds", [tensor(x, True)], outputs=[triton.InferRequestedOutput("other")])
    with pytest.raises(InferenceServerException, match="classification"):
        client.infer("kinds", [tensor(x, True)], outputs=[triton.InferRequestedOutput("logits", class_count=3)])


def test_a_batch_beyond_the_queue_is_refused(clf, x):
    with running(clf, max_queue=2) as server:
        client = triton.InferenceServerClient(f"127.0.0.1:{server.port}")
        with pytest.raises(InferenceServerException, match="at most 2"):
            client.infer("kinds", [tensor(x, True)])
        client.close()


def request(**changes) -> bytes:
    one = {"name": "images", "datatype": "FP32", "shape": [1, *SHAPE], "data": [0.0] * 3072}
    return json.dumps({"inputs": [{**one, **changes}]}).encode()


NESTED = json.dumps(np.zeros((1, *SHAPE)).tolist())
ODD = [
    (b"{", {}, 400, "not JSON"),
    (b"[]", {}, 400, "not an object"),
    (b"{}", {}, 400, "inputs must be"),
    (b'{"inputs": [1]}', {}, 400, "inputs must be"),
    (b'{"inputs": []}', {}, 400, "send one input"),
    (request(name="other"), {}, 400, "send one input"),
    (request(datatype="FP64"), {}, 400, "datatype"),
    (request(shape=[1, 3, 32]), {}, 400, "shape"),
    (request(shape=[-1, *SHAPE]), {}, 400, "shape"),
    (request(shape=[True, *SHAPE]), {}, 400, "shape"),
    (request(shape=[2, *SHAPE]), {}, 400, "needs 6,144"),
    (request(shape=[2**30, *SHAPE]), {}, 400, "needs"),
    (request(data=[0.0]), {}, 400, "has 1 values"),
    (request(data="0"), {}, 400, "list of numbers"),
    (request(data=["0"] * 3072), {}, 400, "list of numbers"),
    (request(data=[None] * 3072), {}, 400, "list of numbers"),
    (request(data=[[1], [1, 2]]), {}, 400, "list of numbers"),
    (request(data=[10**400] * 3072), {}, 400, "list of numbers"),
    (request(data=[1e300] * 3072), {}, 400, "not finite"),
    (request(data=[float("nan")] * 3072), {}, 400, "not finite"),
    (request(parameters=[]), {}, 400, "parameters must be an object"),
    (request(parameters={"binary_data_size": 12}), {}, 400, "binary_data_size"),
    (request(parameters={"shared_memory_region": "a"}), {}, 400, "shared memory"),
    (request(), {"inference_header_content_length": "-1"}, 400, "not the length"),
    (request(), {"inference_header_content_length": "99999999"}, 400, "not the length"),
    (b"[" * 60_000, {}, 400, "too many lists"),
]


@pytest.mark.parametrize(("body", "headers", "status", "words"), ODD)
def test_what_is_refused(body, headers, status, words, server):
    answer = server.post("/v2/models/kinds/infer", body, **headers)
    assert answer.status == status and words in answer.json()["error"] == answer.json()["detail"]


def test_nested_data_and_much_json(clf, server):
    body = (
        b'{"inputs": [{"name": "images", "datatype": "FP32", "shape": [1, 3, 32, 32], "data": %s}]}' % NESTED.encode()
    )
    assert server.post("/v2/models/kinds/infer", body).json()["outputs"][0]["shape"] == [1, 10]
    with running(clf, max_body_mb=10) as roomy:
        refused = roomy.post("/v2/models/kinds/infer", b" " * 4_000_001)
        assert refused.status == 413 and "binary data" in refused.json()["error"]
