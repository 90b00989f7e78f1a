"""The faults, as operators and machines cause them. Each returns when the signals are sent."""

import re
import signal
import sqlite3
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from tests.cluster.cluster import Cluster
from tests.cluster.nodes import Nodes
from tests.cluster.processes import send, titled, wait_for

KILL, STOP, CONT, TERM = signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT, signal.SIGTERM


def some(pid: int | None, what: str) -> int:
    """Return the pid; AssertionError where there is no such process."""
    assert pid, f"no {what} is running"
    return pid


def kill_postgres(cluster: Nodes, name: str) -> float:
    """SIGKILL the postmaster and its children; return the moment before the first signal."""
    postmaster = cluster.postmaster(name)
    return kill_at_once([postmaster, *(cluster.postgres_processes(name) - {postmaster})])


def kill_node(cluster: Nodes, name: str) -> float:
    """SIGKILL agent, guard and PostgreSQL."""
    node = cluster.node(name)
    first = [some(node.agent, "agent"), some(node.guard, "guard")]
    return kill_at_once([*first, *(cluster.all_processes_of(name) - set(first))])


def kill_at_once(pids: list[int]) -> float:
    """SIGKILL in this order; return the moment before."""
    moment = time.monotonic()
    send(pids, KILL)
    return moment


@contextmanager
def frozen(pids: set[int]) -> Generator[float]:
    """SIGSTOP the processes and, on leaving, SIGCONT them; yields the moment before."""
    moment = time.monotonic()
    send(pids, STOP)
    try:
        yield moment
    finally:
        send(pids, CONT)


@contextmanager
def locked(database: Path) -> Generator[float]:
    """Hold an exclusive lock on an SQLite file."""
    conn = sqlite3.connect(database, timeout=5, isolation_level=None)
    try:
        moment = time.monotonic()
        conn.execute("BEGIN EXCLUSIVE")
        yield moment
        conn.execute("ROLLBACK")
    finally:
        conn.close()


def diverge(cluster: Cluster, primary: str, megabytes: int = 48, checkpoint: bool = False) -> None:
    """Give the primary WAL that no standby has and that was never acknowledged, then kill it.

    The walreceivers are frozen for the moment, with far more WAL than sockets can hold.
    """
    receivers: set[int] = set()
    for name in cluster.standbys():
        receivers |= titled(cluster.postgres_processes(name), "walreceiver")
    assert receivers, "no walreceiver is running"
    postmaster = cluster.postmaster(primary)
    with (
        psycopg.connect(cluster.direct(primary), autocommit=True) as conn,
        psycopg.connect(cluster.superuser(primary), autocommit=True) as superuser,
    ):
        with frozen(receivers):
            conn.execute(
                "SELECT pg_logical_emit_message(false, 'test', repeat(md5(n::text), 32768))"
                " FROM generate_series(1, %s) n",
                (megabytes,),
            )
            if checkpoint:
                superuser.execute("CHECKPOINT")
            kill_at_once([postmaster, *cluster.postgres_processes(primary)])
        conn.close()
        superuser.close()


def lose_wal(cluster: Nodes, name: str, keep_recovery: bool) -> int:
    """Delete a stopped server's WAL: all, or all that its own crash recovery does not need.

    Either way pg_rewind cannot find the last common checkpoint. Return how many were deleted.
    """
    data_dir = cluster.members[name].data_dir
    needed = "~"
    if keep_recovery:
        control = subprocess.run(
            [cluster.bin_dir / "pg_controldata", data_dir],
            env={"LC_ALL": "C"},
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout
        (needed,) = re.findall(r"REDO WAL file: +([0-9A-F]{24})$", control, re.MULTILINE)
    segments = [p for p in (data_dir / "pg_wal").iterdir() if re.fullmatch("[0-9A-F]{24}", p.name)]
    doomed = [p for p in segments if p.name < needed]
    for segment in doomed:
        segment.unlink()
    return len(doomed)


class HeldSession:
    """A session that must not be cut: its backend stays the same."""

    def __init__(self, conninfo: str) -> None:
        self._conn = psycopg.connect(conninfo, autocommit=True, connect_timeout=10)
        self._backend = self._ask()

    def _ask(self) -> int:
        row = self._conn.execute("SELECT pg_backend_pid()").fetchone()
        assert row
        return int(row[0])

    def __enter__(self) -> "HeldSession":
        return self

    def __exit__(self, *_: object) -> None:
        self._conn.close()

    def intact(self) -> bool:
        """Return whether the same backend still answers."""
        try:
            return self._ask() == self._backend
        except psycopg.Error:
            return False


def wait_new_agent(cluster: Nodes, name: str, old: int, timeout: float = 30.0) -> int:
    """Wait until the member has another agent than `old`; return its pid."""

    def new() -> int | None:
        pid = cluster.node(name).agent
        return pid if pid != old else None

    return wait_for(f"{name} has a new agent", new, timeout=timeout, every=0.2)
