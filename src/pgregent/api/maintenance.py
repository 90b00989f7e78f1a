"""POST /restart and /reinitialize, with Patroni's codes and texts."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from pgregent.api.body import read_object
from pgregent.api.node import Node
from pgregent.config.types import duration, version_number
from pgregent.core.effects import Clone
from pgregent.core.events import Event, Reinitialize, Restart
from pgregent.core.reinitialize import reinitialize_refusal
from pgregent.core.restart import restart_refusal
from pgregent.core.view import Restarting

RESTART = "/restart"
REINITIALIZE = "/reinitialize"
_POLL_S = 0.05
_BEGIN_S = 10.0
"""Seconds in which a member that is to be made anew has stopped being counted on, and stopped."""
_ROLES = ("primary", "standby_leader", "replica")
_FILTERS = ("schedule", "role", "postgres_version", "timeout", "restart_pending")


@dataclass(frozen=True, slots=True)
class _Conditions:
    """What has to be so for a restart; None, False: it does not matter. `below` is a server's
    version as a number (150004), `timeout` how many seconds the answer may take."""

    role: str | None
    below: int | None
    pending: bool
    timeout: float | None


@dataclass(frozen=True, slots=True)
class Maintenance:
    """The endpoints. `post` tells this member's core."""

    node: Node
    post: Callable[[Event], None]

    def routes(self) -> list[web.RouteDef]:
        """What the agent's web application mounts."""
        return [
            route
            for path, handler in ((RESTART, self._restart), (REINITIALIZE, self._reinitialize))
            for route in (web.post(path, handler), web.post(f"{path}/", handler))
        ] + [web.delete(spelt, _nothing_scheduled) for spelt in (RESTART, f"{RESTART}/")]

    async def _restart(self, request: web.Request) -> web.Response:
        asked = await read_object(request, optional=True)
        conditions = _conditions(asked)
        if not self._holds(conditions):
            return _answer(503, "restart conditions are not satisfied")
        if refusal := restart_refusal(self.node.state):
            return _answer(503, f"restart failed: {refusal}")
        return await self._restarted(conditions.timeout)

    def _holds(self, conditions: _Conditions) -> bool:
        node, version = self.node, self.node.server_version()
        return (
            conditions.role in (None, node.role)
            and (conditions.below is None or (version is not None and version < conditions.below))
            and (bool(node.waits_for_restart) or not conditions.pending)
        )

    async def _restarted(self, timeout: float | None) -> web.Response:
        state = self.node.state
        began, limit = state.server_started_at, timeout or state.settings.primary_start_timeout
        self.post(Restart())
        if not await _until(lambda: state.restarting is Restarting.NO, limit):
            return _answer(503, f"postgres is still starting: {state.why}")
        if state.server_started_at == began:
            return _answer(503, f"restart failed: {state.why}")
        if not await _until(lambda: state.opened or not state.is_primary, limit):
            return _answer(503, f"postgres is still starting: {state.why}")
        return _answer(200, "restarted successfully")

    async def _reinitialize(self, request: web.Request) -> web.Response:
        await read_object(request, optional=True)
        state = self.node.state
        if refusal := reinitialize_refusal(state):
            return _answer(503, refusal)
        self.post(Reinitialize())
        await _until(lambda: not state.reinitializing, _BEGIN_S)
        if state.reinitializing or isinstance(state.pg, Clone):
            return _answer(200, "reinitialize started")
        return _answer(503, f"reinitialize failed: {state.why}")


async def _until(done: Callable[[], bool], seconds: float) -> bool:
    """Whether it was so in time; the core has handled what it was told before the first look."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while loop.time() < until:
        await asyncio.sleep(_POLL_S)
        if done():
            return True
    return False


def _conditions(asked: dict[str, Any]) -> _Conditions:
    """Raises HTTPException for what makes no sense."""
    unknown = [key for key in asked if key not in _FILTERS]
    if unknown:
        raise web.HTTPBadRequest(
            reason=f"unknown filter for the restart: {unknown[0]!r}, expected {', '.join(_FILTERS)}"
        )
    if "schedule" in asked:
        raise web.HTTPUnprocessableEntity(
            reason="scheduling is not supported yet: ask without schedule when it is due"
        )
    role, version, timeout = (asked.get(key) for key in ("role", "postgres_version", "timeout"))
    if role is not None and role not in _ROLES:
        raise web.HTTPBadRequest(reason=f"role: found {role!r}, expected {', '.join(_ROLES)}")
    return _Conditions(
        role,
        None if version is None else _version(version),
        bool(asked.get("restart_pending")),
        None if timeout is None else _seconds(timeout),
    )


def _version(value: object) -> int:
    try:
        return version_number(value)
    except ValueError as error:
        reason = f"postgres_version: found {value!r}, expected {error}"
        raise web.HTTPBadRequest(reason=reason) from None


def _seconds(value: object) -> float:
    try:
        seconds = duration(value)
    except ValueError:
        seconds = 0.0
    if seconds <= 0:
        reason = f"timeout: found {value!r}, expected a number of seconds above 0, as in 30 or 1min"
        raise web.HTTPBadRequest(reason=reason)
    return seconds


async def _nothing_scheduled(request: web.Request) -> web.Response:
    return _answer(404, "no restarts are scheduled")


def _answer(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=text)
