"""A Hub of this machine with an empty cache."""

from __future__ import annotations

import pytest
from huggingface_hub import close_session, constants

from tests.weights.hub_server import Hub, serve


def point_to(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    close_session()
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty Hub, for which the environment of huggingface_hub stands as a fresh user's."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with serve(Hub()) as running:
        point_to(monkeypatch, running.url)
        yield running
    close_session()
