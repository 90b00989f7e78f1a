"""Writers through the entry point of a Compose project, and what became of what they wrote."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg

from tests.cluster import checkers
from tests.cluster.writers import CREATE, TABLE, Pace, Writers
from tests.compose.engine import until

PASSWORD = "postgres"  # the seed's
ENTRY_PORT = 5435


def dsn(port: int) -> str:
    return (
        f"host=127.0.0.1 port={port} user=postgres password={PASSWORD} dbname=postgres "
        "connect_timeout=20"
    )


def query(port: int, sql: str) -> list[tuple[object, ...]]:
    """Rows of one statement on a connection of its own; [] for one without rows."""
    with psycopg.connect(dsn(port), autocommit=True) as connection:
        cursor = connection.execute(sql)  # pyright: ignore[reportArgumentType, reportCallIssue]
        return cursor.fetchall() if cursor.description else []


@dataclass
class Load:
    """What runs: the writers, and when the fault was."""

    writers: Writers
    began: float
    fault: float = 0.0

    def strike(self) -> None:
        self.fault = time.monotonic()

    def resumes(self, timeout: float = 90.0) -> None:
        """Wait for writes that began after the fault was over for good."""
        until("writes go on", lambda: self.writers.acknowledged_since(self.fault) > 50, timeout)


@contextmanager
def load(first_number: int, port: int = ENTRY_PORT) -> Iterator[Load]:
    """Writers run in it; nothing that they were acknowledged may be lost or there twice."""
    query(port, CREATE)
    pace = Pace(rate=100.0, connect_timeout=20.0, query_timeout=30.0, pause_when_refused=0.01)
    with Writers(dsn(port), first_number=first_number, through_entry=2, pace=pace) as writers:
        running = Load(writers, time.monotonic())
        until("the first writes", lambda: writers.acknowledged_since(running.began) > 50, 60.0)
        yield running
        writers.stop()
    history = writers.history
    low, high = (n * 10_000_000 for n in (first_number, writers.next_number))
    rows = query(port, f"SELECT key FROM {TABLE} WHERE key >= {low} AND key < {high}")
    keys = [int(str(row[0])) for row in rows]
    assert checkers.lost_or_repeated(history, keys) == []
    assert checkers.late_acknowledgements(history) == []


def outage_ms(running: Load) -> float:
    """The longest silence of the entry point around the fault."""
    found = checkers.outage(running.writers.history, "entry", running.fault, float("inf"))
    return found.gap * 1000
