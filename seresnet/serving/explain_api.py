"""``POST /explain``: the heat map over an image, or what it and the gates are as numbers."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from seresnet.serving.body import Body, answered
from seresnet.serving.edge import RECORD
from seresnet.serving.explanations import JSON, PNG
from seresnet.serving.problems import Problem
from seresnet.serving.schemas import EXPLAINED, IMAGE_BODY, PROBLEMS
from seresnet.serving.state import ServerState

router = APIRouter()

ModelName = Annotated[str | None, Query(description="Name of the model (default: the first one).", max_length=64)]
Label = Annotated[
    str | None, Query(description="The class to explain, by its name (default: the most probable one).", max_length=500)
]


@router.post("/explain", response_class=Response, responses={**EXPLAINED, **PROBLEMS}, openapi_extra=IMAGE_BODY)
async def explain(request: Request, model: ModelName = None, label: Label = None) -> Response:
    """Explain the prediction of one image by Grad-CAM: as a PNG, or as JSON where ``Accept`` asks for it."""
    state: ServerState = request.app.state.server
    served = state.model(model)
    explanations = state.explanations[served.name]
    explanations.check_room()  # before anything is read
    began = time.perf_counter()
    with Body(request, state) as body:
        files, many = await body.image_files()
        if many:
            raise Problem(400, "explain takes one image at a time: send one file")
        read_ms = 1000 * (time.perf_counter() - began)
        kind = JSON if _asks_for_json(request.headers.get("accept", "")) else PNG
        found = await answered(request, explanations.explain(files[0].data, label, kind))
    record = request.scope[RECORD]
    record.images, record.queue_ms = 1, found.queue_ms
    state.metrics.images.labels(served.name).inc()
    total_ms = 1000 * (time.perf_counter() - began)
    times = {"read": read_ms, "queue": found.queue_ms, "compute": found.compute_ms, "total": total_ms}
    timing: dict[str, Any] = {"Server-Timing": ", ".join(f"{name};dur={ms:.1f}" for name, ms in times.items())}
    return Response(found.body, headers={**timing, "Vary": "Accept"}, media_type=kind)


def _asks_for_json(accept: str) -> bool:
    """Return whether an ``Accept`` header names JSON, and not PNG before it."""
    kinds = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    return JSON in kinds and PNG not in kinds[: kinds.index(JSON)]
