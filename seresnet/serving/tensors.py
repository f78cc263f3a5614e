"""Tensors in requests and responses of the Open Inference Protocol: as JSON, or as bytes behind the JSON.

Sources: the Open Inference Protocol (github.com/kserve/open-inference-protocol, "Inference Protocol V2 - REST"), and
for bytes the "Binary Tensor Data Extension" of NVIDIA Triton.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seresnet.serving.body import parsed_json
from seresnet.serving.problems import Problem

MAX_JSON = 4_000_000  # bytes: parsing more would hold up all other requests
MAX_LISTS = 50_000  # nested lists in JSON: each is memory
MOST_INPUTS = 16
JSON_LENGTH = "inference-header-content-length"  # header: the bytes of JSON before the binary data
DATATYPE = "FP32"


@dataclass(frozen=True)
class WantedOutput:
    """An output that a request asks for, and whether it is sent as bytes."""

    name: str
    binary: bool = False


@dataclass(frozen=True)
class InferRequest:
    """A request: the tensor of its one input, and what it asks for; no outputs stand for all."""

    id: str | None
    tensor: NDArray[np.float32]
    outputs: list[WantedOutput] = field(default_factory=list)
    binary: bool = False  # outputs that are not named are sent as bytes


def read_request(body: bytes, header: str | None, input_name: str, shape: Sequence[int]) -> InferRequest:
    """Return what a request asks for. Raises `Problem` 400, or 413 for too much JSON.

    - `header`: the value of ``Inference-Header-Content-Length``, where there is one.
    - `input_name`, `shape`: of the model's input, (C, H, W); a batch has one more dimension in front.
    """
    length = _json_length(header, len(body))
    if length > MAX_JSON:
        raise Problem(413, f"more than {MAX_JSON // 10**6} MB of JSON: send the tensor as binary data")
    text, raw = body[:length], body[length:]
    if text.count(b"[") + text.count(b"{") > MAX_LISTS:
        raise Problem(400, "the JSON has too many lists: send flat data, or binary data")
    request = parsed_json(text)
    if not isinstance(request, dict):
        raise Problem(400, "the JSON is not an object: send inputs, as the Open Inference Protocol says")
    inputs = _objects(request, "inputs")
    if len(inputs) != 1 or inputs[0].get("name") != input_name:
        raise Problem(400, f"send one input, {input_name}")
    identity = request.get("id")
    parameters = _parameters(request)
    return InferRequest(
        identity if isinstance(identity, str) and identity else None,
        _tensor(inputs[0], raw, shape),
        [_wanted(output) for output in _objects(request, "outputs", optional=True)],
        parameters.get("binary_data_output") is True,
    )


def write_response(
    head: Mapping[str, Any], outputs: Mapping[str, NDArray[np.float32]], binary: Mapping[str, bool]
) -> tuple[bytes, int | None]:
    """Return the body of a response, and the bytes of its JSON where binary data follows.

    - `head`: the fields besides the outputs.
    - `outputs`: each output's tensor; `binary`: whether it is sent as bytes.
    """
    described, raw = [], b""
    for name, tensor in outputs.items():
        fields: dict[str, Any] = {"name": name, "datatype": DATATYPE, "shape": list(tensor.shape)}
        if binary[name]:
            data = np.ascontiguousarray(tensor, "<f4").tobytes()
            fields["parameters"] = {"binary_data_size": len(data)}
            raw += data
        else:
            fields["data"] = tensor.ravel().tolist()
        described.append(fields)
    text = json.dumps({**head, "outputs": described}).encode()
    return text + raw, len(text) if any(binary.values()) else None


def _json_length(header: str | None, size: int) -> int:
    if header is None:
        return size
    if not (header.isascii() and header.isdigit() and len(header) < 16) or int(header) > size:
        raise Problem(400, f"{JSON_LENGTH} is not the length of the JSON in the body")
    return int(header)


def _objects(request: Mapping[str, Any], key: str, optional: bool = False) -> list[dict[str, Any]]:
    found = request.get(key, [] if optional else None)
    if not isinstance(found, list) or len(found) > MOST_INPUTS or not all(isinstance(item, dict) for item in found):
        raise Problem(400, f"{key} must be a list of objects, as the Open Inference Protocol says")
    return found


def _parameters(item: Mapping[str, Any]) -> dict[str, Any]:
    found = item.get("parameters", {})
    if not isinstance(found, dict):
        raise Problem(400, "parameters must be an object")
    if any(key.startswith("shared_memory") for key in found):
        raise Problem(400, "shared memory is not supported: send the data in the request")
    return found


def _wanted(output: Mapping[str, Any]) -> WantedOutput:
    parameters = _parameters(output)
    if parameters.get("classification"):
        raise Problem(400, "the classification extension is not supported: ask for probabilities")
    return WantedOutput(str(output.get("name")), parameters.get("binary_data") is True)


def _tensor(item: Mapping[str, Any], raw: bytes, expected: Sequence[int]) -> NDArray[np.float32]:
    """Return the data of an input as float32 (N, C, H, W)."""
    if item.get("datatype") != DATATYPE:
        raise Problem(400, f"the datatype must be {DATATYPE}")
    shape = item.get("shape")
    if not isinstance(shape, list) or not all(type(size) is int and 0 < size < 2**31 for size in shape):
        raise Problem(400, "the shape must be a list of positive integers")
    if len(shape) != 4 or shape[1:] != list(expected):
        raise Problem(400, f"the shape must be [N, {', '.join(map(str, expected))}], not {shape}"[:200])
    size = _parameters(item).get("binary_data_size")
    data = _from_json(item.get("data")) if size is None else _from_bytes(raw, size)
    if data.size != math.prod(shape):
        raise Problem(400, f"the data has {data.size:,} values, the shape {shape} needs {math.prod(shape):,}"[:200])
    if not np.isfinite(data).all():
        raise Problem(400, "the data has values that are not finite")
    return data.reshape(shape)


def _from_bytes(raw: bytes, size: Any) -> NDArray[np.float32]:
    if type(size) is not int or size != len(raw) or size % 4:
        raise Problem(400, f"binary_data_size does not agree with the {len(raw):,} bytes behind the JSON")
    return np.frombuffer(raw, "<f4").astype(np.float32, copy=False)


def _from_json(data: Any) -> NDArray[np.float32]:
    try:
        values = np.asarray(data)
    except ValueError:  # lists of unequal length
        values = np.asarray(None)
    if not isinstance(data, list) or values.dtype.kind not in "iuf":
        raise Problem(400, "the data must be a list of numbers")
    with np.errstate(over="ignore"):  # found as not finite
        return values.astype(np.float32).ravel()
