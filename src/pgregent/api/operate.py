"""What operators ask of an agent: a switchover, a restart, a new copy, the register once more."""

from collections.abc import Callable

from aiohttp import web

from pgregent.api.body import read_signed
from pgregent.api.signed import REINITIALIZE, RESTART, RESTORE_DCS, SWITCHOVER
from pgregent.api.status import started_at
from pgregent.core.events import Event, Reinitialize, Restart, RestoreDcs, Switchover
from pgregent.core.reinitialize import reinitialize_refusal
from pgregent.core.restart import restart_refusal
from pgregent.core.switchover import switchover_refusal
from pgregent.core.view import State


class Operate:
    """Requests are signed with `key`; what is done is told to the core by `post`. Answers 202 when
    it was begun, 401 to whoever does not hold the key, 400 to a body that is not understood, 408
    to one that does not come, and 409 with the reason when it is refused."""

    def __init__(self, state: State, key: bytes, post: Callable[[Event], None]) -> None:
        self._state, self._key, self._post = state, key, post

    def routes(self) -> list[web.RouteDef]:
        """What the agent's web application mounts."""
        return [
            web.post(SWITCHOVER, self._switchover),
            web.post(RESTORE_DCS, self._restore),
            web.post(RESTART, self._restart),
            web.post(REINITIALIZE, self._reinitialize),
        ]

    async def _switchover(self, request: web.Request) -> web.Response:
        asked = await read_signed(request, self._key, term=int, candidate=str)
        switchover = Switchover(asked["term"], asked["candidate"])
        refusal = switchover_refusal(self._state, switchover)
        return self._begin(switchover, refusal)

    async def _restart(self, request: web.Request) -> web.Response:
        asked = await read_signed(request, self._key, started_at=str)
        if asked["started_at"] != started_at(self._state):
            return self._begin(Restart(), "its PostgreSQL was started again meanwhile")
        return self._begin(Restart(), restart_refusal(self._state))

    async def _reinitialize(self, request: web.Request) -> web.Response:
        asked = await read_signed(request, self._key, incarnation=str)
        if asked["incarnation"] != self._state.me.id:
            return self._begin(Reinitialize(), "it was made anew meanwhile")
        return self._begin(Reinitialize(), reinitialize_refusal(self._state))

    async def _restore(self, request: web.Request) -> web.Response:
        asked = await read_signed(request, self._key, seq=int)
        seq, register = asked["seq"], self._state.register
        refusal = ""
        if not self._state.register_lost:
            refusal = "its DCS does not show less than it has seen: there is nothing to restore"
        elif register is None or register.seq != seq:
            refusal = "its copy of the register is another one by now: look again"
        return self._begin(RestoreDcs(seq), refusal)

    def _begin(self, event: Event, refusal: str) -> web.Response:
        if refusal:
            return web.json_response({"error": refusal}, status=409)
        self._post(event)
        return web.json_response({"begun": True}, status=202)
