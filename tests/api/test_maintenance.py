"""POST /restart and /reinitialize: Patroni's codes and texts."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest

from pgregent.api import maintenance
from pgregent.api.maintenance import Maintenance
from pgregent.core.effects import Clone
from pgregent.core.events import Event, Reinitialize, Restart
from pgregent.core.types import Postgres
from pgregent.core.view import Restarting, State
from tests.api.members import LOOPBACK, N1, node, primary, served, standby

Reaction = Callable[[State], None]


class Agent:
    """The real server of a member whose core does `react` when it is told something."""

    def __init__(self, state: State, react: Reaction) -> None:
        self.state, self.react = state, react
        self.events: list[Event] = []
        self.port = 0

    def post(self, event: Event) -> None:
        self.events.append(event)
        asyncio.get_running_loop().call_soon(self.react, self.state)

    async def ask(self, path: str, body: Any = None, verb: str = "POST") -> tuple[int, str]:
        limit = aiohttp.ClientTimeout(total=10)
        data = None if body is None else json.dumps(body)
        async with (
            aiohttp.ClientSession(timeout=limit) as session,
            session.request(verb, f"http://{LOOPBACK}:{self.port}{path}", data=data) as answer,
        ):
            return answer.status, await answer.text()


@contextlib.asynccontextmanager
async def agent(
    state: State, react: Reaction = lambda _: None, **of_node: Any
) -> AsyncIterator[Agent]:
    made = Agent(state, react)
    ours = node(state)
    for key, value in of_node.items():
        setattr(ours, key, value)
    async with served(ours, Maintenance(ours, made.post).routes()) as port:
        made.port = port
        yield made


def serving() -> State:
    state = primary()
    state.opened, state.dcs_ok, state.read_at = True, True, state.now
    return state


def later(*steps: Reaction, every: float = 0.1) -> Reaction:
    """A core that does these one after another."""

    def react(state: State) -> None:
        for number, step in enumerate(steps):
            asyncio.get_running_loop().call_later(number * every, step, state)

    return react


def begins(state: State) -> None:
    state.restarting = Restarting.STOPPING


def starts(state: State) -> None:
    state.restarting, state.server_started_at, state.opened = Restarting.NO, 7.0, False


def opens(state: State) -> None:
    state.opened = True


def gives_up(state: State) -> None:
    state.restarting, state.why = Restarting.NO, "an election has begun"


# --- a restart -----------------------------------------------------------------------------------


async def test_a_restart_is_over_when_a_primary_serves_again() -> None:
    opened: list[bool] = []

    def open_late(state: State) -> None:
        opened.append(True)
        opens(state)

    async with agent(serving(), later(begins, starts, open_late)) as asked:
        assert await asked.ask("/restart") == (200, "restarted successfully")
        assert asked.events == [Restart()]
        assert opened


async def test_a_restart_that_is_given_up_says_why() -> None:
    async with agent(serving(), later(begins, gives_up)) as asked:
        assert await asked.ask("/restart", {}) == (503, "restart failed: an election has begun")


async def test_a_restart_that_takes_long() -> None:
    async with agent(serving(), begins) as asked:
        code, text = await asked.ask("/restart", {"timeout": 1})
        assert code == 503
        assert text.startswith("postgres is still starting: ")


async def test_a_refusal_says_why() -> None:
    async with agent(serving()) as asked:
        asked.state.dcs_ok, asked.state.dcs_why = False, "no answer"
        code, text = await asked.ask("/restart/", {})
        assert code == 503
        assert text.startswith("restart failed: the DCS does not answer (no answer)")
        assert asked.events == []


@pytest.mark.parametrize(
    ("conditions", "holds"),
    [
        ({"role": "primary"}, True),
        ({"role": "replica"}, False),
        ({"role": "standby_leader"}, False),
        ({"postgres_version": "15.4"}, False),
        ({"postgres_version": "15.5"}, True),
        ({"restart_pending": True}, True),
        ({"role": "primary", "restart_pending": True, "postgres_version": "15.4"}, False),
    ],
)
async def test_conditions(conditions: dict[str, Any], holds: bool) -> None:
    known = {
        "server_version": lambda: 150004,
        "pending_restart": {"max_connections": ("100", "200")},
    }
    async with agent(serving(), later(begins, starts, opens), **known) as asked:
        code, text = await asked.ask("/restart", conditions)
        assert (code == 200) == holds
        assert (asked.events == [Restart()]) == holds
        assert holds or text == "restart conditions are not satisfied"


async def test_nothing_waits_for_a_restart() -> None:
    async with agent(serving()) as asked:
        assert (await asked.ask("/restart", {"restart_pending": True}))[0] == 503
        # No server has told its version.
        assert (await asked.ask("/restart", {"postgres_version": "99.0"}))[0] == 503
        assert asked.events == []


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ({"role": "leader"}, 400, "role: found 'leader', expected primary"),
        ({"postgres_version": "15"}, 400, "postgres_version: found '15', expected a version as in"),
        ({"timeout": "soon"}, 400, "timeout: found 'soon', expected a number of seconds above 0"),
        ({"timeout": 0}, 400, "timeout: found 0"),
        ({"member": "n1"}, 400, "unknown filter for the restart: 'member'"),
        ({"schedule": "2030-01-01T00:00+00"}, 422, "scheduling is not supported yet"),
        ([1], 400, "expected a JSON object as the body"),
    ],
)
async def test_what_makes_no_sense(body: Any, code: int, words: str) -> None:
    async with agent(serving()) as asked:
        found, text = await asked.ask("/restart", body)
        assert found == code
        assert words in text
        assert asked.events == []


async def test_no_restart_is_ever_scheduled() -> None:
    async with agent(serving()) as asked:
        answer = await asked.ask("/restart", verb="DELETE")
        assert answer == (404, "no restarts are scheduled")


# --- a new copy ----------------------------------------------------------------------------------


def spared() -> State:
    """A standby whose primary serves."""
    state = standby()
    peer = state.peers["n1"]
    assert peer.record is not None
    peer.heard_at, state.dcs_ok = state.now, True
    return state


def waits(state: State) -> None:
    state.reinitializing = True


def copies(state: State) -> None:
    state.reinitializing, state.pg = False, Clone(N1, 3)
    state.postgres = Postgres()


async def test_a_new_copy_has_begun_when_it_is_said() -> None:
    async with agent(spared(), later(waits, copies)) as asked:
        body = {"force": True, "from_leader": True}
        assert await asked.ask("/reinitialize", body) == (200, "reinitialize started")
        assert asked.events == [Reinitialize()]
        assert asked.state.pg == Clone(N1, 3)


async def test_a_copy_that_is_given_up_says_why() -> None:
    def no_more(state: State) -> None:
        state.reinitializing, state.why = False, "an election has begun"

    async with agent(spared(), later(waits, no_more)) as asked:
        said = "reinitialize failed: an election has begun"
        assert await asked.ask("/reinitialize") == (503, said)


async def test_one_that_waits_long_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "_BEGIN_S", 0.3)
    async with agent(spared(), waits) as asked:
        assert await asked.ask("/reinitialize") == (200, "reinitialize started")


async def test_a_primary_is_not_made_anew() -> None:
    async with agent(serving()) as asked:
        code, text = await asked.ask("/reinitialize", {})
        assert code == 503
        assert "n1 is the primary" in text
        assert asked.events == []
