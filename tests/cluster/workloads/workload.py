"""What a workload is: clients that work until they are told to stop, then a verdict."""

import asyncio
import contextlib
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from random import Random
from typing import Any, TypeVar, cast

from tests.cluster.checkers import Answered, terms
from tests.cluster.workloads.client import Client, Done, Facts
from tests.cluster.workloads.session import Connect, Patience, Session

T = TypeVar("T")
Turn = Callable[[Client], Awaitable[bool]]
Work = Coroutine[Any, Any, None]
# The impatient ones notice soon that a fault has healed: a packet that was lost with the old path
# is sent again only after seconds. The patient one is held by the entry point as long as it likes.
PATIENCE = (
    Patience(connect_s=1.0, answer_s=1.0),
    Patience(connect_s=1.3, answer_s=1.3),
    Patience(connect_s=2.0, answer_s=5.0),
    Patience(connect_s=20.0, answer_s=5.0),
)
# A standby refuses each insert: ask it seldom. One that was primary keeps its session.
DIRECT = Patience(connect_s=1.0, answer_s=2.0, pause_s=0.5)
LEASE_S = 5.0
# The guard of a cut-off primary needs a moment to stop it, on a busy machine too.
LEASE_ALLOWED_S = LEASE_S + 1.0
_PATIENT = Patience(connect_s=5.0, answer_s=10.0)
_PREPARE_S = 30.0
_PAUSE_S = 0.02


class Workload(ABC):
    """`connect_rw` and `connect_ro` lead through the entry points, `direct` to each node by name.

    They return a new connection, or raise psycopg.Error or OSError; how long they may take is
    bounded here. What a workload keeps in PostgreSQL has a name of its own.
    """

    def __init__(
        self,
        connect_rw: Connect,
        connect_ro: Connect,
        random: Random,
        direct: Mapping[str, Connect] | None = None,
    ) -> None:
        self.connect_rw = connect_rw
        self.connect_ro = connect_ro
        self.random = random
        self.direct = dict(direct or {})
        self.stale: list[str] = []
        self.suffix = secrets.token_hex(4)

    @property
    @abstractmethod
    def history(self) -> Sequence[Answered]:
        """Return a record of each thing that a client tried, in the order in which they ended."""

    @property
    @abstractmethod
    def writes(self) -> Sequence[Answered]:
        """Return those of them that wrote, or tried to."""

    @property
    def acked_times(self) -> list[float]:
        """Return when a write through the entry point was acknowledged (monotonic seconds)."""
        return sorted(op.end for op in self.writes if op.outcome == "ok")

    @property
    def unknown(self) -> int:
        """Return how many ended in doubt."""
        return sum(op.outcome == "unknown" for op in self.history)

    async def setup(self) -> None:
        """Make the tables. AssertionError if that cannot be done within 30 s."""
        await self._insist("setup", self.connect_rw, self.prepare)

    async def run(self, stop: asyncio.Event) -> None:
        """Keep the clients at work, once; they end within 12 s of `stop`, mostly at once."""
        async with asyncio.TaskGroup() as group:
            for client in self.clients(stop):
                group.create_task(client)

    async def finish(self, connect_primary: Connect) -> list[str]:
        """Read what there is on the primary, and return what is wrong.

        Call it once, after the heal. AssertionError if it cannot be read within 30 s.
        """
        found = await self._insist("the last reads", connect_primary, self.verdict)
        return terms(self.writes) + found

    @abstractmethod
    async def prepare(self, session: Session) -> None:
        """Make the tables; may be called again, also when it had succeeded."""

    @abstractmethod
    def clients(self, stop: asyncio.Event) -> Sequence[Work]:
        """Return the clients' work, to be run at once."""

    @abstractmethod
    async def verdict(self, session: Session) -> list[str]:
        """Read what there is at the end, and compare it with the history."""

    async def repeat(
        self,
        connect: Connect,
        patience: Patience,
        stop: asyncio.Event,
        turn: Turn,
        standby: bool = False,
    ) -> None:
        """One client: take turns until `stop`; `turn` says whether it was served."""
        async with Client(connect, patience, stop, standby) as client:
            while not stop.is_set():
                served = await turn(client)
                longest = _PAUSE_S if served else patience.pause_s
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), self.random.uniform(0, longest))

    async def _insist(
        self, what: str, connect: Connect, body: Callable[[Session], Awaitable[T]]
    ) -> T:
        deadline = time.monotonic() + _PREPARE_S
        never = asyncio.Event()
        async with Client(connect, _PATIENT, never) as client:
            while True:
                done: Done[T] = await client.transact("REPEATABLE READ", body)
                if done.outcome == "ok":
                    return cast(T, done.value)
                if time.monotonic() > deadline:
                    raise AssertionError(f"{what}: not within {_PREPARE_S:g} s ({done.facts})")
                await asyncio.sleep(_PATIENT.pause_s)


def final_moment(session: Session) -> Facts:
    """Return the facts of a read that was answered just now, after all that the clients did."""
    now = time.monotonic()
    return Facts(
        start=now,
        end=now,
        outcome="ok",
        timeline=session.timeline,
        node=session.node,
        detail="the last read",
    )
