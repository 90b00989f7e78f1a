"""What operators ask of the cluster by Patroni's endpoints: another primary, a reload."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from pgregent.api.body import read_object
from pgregent.core.errors import Refused, Unavailable
from pgregent.core.events import Event, Switchover
from pgregent.core.publish import serving
from pgregent.core.switchover import switchover_refusal
from pgregent.core.types import Register
from pgregent.core.view import State

SWITCHOVER = "/switchover"
FAILOVER = "/failover"
RELOAD = "/reload"
WAIT_S = 20.0
"""How long a request waits for the new primary, as in Patroni."""
_POLL_S = 0.05
_BEGIN_S = 2.0
"""Seconds after which the core has surely handled what it was told."""

AskPrimary = Callable[[str, Switchover], Awaitable[None]]
"""Has the agent at an API URL begin it. Raises Refused with its reason, Unavailable."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request. `action` is "switchover" or "failover", `leader` and `candidate` empty where they
    were not given."""

    action: str
    leader: str
    candidate: str

    @property
    def done(self) -> str:
        """As in "failed over"."""
        return f"{self.action.removesuffix('over')}ed over"


@dataclass(frozen=True, slots=True)
class Actions:
    """The endpoints. `post` tells this member's core, `reload` has the configuration read again."""

    state: State
    post: Callable[[Event], None]
    ask_primary: AskPrimary
    reload: Callable[[], None]

    def routes(self) -> list[web.RouteDef]:
        """What the agent's web application mounts."""
        handlers = {
            SWITCHOVER: self._switchover,
            FAILOVER: self._failover,
            RELOAD: self._reload,
        }
        return [
            web.post(spelt, handler)
            for path, handler in handlers.items()
            for spelt in (path, f"{path}/")
        ]

    async def _reload(self, request: web.Request) -> web.Response:
        await read_object(request, optional=True)
        self.reload()
        return web.Response(status=202, text="reload scheduled")

    async def _switchover(self, request: web.Request) -> web.Response:
        return await self._change_primary(request, "switchover")

    async def _failover(self, request: web.Request) -> web.Response:
        return await self._change_primary(request, "failover")

    async def _change_primary(self, request: web.Request, action: str) -> web.Response:
        body = await read_object(request)
        scheduled = body.get("scheduled_at")
        asked = Asked(
            # Patroni takes a failover with a leader for a switchover.
            "switchover" if body.get("leader") else action,
            _name(body, "leader"),
            _name(body, "candidate") or _name(body, "member"),
        )
        if action == "failover" and not asked.candidate:
            return _answer(400, "Failover could be performed only to a specific candidate")
        if action == "switchover" and not asked.leader:
            return _answer(400, "Switchover could be performed only from a specific leader")
        if scheduled and action == "failover":
            return _answer(400, "Failover can't be scheduled")
        if scheduled:
            return _answer(
                422, "scheduling is not supported yet: ask without scheduled_at when it is due"
            )
        if asked.leader == asked.candidate:
            return _answer(400, "Switchover target and source are the same")
        if impossible := self._impossible(asked):
            return _answer(412, impossible)
        return await self._carry_out(asked)

    def _impossible(self, asked: Asked) -> str:
        """Why nobody need be asked; empty if the primary is to say."""
        state, register = self.state, self.state.register
        if register is None or register.term == 0 or register.electing:
            return f"{asked.action} is not possible: there is no primary now: {state.why}"
        if asked.leader and asked.leader != register.primary.name:
            return f"leader name does not match: {register.primary.name} is the leader"
        known = {state.me.name, *(n for n, p in state.peers.items() if p.record is not None)}
        if asked.candidate and asked.candidate not in known:
            return f"candidate does not exists: {', '.join(sorted(known))} do"
        if asked.candidate == register.primary.name:
            return f"{asked.action} is not possible: {asked.candidate} is the leader already"
        return ""

    async def _carry_out(self, asked: Asked) -> web.Response:
        register = self.state.register
        assert register is not None
        event = Switchover(register.term, asked.candidate)
        try:
            await self._begin(register, event)
        except Refused as refused:
            return _answer(412, f"{asked.action} is not possible: {refused}")
        except Unavailable as unavailable:
            return _answer(503, f"{asked.action} is not possible: {unavailable}")
        return await self._outcome(register, asked, event)

    async def _begin(self, register: Register, event: Switchover) -> None:
        if self.state.is_primary:
            if refusal := switchover_refusal(self.state, event):
                raise Refused(refusal)
            self.post(event)
            return
        name = register.primary.name
        peer = self.state.peers.get(name)
        if peer is None or peer.record is None:
            raise Unavailable("peer", f"the address of {name} is not known yet")
        await self.ask_primary(peer.record.api_url, event)

    async def _outcome(self, before: Register, asked: Asked, event: Switchover) -> web.Response:
        loop = asyncio.get_running_loop()
        began = loop.time()
        begun = stopped = False
        while loop.time() - began < WAIT_S:
            await asyncio.sleep(_POLL_S)
            begun = begun or self.state.switchover == event
            serves = self._serving()
            if serves is None:
                stopped = True
                continue
            if serves.term > before.term:
                return _changed(asked, serves.primary.name)
            # Only the primary itself knows whether it is still about it.
            over = self.state.is_primary and self.state.switchover is None
            if stopped or (over and (begun or loop.time() - began > _BEGIN_S)):
                return _answer(503, f"{asked.action.title()} failed: {self.state.why}")
        why = f"{asked.action.title()} status unknown after {WAIT_S:g} seconds"
        return _answer(503, f"{why}: {self.state.why}")

    def _serving(self) -> Register | None:
        """The register, if its primary serves."""
        state, register = self.state, self.state.register
        if register is None or register.electing:
            return None
        if state.is_primary:
            return register if serving(state) else None
        peer = state.peers.get(register.primary.name)
        record = peer.record if peer is not None else None
        known = record is not None and record.incarnation == register.primary
        return register if known and record is not None and record.serving else None


def _changed(asked: Asked, name: str) -> web.Response:
    if asked.candidate in ("", name):
        return _answer(200, f'Successfully {asked.done} to "{name}"')
    return _answer(200, f'{asked.done.capitalize()} to "{name}" instead of "{asked.candidate}"')


def _name(body: dict[str, Any], key: str) -> str:
    value = body.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise web.HTTPBadRequest(reason=f"{key}: expected a member's name")
    return value


def _answer(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=text)
