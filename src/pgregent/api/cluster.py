"""GET /cluster: every member. What its record does not tell, a member's own agent is asked for."""

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import aiohttp
from aiohttp import web

from pgregent.api import patroni
from pgregent.api.node import Node, is_silent
from pgregent.api.server import reads
from pgregent.core.types import Record

TIMEOUT_S = 1.0
_KEYS = ("pending_restart", "pending_restart_reason")


@dataclass(frozen=True, slots=True)
class Cluster:
    """Agents whose port uses TLS are asked with `tls`."""

    node: Node
    tls: ssl.SSLContext | None

    def routes(self) -> list[web.RouteDef]:
        """The endpoint."""
        return reads("/cluster", self._answer)

    async def _answer(self, request: web.Request) -> web.Response:
        return web.json_response(patroni.cluster(self.node, await self._pending_restart()))

    async def _pending_restart(self) -> dict[str, Mapping[str, Any]]:
        """What the other members' agents say of it, by name; takes at most a second."""
        state = self.node.state
        peers = (peer.record for peer in state.peers.values())
        heard = [r for r in peers if r is not None and r.api_url and not is_silent(state, r)]
        limit = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=limit) as session:
            answers = await asyncio.gather(*(self._ask(session, record) for record in heard))
        return {r.incarnation.name: a for r, a in zip(heard, answers, strict=True)}

    async def _ask(self, session: aiohttp.ClientSession, record: Record) -> Mapping[str, Any]:
        tls = True if self.tls is None else self.tls
        try:
            async with session.get(record.api_url, ssl=tls, allow_redirects=False) as answer:
                found = cast(object, await answer.json())
        except (aiohttp.ClientError, OSError, ValueError):
            return {}  # it is not known
        if not isinstance(found, dict):
            return {}
        document = cast(dict[str, Any], found)
        return {key: document[key] for key in _KEYS if key in document}
