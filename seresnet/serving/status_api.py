"""What a server says of itself: its health, its models, its metrics."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse

from seresnet.serving.model import ServedModel
from seresnet.serving.problems import ending
from seresnet.serving.schemas import PROBLEMS, ModelCard
from seresnet.serving.state import ServerState
from seresnet.weights.index import default_entry, find_entry

router = APIRouter()


@router.head("/health/live", include_in_schema=False)
@router.get("/health/live")
async def live() -> dict[str, str]:
    """Return 200 while the server runs."""
    return {"status": "live"}


@router.head("/health/ready", include_in_schema=False)
@router.get("/health/ready", responses=PROBLEMS)
async def ready(request: Request) -> dict[str, str]:
    """Return 200 while the server takes requests, and 503 when it is about to end."""
    if _state(request).draining:
        raise ending()
    return {"status": "ready"}


@router.get("/model", response_model=ModelCard, responses=PROBLEMS)
async def model(
    request: Request,
    model: Annotated[str | None, Query(description="Name of the model (default: the first one).")] = None,
) -> JSONResponse:
    """Return a model's classes, preprocessing, engine, and what is known of its accuracy and license."""
    state = _state(request)
    return JSONResponse(described(state.model(model), list(state.models)))


@router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Return the metrics for Prometheus."""
    found = _state(request).metrics
    return Response(found.text(), headers={"Content-Type": found.content_type})


def described(served: ServedModel, names: list[str]) -> dict[str, Any]:
    """Return what is known of a model as plain values."""
    clf = served.classifier
    return {
        "name": served.name,
        "models": names,
        "num_classes": clf.num_classes,
        "labels": clf.labels,
        "label_ids": clf.label_ids,
        "multi_label": clf.multi_label,
        "preprocess": clf.preprocess.to_timm(),
        "engine": clf.engine.describe(),
        "card": card_of(clf.model_name),
    }


def card_of(model: str) -> dict[str, Any]:
    """Return what the index knows of a model by its name, or nothing; accuracy is marked as measured or published."""
    entry = find_entry(model) or default_entry(model)
    if entry is None:
        return {}
    return {
        "weights": entry.name,
        "accuracy": [asdict(result) for result in entry.results],
        "accuracy_is": "measured" if entry.bundled else "published",
        "license": entry.license,
        "released_by": entry.origin,
        "papers": list(entry.papers),
        "source": f"https://huggingface.co/{entry.hub}" if entry.hub else entry.url,
        "training": [dict(settings) for settings in entry.training],
    }


def _state(request: Request) -> ServerState:
    return request.app.state.server
