"""The web application: its routes, and what its errors look like."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from seresnet.errors import SeresnetError
from seresnet.serving import explain_api, open_inference, pages, predict_api, status_api
from seresnet.serving.edge import RECORD, problem_response
from seresnet.serving.problems import Problem
from seresnet.serving.short_path import CANNOT_RUN, FAULT
from seresnet.serving.state import ServerState
from seresnet.version import __version__


def routed_app(state: ServerState) -> FastAPI:
    """Return the application with all routes."""
    app = FastAPI(
        title="seresnet",
        version=__version__,
        description="Classify images with SE-ResNets.",
        docs_url=None,
        redoc_url=None,
    )
    app.state.server = state
    for router in (pages.router, predict_api.router, explain_api.router, status_api.router, open_inference.router):
        app.include_router(router)
    handlers: dict[Any, Any] = {
        Problem: lambda error: error,
        HTTPException: _of_http,
        RequestValidationError: _of_validation,
        SeresnetError: lambda error: Problem(500, CANNOT_RUN),
        Exception: lambda error: Problem(500, FAULT),
    }
    for kind, explained in handlers.items():
        app.add_exception_handler(kind, partial(_respond, state, explained))
    return app


async def _respond(state: ServerState, explained: Any, request: Request, error: Exception) -> Response:
    return problem_response(state, request.scope[RECORD], explained(error))


def _of_http(error: HTTPException) -> Problem:
    """Return the problem for an address or a method that does not exist."""
    details = {404: "there is nothing at this address: see /docs", 405: "this address has other methods: see /docs"}
    return Problem(error.status_code, details.get(error.status_code, str(error.detail)), error.headers)


def _of_validation(error: RequestValidationError) -> Problem:
    """Return the problem for parameters out of range: each with its reason, without the values."""
    reasons = [f"{item['loc'][-1]}: {item['msg'].lower()}" for item in error.errors()]
    return Problem(422, "; ".join(reasons))
