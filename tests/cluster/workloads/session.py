"""One session of a client: every call bounded, every end told apart into ok, fail and unknown.

Past its bound a call is abandoned and never cancelled: psycopg's cancellation waits for a server
that may be frozen, and cancelling a commit would make it visible without its standbys.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg
from psycopg import errors
from psycopg.pq import TransactionStatus

from pgregent.adapters.postgres.sql import hang_up
from tests.cluster.rawpq import DefiniteError, InDoubtError

T = TypeVar("T")
Connection = psycopg.AsyncConnection[Any]
Connect = Callable[[], Awaitable[Connection]]
Row = tuple[Any, ...]
FAILURES = (psycopg.Error, OSError)  # TimeoutError is an OSError.

# A standby's own timeline says nothing. A server without a name is known by its address.
_WHERE = """SELECT
    CASE WHEN pg_is_in_recovery() THEN NULL
         ELSE left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) END,
    coalesce(nullif(current_setting('cluster_name'), ''),
             concat(inet_server_addr(), ':', inet_server_port()))"""
# The only errors of a COMMIT of which it is certain that they rolled back.
_ROLLED_BACK = (errors.SerializationFailure, errors.DeadlockDetected)
_HANG_UP_S = 0.5


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds to wait for a session, for an answer, and at most before trying again."""

    connect_s: float
    answer_s: float
    pause_s: float = 0.1


class Session:
    """A connection, and who is at its other end. All answers between two calls of `renew` have
    `answer_s` seconds together."""

    def __init__(self, conn: Connection, answer_s: float) -> None:
        self._conn = conn
        self._answer_s = answer_s
        self._warnings: list[str] = []
        self._deadline = 0.0
        self.timeline: int | None = None
        self.node = ""
        conn.prepare_threshold = None
        conn.add_notice_handler(self._on_notice)

    def _on_notice(self, diagnostic: errors.Diagnostic) -> None:
        if diagnostic.severity_nonlocalized == "WARNING":
            self._warnings.append(diagnostic.message_primary or "a warning")

    def renew(self) -> None:
        """Let the time for answers begin anew."""
        self._deadline = time.monotonic() + self._answer_s

    async def greet(self) -> None:
        """Learn who is there: a primary stays one, on its timeline, until the session ends."""
        self.renew()
        await self._conn.set_autocommit(True)
        ((timeline, self.node),) = await self.query(_WHERE)
        self.timeline = None if timeline is None else int(timeline, 16)

    async def query(self, text: str, *arguments: object) -> list[Row]:
        """Run one statement. Raises psycopg.Error, and TimeoutError past the bound."""

        async def work() -> list[Row]:
            cursor = await self._conn.execute(text.encode(), arguments or None)
            return [tuple(row) for row in await cursor.fetchall()] if cursor.description else []

        return await self._bounded(work())

    async def commit(self) -> None:
        """End the transaction. DefiniteError: rolled back. InDoubtError: nobody can tell."""
        self._warnings.clear()
        self.renew()

        async def work() -> str | None:
            return (await self._conn.execute("COMMIT")).statusmessage

        try:
            status = await self._bounded(work())
        except FAILURES as error:
            if isinstance(error, _ROLLED_BACK) and self.status() == TransactionStatus.IDLE:
                raise DefiniteError(describe(error)) from error
            raise InDoubtError(describe(error)) from error
        if status != "COMMIT":
            raise DefiniteError(f"COMMIT was answered by {status}")
        if self._warnings:
            raise InDoubtError(self._warnings[0])

    def status(self) -> TransactionStatus:
        """Return in what state the session is; UNKNOWN: it is gone."""
        return self._conn.info.transaction_status

    async def close(self) -> None:
        """Close without waiting for the server."""
        with contextlib.suppress(psycopg.Error):
            await self._conn.close()

    async def _bounded(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.ensure_future(work)
        done: set[asyncio.Task[T]] = set()
        try:
            left_s = max(0.0, self._deadline - time.monotonic())
            done, _ = await asyncio.wait({task}, timeout=left_s)
        finally:
            if not done:
                task.add_done_callback(_discard)
                hang_up(self._conn)
                await asyncio.wait({task}, timeout=_HANG_UP_S)
        if not done:
            raise TimeoutError(f"no answer within {self._answer_s:g} s")
        return task.result()


async def open_session(connect: Connect, patience: Patience, stop: asyncio.Event) -> Session:
    """Return a session that has greeted. Raises one of FAILURES; `stop` ends the waiting."""
    attempt = asyncio.ensure_future(connect())
    stopped = asyncio.ensure_future(stop.wait())
    both: set[asyncio.Future[Any]] = {attempt, stopped}
    try:
        await asyncio.wait(both, timeout=patience.connect_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        if not attempt.done():
            attempt.add_done_callback(_discard)
            attempt.cancel()
    if not attempt.done():
        raise TimeoutError(f"no connection within {patience.connect_s:g} s, or stopped")
    session = Session(attempt.result(), patience.answer_s)
    try:
        await session.greet()
    except BaseException:
        await session.close()
        raise
    return session


def describe(error: Exception) -> str:
    """Return the first line of an error, without what the client had sent."""
    primary = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    lines = (primary or str(error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _discard(task: "asyncio.Future[Any]") -> None:
    # Errors of what was abandoned concern nobody; a connection that came too late is closed.
    if task.cancelled() or task.exception() is not None:
        return
    if isinstance(conn := task.result(), psycopg.AsyncConnection):
        conn.pgconn.finish()
