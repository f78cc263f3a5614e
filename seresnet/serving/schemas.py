"""The shapes of the API's answers, for its description; the answers themselves are plain JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class PredictedClass:
    """A class with its probability."""

    label: str
    index: int
    probability: float


@dataclass
class Timing:
    """Milliseconds."""

    read: float
    decode: float
    queue: float
    compute: float
    total: float


@dataclass
class ImageResult:
    """One file of several."""

    name: str | None
    predictions: list[PredictedClass]
    error: str | None


@dataclass
class Prediction:
    """The answer of /predict: ``predictions`` for one image, ``results`` for a form with several files."""

    model: str
    timing_ms: Timing
    predictions: list[PredictedClass] | None = None
    results: list[ImageResult] | None = None


@dataclass
class EmbeddingResult:
    """One file of several."""

    name: str | None
    embedding: list[float] | None
    error: str | None


@dataclass
class Embedding:
    """The answer of /embed: ``embedding`` for one image, ``results`` for a form with several files."""

    model: str
    timing_ms: Timing
    embedding: list[float] | None = None
    results: list[EmbeddingResult] | None = None


@dataclass
class ModelCard:
    """What is known of a model."""

    name: str
    models: list[str]
    num_classes: int
    labels: list[str]
    label_ids: list[str]
    multi_label: bool
    preprocess: dict[str, Any]
    engine: str
    card: dict[str, Any]


@dataclass
class ProblemDetails:
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str


# A PNG of 2 x 2 pixels, so that the examples of the API's description can be sent as they are.
EXAMPLE_IMAGE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAFklEQVR4nGP8z8DAwMDAxMDAwMDAAAANHQEDasKb6QAAAABJRU5ErkJggg=="
)
IMAGE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "An image file as it is, a form with one or several files, or JSON with base64.",
        "content": {
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"file": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                }
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {"image": {"type": "string", "format": "byte"}},
                },
                "example": {"image": EXAMPLE_IMAGE},
            },
        },
    }
}
EXPLAINED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The image with the heat map over it, or its numbers: the keys of ``seresnet explain``'s JSON.",
        "content": {
            "image/png": {"schema": {"type": "string", "format": "binary"}},
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "explained": {"type": "object", "description": "The class that is explained."},
                        "predictions": {"type": "array", "items": {"type": "object"}},
                        "size": {"type": "array", "items": {"type": "integer"}},
                        "seen": {"type": "array", "items": {"type": "number"}},
                        "hottest_box": {"type": ["array", "null"], "items": {"type": "integer"}},
                        "cam": {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
                        "channels": {"type": "array", "items": {"type": "object"}},
                        "gates": {
                            "type": "object",
                            "additionalProperties": {"type": "array", "items": {"type": "number"}},
                        },
                    },
                }
            },
        },
    }
}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ProblemDetails, "description": "The request cannot be answered as it is"},
    "503": {"model": ProblemDetails, "description": "Overloaded: try again after Retry-After seconds"},
    "504": {"model": ProblemDetails, "description": "Not answered in time"},
}
