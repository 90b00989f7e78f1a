"""What operators ask for: who may, what is refused, and bodies that are not what they should be."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

import aiohttp
import pytest

from pgregent.api import body
from pgregent.api.operate import Operate
from pgregent.api.signed import (
    HEADER,
    REINITIALIZE,
    RESTART,
    RESTORE_DCS,
    SWITCHOVER,
    sign,
)
from pgregent.api.status import started_at
from pgregent.core.events import Event, Reinitialize, Restart, RestoreDcs, Switchover
from pgregent.core.view import State
from tests.api.members import LOOPBACK, node, primary, served, standby

KEY = b"the cluster's key"
ANOTHER = b"another one's key"


@dataclass
class Agent:
    """The real server, and what became of the requests."""

    port: int = 0
    events: list[Event] = field(default_factory=list[Event])

    async def post(self, path: str, body: bytes, mac: str | None) -> tuple[int, str]:
        """The status and the error's sentence."""
        headers = {} if mac is None else {HEADER: mac}
        url = f"http://{LOOPBACK}:{self.port}{path}"
        limit = aiohttp.ClientTimeout(total=5)
        async with (
            aiohttp.ClientSession(timeout=limit) as session,
            session.post(url, data=body, headers=headers) as answer,
        ):
            return answer.status, (await answer.json()).get("error", "")

    async def ask(self, path: str, asked: object) -> tuple[int, str]:
        """A request of somebody who holds the key."""
        body = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
        return await self.post(path, body, sign(KEY, path, body))


@contextlib.asynccontextmanager
async def agent(state: State) -> AsyncIterator[Agent]:
    made = Agent()
    async with served(node(state), Operate(state, KEY, made.events.append).routes()) as port:
        made.port = port
        yield made


def lost(state: State) -> State:
    """Its DCS shows less than it has seen."""
    state.register_lost = True
    return state


async def test_what_is_begun_is_told_to_the_core() -> None:
    async with agent(primary()) as asked:
        assert await asked.ask(SWITCHOVER, {"term": 3, "candidate": "n2"}) == (202, "")
        assert await asked.ask(SWITCHOVER, {"term": 3, "candidate": ""}) == (202, "")
        begun = asked.events
    async with agent(lost(primary())) as asked:
        assert await asked.ask(RESTORE_DCS, {"seq": 7}) == (202, "")
        begun += asked.events
        assert begun == [Switchover(3, "n2"), Switchover(3, ""), RestoreDcs(7)]


async def test_a_restart_is_of_one_start_of_the_server() -> None:
    state = primary()
    state.opened, state.dcs_ok, state.read_at, state.server_started_at = True, True, state.now, 5.0
    async with agent(state) as asked:
        code, error = await asked.ask(RESTART, {"started_at": ""})
        assert (code, error) == (409, "its PostgreSQL was started again meanwhile")
        assert asked.events == []
        assert await asked.ask(RESTART, {"started_at": started_at(state)}) == (202, "")
        state.dcs_ok = False
        code, error = await asked.ask(RESTART, {"started_at": started_at(state)})
        assert code == 409
        assert "the DCS does not answer" in error
        assert asked.events == [Restart()]


async def test_a_new_copy_is_of_one_incarnation() -> None:
    state = standby()
    state.peer("n1").heard_at, state.dcs_ok = state.now, True
    async with agent(state) as asked:
        code, error = await asked.ask(REINITIALIZE, {"incarnation": "an older one"})
        assert (code, error) == (409, "it was made anew meanwhile")
        assert asked.events == []
        assert await asked.ask(REINITIALIZE, {"incarnation": state.me.id}) == (202, "")
        assert asked.events == [Reinitialize()]


GOOD = json.dumps({"term": 3, "candidate": "n2"}).encode()
OTHER_BODY = json.dumps({"term": 3, "candidate": "n3"}).encode()


@pytest.mark.parametrize(
    "mac",
    [
        pytest.param(None, id="unsigned"),
        pytest.param("", id="empty"),
        pytest.param(sign(ANOTHER, SWITCHOVER, GOOD), id="another key"),
        pytest.param(sign(KEY, RESTORE_DCS, GOOD), id="another path"),
        pytest.param(sign(KEY, SWITCHOVER, OTHER_BODY), id="another body"),
        pytest.param(sign(KEY, SWITCHOVER, GOOD)[:-1], id="cut"),
        pytest.param("é" * 64, id="not ASCII"),
    ],
)
async def test_nobody_without_the_key_gets_anything_done(mac: str | None) -> None:
    async with agent(primary()) as asked:
        code, error = await asked.post(SWITCHOVER, GOOD, mac)
        assert (code, asked.events) == (401, [])
        assert "not signed with the cluster's key" in error


async def test_a_mac_that_is_not_even_text() -> None:
    async with agent(primary()) as asked:
        mac = b"Pgregent-MAC: \xff\xfe\r\n"
        answer = await raw(asked.port, mac + b"Content-Length: %d\r\n" % len(GOOD), GOOD)
        assert answer.startswith(b"HTTP/1.1 401 ")


async def raw(port: int, headers: bytes, body: bytes) -> bytes:
    """All that is answered to a request whose body is this and then nothing more."""
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    try:
        head = f"POST {SWITCHOVER} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        writer.write(head.encode() + headers + b"\r\n" + body)
        async with asyncio.timeout(8):
            return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        (SWITCHOVER, b""),
        (SWITCHOVER, b"{"),
        (SWITCHOVER, b"\xff"),
        (SWITCHOVER, b"[" * 100_000),
        (SWITCHOVER, [3, "n2"]),
        (SWITCHOVER, {"term": 3}),
        (SWITCHOVER, {"term": "third", "candidate": "n2"}),
        (SWITCHOVER, {"term": None, "candidate": "n2"}),
        (SWITCHOVER, {"term": True, "candidate": "n2"}),
        (SWITCHOVER, {"term": 3, "candidate": None}),
        (RESTORE_DCS, {}),
        (RESTORE_DCS, b'{"seq": Infinity}'),
        (RESTORE_DCS, {"seq": 7.5}),
    ],
)
async def test_a_body_that_is_not_understood(path: str, asked: object) -> None:
    async with agent(lost(primary())) as there:
        code, error = await there.ask(path, asked)
        assert (code, there.events) == (400, [])
        assert "expected JSON with" in error


@pytest.mark.parametrize(
    ("state", "path", "asked", "sentence"),
    [
        (standby(), SWITCHOVER, {"term": 3, "candidate": ""}, "n2 is not the primary"),
        (primary(), SWITCHOVER, {"term": 2, "candidate": ""}, "term"),
        (primary(), SWITCHOVER, {"term": 3, "candidate": "n3"}, "n3"),
        (primary(), RESTORE_DCS, {"seq": 7}, "there is nothing to restore"),
        (lost(primary()), RESTORE_DCS, {"seq": 6}, "look again"),
    ],
)
async def test_a_refusal_says_why(
    state: State, path: str, asked: Mapping[str, object], sentence: str
) -> None:
    async with agent(state) as there:
        code, error = await there.ask(path, asked)
        assert (code, there.events) == (409, [])
        assert sentence in error


async def test_a_body_that_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "BODY_S", 0.2)
    async with agent(primary()) as asked:
        began = time.monotonic()
        answer = await raw(asked.port, b"Content-Length: 1000\r\n", GOOD)
        assert time.monotonic() - began < 4
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"0.2 s" in answer
        assert asked.events == []


async def test_a_body_that_is_too_long() -> None:
    async with agent(primary()) as asked:
        code, _ = await asked.ask(SWITCHOVER, b" " * (2 << 20))
        assert (code, asked.events) == (413, [])


@pytest.mark.parametrize("path", [SWITCHOVER, RESTORE_DCS])
async def test_reading_begins_nothing(path: str) -> None:
    async with agent(lost(primary())) as asked, aiohttp.ClientSession() as session:
        async with session.get(f"http://{LOOPBACK}:{asked.port}{path}") as answer:
            assert answer.status == 405
        assert asked.events == []
