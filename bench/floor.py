"""The floor: how fast plain PostgreSQL changes hands when a script knows everything beforehand.

python -m bench.floor --rounds 20
"""

import argparse
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from bench.tables import Figures, markdown, say
from tests.cluster import servers
from tests.cluster.checkers import acknowledged, lost_or_repeated
from tests.cluster.plain import PlainCluster, PlainServer, names, reap, require
from tests.cluster.processes import send, titled, wait_for
from tests.cluster.writers import CREATE, TABLE, Pace, Writers

# Its writers only make the kill hit a busy server: afterwards they ask seldom.
_PACE = Pace(connect_timeout=1.0, query_timeout=2.0, pause_when_refused=0.1)


@dataclass(frozen=True, slots=True)
class Handover:
    """Milliseconds from the first SIGKILL to each step; rows acknowledged before, and lost."""

    sealed: float
    promoted: float
    total: float
    acknowledged: int
    lost: int


def _value(conn: psycopg.Connection, query: str) -> Any:
    row = conn.execute(query.encode()).fetchone()
    assert row
    return row[0]


def _set(conn: psycopg.Connection, name: str, value: str) -> None:
    conn.execute(f"ALTER SYSTEM SET {name} = '{value}'".encode())
    conn.execute("SELECT pg_reload_conf()")


def _seal(sessions: dict[PlainServer, psycopg.Connection]) -> None:
    gone = "SELECT count(*) = 0 FROM pg_stat_wal_receiver"
    for conn in sessions.values():
        _set(conn, "primary_conninfo", "")
    for server, conn in sessions.items():
        wait_for(f"{server.name} sealed", lambda c=conn: _value(c, gone), timeout=10, every=0.001)


def _promote(sessions: dict[PlainServer, psycopg.Connection]) -> PlainServer:
    received = "SELECT pg_wal_lsn_diff(pg_last_wal_receive_lsn(), '0/0')"
    best = max(sessions, key=lambda server: _value(sessions[server], received))
    others = [server for server in sessions if server != best]
    if others:
        _set(sessions[best], "synchronous_standby_names", names(others))
    _value(sessions[best], "SELECT pg_promote(false)")
    for server in others:
        upstream = f"{best.upstream} application_name={server.name}"
        _set(sessions[server], "primary_conninfo", upstream)
    writable = "SELECT NOT pg_is_in_recovery()"
    wait_for("promotion", lambda: _value(sessions[best], writable), timeout=10, every=0.001)
    return best


def _kill_order(primary: PlainServer) -> list[int]:
    """Return the postmaster first, so that nothing new is started."""
    pids = primary.processes()
    postmaster = int((primary.data_dir / "postmaster.pid").read_text().split()[0])
    receivers = titled(pids, "walsender")
    return [postmaster, *sorted(pids - {postmaster} - receivers), *receivers]


def hand_over(primary: PlainServer, standbys: list[PlainServer]) -> tuple[PlainServer, Handover]:
    """Kill the primary under writers, appoint the best standby; return it and the times."""
    with primary.connect() as conn:
        conn.execute(CREATE.encode())
        conn.execute(f"TRUNCATE {TABLE}".encode())
    sessions = {server: server.connect() for server in standbys}
    with Writers(primary.conninfo, pace=_PACE) as writers:
        busy = lambda: len(acknowledged(writers.history)) >= 200  # noqa: E731
        wait_for("the writers write", busy, timeout=20)
        pids = _kill_order(primary)
        start = time.monotonic()
        send(pids, signal.SIGKILL)
        _seal(sessions)
        sealed = time.monotonic()
        best = _promote(sessions)
        promoted = time.monotonic()
        with best.connect() as conn:
            conn.execute(f"INSERT INTO {TABLE} VALUES (-1, 'handover')".encode())
            end = time.monotonic()
    primary.kill()
    reap()
    with best.connect() as conn:
        keys = [row[0] for row in conn.execute(f"SELECT key FROM {TABLE} WHERE key >= 0".encode())]
    for session in sessions.values():
        session.close()
    times = [(moment - start) * 1000 for moment in (sealed, promoted, end)]
    history = writers.history
    lost = len(lost_or_repeated(history, keys))
    return best, Handover(times[0], times[1], times[2], len(acknowledged(history)), lost)


class Floor:
    """A plain cluster that is handed over round after round. Use as a context manager."""

    def __init__(self, bin_dir: Path, nodes: int = 3) -> None:
        self._cluster = PlainCluster(bin_dir, nodes)
        self._primary = self._cluster.servers[0]

    def __enter__(self) -> "Floor":
        self._cluster.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster.__exit__()

    def round(self) -> Handover:
        """Measure one handover, then clone the old primary from its successor."""
        old = self._primary
        standbys = [server for server in self._cluster.servers if server != old]
        self._primary, measured = hand_over(old, standbys)
        old.clone_of(self._primary)
        old.start()
        require(self._primary, [s for s in self._cluster.servers if s != self._primary])
        return measured


def rows(rounds: list[Handover]) -> list[list[str]]:
    """Return one table row per step."""
    steps = {
        "both standbys sealed": [r.sealed for r in rounds],
        "promoted": [r.promoted for r in rounds],
        "first synchronous commit": [r.total for r in rounds],
    }
    acked, lost = sum(r.acknowledged for r in rounds), sum(r.lost for r in rounds)
    return [[step, *Figures(ms).cells(), str(acked), str(lost)] for step, ms in steps.items()]


HEADER = ["SIGKILL of the primary to", "rounds", "median ms", "95th ms", "worst ms"]


def report(rounds: list[Handover]) -> str:
    """Return the Markdown table."""
    return markdown([*HEADER, "rows acknowledged", "anomalies"], rows(rounds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--bin-dir", type=Path, default=servers.full()[1])
    options = parser.parse_args()
    measured: list[Handover] = []
    with Floor(options.bin_dir) as floor:
        for number in range(1, options.rounds + 1):
            measured.append(floor.round())
            say(f"floor {number}/{options.rounds}: {measured[-1].total:.0f} ms")
    sys.stdout.write(report(measured))


if __name__ == "__main__":
    main()
