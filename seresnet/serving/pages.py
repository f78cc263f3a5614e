"""The page for people at ``/``, and the description of the API at ``/docs``: files of this package, no outside host."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

from fastapi import APIRouter, Response

router = APIRouter(include_in_schema=False)


@router.head("/")
@router.get("/")
async def index() -> Response:
    """Return the page that classifies pictures."""
    return page("index.html")


@router.head("/docs")
@router.get("/docs")
async def docs() -> Response:
    """Return the description of the API, with examples that can be sent."""
    return page("docs.html")


@cache
def page(name: str) -> Response:
    """Return a page, which may run its own script and style and no others."""
    text = files("seresnet.serving").joinpath("page", name).read_text(encoding="utf-8")
    rules = (
        "default-src 'none'",
        f"script-src {_hashes(text, 'script')}",
        f"style-src {_hashes(text, 'style')}",
        "connect-src 'self'",
        "img-src 'self' blob: data:",
        "media-src 'self' blob:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
    headers = {"Content-Security-Policy": "; ".join(rules), "Permissions-Policy": "camera=(self), microphone=()"}
    return Response(text, headers=headers, media_type="text/html")


def _hashes(text: str, tag: str) -> str:
    """Return the hashes of the page's own scripts or styles, as Content-Security-Policy has them."""
    parts = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in parts]
    return " ".join(f"'sha256-{digest}'" for digest in digests)
