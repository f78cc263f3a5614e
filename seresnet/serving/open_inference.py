"""The Open Inference Protocol (version 2, REST), which the clients of Triton, KServe and others speak."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from numpy.typing import NDArray

from seresnet.inference.prediction import NOT_FINITE, sigmoid, softmax
from seresnet.serving.body import Body, answered
from seresnet.serving.edge import RECORD
from seresnet.serving.model import ServedModel
from seresnet.serving.problems import Problem, ending
from seresnet.serving.schemas import PROBLEMS
from seresnet.serving.state import ServerState
from seresnet.serving.tensors import DATATYPE, JSON_LENGTH, InferRequest, WantedOutput, read_request, write_response
from seresnet.version import __version__

router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])

INPUT = "images"
VERSION = "1"  # of every model
BINARY = "binary_tensor_data"  # the extension's name
EXAMPLE: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "Preprocessed images, FP32 (N, C, H, W), as JSON or as binary data behind the JSON.",
        "content": {"application/json": {"schema": {"type": "object"}}, "application/octet-stream": {"schema": {}}},
    }
}


@router.get("")
async def server() -> dict[str, Any]:
    """Return the server's name, version and extensions."""
    return {"name": "seresnet", "version": __version__, "extensions": [BINARY]}


@router.get("/health/live")
async def v2_live() -> dict[str, bool]:
    """Return 200 while the server runs."""
    return {"live": True}


@router.get("/health/ready", responses=PROBLEMS)
async def v2_ready(request: Request) -> dict[str, bool]:
    """Return 200 while the server takes requests, and 503 when it is about to end."""
    if _state(request).draining:
        raise ending()
    return {"ready": True}


@router.get("/models/{name}/versions/{version}/ready", include_in_schema=False)
@router.get("/models/{name}/ready", responses=PROBLEMS)
async def model_ready(request: Request, name: str, version: str = VERSION) -> dict[str, Any]:
    """Return 200 where there is a model of this name."""
    return {"name": _model(request, name, version).name, "ready": True}


@router.get("/models/{name}/versions/{version}", include_in_schema=False)
@router.get("/models/{name}", responses=PROBLEMS)
async def metadata(request: Request, name: str, version: str = VERSION) -> dict[str, Any]:
    """Return the inputs and outputs of a model."""
    served = _model(request, name, version)
    return {
        "name": served.name,
        "versions": [VERSION],
        "platform": f"seresnet_{served.classifier.engine.name}",
        "inputs": [{"name": INPUT, "datatype": DATATYPE, "shape": [-1, *served.classifier.preprocess.input_size]}],
        "outputs": [{"name": name, "datatype": DATATYPE, "shape": [-1, width]} for name, width in _widths(served)],
    }


@router.post("/models/{name}/versions/{version}/infer", include_in_schema=False)
@router.post("/models/{name}/infer", responses=PROBLEMS, openapi_extra=EXAMPLE)
async def infer(request: Request, name: str, version: str = VERSION) -> Response:
    """Run a model on preprocessed images; outputs are logits, probabilities and features."""
    served = _model(request, name, version)
    served.check_room()  # before anything is read
    with Body(request, _state(request)) as body:
        data = await body.read()
        shape = served.classifier.preprocess.input_size
        asked = await asyncio.to_thread(read_request, data, request.headers.get(JSON_LENGTH), INPUT, shape)
        del data
        wanted = asked.outputs or [WantedOutput(output, asked.binary) for output, _ in _widths(served)]
        _check_names(served, wanted)
        outputs = await answered(request, _outputs(served, asked, [output.name for output in wanted]))
    record, images = request.scope[RECORD], len(asked.tensor)
    record.images = images
    _state(request).metrics.images.labels(served.name).inc(images)
    return await asyncio.to_thread(_response, served, asked, wanted, outputs)


async def _outputs(served: ServedModel, asked: InferRequest, names: list[str]) -> dict[str, NDArray[np.float32]]:
    """Return each output that was asked for: float32 (N, classes) or (N, features)."""
    found = {}
    if "logits" in names or "probabilities" in names:
        found["logits"] = await _run(served, asked, "logits")
        independent = served.classifier.multi_label or served.classifier.num_classes == 1
        found["probabilities"] = sigmoid(found["logits"]) if independent else softmax(found["logits"])
    if "features" in names:
        found["features"] = await _run(served, asked, "features")
    return {name: found[name] for name in names}


async def _run(served: ServedModel, asked: InferRequest, output: str) -> NDArray[np.float32]:
    rows = await served.tensors(asked.tensor, output)
    values = np.stack([row.values for row in rows])
    if not np.isfinite(values).all():
        raise Problem(500, NOT_FINITE)
    return values


def _response(
    served: ServedModel, asked: InferRequest, wanted: list[WantedOutput], outputs: dict[str, NDArray[np.float32]]
) -> Response:
    head = {"model_name": served.name, "model_version": VERSION, **({"id": asked.id} if asked.id else {})}
    body, length = write_response(head, outputs, {output.name: output.binary for output in wanted})
    if length is None:
        return Response(body, media_type=JSONResponse.media_type)
    return Response(body, headers={JSON_LENGTH: str(length)}, media_type="application/octet-stream")


def _widths(served: ServedModel) -> list[tuple[str, int]]:
    """Return the outputs of a model, each with its width."""
    classes = served.classifier.num_classes
    found = [("logits", classes), ("probabilities", classes)] if classes else []
    return [*found, ("features", served.num_features)]


def _check_names(served: ServedModel, wanted: list[WantedOutput]) -> None:
    names = [name for name, _ in _widths(served)]
    if not {output.name for output in wanted} <= set(names):
        raise Problem(400, f"there is no such output: the outputs are {', '.join(names)}")


def _model(request: Request, name: str, version: str) -> ServedModel:
    if version != VERSION:
        raise Problem(404, f"there is no such version: every model has version {VERSION}")
    return _state(request).model(name)


def _state(request: Request) -> ServerState:
    return request.app.state.server
