"""What is asked of a running PostgreSQL. Every call is bounded: past it the query is abandoned.

Abandoned, never cancelled: psycopg's cancellation waits for a server that may be frozen, and
cancelling a commit that waits for its standbys would make it visible without them. So the client
side of the socket is shut down and the connection is of no more use.
"""

import asyncio
import contextlib
import json
import math
import os
import socket
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, LiteralString, TypeVar, cast

import psycopg
from psycopg import errors, sql
from psycopg.rows import DictRow, dict_row

from pgregent.adapters.postgres.wal import parse_lsn
from pgregent.core.errors import Bug, Refused, Unavailable

APPLICATION_NAME = "pgregent"
BARRIER_NAME = "pgregent barrier"
PREFIX = "pgregent"

# The agent is a superuser: without a search_path of its own, any user's function could be its.
_OPTIONS: Mapping[str, str] = {
    "search_path": "pg_catalog",
    "client_min_messages": "warning",
    "default_transaction_read_only": "off",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_session_timeout": "0",
}
_PROMOTE_POLL_S = 0.005
_HANG_UP_S = 0.5
# psycopg counts them as operational, but trying again will not help.
_REFUSALS = (
    errors.ConfigurationLimitExceeded,
    errors.InsufficientPrivilege,
    errors.ObjectInUse,
    errors.ObjectNotInPrerequisiteState,
)

T = TypeVar("T")
Connection = psycopg.AsyncConnection[DictRow]


@dataclass(frozen=True, slots=True)
class Server:
    """Where a server listens; `host` is a name, an address or the folder of a Unix socket."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Credentials:
    """A role and its password, which no text shows, and what else libpq is told (no secrets)."""

    user: str
    password: str = field(repr=False)
    options: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Walreceiver:
    """A row of pg_stat_wal_receiver. LSNs in bytes; 0 where PostgreSQL shows none."""

    pid: int
    status: str
    sender_host: str
    sender_port: int
    received_timeline: int
    flushed_lsn: int
    slot: str


@dataclass(frozen=True, slots=True)
class Walsender:
    """A row of pg_stat_replication. LSNs in bytes; 0 where PostgreSQL shows none."""

    pid: int
    user: str
    application_name: str
    client_addr: str
    state: str
    sync_state: str
    write_lsn: int
    flush_lsn: int
    replay_lsn: int


@dataclass(frozen=True, slots=True)
class PgStatus:
    """One look at a server. LSNs in bytes; 0 where they do not apply to a primary or a standby.

    `timeline` of a standby is a lower bound (a vote needs `wal_timeline_at`). `receive_lsn` is 0
    until something was streamed since the start. `pending_restart` is None when not asked for.
    """

    version: int
    system_identifier: int
    started_at: float
    in_recovery: bool
    timeline: int
    write_lsn: int
    flush_lsn: int
    receive_lsn: int
    replay_lsn: int
    replay_paused: bool
    synchronous_standby_names: str
    walreceiver: Walreceiver | None
    walsenders: tuple[Walsender, ...]
    pending_restart: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Promoted:
    """The server is a primary on `timeline`."""

    timeline: int


@dataclass(frozen=True, slots=True)
class PromotionPending:
    """Not yet; it can still happen at any later time, and cannot be recalled."""


@dataclass(frozen=True, slots=True)
class BarrierDone:
    """Committed and acknowledged: the synchronous standbys flushed all WAL up to `lsn`."""

    lsn: int


@dataclass(frozen=True, slots=True)
class BarrierOtherRule:
    """Nothing was written: a new session still works under other synchronous_standby_names."""

    names: str


@dataclass(frozen=True, slots=True)
class BarrierWaiting:
    """Not acknowledged in time. The message stays in the WAL; nobody hears when it is satisfied."""


BarrierResult = BarrierDone | BarrierOtherRule | BarrierWaiting


@dataclass(frozen=True, slots=True)
class Slot:
    """A physical replication slot. `restart_lsn` 0: none reserved, or lost (see `wal_status`)."""

    name: str
    active: bool
    restart_lsn: int
    wal_status: str


async def connect(
    server: Server,
    credentials: Credentials,
    *,
    timeout: float,
    dbname: str = "postgres",
    application_name: str = APPLICATION_NAME,
    settings: Mapping[str, str] | None = None,
) -> Connection:
    """Open a fresh connection within `timeout` seconds. Raises Unavailable("postgres")."""
    options = {**_OPTIONS, **(settings or {})}
    others: dict[str, Any] = {"gssencmode": "disable", **credentials.options}
    attempt = psycopg.AsyncConnection[DictRow].connect(
        host=server.host,
        port=server.port,
        user=credentials.user,
        password=credentials.password,
        dbname=dbname,
        application_name=application_name,
        # Only a backstop for an attempt that was abandoned.
        connect_timeout=math.ceil(timeout) + 2,
        client_encoding="utf8",
        options=" ".join(f"-c {name}={value}" for name, value in options.items()),
        autocommit=True,
        prepare_threshold=None,
        row_factory=cast(Any, dict_row),
        **others,
    )
    try:
        return await _bounded(attempt, timeout, None)
    except psycopg.Error as error:
        raise Unavailable("postgres", f"cannot connect to {server}: {_text(error)}") from None
    except TimeoutError:
        reason = f"cannot connect to {server}: no answer within {timeout:g} s"
        raise Unavailable("postgres", reason) from None


async def close(conn: Connection) -> None:
    """Close without waiting for the server."""
    with contextlib.suppress(psycopg.Error):
        await conn.close()


def hang_up(conn: Connection) -> None:
    """End the connection whatever it is waiting for; who waits gets an error and closes it.

    Closing its socket here would leave the event loop with a descriptor that soon is another's.
    """
    with contextlib.suppress(OSError, psycopg.Error), _socket_of(conn) as sock:
        sock.shutdown(socket.SHUT_RDWR)


async def _bounded(work: Coroutine[Any, Any, T], timeout: float, conn: Connection | None) -> T:
    """The result of `work`, or TimeoutError at once after `timeout` seconds."""
    task = asyncio.ensure_future(work)
    finished = False
    try:
        finished = bool((await asyncio.wait({task}, timeout=timeout))[0])
    finally:
        if not finished:
            task.add_done_callback(_discard)
            await _abandon(task, conn)
    if not finished:
        raise TimeoutError
    return task.result()


async def _abandon(task: "asyncio.Task[Any]", conn: Connection | None) -> None:
    if conn is None:
        task.cancel()
        return
    hang_up(conn)
    await asyncio.wait({task}, timeout=_HANG_UP_S)


def _discard(task: "asyncio.Task[Any]") -> None:
    # A connection that came too late is closed; errors of abandoned work concern nobody.
    if task.cancelled() or task.exception() is not None:
        return
    result = task.result()
    if isinstance(result, psycopg.AsyncConnection):
        cast(Connection, result).pgconn.finish()


def _socket_of(conn: Connection) -> socket.socket:
    return socket.socket(fileno=os.dup(conn.fileno()))


def _text(error: psycopg.Error) -> str:
    lines = str(error.diag.message_primary or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


async def _query(
    conn: Connection,
    query: LiteralString | sql.Composed,
    arguments: Sequence[Any] = (),
    *,
    timeout: float,
) -> list[DictRow]:
    async def work() -> list[DictRow]:
        cursor = await conn.execute(query, arguments or None)
        return await cursor.fetchall() if cursor.description else []

    try:
        return await _bounded(work(), timeout, conn)
    except TimeoutError:
        raise Unavailable("postgres", f"no answer within {timeout:g} s") from None
    except _REFUSALS as error:
        raise Refused(f"PostgreSQL refused: {_text(error)}") from error
    except psycopg.OperationalError as error:
        raise Unavailable("postgres", _text(error)) from None
    except errors.InterfaceError as error:
        raise Unavailable("postgres", _text(error)) from None
    except (errors.InternalError_, errors.SyntaxErrorOrAccessRuleViolation) as error:
        raise Bug(f"PostgreSQL rejects a query of ours: {_text(error)}") from error
    except psycopg.Error as error:
        raise Refused(f"PostgreSQL refused: {_text(error)}") from error


_OBSERVE: LiteralString = """
SELECT r.in_recovery,
       current_setting('server_version_num')::int AS version,
       (SELECT system_identifier FROM pg_control_system()) AS system_identifier,
       extract(epoch FROM pg_postmaster_start_time())::float8 AS started_at,
       CASE WHEN r.in_recovery THEN NULL
            ELSE ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int
       END AS insert_timeline,
       CASE WHEN r.in_recovery THEN (SELECT greatest(c.timeline_id, m.min_recovery_end_timeline)
            FROM pg_control_checkpoint() c, pg_control_recovery() m) END AS control_timeline,
       CASE WHEN r.in_recovery THEN NULL ELSE pg_current_wal_lsn() END AS write_lsn,
       CASE WHEN r.in_recovery THEN NULL ELSE pg_current_wal_flush_lsn() END AS flush_lsn,
       CASE WHEN r.in_recovery THEN pg_last_wal_receive_lsn() END AS receive_lsn,
       CASE WHEN r.in_recovery THEN pg_last_wal_replay_lsn() END AS replay_lsn,
       CASE WHEN r.in_recovery THEN pg_get_wal_replay_pause_state() ELSE 'not paused'
       END AS replay_pause,
       current_setting('synchronous_standby_names') AS synchronous_standby_names,
       (SELECT to_json(w) FROM (
            SELECT pid, status, sender_host, sender_port, received_tli, flushed_lsn, slot_name
            FROM pg_stat_wal_receiver WHERE pid IS NOT NULL) w) AS walreceiver,
       (SELECT coalesce(json_agg(s), '[]') FROM (
            SELECT pid, usename, application_name, host(client_addr) AS client_addr, state,
                   sync_state, write_lsn, flush_lsn, replay_lsn
            FROM pg_stat_replication) s) AS walsenders,
       CASE WHEN %s THEN ARRAY(SELECT name FROM pg_settings WHERE pending_restart ORDER BY name)
       END AS pending_restart
FROM (SELECT pg_is_in_recovery() AS in_recovery OFFSET 0) r
"""


async def observe(conn: Connection, *, full: bool = True, timeout: float = 1.0) -> PgStatus:
    """One round trip. `full` also asks for pending restarts, which costs more than all the rest.

    Raises Unavailable("postgres"); the connection is unusable after a timeout.
    """
    try:
        rows = await _query(conn, _OBSERVE, (full,), timeout=timeout)
    except Refused:
        # Recovery can end while the query runs, and then the second time is a primary's.
        rows = await _query(conn, _OBSERVE, (full,), timeout=timeout)
    return _status(rows[0])


def _status(row: Mapping[str, Any]) -> PgStatus:
    walreceiver = None if row["walreceiver"] is None else _walreceiver(_json(row["walreceiver"]))
    received = 0 if walreceiver is None else walreceiver.received_timeline
    return PgStatus(
        version=row["version"],
        system_identifier=row["system_identifier"],
        started_at=row["started_at"],
        in_recovery=row["in_recovery"],
        timeline=row["insert_timeline"] or max(received, row["control_timeline"] or 0),
        write_lsn=_lsn(row["write_lsn"]),
        flush_lsn=_lsn(row["flush_lsn"]),
        receive_lsn=_lsn(row["receive_lsn"]),
        replay_lsn=_lsn(row["replay_lsn"]),
        replay_paused=row["replay_pause"] != "not paused",
        synchronous_standby_names=row["synchronous_standby_names"],
        walreceiver=walreceiver,
        walsenders=tuple(_walsender(sender) for sender in _json(row["walsenders"])),
        pending_restart=None if row["pending_restart"] is None else tuple(row["pending_restart"]),
    )


def _json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def _lsn(text: str | None) -> int:
    return 0 if text is None else parse_lsn(text)


def _walreceiver(row: Mapping[str, Any]) -> Walreceiver:
    return Walreceiver(
        pid=row["pid"],
        status=row["status"] or "",
        sender_host=row["sender_host"] or "",
        sender_port=row["sender_port"] or 0,
        received_timeline=row["received_tli"] or 0,
        flushed_lsn=_lsn(row["flushed_lsn"]),
        slot=row["slot_name"] or "",
    )


def _walsender(row: Mapping[str, Any]) -> Walsender:
    return Walsender(
        pid=row["pid"],
        user=row["usename"] or "",
        application_name=row["application_name"] or "",
        client_addr=row["client_addr"] or "",
        state=row["state"] or "",
        sync_state=row["sync_state"] or "",
        write_lsn=_lsn(row["write_lsn"]),
        flush_lsn=_lsn(row["flush_lsn"]),
        replay_lsn=_lsn(row["replay_lsn"]),
    )


async def walreceiver_gone(conn: Connection, *, timeout: float = 1.0) -> bool:
    """Whether no walreceiver process runs, also none that connects. Raises Unavailable.

    Recovery may still start one with the primary_conninfo it read last: see `render.remove_file`
    for taking its password file away first.
    """
    rows = await _query(
        conn,
        "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'walreceiver') AS g",
        timeout=timeout,
    )
    return bool(rows[0]["g"])


async def reload(conn: Connection, *, timeout: float = 1.0) -> None:
    """Ask the postmaster to read its configuration again; returns before anybody has done so."""
    await _query(conn, "SELECT pg_reload_conf()", timeout=timeout)


async def loaded_at(conn: Connection, *, timeout: float = 1.0) -> float:
    """When the postmaster last read its configuration, pg_hba.conf with it (seconds since 1970);
    as of the start of a connection."""
    query: LiteralString = "SELECT extract(epoch FROM pg_conf_load_time())::float8 AS at"
    return float((await _query(conn, query, timeout=timeout))[0]["at"])


async def pending_restart(conn: Connection, *, timeout: float = 2.0) -> dict[str, tuple[str, str]]:
    """The parameters that wait for a start, each with its value in force and the one in the
    configuration files ("" where they do not name it any more)."""
    query: LiteralString = (
        "SELECT s.name, current_setting(s.name) AS old, coalesce((SELECT f.setting FROM "
        "pg_file_settings f WHERE lower(f.name) = lower(s.name) ORDER BY f.seqno DESC LIMIT 1), "
        "'') AS new FROM pg_settings s WHERE s.pending_restart ORDER BY s.name"
    )
    rows = await _query(conn, query, timeout=timeout)
    return {str(row["name"]): (str(row["old"]), str(row["new"])) for row in rows}


async def walsenders_have_reloaded(
    conn: Connection, *, patience: float = 0.5, timeout: float = 5.0
) -> None:
    """Return once every walsender that counts has read the configuration that `conn` began with.

    One that sends WAL written since does: before it looks at a reply again it looks for a reload.
    One that does not within `patience` seconds is ended, and its standby connects anew: it would
    let commits through by an older, smaller k. Raises Unavailable("postgres"): one is still there
    after `timeout` seconds.
    """
    loop = asyncio.get_running_loop()
    deadline, until = loop.time() + timeout, loop.time() + patience
    stale = {r["pid"]: r["sent"] for r in await _query(conn, _STREAMING, timeout=1.0)}
    await _query(conn, "SET synchronous_commit = local", timeout=1.0)
    await _query(conn, _EMIT, (PREFIX,), timeout=timeout)
    while stale:
        sent = {r["pid"]: r["sent"] for r in await _query(conn, _STREAMING, timeout=1.0)}
        stale = {pid: at for pid, at in stale.items() if sent.get(pid) == at}
        if stale and loop.time() >= deadline:
            raise Unavailable("postgres", f"walsenders {sorted(stale)} have not seen the reload")
        if stale and loop.time() >= until:
            # Again and again: one that cannot send does not end by the first SIGTERM.
            await _query(conn, _TERMINATE, (list(stale),), timeout=1.0)
            until = loop.time() + patience
        await asyncio.sleep(_PROMOTE_POLL_S)


# One in another state lets no commit through. A member's label is name@id.
_STREAMING: LiteralString = """
SELECT pid, sent_lsn::text AS sent FROM pg_stat_replication
WHERE state IN ('streaming', 'stopping') AND application_name LIKE '%@%'
"""
_EMIT: LiteralString = "SELECT pg_logical_emit_message(true, %s, 'reload')"
_TERMINATE: LiteralString = "SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) pid"


async def terminate_sessions_blocking_replay(conn: Connection, *, timeout: float = 1.0) -> int:
    """On a standby, end the client sessions that are not idle; returns how many. May be repeated.

    Raises Refused on a primary (its waiting commits would become visible), Unavailable.
    """
    rows = await _query(
        conn,
        """
        SELECT pg_is_in_recovery() AS standby, count(*) FILTER (
                   WHERE pg_is_in_recovery() AND pg_terminate_backend(pid)) AS ended
        FROM pg_stat_activity
        WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
          AND state IS DISTINCT FROM 'idle'
          AND NOT (usename = current_user AND application_name = %s)
        """,
        (APPLICATION_NAME,),
        timeout=timeout,
    )
    if not rows[0]["standby"]:
        raise Refused("this server is a primary: its sessions are not ended")
    return int(rows[0]["ended"])


async def promote(conn: Connection, *, timeout: float) -> Promoted | PromotionPending:
    """Request promotion and wait for up to `timeout` seconds.

    Raises Refused (a primary already, nothing requested), Unavailable: it may have been requested.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    await _query(conn, "SELECT pg_promote(wait => false)", timeout=timeout)
    while (left := deadline - loop.time()) > 0:
        rows = await _query(conn, _TIMELINE, timeout=left)
        if rows[0]["timeline"] is not None:
            return Promoted(int(rows[0]["timeline"]))
        await asyncio.sleep(_PROMOTE_POLL_S)
    return PromotionPending()


_TIMELINE: LiteralString = """
SELECT CASE WHEN NOT pg_is_in_recovery()
            THEN ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int
       END AS timeline
"""


async def checkpoint(conn: Connection, *, timeout: float) -> None:
    """CHECKPOINT; returns when it is done. Raises Unavailable after `timeout` seconds."""
    await _query(conn, "CHECKPOINT", timeout=timeout)


async def barrier(
    server: Server, credentials: Credentials, *, names: str, timeout: float
) -> BarrierResult:
    """Commit a message under `synchronous_standby_names` = `names` and see it acknowledged.

    On a new connection, which shows that the postmaster has taken the reload over. One at a time:
    sessions of earlier calls that still wait are ended. Raises Unavailable("postgres") when the
    outcome is unknown: connection lost, or the wait for the standbys was cut short (a WARNING).
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    conn = await connect(
        server,
        credentials,
        timeout=timeout,
        application_name=BARRIER_NAME,
        settings={"synchronous_commit": "on"},
    )
    warnings: list[str] = []

    def notice(diagnostic: errors.Diagnostic) -> None:
        if diagnostic.severity_nonlocalized == "WARNING":
            warnings.append(diagnostic.message_primary or "")

    conn.add_notice_handler(notice)
    try:
        return await _barrier(conn, names, warnings, deadline - loop.time())
    finally:
        await close(conn)


async def _barrier(
    conn: Connection, names: str, warnings: list[str], timeout: float
) -> BarrierResult:
    async def work() -> DictRow:
        await conn.execute(_END_EARLIER_BARRIERS, (BARRIER_NAME,))
        warnings.clear()
        cursor = await conn.execute(_BARRIER, (names, PREFIX))
        return (await cursor.fetchall())[0]

    try:
        row = await _bounded(work(), timeout, conn)
    except TimeoutError:
        return BarrierWaiting()
    except psycopg.Error as error:
        raise Unavailable("postgres", f"barrier: {_text(error)}") from None
    if warnings:
        raise Unavailable("postgres", f"barrier not acknowledged: {warnings[0]}")
    if row["lsn"] is None:
        return BarrierOtherRule(row["names"])
    return BarrierDone(parse_lsn(row["lsn"]))


# They hold nothing but a message of ours, and would pile up until the connections are used up.
_END_EARLIER_BARRIERS: LiteralString = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name = %s AND usename = current_user AND pid <> pg_backend_pid()
"""
_BARRIER: LiteralString = """
SELECT CASE WHEN current_setting('synchronous_standby_names') = %s
            THEN pg_logical_emit_message(true, %s, 'barrier') END AS lsn,
       current_setting('synchronous_standby_names') AS names
"""


async def slots(conn: Connection, *, timeout: float = 1.0) -> tuple[Slot, ...]:
    """The permanent physical slots. Raises Unavailable."""
    rows = await _query(
        conn,
        "SELECT slot_name, active, restart_lsn, wal_status FROM pg_replication_slots"
        " WHERE slot_type = 'physical' AND NOT temporary ORDER BY slot_name",
        timeout=timeout,
    )
    return tuple(
        Slot(row["slot_name"], row["active"], _lsn(row["restart_lsn"]), row["wal_status"] or "")
        for row in rows
    )


async def slot_users(conn: Connection, *, timeout: float = 1.0) -> dict[str, str]:
    """The application_name of who streams now from each permanent physical slot. Raises
    Unavailable."""
    rows = await _query(
        conn,
        "SELECT s.slot_name, r.application_name FROM pg_replication_slots s"
        " JOIN pg_stat_replication r ON r.pid = s.active_pid"
        " WHERE s.slot_type = 'physical' AND NOT s.temporary",
        timeout=timeout,
    )
    return {row["slot_name"]: row["application_name"] for row in rows}


async def create_slot(conn: Connection, name: str, *, timeout: float = 1.0) -> None:
    """Create the physical slot `name`, WAL reserved at once; one that exists stays as it is.

    Raises Refused (not a slot name, max_replication_slots reached), Unavailable.
    """
    await _query(
        conn,
        "SELECT pg_create_physical_replication_slot(%s::name, true) WHERE NOT EXISTS"
        " (SELECT FROM pg_replication_slots WHERE slot_name = %s)",
        (name, name),
        timeout=timeout,
    )


async def drop_slot(conn: Connection, name: str, *, timeout: float = 1.0) -> None:
    """Drop the slot `name`; absent is fine. Raises Refused when it is in use, Unavailable."""
    await _query(
        conn,
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s",
        (name,),
        timeout=timeout,
    )


async def ensure_role(
    conn: Connection,
    credentials: Credentials,
    *,
    replication: bool = False,
    superuser: bool = False,
    timeout: float = 5.0,
) -> None:
    """Create the role or change it to exactly these attributes and this password.

    The server sees a SCRAM verifier only. Waits for synchronous standbys like any commit.
    Raises Refused, Unavailable.
    """
    verifier = conn.pgconn.encrypt_password(
        credentials.password.encode(), credentials.user.encode(), b"scram-sha-256"
    ).decode()
    found = await _query(
        conn,
        "SELECT 1 AS found FROM pg_roles WHERE rolname = %s",
        (credentials.user,),
        timeout=timeout,
    )
    statement = sql.SQL("{verb} ROLE {name} LOGIN {super} {repl} PASSWORD {verifier}").format(
        verb=sql.SQL("ALTER" if found else "CREATE"),
        name=sql.Identifier(credentials.user),
        super=sql.SQL("SUPERUSER" if superuser else "NOSUPERUSER"),
        repl=sql.SQL("REPLICATION" if replication else "NOREPLICATION"),
        verifier=sql.Literal(verifier),
    )
    # Who reads the server's log must not get even the verifier.
    await _query(conn, _QUIET, timeout=timeout)
    try:
        await _query(conn, statement, timeout=timeout)
    finally:
        if not conn.broken:
            await _query(conn, _AS_BEFORE, timeout=timeout)


_QUIET: LiteralString = """
SELECT set_config('log_statement', 'none', false),
       set_config('log_min_duration_statement', '-1', false),
       set_config('log_min_error_statement', 'panic', false)
"""
_AS_BEFORE: LiteralString = (
    "RESET log_statement; RESET log_min_duration_statement; RESET log_min_error_statement"
)


async def grant_rewind(conn: Connection, user: str, *, timeout: float = 5.0) -> None:
    """Let the role run pg_rewind against this server, through the database of `conn`. Waits for
    synchronous standbys like any commit. Raises Refused, Unavailable."""
    for function in _REWIND_READS:
        statement = sql.SQL("GRANT EXECUTE ON FUNCTION pg_catalog.{} TO {}").format(
            sql.SQL(function), sql.Identifier(user)
        )
        await _query(conn, statement, timeout=timeout)


_REWIND_READS: tuple[LiteralString, ...] = (
    "pg_ls_dir(text, boolean, boolean)",
    "pg_stat_file(text, boolean)",
    "pg_read_binary_file(text)",
    "pg_read_binary_file(text, bigint, bigint, boolean)",
)


async def ensure_database(
    conn: Connection, name: str, owner: str, *, timeout: float = 60.0
) -> None:
    """Create the database `name` of role `owner`; one that exists stays as it is.

    Raises Refused, Unavailable.
    """
    found = await _query(
        conn, "SELECT 1 AS one FROM pg_database WHERE datname = %s", (name,), timeout=timeout
    )
    if not found:
        statement = sql.SQL("CREATE DATABASE {} OWNER {}").format(
            sql.Identifier(name), sql.Identifier(owner)
        )
        await _query(conn, statement, timeout=timeout)


async def startup_waits_for_wal(conn: Connection, *, timeout: float = 1.0) -> bool:
    """On a standby: whether recovery has read all local WAL and waits for more. Raises Unavailable.

    In any other wait (a conflict with a reader, a pause, the disk) it may still have some to read.
    """
    rows = await _query(
        conn,
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'startup' AND wait_event"
        " IN ('RecoveryRetrieveRetryInterval', 'RecoveryWalStream')) AS waits",
        timeout=timeout,
    )
    return bool(rows[0]["waits"])


async def tablespaces(conn: Connection, *, timeout: float = 5.0) -> tuple[str, ...]:
    """The names of tablespaces other than PostgreSQL's own. Raises Unavailable."""
    rows = await _query(
        conn,
        "SELECT spcname FROM pg_tablespace WHERE pg_tablespace_location(oid) <> '' ORDER BY 1",
        timeout=timeout,
    )
    return tuple(row["spcname"] for row in rows)
