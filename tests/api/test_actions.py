"""POST /switchover and /failover: Patroni's codes and texts."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from pgregent.api import actions
from pgregent.api.actions import Actions
from pgregent.api.forward import Forward
from pgregent.api.operate import Operate
from pgregent.core.errors import Refused, Unavailable
from pgregent.core.events import Event, Switchover
from pgregent.core.types import PgState, Rule
from pgregent.core.view import State
from tests.api.members import (
    LOOPBACK,
    N1,
    N2,
    N3,
    REGISTER,
    STANDBY,
    node,
    primary,
    record,
    served,
    standby,
    with_register,
)

KEY = b"the cluster's key"
Told = Callable[[State, Event], None]


async def nobody(api_url: str, asked: Switchover) -> None:
    raise AssertionError(f"{api_url} was asked for {asked}")


class Agent:
    """The real server of a member whose core does `react` when it is told something."""

    def __init__(self, state: State, react: Told) -> None:
        self.state, self.react = state, react
        self.events: list[Event] = []
        self.reloads = 0
        self.port = 0

    def reload(self) -> None:
        self.reloads += 1

    def post(self, event: Event) -> None:
        self.events.append(event)
        asyncio.get_running_loop().call_soon(self.react, self.state, event)

    async def ask(self, path: str, body: Any) -> tuple[int, str]:
        limit = aiohttp.ClientTimeout(total=10)
        async with (
            aiohttp.ClientSession(timeout=limit) as session,
            session.post(f"http://{LOOPBACK}:{self.port}{path}", data=json.dumps(body)) as answer,
        ):
            return answer.status, await answer.text()


def takes_over(state: State, event: Event) -> None:
    """n2 is appointed and serves."""
    register = replace(REGISTER, term=4, primary=N2, rules=(Rule(N2, 1, (N1,)),))
    with_register(state, **{f: getattr(register, f) for f in ("term", "primary", "rules")})
    state.peers["n2"].record = record(N2, STANDBY, serving=True)
    state.switchover = None


def nothing(state: State, event: Event) -> None:
    """The core has begun it, and no more."""
    assert isinstance(event, Switchover)
    state.switchover = event


def gives_up(state: State, event: Event) -> None:
    nothing(state, event)

    def ends() -> None:
        state.switchover, state.why = None, "its candidate cannot take over any more"

    asyncio.get_running_loop().call_later(0.2, ends)


@contextlib.asynccontextmanager
async def agent(
    state: State, react: Told = nothing, ask: actions.AskPrimary = nobody
) -> AsyncIterator[Agent]:
    made = Agent(state, react)
    async with served(
        node(state), Actions(state, made.post, ask, made.reload).routes()
    ) as made.port:
        yield made


def able() -> State:
    """n1 serves, and n2 could take over."""
    state = primary()
    state.read_at = state.now
    return state


@pytest.mark.parametrize(
    ("path", "body", "event", "text"),
    [
        ("/switchover", {"leader": "n1"}, Switchover(3, ""), "Successfully switched over"),
        ("/switchover", {"leader": "n1", "candidate": "n2"}, Switchover(3, "n2"), "Successfully"),
        ("/switchover/", {"leader": "n1", "member": "n2"}, Switchover(3, "n2"), "Successfully"),
        ("/failover", {"candidate": "n2"}, Switchover(3, "n2"), "Successfully failed over"),
        (
            "/failover",
            {"leader": "n1", "candidate": "n2"},
            Switchover(3, "n2"),
            "Successfully switched over",
        ),
    ],
)
async def test_another_primary(path: str, body: Any, event: Event, text: str) -> None:
    async with agent(able(), takes_over) as asked:
        code, said = await asked.ask(path, body)
        assert code == 200
        assert said.startswith(text)
        assert said.endswith(' over to "n2"')
        assert asked.events == [event]


async def test_another_one_than_was_asked_for() -> None:
    state = with_register(able(), rules=(Rule(N1, 1, (N2, N3)),))
    async with agent(state, takes_over) as asked:
        answer = await asked.ask("/switchover", {"leader": "n1", "candidate": "n3"})
        assert answer == (200, 'Switched over to "n2" instead of "n3"')


@pytest.mark.parametrize(
    ("path", "body", "expected", "words"),
    [
        ("/failover", {"leader": "n1"}, 400, "Failover could be performed only to a specific cand"),
        ("/switchover", {"candidate": "n2"}, 400, "Switchover could be performed only from a spec"),
        ("/switchover", {"leader": "n1", "candidate": "n1"}, 400, "target and source are the same"),
        ("/switchover", {"leader": "n2"}, 412, "leader name does not match"),
        ("/switchover", {"leader": "n1", "candidate": "n9"}, 412, "candidate does not exists"),
        ("/failover", {"candidate": "n1"}, 412, "n1 is the leader already"),
        ("/switchover", {"leader": "n1", "candidate": "n3"}, 412, "n3 does not have all commits"),
        (
            "/switchover",
            {"leader": "n1", "scheduled_at": "2030-01-01T00:00:00+00:00"},
            422,
            "scheduling is not supported yet",
        ),
        (
            "/failover",
            {"candidate": "n2", "scheduled_at": "2030-01-01T00:00:00+00:00"},
            400,
            "Failover can't be scheduled",
        ),
        ("/switchover", {"leader": 5}, 400, "leader: expected a member's name"),
        ("/switchover", {}, 400, "expected a JSON object that is not empty"),
        ("/failover", [], 400, "expected a JSON object that is not empty"),
    ],
)
async def test_what_is_not_begun(path: str, body: Any, expected: int, words: str) -> None:
    async with agent(able()) as asked:
        code, text = await asked.ask(path, body)
        assert (code, asked.events) == (expected, [])
        assert words in text


async def test_without_a_primary() -> None:
    state = with_register(able(), electing=True)
    async with agent(state) as asked:
        code, text = await asked.ask("/failover", {"candidate": "n2"})
        assert (code, asked.events) == (412, [])
        assert "there is no primary now" in text


async def test_one_that_is_given_up() -> None:
    async with agent(able(), gives_up) as asked:
        began = time.monotonic()
        code, text = await asked.ask("/switchover", {"leader": "n1"})
        assert code == 503
        assert text == "Switchover failed: its candidate cannot take over any more"
        assert time.monotonic() - began < 1.5


async def test_one_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actions, "WAIT_S", 0.5)
    async with agent(able()) as asked:
        code, text = await asked.ask("/failover", {"candidate": "n2"})
        assert code == 503
        assert text.startswith("Failover status unknown after 0.5 seconds")


async def test_one_after_which_the_old_primary_serves_again() -> None:
    """Seen by a standby, which only hears of it."""
    state = standby()

    async def begin(api_url: str, asked: Switchover) -> None:
        said = state.peers["n1"]
        served_before, said.record = said.record, record(N1, STANDBY)

        def again() -> None:
            said.record = served_before

        asyncio.get_running_loop().call_later(0.3, again)

    async with agent(state, ask=begin) as asked:
        code, text = await asked.ask("/switchover", {"leader": "n1"})
        assert (code, text.split(":")[0]) == (503, "Switchover failed")


# --- at a standby --------------------------------------------------------------------------------


async def test_a_standby_has_the_primary_begin_it() -> None:
    leader = able()
    told: list[Event] = []
    async with served(node(leader), Operate(leader, KEY, told.append).routes()) as port:
        state = standby()
        peer = state.peers["n1"]
        assert peer.record
        peer.record = replace(peer.record, api_url=f"http://{LOOPBACK}:{port}/patroni")
        forward = Forward(KEY, None)

        async def begin(api_url: str, asked: Switchover) -> None:
            await forward.switchover(api_url, asked)
            with_register(state, term=4, primary=N2, rules=(Rule(N2, 1, (N1,)),))
            state.postgres = replace(state.postgres, state=PgState.PRIMARY)
            state.opened = True

        async with agent(state, ask=begin) as asked:
            code, text = await asked.ask("/switchover", {"leader": "n1", "candidate": "n3"})
            assert (code, told) == (412, [])
            assert "n3 does not have all commits" in text
            answer = await asked.ask("/switchover", {"leader": "n1"})
            assert told == [Switchover(3, "")]
            assert answer == (200, 'Successfully switched over to "n2"')


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (Refused("not now"), 412, "switchover is not possible: not now"),
        (Unavailable("peer", "silent"), 503, "switchover is not possible: peer: silent"),
    ],
)
async def test_a_primary_that_does_not(error: Exception, code: int, words: str) -> None:
    async def refuse(api_url: str, asked: Switchover) -> None:
        raise error

    async with agent(standby(), ask=refuse) as asked:
        assert await asked.ask("/switchover", {"leader": "n1"}) == (code, words)


async def test_an_agent_that_is_not_there_and_one_with_another_key() -> None:
    with pytest.raises(Unavailable, match="no answer"):
        await Forward(KEY, None).switchover("http://127.0.0.1:1/patroni", Switchover(3))
    leader = able()
    async with served(node(leader), Operate(leader, KEY, lambda _: None).routes()) as port:
        url = f"http://{LOOPBACK}:{port}/patroni"
        with pytest.raises(Unavailable, match="401"):
            await Forward(b"another", None).switchover(url, Switchover(3))


async def test_a_reload() -> None:
    async with agent(able()) as asked:
        assert await asked.ask("/reload", {}) == (202, "reload scheduled")
        assert asked.reloads == 1
