"""``seresnet serve``: models over HTTP, with a page for people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter


def serve(
    *,
    model: Annotated[
        tuple[str, ...],
        Parameter(
            help="A name (see seresnet models), a directory, a file, or hf-hub:user/repo; NAME=MODEL gives it a name. "
            "Repeat it to serve several; the first is the default."
        ),
    ] = (),
    host: Annotated[str, Parameter(help="Address to listen on; 0.0.0.0 for all of this machine.")] = "127.0.0.1",
    port: Annotated[int, Parameter(help="Port to listen on; 0 for a free one.")] = 8000,
    max_batch: Annotated[int, Parameter(help="Images that run together.")] = 32,
    max_wait_ms: Annotated[float, Parameter(help="Milliseconds that an image waits for others to join it.")] = 5.0,
    max_queue: Annotated[int, Parameter(help="Images admitted and not yet answered; more get status 503.")] = 128,
    timeout_s: Annotated[float, Parameter(help="Seconds until an admitted request gets status 504.")] = 10.0,
    max_body_mb: Annotated[float, Parameter(help="Largest body of a request, in megabytes.")] = 20.0,
    max_megapixels: Annotated[float, Parameter(help="Refuse larger images.")] = 50.0,
    max_connections: Annotated[int, Parameter(help="Open connections; more get status 503.")] = 1000,
    read_timeout_s: Annotated[float, Parameter(help="Seconds within which a body has to arrive.")] = 30.0,
    drain_s: Annotated[float, Parameter(help="Seconds that SIGTERM waits for admitted requests.")] = 30.0,
    api_key_file: Annotated[
        Path | None, Parameter(help="Require one of these bearer tokens, one a line; SIGHUP reads them again.")
    ] = None,
    cors: Annotated[
        tuple[str, ...], Parameter(help="Let pages of this origin call the API, such as https://example.org.")
    ] = (),
    log_format: Annotated[Literal["text", "json"], Parameter(help="Format of the log on stderr.")] = "text",
    device: Annotated[str | None, Parameter(help="cpu, cuda, cuda:1 (default: a GPU if there is one).")] = None,
    engine: Annotated[
        Literal["auto", "openvino", "onnxruntime", "torch", "torch-compile"],
        Parameter(help="Inference engine (auto: openvino on CPUs, torch on GPUs)."),
    ] = "auto",
    precision: Annotated[
        Literal["auto", "float32", "bfloat16", "float16", "int8"],
        Parameter(help="Numeric precision (auto: the fastest that needs no calibration)."),
    ] = "auto",
    workers: Annotated[int | None, Parameter(help="Threads that decode images (default: one per core).")] = None,
    offline: Annotated[bool, Parameter(help="Do not access the network.")] = False,
) -> int:
    """Serve models over HTTP: an API, a page for people at /, metrics for Prometheus.

    SIGTERM and Ctrl-C answer what was admitted, then exit with 0; the exit code is 1 if a request was cut off.
    """
    from seresnet.serving.models import EngineSettings, named_models
    from seresnet.serving.serve import serve as serve_models
    from seresnet.serving.settings import ServeSettings

    settings = ServeSettings(
        *(host, port, max_batch, max_wait_ms, max_queue, timeout_s, max_body_mb, max_megapixels, max_connections),
        *(read_timeout_s, drain_s, api_key_file, cors, log_format),
    )
    return serve_models(
        named_models(model), settings, EngineSettings(engine, precision, device, offline or None), workers
    )
