"""A server that runs in the data directory and that no guard started: Patroni's, or by hand."""

import asyncio
import contextlib
import logging
import os
import signal
import time
from dataclasses import dataclass

from pgregent.adapters.postgres import sql, wal
from pgregent.adapters.postgres.guard_client import children_titled, foreign_postmaster
from pgregent.adapters.postgres.layout import ServerConfig, slot_name
from pgregent.core.adoption import DataDir, Ended
from pgregent.core.errors import Refused, Unavailable

POLL_S = 0.01
ARCHIVER_PATIENCE_S = 0.5
CHECKPOINT_S = 60.0

log = logging.getLogger("pgregent")


@dataclass(frozen=True, slots=True)
class Look:
    """A data directory, and the standbys that stream from its server through slots which pgregent
    would keep for them."""

    data: DataDir
    standbys: tuple[str, ...] = ()


async def look(config: ServerConfig) -> Look:
    """At the server, if one runs, else at the files. Raises Refused, and Unavailable for a server
    that the agent could not log in to."""
    if foreign_postmaster(config.data_dir, config.state_dir) is None:
        return Look(_from_disk(config))
    conn = await sql.connect(_address(config), config.superuser, timeout=5.0)
    try:
        status = await sql.observe(conn, full=False)
        users = await sql.slot_users(conn)
    finally:
        await sql.close(conn)
    data = DataDir(
        str(status.system_identifier),
        status.timeline,
        status.in_recovery,
        status.flush_lsn,
        _lineage(config, status.timeline),
    )
    return Look(data, tuple(name for slot, name in users.items() if slot == slot_name(name)))


def _address(config: ServerConfig) -> sql.Server:
    """Where it says that it listens, if the agent is to use a socket: ours is not there yet."""
    if config.use_unix_socket:
        with contextlib.suppress(OSError, IndexError):
            lines = (config.data_dir / "postmaster.pid").read_text().splitlines()
            if folder := lines[4].strip():
                return sql.Server(str(config.data_dir / folder), config.port)
    return config.local


def _from_disk(config: ServerConfig) -> DataDir:
    control = wal.controldata(config.bin_dir, config.data_dir)
    signals = ("standby.signal", "recovery.signal")
    standby = "recovery" in control.state or any((config.data_dir / s).exists() for s in signals)
    timeline = max(control.timeline, control.min_recovery_end_timeline)
    return DataDir(
        str(control.system_identifier),
        timeline,
        standby,
        control.checkpoint_lsn if control.state == "shut down" else 0,
        _lineage(config, timeline),
    )


def _lineage(config: ServerConfig, timeline: int) -> tuple[Ended, ...]:
    history = wal.history_files(config.data_dir).get(timeline, b"")
    return tuple(Ended(e.timeline, e.switch_lsn) for e in wal.parse_history(history))


async def end(config: ServerConfig) -> None:
    """Shut it down, so that the guard can start the server: a checkpoint first, because clients
    wait for the shutdown's, and then fast. What is left after `stop_timeout` is the guard's to
    kill. Raises Unavailable."""
    postmaster = foreign_postmaster(config.data_dir, config.state_dir)
    if postmaster is None:
        return
    log.info("PostgreSQL runs (process %d), not under a guard: taking it over", postmaster)
    with contextlib.suppress(Unavailable, Refused):
        conn = await sql.connect(_address(config), config.superuser, timeout=2.0)
        try:
            await sql.checkpoint(conn, timeout=CHECKPOINT_S)
        finally:
            await sql.close(conn)
    began = time.monotonic()
    with contextlib.suppress(ProcessLookupError):
        os.kill(postmaster, signal.SIGINT)
    while foreign_postmaster(config.data_dir, config.state_dir) == postmaster:
        waited = time.monotonic() - began
        if waited > config.stop_timeout:
            return
        if waited > ARCHIVER_PATIENCE_S:
            await asyncio.to_thread(_end_archiver, config, postmaster)
        await asyncio.sleep(POLL_S)


def _end_archiver(config: ServerConfig, postmaster: int) -> None:
    """It would try a command that fails three times more, after the shutdown checkpoint."""
    with contextlib.suppress(Refused, Unavailable, OSError):
        if not wal.controldata(config.bin_dir, config.data_dir).shut_down:
            return
        for pid in children_titled(postmaster, b"postgres: "):
            if b": archiver" in _title(pid) or _title(pid).startswith(b"postgres: archiver"):
                os.kill(pid, signal.SIGTERM)


def _title(pid: int) -> bytes:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read()
