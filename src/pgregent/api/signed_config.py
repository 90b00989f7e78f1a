"""The configuration, as the commands change it: with the version that a change is about."""

from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web

from pgregent.api.body import read_signed
from pgregent.api.configuration import Stored, error, failure
from pgregent.api.signed import EDIT_CONFIG, RELOAD, SHOW_CONFIG
from pgregent.core.errors import Refused, Unavailable


class SignedConfig:
    """Requests are signed with `key`; `reload` reads this member's own file again and returns what
    there is to know of it. Answers 401 and 400 as `read_signed` says, 422 with the reason to what
    no agent would run with, 409 when somebody else was faster, 503 when the DCS, or for a reload
    PostgreSQL, does not answer."""

    def __init__(
        self, key: bytes, stored: Stored, reload: Callable[[], Awaitable[Sequence[str]]]
    ) -> None:
        self._key, self._stored, self._reload_file = key, stored, reload

    def routes(self) -> list[web.RouteDef]:
        """What the agent's web application mounts."""
        return [
            web.post(SHOW_CONFIG, self._show),
            web.post(EDIT_CONFIG, self._edit),
            web.post(RELOAD, self._reload),
        ]

    async def _show(self, request: web.Request) -> web.Response:
        await read_signed(request, self._key)
        try:
            document, version = await self._stored.read()
        except Unavailable as unavailable:
            return error(503, str(unavailable))
        return web.json_response({"config": document, "version": version})

    async def _edit(self, request: web.Request) -> web.Response:
        asked = await read_signed(request, self._key, config=dict, version=int)
        failed = await failure(self._stored.exchange(asked["version"], asked["config"]))
        return web.json_response({"stored": True}) if failed is None else failed

    async def _reload(self, request: web.Request) -> web.Response:
        await read_signed(request, self._key)
        try:
            remarks = await self._reload_file()
        except Refused as refused:
            return error(422, str(refused))
        except Unavailable as unavailable:
            return error(503, str(unavailable))
        return web.json_response({"remarks": list(remarks)})
