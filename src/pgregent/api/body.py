"""A request's body, for which nobody waits long."""

import asyncio
import json
from typing import Any, cast

from aiohttp import web

from pgregent.api.signed import HEADER, is_signed

BODY_S = 2.0
_KINDS = {int: "a whole number", str: "a text", dict: "an object"}


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


async def read_signed(request: web.Request, key: bytes, **expected: type) -> dict[str, Any]:
    """These keys of the JSON object in a request that is signed with `key`. Raises HTTPUnauthorized
    (401) where it is not, HTTPBadRequest (400) for another body, and as `read`."""
    body = await read(request)
    if not is_signed(key, request.path, body, request.headers.get(HEADER, "")):
        raise web.HTTPUnauthorized(reason="the request is not signed with the cluster's key")
    try:
        asked = cast(dict[str, Any], json.loads(body))
        found = {key: asked[key] for key in expected}
    except (ValueError, KeyError, TypeError, RecursionError):
        found = dict[str, Any]()
    # Not isinstance: true and false would be whole numbers.
    if {key: type(value) for key, value in found.items()} != expected:
        words = (f"{key} ({_KINDS[kind]})" for key, kind in expected.items())
        raise web.HTTPBadRequest(reason=f"expected JSON with {', '.join(words)}")
    return found
