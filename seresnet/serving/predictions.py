"""The answers of ``POST /predict`` and ``POST /embed``: images in, classes or pooled features out. No FastAPI."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse

from seresnet.inference.prediction import NOT_FINITE, Scored, predict_row
from seresnet.serving.batcher import Row
from seresnet.serving.body import Body, ImageFile, answered
from seresnet.serving.edge import RECORD
from seresnet.serving.model import Output, ServedModel
from seresnet.serving.problems import Problem
from seresnet.serving.state import ServerState


async def predict(request: Request, state: ServerState, model: str | None = None, topk: int = 5) -> JSONResponse:
    """Classify one image, or each of several files of a form. Raises `Problem`."""
    served = state.model(model)
    classifier = served.classifier
    if not classifier.num_classes:
        raise Problem(404, "this model has no classifier: use /embed")
    count = min(topk, classifier.num_classes)
    independent = classifier.multi_label or classifier.num_classes == 1

    def classes(row: Row) -> list[dict[str, Any]]:
        scored = Scored(None, row.values)
        return predict_row(scored, classifier.labels, count, independent).to_dict()["predictions"]

    return await _answer(request, state, served, "logits", "predictions", classes)


async def embed(request: Request, state: ServerState, model: str | None = None) -> JSONResponse:
    """Return the pooled features of one image, or of each of several files of a form. Raises `Problem`."""
    return await _answer(request, state, state.model(model), "features", "embedding", lambda row: row.values.tolist())


async def _answer(
    request: Request, state: ServerState, served: ServedModel, output: str, key: str, shown: Callable[[Row], Any]
) -> JSONResponse:
    """Read the images of a request, run them, and return what is shown of each under ``key``."""
    began = time.perf_counter()
    served.check_room()  # before anything is read
    with Body(request, state) as body:
        files, many = await body.image_files()
        read_ms = 1000 * (time.perf_counter() - began)
        outputs = await answered(request, served.images([file.data for file in files], output))
    _note(request, served, outputs, state)
    timing = {"read": read_ms, **_times(outputs), "total": 1000 * (time.perf_counter() - began)}
    answer: dict[str, Any] = {"model": served.name}
    if many:
        answer["results"] = [_result(*pair, key, shown) for pair in zip(files, outputs, strict=True)]
    else:
        if outputs[0].row is None:
            raise Problem(422, f"the image cannot be read: {outputs[0].error}")
        _check_finite(outputs[0].row)
        answer[key] = shown(outputs[0].row)
    answer["timing_ms"] = {name: round(value, 3) for name, value in timing.items()}
    return JSONResponse(answer)


def _result(file: ImageFile, output: Output, key: str, shown: Callable[[Row], Any]) -> dict[str, Any]:
    nothing: Any = [] if key == "predictions" else None
    if output.row is None:
        return {"name": file.name, key: nothing, "error": output.error}
    if not np.isfinite(output.row.values).all():
        return {"name": file.name, key: nothing, "error": NOT_FINITE}
    return {"name": file.name, key: shown(output.row), "error": None}


def _check_finite(row: Row) -> None:
    if not np.isfinite(row.values).all():
        raise Problem(500, NOT_FINITE)


def _times(outputs: Sequence[Output]) -> dict[str, float]:
    """Return the longest times of a request's images in milliseconds."""
    rows = [output.row for output in outputs if output.row is not None]
    return {
        "decode": max((output.decode_ms for output in outputs), default=0.0),
        "queue": max((row.queue_ms for row in rows), default=0.0),
        "compute": max((row.compute_ms for row in rows), default=0.0),
    }


def _note(request: Request, served: ServedModel, outputs: Sequence[Output], state: ServerState) -> None:
    """Note a request's images for the log and the metrics."""
    rows = [output.row for output in outputs if output.row is not None]
    record = request.scope[RECORD]
    record.images, record.queue_ms = len(outputs), max((row.queue_ms for row in rows), default=None)
    state.metrics.images.labels(served.name).inc(len(outputs))
    wait = state.metrics.queue_wait.labels(served.name)
    for row in rows:
        wait.observe(row.queue_ms / 1000)
