"""Looking at the local server: by a connection made afresh every second, or by its files."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator

from pgregent.adapters.postgres import sql, wal
from pgregent.adapters.postgres.layout import ServerConfig
from pgregent.core.errors import Refused, Unavailable
from pgregent.core.types import PgState, Position, Postgres, Walsender

FRESH_EVERY = 1.0
ANSWER_TIMEOUT = 1.0
RAN_AS_PRIMARY = ("in production", "shutting down", "shut down")
"""The words of pg_controldata; a copy of a running primary has them too, beside a backup_label."""
STARTING_WORDS = ("starting up", "recovery", "not yet accepting connections")


def now() -> float:
    """Seconds on CLOCK_BOOTTIME, which goes on while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Observer:
    """Keeps one connection for looking. `postmaster` is the guard's child, None when none runs."""

    def __init__(self, config: ServerConfig) -> None:
        self.postmaster: int | None = None
        self.version: int | None = None
        """Of the server that answered last, as a number: 150004."""
        self._config = config
        self._conn: sql.Connection | None = None
        self._made_at = float("-inf")
        self._answered_at = 0.0
        self._in_use: sql.Connection | None = None
        self._starting = False
        self._lock = asyncio.Lock()

    def gone(self) -> None:
        """The server ended."""
        self.postmaster = None
        self._answered_at = 0.0
        self._drop()

    def _drop(self) -> None:
        conn, self._conn = self._conn, None
        if conn is None:
            return
        if self._in_use is conn:
            sql.hang_up(conn)
        else:
            conn.pgconn.finish()

    async def close(self) -> None:
        """Close the connection."""
        self._drop()

    async def answers(self) -> bool:
        """Whether a fresh connection answers; made and kept if so."""
        asked_at = now()
        try:
            conn = await sql.connect(
                self._config.local, self._config.superuser, timeout=ANSWER_TIMEOUT
            )
        except Unavailable as error:
            self._starting = any(w in error.reason for w in STARTING_WORDS)
            return False
        if self.postmaster is None:
            conn.pgconn.finish()
            return False
        self._drop()
        self._conn, self._made_at, self._answered_at = conn, asked_at, asked_at
        self._starting = False
        return True

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncGenerator[sql.Connection]:
        """The connection, for one use at a time. Raises Unavailable."""
        async with self._lock:
            if (self._conn is None or self._conn.broken) and not await self.answers():
                raise Unavailable("postgres", "it does not answer")
            conn = self._in_use = self._conn
            assert conn is not None
            try:
                yield conn
            except (Unavailable, asyncio.CancelledError):
                # A query of it may still be under way: its answer must not be another's.
                self._conn = None if self._conn is conn else self._conn
                raise
            finally:
                self._in_use = None
                if self._conn is not conn:
                    await sql.close(conn)

    async def look(self) -> Postgres:
        """The server as it is now. Never raises."""
        if self.postmaster is None:
            try:
                return await asyncio.to_thread(self._from_disk)
            except (Refused, Unavailable):
                return Postgres(PgState.STOPPED)
        if now() - self._made_at >= FRESH_EVERY and not self._lock.locked():
            async with self._lock:
                if not await self.answers() and not self._starting:
                    return self._silent()
        try:
            async with self.connection() as conn:
                status = await sql.observe(conn, full=False)
                self.version = status.version
                if not status.in_recovery:
                    return self._primary(status)
                end = await self.log_end(conn, status)
                return self._standby(status, end)
        except (Refused, Unavailable):
            return self._silent()

    def _silent(self) -> Postgres:
        state = PgState.STARTING if self._starting else PgState.UNKNOWN
        return Postgres(state, answered_at=self._answered_at)

    def _from_disk(self) -> Postgres:
        config = self._config
        if not (config.data_dir / "PG_VERSION").exists():
            return Postgres(PgState.ABSENT)
        control = wal.controldata(config.bin_dir, config.data_dir)
        return Postgres(
            PgState.STOPPED,
            disk_timeline=max(control.timeline, control.min_recovery_end_timeline),
            clean=control.shut_down,
            was_primary=control.state in RAN_AS_PRIMARY
            and not (config.data_dir / "backup_label").exists(),
            # Shut down in recovery, the last checkpoint is not the end of the log.
            checkpoint_lsn=control.checkpoint_lsn if control.state == "shut down" else 0,
            system_id=str(control.system_identifier),
            newest_history=wal.newest_history(config.data_dir),
        )

    def _primary(self, status: sql.PgStatus) -> Postgres:
        return Postgres(
            PgState.PRIMARY,
            position=Position(status.timeline, status.flush_lsn),
            replay_lsn=status.flush_lsn,
            walsenders=tuple(
                Walsender(w.application_name, w.state == "streaming", w.flush_lsn)
                for w in status.walsenders
            ),
            names=status.synchronous_standby_names,
            answered_at=self._answered_at,
            system_id=str(status.system_identifier),
        )

    def _standby(self, status: sql.PgStatus, end: Position | None) -> Postgres:
        receiver = status.walreceiver
        return Postgres(
            PgState.STANDBY,
            position=end,
            replay_lsn=status.replay_lsn,
            streaming=receiver is not None and receiver.status == "streaming",
            upstream_timeline=receiver.received_timeline if receiver is not None else 0,
            replay_paused=status.replay_paused,
            answered_at=self._answered_at,
            system_id=str(status.system_identifier),
            newest_history=wal.newest_history(self._config.data_dir),
        )

    async def replay_is_idle(self, conn: sql.Connection) -> bool:
        """Whether recovery has read all local WAL and waits for more."""
        return await sql.startup_waits_for_wal(conn)

    async def log_end(
        self, conn: sql.Connection, status: sql.PgStatus | None = None
    ) -> Position | None:
        """Where a standby's log ends, once recovery is known to have read all of it.

        What was received since the start is past all local WAL, because recovery asks for
        streaming only after it has read that.
        """
        if status is None:
            status = await sql.observe(conn, full=False)
        if not status.in_recovery:
            return None
        if status.receive_lsn == 0 and not await sql.startup_waits_for_wal(conn):
            return None
        if status.receive_lsn == 0:
            status = await sql.observe(conn, full=False)
        lsn = max(status.receive_lsn, status.replay_lsn)
        timeline = await asyncio.to_thread(wal.wal_timeline_at, self._config.data_dir, lsn)
        return Position(timeline or status.timeline, lsn)
