"""A request's body, for which nobody waits long."""

import asyncio
import json
from typing import Any, cast

from aiohttp import web

BODY_S = 2.0


async def read(request: web.Request) -> bytes:
    """All of it. Raises HTTPRequestTimeout (408) when it does not come, 413 when it is too long."""
    try:
        async with asyncio.timeout(BODY_S):
            return await request.read()
    except TimeoutError as error:
        why = f"the body has not come within {BODY_S:g} s"
        raise web.HTTPRequestTimeout(reason=why) from error


async def read_object(request: web.Request, *, optional: bool = False) -> dict[str, Any]:
    """The JSON object in it, not empty unless it is optional. Raises HTTPLengthRequired (411)
    without Content-Length, HTTPBadRequest (400) for what is no such object."""
    if request.content_length is None and not optional:
        raise web.HTTPLengthRequired(reason="expected a JSON object, and its Content-Length")
    data = await read(request)
    if optional and not data:
        return {}
    try:
        found: Any = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not (found or optional):
        what = "a JSON object" if optional else "a JSON object that is not empty"
        raise web.HTTPBadRequest(reason=f"expected {what} as the body")
    return cast(dict[str, Any], found)
