"""The agent's loop keeps the order that the core relies on: asked, seen, on disk, told."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from pgregent.adapters.dcs.memory import MemoryDcs
from pgregent.agent.codec import decode, encode
from pgregent.agent.loop import Agent, Keys
from pgregent.agent.store import Store
from pgregent.core.errors import Unavailable
from pgregent.core.types import (
    Incarnation,
    PgState,
    Postgres,
    Record,
    Register,
    Rule,
    Settings,
    Term,
)
from pgregent.core.view import State
from pgregent.ports.dcs import CasResult, Versioned

KEYS = Keys("/service/demo/pgregent")
OTHER = Incarnation("n2", "b")
REGISTER = Register(7, 3, 1, OTHER, (Rule(OTHER, 0, ()),), False, "42", (Term(1, OTHER, 0, 0),))
ANSWER_TAKES = 3.0


class Clock:
    """Stands still unless it is moved."""

    at = 100.0

    def now(self) -> float:
        return self.at

    def epoch(self) -> float:
        return self.at


class SlowDcs(MemoryDcs):
    """Whose answers are `ANSWER_TAKES` seconds under way, by the clock; it answers one read."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.asked: list[float] = []

    async def read(self, prefix: str) -> Mapping[str, Versioned]:
        if self.asked:
            await asyncio.Event().wait()
        self.asked.append(self.clock.at)
        found = await super().read(prefix)
        self.clock.at += ANSWER_TAKES
        return found

    async def cas(self, key: str, expected_version: int, value: bytes) -> CasResult:
        self.asked.append(self.clock.at)
        result = await super().cas(key, expected_version, value)
        self.clock.at += ANSWER_TAKES
        return result


class NoServer:
    """The server of a member without a data directory: whatever is asked of it fails."""

    def __getattr__(self, name: str) -> Any:
        async def fails(*given: Any) -> None:
            raise Unavailable("postgres", f"it cannot {name}")

        return fails

    async def open(self, on_exit: Any) -> None:
        pass

    async def observe(self) -> Postgres:
        return Postgres(PgState.ABSENT)


class Listener:
    """The channel to the others: keeps what they are told, and the register on disk just then."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.told: list[tuple[Register | None, Register | None]] = []
        self.knows = asyncio.Event()
        """They were told of a register."""

    def set_peers(self, peers: Mapping[str, tuple[str, int]]) -> None:
        pass

    def publish(self, payload: bytes) -> None:
        told = decode(Record, payload, "a record").register
        on_disk = Store(self.state_dir).load("n1").register if self.state_dir.exists() else None
        self.told.append((told, on_disk))
        if told is not None:
            self.knows.set()


def member(state_dir: Path, dcs: MemoryDcs, clock: Clock) -> tuple[Agent, Listener]:
    """Member n1, which has run for a while and has no data."""
    store = Store(state_dir)
    state = State(Settings("n1"), store.load("n1"), started_at=clock.at - 60.0, now=clock.at)
    agent = Agent(
        state,
        store=store,
        server=NoServer(),  # pyright: ignore[reportArgumentType]
        dcs=dcs,
        keys=KEYS,
        clock=clock,
        announce=lambda effect: None,
    )
    listener = Listener(state_dir)
    agent.peers = listener  # pyright: ignore[reportAttributeAccessIssue]
    return agent, listener


@asynccontextmanager
async def running(agent: Agent) -> AsyncGenerator["asyncio.Task[None]"]:
    task = asyncio.create_task(agent.run())
    try:
        async with asyncio.timeout(10):
            yield task
    finally:
        task.cancel()
        agent.detach()
        with suppress(asyncio.CancelledError, Unavailable):
            await task


async def test_a_read_counts_from_when_it_was_asked(tmp_path: Path) -> None:
    clock = Clock()
    dcs = SlowDcs(clock)
    await dcs.put(KEYS.register, encode(REGISTER))
    agent, listener = member(tmp_path, dcs, clock)
    async with running(agent):
        await listener.knows.wait()
        assert agent.state.register == REGISTER
        assert dcs.asked == [100.0]
        assert agent.state.read_at == 100.0


async def test_a_write_counts_from_when_it_was_asked(tmp_path: Path) -> None:
    clock = Clock()
    dcs = SlowDcs(clock)
    agent, listener = member(tmp_path, dcs, clock)
    async with running(agent):
        await listener.knows.wait()
        assert agent.state.register is not None and agent.state.register.primary.name == "n1"
        assert dcs.asked == [100.0, 103.0]
        assert agent.state.read_at == 103.0


async def test_what_the_others_are_told_is_on_disk(tmp_path: Path) -> None:
    clock = Clock()
    dcs = SlowDcs(clock)
    await dcs.put(KEYS.register, encode(REGISTER))
    agent, listener = member(tmp_path, dcs, clock)
    async with running(agent):
        await listener.knows.wait()
    assert [(told, disk) for told, disk in listener.told if told != disk] == []


async def test_what_cannot_be_saved_is_not_acted_on(tmp_path: Path) -> None:
    clock = Clock()
    dcs = SlowDcs(clock)
    await dcs.put(KEYS.register, encode(REGISTER))
    state_dir = tmp_path / "state"
    state_dir.mkdir()
    agent, listener = member(state_dir, dcs, clock)
    state_dir.rmdir()
    async with running(agent) as task:
        ended, _ = await asyncio.wait({task}, timeout=5.0)
        assert ended, "it goes on"
        with pytest.raises(Unavailable, match="cannot save"):
            await task
    assert not any(told for told, _ in listener.told)
