"""A client: transactions one after another, on a session that is made anew when it breaks."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypedDict, TypeVar

from psycopg.pq import TransactionStatus

from tests.cluster.checkers import Outcome
from tests.cluster.rawpq import DefiniteError, InDoubtError
from tests.cluster.workloads.session import (
    FAILURES,
    Connect,
    Patience,
    Row,
    Session,
    describe,
    open_session,
)

T = TypeVar("T")
_REPAIRABLE = (TransactionStatus.IDLE, TransactionStatus.INERROR, TransactionStatus.INTRANS)


class Facts(TypedDict):
    """What each record of a history tells about how it went."""

    start: float
    end: float
    outcome: Outcome
    timeline: int | None
    node: str
    detail: str


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """How a transaction went. `value`: what its body returned; None where it did not get there."""

    facts: Facts
    value: T | None

    @property
    def outcome(self) -> Outcome:
        """Return ok, fail or unknown."""
        return self.facts["outcome"]


class Client:
    """Use as an async context manager, by one task.

    `standby`: who answers does not matter; else a session that a standby answers is refused.
    `stop`: once it is set, nothing waits for a connection any more.
    """

    def __init__(
        self, connect: Connect, patience: Patience, stop: asyncio.Event, standby: bool = False
    ) -> None:
        self._connect = connect
        self._patience = patience
        self._stop = stop
        self._standby = standby
        self._session: Session | None = None

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def transact(self, isolation: str, body: Callable[[Session], Awaitable[T]]) -> Done[T]:
        """Run `body` between BEGIN and COMMIT; what it raises of FAILURES rolls back."""
        start, value = time.monotonic(), None
        try:
            session = await self._ready()
            session.renew()
            await session.query(f"BEGIN ISOLATION LEVEL {isolation}")
            value = await body(session)
            start = time.monotonic()
            await session.commit()
        except InDoubtError as error:
            return await self._not_done("unknown", start, value, str(error))
        except DefiniteError as error:
            return await self._not_done("fail", start, value, str(error))
        except FAILURES as error:  # COMMIT was never sent.
            return await self._not_done("fail", start, value, describe(error))
        return _ok(session, start, value)

    async def select(self, text: str, *arguments: object) -> Done[list[Row]]:
        """Run one SELECT as a transaction of its own: it is ok or it fails."""
        start = time.monotonic()
        try:
            session = await self._ready()
            session.renew()
            start = time.monotonic()
            rows = await session.query(text, *arguments)
        except DefiniteError as error:
            return await self._not_done("fail", start, None, str(error))
        except FAILURES as error:
            return await self._not_done("fail", start, None, describe(error))
        return _ok(session, start, rows)

    async def _ready(self) -> Session:
        if self._session is None:
            self._session = await open_session(self._connect, self._patience, self._stop)
            if self._session.timeline is None and not self._standby:
                raise DefiniteError(f"{self._session.node} is a standby")
        return self._session

    async def _not_done(self, outcome: Outcome, start: float, value: Any, detail: str) -> Done[Any]:
        end = time.monotonic()
        await self._repair(outcome)
        facts = Facts(start=start, end=end, outcome=outcome, timeline=None, node="", detail=detail)
        return Done(facts, value)

    async def _repair(self, outcome: Outcome) -> None:
        session = self._session
        if session is None:
            return
        wrong_server = session.timeline is None and not self._standby
        if outcome == "unknown" or wrong_server or session.status() not in _REPAIRABLE:
            await self._close()
        elif session.status() != TransactionStatus.IDLE:
            try:
                session.renew()
                await session.query("ROLLBACK")
            except FAILURES:
                await self._close()

    async def _close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()


def _ok(session: Session, start: float, value: T) -> Done[T]:
    facts = Facts(
        start=start,
        end=time.monotonic(),
        outcome="ok",
        timeline=session.timeline,
        node=session.node,
        detail="",
    )
    return Done(facts, value)
