"""`serve`: from settings to a server that runs until a signal ends it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec

from seresnet.common.extras import missing_extra
from seresnet.common.text import printable
from seresnet.data.parallel import default_workers
from seresnet.errors import ConfigError
from seresnet.serving.keys import ApiKeys
from seresnet.serving.listening import allow_connections, bind, is_local, listen
from seresnet.serving.logs import announce, logging_to_stderr
from seresnet.serving.model import give_way
from seresnet.serving.models import EngineSettings, open_models
from seresnet.serving.settings import ServeSettings

PACKAGES = ("fastapi", "starlette", "uvicorn", "h11", "python_multipart", "prometheus_client")


def serve(models: Mapping[str, str], settings: ServeSettings, engine: EngineSettings, workers: int | None) -> int:
    """Serve models over HTTP until SIGTERM or SIGINT.

    - `models`: each model, as `seresnet.load` takes it, by the name that clients know it by; the first is the default.
    - `engine`: what the models are loaded with.
    - `workers`: threads that decode images, 1 or more (None: one per core).

    Return 0, or 1 where requests were cut off at the end. Raises ConfigError for an address that cannot be had, and
    SeresnetError for a model that cannot be loaded.
    """
    for package in PACKAGES:
        if find_spec(package) is None:
            raise ConfigError(missing_extra(package, "serve"))
    if workers is not None and not 1 <= workers <= 1024:
        raise ConfigError(f"--workers must lie between 1 and 1024, not {workers}")
    keys = ApiKeys(settings.api_key_file) if settings.api_key_file else None
    allow_connections(settings)
    with logging_to_stderr(settings.log_format), bind(settings) as sock, ThreadPoolExecutor(1) as importer:
        server = importer.submit(import_module, "seresnet.serving.server")  # while the models are loaded
        decoders = ThreadPoolExecutor(workers or default_workers(), "seresnet-decode", give_way)
        served = open_models(models, settings, engine, decoders)
        run = server.result().run
        url = listen(sock, settings)
        for name, model in served.items():
            announce(f"{printable(name)}: {model.classifier.engine.describe()}")
        if keys is None and not is_local(settings.host):
            announce(
                f"warning: {settings.host} is reachable from other machines, and no key is needed: give "
                "--api-key-file, or put a proxy in front",
                logging.WARNING,
            )
        announce(f"serving at {url} (Ctrl-C ends it)")
        code: int = run(served, settings, keys, sock)
        decoders.shutdown(wait=False, cancel_futures=True)
    return code
