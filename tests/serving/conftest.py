"""One classifier and one server for all tests of a module."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest
import skimage
from PIL import Image

from tests.serving.running import classifier, noise, running

PHOTOGRAPHS = Path(skimage.__file__).parent / "data"


@pytest.fixture(scope="session")
def clf():
    return classifier()


@pytest.fixture(scope="module")
def server(clf):
    with running(clf, max_body_mb=2.0) as found:
        yield found


@pytest.fixture(scope="session")
def photo() -> bytes:
    return (PHOTOGRAPHS / "rocket.jpg").read_bytes()


@pytest.fixture(scope="session")
def pngs() -> list[bytes]:
    """Forty-eight pictures of noise, each with other classes."""
    found = []
    for seed in range(48):
        buffer = BytesIO()
        Image.fromarray(noise(seed)).save(buffer, "PNG")
        found.append(buffer.getvalue())
    return found
