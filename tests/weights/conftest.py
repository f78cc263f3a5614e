"""Servers on this machine, with empty caches."""

from __future__ import annotations

import socket

import pytest
from huggingface_hub import close_session, constants

from tests.weights.file_server import FileServer, serve_files
from tests.weights.hub_server import Hub, serve, timm_repositories


def point_to(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    close_session()
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")


def closed_port() -> int:
    """Return a port of this machine that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def empty_caches(tmp_path, monkeypatch):
    """The environment of a fresh user."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("SERESNET_CACHE", str(tmp_path / "seresnet"))
    for variable in ("SERESNET_WEIGHTS_MIRROR", "SERESNET_CONNECT_TIMEOUT"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def hub(empty_caches, monkeypatch):
    """An empty Hub; the release files' hosts cannot be reached."""
    timm_repositories()  # imported before the first request, which has a time limit
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{closed_port()}")
    with serve(Hub()) as running:
        point_to(monkeypatch, running.url)
        yield running
    close_session()


@pytest.fixture
def server(empty_caches, monkeypatch):
    """An HTTP server without files; the Hub cannot be reached."""
    point_to(monkeypatch, f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setattr("seresnet.weights.download.RETRY_SECONDS", (0.01, 0.01, 0.01, 0.01))
    with serve_files(FileServer()) as running:
        yield running
    close_session()
