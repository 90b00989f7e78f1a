"""The dynamic configuration: GET, PATCH and PUT /config, as Patroni has them."""

from collections.abc import Awaitable, Mapping
from typing import Any, Protocol

from aiohttp import web

from pgregent.api.body import read_object
from pgregent.api.server import reads
from pgregent.core.errors import Refused, Unavailable
from pgregent.ports.dcs import CasConflict, CasDone, CasResult, CasUnknown

PATH = "/config"


class Stored(Protocol):
    """Where it is kept. See agent.dynamic.DynamicConfig."""

    @property
    def document(self) -> dict[str, Any]:
        """What counts now."""
        ...

    async def read(self) -> tuple[dict[str, Any], int]:
        """What is stored, and its version. Raises Unavailable."""
        ...

    async def patch(self, changes: Mapping[str, Any]) -> CasResult:
        """Lay `changes` over it. Raises Refused, Unavailable."""
        ...

    async def exchange(self, version: int, document: Mapping[str, Any]) -> CasResult:
        """Put `document` in the place of that version. Raises Refused, Unavailable."""
        ...

    async def replace(self, document: Mapping[str, Any]) -> None:
        """Put `document` in its place. Raises Refused, Unavailable."""
        ...


def routes(stored: Stored) -> list[web.RouteDef]:
    """What is stored has passed the schema. The agents learn of it by their watch of the DCS."""

    def show(request: web.Request) -> web.Response:
        return web.json_response(stored.document)

    async def patch(request: web.Request) -> web.Response:
        changes = await read_object(request)
        failed = await failure(stored.patch(changes))
        return web.json_response(stored.document) if failed is None else failed

    async def put(request: web.Request) -> web.Response:
        document = await read_object(request)
        try:
            await stored.replace(document)
        except Refused as refused:
            return error(422, str(refused))
        except Unavailable as unavailable:
            return error(502, f"it may have been stored or not ({unavailable}): look again")
        return web.json_response(document)

    return [
        *reads(PATH, show),
        *(web.patch(path, patch) for path in (PATH, f"{PATH}/")),
        *(web.put(path, put) for path in (PATH, f"{PATH}/")),
    ]


async def failure(storing: Awaitable[CasResult]) -> web.Response | None:
    """The answer where it was not stored, or may not have been; None if it was."""
    try:
        result = await storing
    except Refused as refused:
        return error(422, str(refused))
    except Unavailable as unavailable:
        return error(503, str(unavailable))
    match result:
        case CasDone():
            return None
        case CasConflict():
            return error(409, "somebody else has changed it meanwhile: look, and try again")
        case CasUnknown(reason):
            return error(503, f"it may have been stored or not ({reason}): look again")


def error(status: int, text: str) -> web.Response:
    """One sentence, or one for each mistake."""
    return web.json_response({"error": "; ".join(text.splitlines())}, status=status)
