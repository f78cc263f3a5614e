"""The body of a request: bounded in size and time while it is received, and the image files in it."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import AsyncGenerator, Awaitable
from dataclasses import dataclass
from typing import Any, TypeVar

from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from seresnet.serving.problems import ClientGone, Problem
from seresnet.serving.state import ServerState

T = TypeVar("T")

MAX_FIELDS = 16  # of a form, besides its files
MAX_VALUES = 10_000  # of JSON with an image: more are memory for nothing
MAX_NAME = 200  # characters of a file name that are sent back
JSON_SHAPE = 'send {"image": "<base64 of an image file>"}'


@dataclass(frozen=True)
class ImageFile:
    """An image file of a request, with its name where it has one."""

    data: bytes
    name: str | None = None


class Body:
    """The body of a request, whose bytes count as held until the block ends."""

    def __init__(self, request: Request, state: ServerState) -> None:
        self.request, self.state = request, state
        self._size = 0

    def __enter__(self) -> Body:
        return self

    def __exit__(self, *error: object) -> None:
        self.state.held_bytes -= self._size

    async def read(self) -> bytes:
        """Return the whole body. Raises `Problem`: 408, 413, or 503."""
        return b"".join([chunk async for chunk in self._chunks()])

    async def image_files(self) -> tuple[list[ImageFile], bool]:
        """Return the image files, and whether they are a list: the files of a form, if there are several.

        A body is one image file, unless its type is ``multipart/form-data`` or JSON.
        """
        kind, _ = parse_options_header(self.request.headers.get("content-type"))
        if kind == b"multipart/form-data":
            files = await self._form()
            return files, len(files) > 1
        data = await self.read()
        if kind == b"application/json" or kind.endswith(b"+json"):
            return [ImageFile(await asyncio.to_thread(image_of_json, data))], False
        if not data:
            raise Problem(400, "the body is empty: send an image file, a form with files, or JSON")
        return [ImageFile(data)], False

    async def _form(self) -> list[ImageFile]:
        """Return the files of a form; its other fields are ignored."""
        most = self.state.settings.max_queue
        parser = _InMemoryParser(self.request.headers, self._chunks(), max_files=most, max_fields=MAX_FIELDS)
        try:
            form = await parser.parse()
        except MultiPartException as error:
            raise Problem(400, f"the form cannot be read: {error.message}") from None
        uploads = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        if not uploads:
            raise Problem(400, "the form has no file: send one or more fields called file, each with a file name")
        return [ImageFile(await upload.read(), (upload.filename or "")[:MAX_NAME] or None) for upload in uploads]

    async def _chunks(self) -> AsyncGenerator[bytes, None]:
        async with self.state.reading_body():
            try:
                async for chunk in self.request.stream():
                    self.state.hold(len(chunk))
                    self._size += len(chunk)
                    if self._size > self.state.settings.max_body:
                        raise too_large(self.state)
                    yield chunk
            except ClientDisconnect:
                raise ClientGone from None


class _InMemoryParser(MultiPartParser):
    spool_max_size = 2**40  # the body is bounded: nothing is written to the disk


def too_large(state: ServerState) -> Problem:
    """Return the answer to a body over the limit."""
    return Problem(413, f"the body is larger than {state.settings.max_body_mb:g} MB: send a smaller image")


def image_of_json(data: bytes) -> bytes:
    """Return the image file in ``{"image": base64}``. Raises `Problem` 400."""
    if sum(map(data.count, (b"[", b"{", b","))) > MAX_VALUES:
        raise Problem(400, f"the JSON has too many values: {JSON_SHAPE}")
    given = parsed_json(data)
    text = given.get("image") if isinstance(given, dict) else None
    if not isinstance(text, str):
        raise Problem(400, f"the JSON has no image: {JSON_SHAPE}")
    if text.startswith("data:"):  # as browsers write files
        text = text.partition(",")[2]
    try:
        image = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise Problem(400, f"image is not base64: {JSON_SHAPE}; a URL is not fetched") from None
    if not image:
        raise Problem(400, f"image is empty: {JSON_SHAPE}")
    return image


def parsed_json(data: bytes) -> Any:
    """Return parsed JSON. Raises `Problem` 400, with the place of the error and nothing of the text."""
    try:
        return json.loads(data)
    except json.JSONDecodeError as error:
        raise Problem(400, f"not JSON: {error.msg.lower()} at character {error.pos}") from None
    except (ValueError, RecursionError, MemoryError):
        raise Problem(400, "not JSON that can be read: send UTF-8, and no deeply nested values") from None


async def answered(request: Request, work: Awaitable[T]) -> T:
    """Wait for an answer while the client is there; when it leaves, the work is cancelled. Raises ClientGone."""
    task, left = asyncio.ensure_future(work), asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone
    finally:
        task.cancel()
        left.cancel()
