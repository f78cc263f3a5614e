"""``POST /predict`` and ``POST /embed`` as FastAPI describes and routes them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from seresnet.serving import predictions
from seresnet.serving.schemas import IMAGE_BODY, PROBLEMS, Embedding, Prediction

router = APIRouter()

ModelName = Annotated[str | None, Query(description="Name of the model (default: the first one).", max_length=64)]
TopK = Annotated[int, Query(description="Number of classes per image, 1 or more.", ge=1, le=1_000_000)]


@router.post("/predict", response_model=Prediction, responses=PROBLEMS, openapi_extra=IMAGE_BODY)
async def predict(request: Request, model: ModelName = None, topk: TopK = 5) -> JSONResponse:
    """Classify one image, or each of several files of a form."""
    return await predictions.predict(request, request.app.state.server, model, topk)


@router.post("/embed", response_model=Embedding, responses=PROBLEMS, openapi_extra=IMAGE_BODY)
async def embed(request: Request, model: ModelName = None) -> JSONResponse:
    """Return the pooled features of one image, or of each of several files of a form."""
    return await predictions.embed(request, request.app.state.server, model)
