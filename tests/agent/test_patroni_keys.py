"""Patroni's keys as an agent keeps them, on real ZooKeeper and etcd."""

import asyncio
import json
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from pgregent import __version__
from pgregent.adapters.dcs.local import LocalDcs
from pgregent.agent import patroni_documents as documents
from pgregent.agent import patroni_keys
from pgregent.agent.codec import encode
from pgregent.agent.loop import Keys
from pgregent.agent.patroni_keys import PatroniKeeper, patroni_keeper, refuse_beside_patroni
from pgregent.agent.patroni_request import requested
from pgregent.core.effects import Announce
from pgregent.core.errors import Refused
from pgregent.core.events import Event, Switchover
from pgregent.core.types import PgState, Position, Register, Rule
from pgregent.core.view import State
from pgregent.ports.dcs import CasDone
from tests.api.members import (
    END,
    LOOPBACK,
    N1,
    N2,
    N3,
    PRIMARY,
    REGISTER,
    SYSTEM_ID,
    node,
    primary,
    standby,
    with_register,
)
from tests.conformance.test_dcs import STORES
from tests.conformance.test_patroni_keys import Connect, Store

BASE = "/service/demo"
PLACE = Keys(f"{BASE}/pgregent")
HEIRS = replace(REGISTER, seq=8, term=4, primary=N2, rules=(Rule(N2, 1, (N1,)),))
LIMIT_S = 10.0


@dataclass
class World:
    """A DCS, what another client sees of it, and members that keep their keys there."""

    connect: Connect
    dcs: Store
    posted: list[Event] = field(default_factory=list[Event])
    told: list[Announce] = field(default_factory=list[Announce])

    async def seen(self) -> dict[str, str]:
        """Patroni's keys, without their path."""
        found = await self.dcs.read(BASE)
        return {
            key.removeprefix(f"{BASE}/"): entry.value.decode()
            for key, entry in found.items()
            if not key.startswith(PLACE.prefix)
        }

    async def versions(self) -> dict[str, int]:
        return {key: entry.version for key, entry in (await self.dcs.read(BASE)).items()}

    async def until(self, what: str, holds: Callable[[dict[str, str]], bool]) -> dict[str, str]:
        deadline = time.monotonic() + LIMIT_S
        while not holds(seen := await self.seen()):
            assert time.monotonic() < deadline, f"not within {LIMIT_S:g} s: {what}: {seen}"
            await asyncio.sleep(0.02)
        return seen

    async def store(self, register: Register) -> None:
        entry = (await self.dcs.read(PLACE.register)).get(PLACE.register)
        result = await self.dcs.cas(PLACE.register, entry.version if entry else 0, encode(register))
        assert isinstance(result, CasDone)

    async def put(self, name: str, value: str) -> None:
        """As Patroni's tools do it."""
        keys, key = self.dcs.patroni_keys(2), f"{BASE}/{name}"
        found = (await keys.read([key])).get(key)
        assert await keys.put(key, value.encode(), found)

    async def keeper(self, state: State) -> PatroniKeeper:
        subject = node(state, tags={"clonefrom": True})
        made = patroni_keeper(
            await self.connect(), PLACE, subject, post=self.posted.append, announce=self.told.append
        )
        assert made is not None
        return made

    @asynccontextmanager
    async def member(self, state: State) -> AsyncGenerator[PatroniKeeper]:
        keeper = await self.keeper(state)
        running = asyncio.create_task(keeper.run())
        try:
            yield keeper
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running


@pytest.fixture(params=["etcd", "zookeeper"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        connect_one = await stack.enter_async_context(STORES[request.param](tmp_path))

        async def connect() -> Store:
            dcs: Any = await connect_one()
            stack.push_async_callback(dcs.close)
            return dcs

        made = World(connect, await connect())
        await made.store(REGISTER)
        yield made


def leader(name: str) -> Callable[[dict[str, str]], bool]:
    return lambda seen: seen.get("leader") == name


def absent(key: str) -> Callable[[dict[str, str]], bool]:
    return lambda seen: key not in seen


def complete(seen: dict[str, str]) -> bool:
    return len(seen) == 6


async def test_what_the_primary_writes(world: World) -> None:
    async with world.member(primary()):
        seen = await world.until("all keys", complete)
    assert seen.pop("leader") == "n1"
    assert seen.pop("initialize") == SYSTEM_ID
    assert {key: json.loads(value) for key, value in seen.items()} == {
        "sync": {"leader": "n1", "sync_standby": "n2", "quorum": 0},
        "status": {"optime": END},
        "history": [[1, 0x3000060, "n2 was killed", "2023-11-14T21:56:40+00:00", "n1"]],
        "members/n1": {
            "conn_url": f"postgres://{LOOPBACK}:5432/postgres",
            "api_url": "http://x/patroni",
            "version": "4.1.4",
            "state": "running",
            "role": "primary",
            "tags": {"clonefrom": True},
            "timeline": 3,
            "xlog_location": END,
            "pgregent": __version__,
        },
    }


async def test_what_a_standby_writes(world: World) -> None:
    async with world.member(standby()):
        seen = await world.until("its key", lambda seen: "members/n2" in seen)
    assert list(seen) == ["members/n2"]
    assert json.loads(seen["members/n2"]) == {
        "conn_url": f"postgres://{LOOPBACK}:5432/postgres",
        "api_url": "http://x/patroni",
        "version": "4.1.4",
        "state": "running",
        "role": "replica",
        "tags": {"clonefrom": True},
        "timeline": 3,
        "replication_state": "streaming",
        "xlog_location": END - 256,
        "receive_lsn": END - 256,
        "replay_lsn": END - 512,
        "pgregent": __version__,
    }


def test_how_many_a_successor_asks() -> None:
    rule = Rule(N1, 1, (N2, N3))
    document = documents.sync(node(with_register(primary(), rules=(rule,))))
    assert document == {"leader": "n1", "sync_standby": "n2,n3", "quorum": 1}
    alone = documents.sync(node(with_register(primary(), rules=(Rule(N1, 0, ()),))))
    assert alone == {"leader": "n1", "sync_standby": None, "quorum": 0}


def test_an_ipv6_address_is_in_brackets() -> None:
    state = primary()
    state.settings = replace(state.settings, host="fd00::1")
    assert documents.member(node(state))["conn_url"] == "postgres://[fd00::1]:5432/postgres"


async def test_leader_goes_as_soon_as_it_does_not_serve(world: World) -> None:
    state = primary()
    async with world.member(state):
        await world.until("all keys", complete)
        state.holding = True
        stopped = time.monotonic()
        seen = await world.until("it is gone", absent("leader"))
        assert time.monotonic() - stopped < patroni_keys.ROUND_S
        assert {"initialize", "sync", "status", "history", "members/n1"} <= set(seen)
        state.holding = False
        await world.until("it is back", leader("n1"))


async def test_a_leader_that_a_dead_agent_left_goes_if_it_is_this_member(world: World) -> None:
    state = primary()
    state.holding = True
    await world.put("leader", "n1")
    async with world.member(state):
        await world.until("it is gone", absent("leader"))
        await world.put("leader", "n2")
        state.postgres = replace(state.postgres, position=Position(4, END))
        seen = await world.until(
            "another round", lambda seen: '"timeline":4' in seen.get("members/n1", "")
        )
        assert seen["leader"] == "n2"


async def test_a_new_primary_takes_the_key_and_keeps_it(world: World) -> None:
    """The old one still believes that it serves, and then stops: neither touches the new key."""
    old, new = primary(), standby(postgres=PRIMARY)
    async with world.member(old):
        await world.until("n1 leads", leader("n1"))
        await world.store(HEIRS)
        new.durable, new.opened = replace(new.durable, register=HEIRS), True
        async with world.member(new):
            await world.until("n2 leads", leader("n2"))
            before = (await world.versions())[f"{BASE}/leader"]
            old.postgres = replace(old.postgres, position=Position(4, END))
            await world.until("n1 had a round", lambda s: '"timeline":4' in s.get("members/n1", ""))
            old.holding = True
            old.postgres = replace(old.postgres, state=PgState.STOPPED)
            await world.until("n1 said so", lambda s: '"state":"running"' not in s["members/n1"])
            assert (await world.versions())[f"{BASE}/leader"] == before


async def test_who_is_not_in_office_by_the_register_writes_no_leader(world: World) -> None:
    await world.store(HEIRS)
    state = primary()
    async with world.member(state):
        await world.until("its own key", lambda seen: "members/n1" in seen)
        state.postgres = replace(state.postgres, position=Position(5, END))
        seen = await world.until("a round", lambda seen: '"timeline":5' in seen["members/n1"])
        assert list(seen) == ["members/n1"]


async def test_what_somebody_removes_or_changes_is_put_again(world: World) -> None:
    async with world.member(primary()):
        before = await world.until("all keys", complete)
        keys = (await world.connect()).patroni_keys(2)
        names = [f"{BASE}/{name}" for name in before]
        for key, found in (await keys.read(names)).items():
            assert await keys.remove(key, found)
        assert await world.until("all keys", complete) == before
        await world.put("sync", "nonsense")
        await world.until("it is right again", lambda seen: seen == before)


async def test_positions_alone_are_written_seldom(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patroni_keys, "ROUND_S", 0.05)
    state = primary()
    async with world.member(state):
        await world.until("all keys", complete)
        before = await world.versions()
        for step in range(10):
            state.postgres = replace(state.postgres, position=Position(3, END + step + 1))
            await asyncio.sleep(0.1)
        assert await world.versions() == before
        monkeypatch.setattr(patroni_keys, "POSITIONS_S", 0.0)
        seen = await world.until("the last", lambda seen: str(END + 10) in seen["status"])
        assert json.loads(seen["members/n1"])["xlog_location"] == END + 10


async def test_a_request_is_carried_out_once(world: World) -> None:
    async with world.member(primary()):
        await world.until("all keys", complete)
        for number, (value, event) in enumerate(
            (
                ('{"leader": "n1", "member": "n2"}', Switchover(3, "n2")),
                ('{"member": "n3"}', Switchover(3, "n3")),
            ),
            start=1,
        ):
            await world.put("failover", value)
            await world.until("it is begun", lambda _, n=number: len(world.posted) == n)
            await world.until("it is taken", absent("failover"))
            assert world.posted[-1] == event
    assert world.told == []


async def test_a_request_is_refused_with_an_event(world: World) -> None:
    async with world.member(primary()):
        await world.until("all keys", complete)
        await world.put("failover", '{"leader": "n2"}')
        await world.until("it is said", lambda _: bool(world.told))
        await world.until("it is taken", absent("failover"))
    (told,) = world.told
    assert (told.event, told.term, world.posted) == ("refused", 3, [])
    why = "leader name does not match: n1 is the leader"
    assert told.why == f"the request in the DCS key {BASE}/failover: {why}"


def test_an_empty_request_asks_for_nothing() -> None:
    assert requested(primary(), b"{}") is None
    assert requested(primary(), b"") is None


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ('{"leader": "n1", "member": "n1"}', "n1 is the leader already"),
        ('{"leader": "n1", "scheduled_at": "2030-01-01T00:00"}', "scheduling is not supported"),
        ('{"leader": 7}', "leader: found 7, expected a member's name"),
        ("n1:n2", "found 'n1:n2', expected {"),
        ("[]", "found '[]', expected {"),
    ],
)
def test_requests_that_are_refused(value: str, why: str) -> None:
    with pytest.raises(Refused, match=re.escape(why)):
        requested(primary(), value.encode())


async def test_a_standby_leaves_requests_to_the_primary(world: World) -> None:
    await world.put("failover", '{"leader": "n1"}')
    async with world.member(standby()):
        seen = await world.until("its key", lambda seen: "members/n2" in seen)
    assert "failover" in seen
    assert not world.posted


async def test_who_leaves_takes_its_keys_along(world: World) -> None:
    async with world.member(primary()) as keeper:
        await world.until("all keys", complete)
    await keeper.leave()
    assert set(await world.seen()) == {"initialize", "sync", "status", "history"}


async def test_a_dcs_without_patronis_tools(tmp_path: Path) -> None:
    dcs = await LocalDcs.open(tmp_path / "dcs.sqlite")
    keeper = patroni_keeper(
        dcs, PLACE, node(primary()), post=lambda _: None, announce=lambda _: None
    )
    await dcs.close()
    assert keeper is None


# --- Patroni in the scope ---

THEIRS = json.dumps({"role": "primary", "version": "4.1.4"})


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[LocalDcs]:
    opened = await LocalDcs.open(tmp_path / "dcs.sqlite")
    yield opened
    await opened.close()


@pytest.mark.parametrize(
    ("keys", "who"),
    [
        ({"leader": "p1"}, "p1"),
        ({"leader": "p1", "members/p1": THEIRS}, "p1"),
        ({"members/p1": THEIRS, "members/p2": "nonsense"}, "p1, p2"),
    ],
)
async def test_refused_where_patroni_runs(local: LocalDcs, keys: dict[str, Any], who: str) -> None:
    for key, value in keys.items():
        await local.put(f"{BASE}/{key}", value.encode())
    with pytest.raises(Refused) as refused:
        await refuse_beside_patroni(local, PLACE)
    assert f"found Patroni running there ({who}), expected" in str(refused.value)
    assert isinstance(await local.cas(PLACE.register, 0, encode(REGISTER)), CasDone)
    await refuse_beside_patroni(local, PLACE, in_hand=True)
    if "members/p1" not in keys:
        # An agent of ours may have left it.
        await refuse_beside_patroni(local, PLACE)
        return
    with pytest.raises(Refused, match="found Patroni running there"):
        await refuse_beside_patroni(local, PLACE)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"config": "{}", "initialize": "7", "sync": "{}", "history": "[]", "status": "{}"},
        {"leader": "n1", "members/n1": '{"pgregent": "0.1.0"}'},
    ],
)
async def test_not_refused_where_it_does_not(local: LocalDcs, keys: dict[str, str]) -> None:
    for key, value in keys.items():
        await local.put(f"{BASE}/{key}", value.encode())
    await refuse_beside_patroni(local, PLACE)


async def test_not_refused_where_the_dcs_is_away(local: LocalDcs) -> None:
    await local.close()
    await refuse_beside_patroni(local, PLACE)
