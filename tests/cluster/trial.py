"""One fault under writers on every path, and everything that must hold afterwards."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic

import psycopg
from typing_extensions import TypeVar

from tests.cluster.checkers import (
    Attempt,
    Outage,
    acknowledged,
    late_acknowledgements,
    lost_or_repeated,
    outage,
    shared_terms,
)
from tests.cluster.cluster import Cluster
from tests.cluster.nodes import Event, Nodes
from tests.cluster.processes import wait_for
from tests.cluster.writers import CREATE, ENTRY, TABLE, Writers

C = TypeVar("C", bound=Nodes, default=Cluster)
_ENOUGH = 50


class Trial(Generic[C]):
    """What a test sees of one fault. `fault` is set by the test: time.monotonic() seconds."""

    def __init__(self, cluster: C, writers: Writers, primary: str) -> None:
        self.cluster = cluster
        self.primary = primary
        self.standbys = sorted(name for name in cluster.members if name != primary)
        self.mark = cluster.events.mark()
        self.started = time.monotonic()
        self.violations: list[str] = []
        self._writers = writers

    @property
    def history(self) -> list[Attempt]:
        """Return the attempts of this trial so far."""
        return self._writers.history

    def events(self, name: str, **wanted: object) -> list[Event]:
        """Return the events since this trial began."""
        return self.cluster.events.named(name, self.mark, **wanted)

    def rejoined(self, member: str) -> list[str]:
        """Return how the member came back, in order: follow, rewind, clone."""
        events = self.cluster.events.since(self.mark)
        return [str(e.body["how"]) for e in events if e.has(member=member) and "how" in e.body]

    def wait_rejoined(self, member: str, how: str, timeout: float = 30.0) -> Event:
        """Wait for the event that says the member came back in this way."""
        return self.cluster.events.wait(
            lambda e: e.has(member=member, how=how),
            timeout,
            self.mark,
            f"rejoin of {member} by {how}",
        )

    def wait_writes(self, since: float, count: int = _ENOUGH, timeout: float = 60.0) -> None:
        """Wait until `count` attempts that began after `since` were acknowledged by the entry, and
        as many by each further one."""
        entries = (ENTRY, *self.cluster.other_entries())

        def enough() -> bool:
            return all(self._writers.acknowledged_since(since, e) >= count for e in entries)

        try:
            wait_for(f"{count} acknowledgements through the entry point", enough, timeout=timeout)
        except AssertionError as error:
            last = [a for a in self.history if a.path == ENTRY][-1:]
            raise AssertionError(f"{error}; last attempt: {last}") from None

    def outage(self, fault: float, path: str = ENTRY) -> Outage:
        """Return the silence at the entry point around the fault."""
        return outage(self.history, path, fault, time.monotonic())

    def not_acknowledged(self, path: str = ENTRY) -> list[Attempt]:
        """Return the attempts on a path that were refused or are in doubt."""
        return [a for a in self.history if a.path == path and a.outcome != "ok"]


class Trials(Generic[C]):
    """The trials of one cluster.

    Strict: later ones see what earlier ones lost, and a violation is an AssertionError. Else (for
    benchmarks, which go on and on): each starts anew, and leaves its `violations` to be read.
    """

    def __init__(self, cluster: C, strict: bool = True) -> None:
        self.cluster = cluster
        self._strict = strict
        self._history: list[Attempt] = []
        self._next_number = 0
        self.ended_well = False
        """The cluster was whole when the last trial ended, and nobody has had it since."""

    @contextmanager
    def trial(self) -> Generator[Trial[C]]:
        """Write on all paths, hand over to the test, then heal and verify."""
        self.ended_well = False
        primary = self.cluster.wait_healthy()
        with psycopg.connect(self.cluster.dsn, autocommit=True, connect_timeout=10) as conn:
            conn.execute(CREATE.encode())
            if not self._strict:
                conn.execute(f"TRUNCATE {TABLE}".encode())
                self._history.clear()
        writers = Writers(
            self.cluster.with_password(),
            self.cluster.direct_all(),
            others=self.cluster.other_entries(),
            first_number=self._next_number,
        )
        self._next_number = writers.next_number
        try:
            with writers:
                trial = Trial(self.cluster, writers, primary)
                trial.wait_writes(trial.started)
                yield trial
                self.cluster.wait_healthy()
                trial.wait_writes(time.monotonic())
        finally:
            self._history += writers.history
        trial.violations += self._violations()
        if self._strict and trial.violations:
            shown = "\n".join(trial.violations[:20])
            raise AssertionError(f"{len(trial.violations)} violations:\n{shown}")
        self.ended_well = True

    def _violations(self) -> list[str]:
        assert len(acknowledged(self._history)) >= 2 * _ENOUGH
        entries = (ENTRY, *self.cluster.other_entries())
        found = late_acknowledgements(self._history) + shared_terms(self._history, *entries)
        for name, keys in self._keys_everywhere().items():
            found += [f"{name}: {text}" for text in lost_or_repeated(self._history, keys)]
        found += [f"set aside, but in no event: {path}" for path in self._unnamed_copies()]
        return found + [f"not a JSON object: {line!r}" for line in self.cluster.foreign_lines()]

    def _keys_everywhere(self) -> dict[str, list[int]]:
        """Return the keys on every member, once each has what the primary has now."""
        with psycopg.connect(self.cluster.dsn, autocommit=True, connect_timeout=10) as conn:
            row = conn.execute("SELECT pg_current_wal_lsn()::text").fetchone()
        assert row
        primary = self.cluster.primary()
        keys: dict[str, list[int]] = {}
        for name in self.cluster.members:
            with psycopg.connect(self.cluster.direct(name), connect_timeout=10) as conn:
                conn.autocommit = True
                if name != primary:
                    wait_for(f"{name} replayed {row[0]}", _replayed(conn, row[0]), timeout=20)
                found = conn.execute(f"SELECT key FROM {TABLE}".encode()).fetchall()
                keys[name] = [int(key) for (key,) in found]
        return keys

    def _unnamed_copies(self) -> list[Path]:
        """Return the copies of data directories that no event names."""
        named = {Path(e.body["path"]).resolve() for e in self.cluster.ever("set_aside")}
        live = {member.data_dir.resolve() for member in self.cluster.members.values()}
        nodes = self.cluster.dir / "nodes"
        versions = [*nodes.glob("*/*/PG_VERSION"), *nodes.glob("*/*/*/PG_VERSION")]
        found = {p.parent.resolve() for p in versions if p.parent.parent.name != "base"}
        return sorted(found - live - named)


def _replayed(conn: psycopg.Connection, lsn: str) -> Callable[[], bool]:
    def reached() -> bool:
        query = "SELECT coalesce(pg_last_wal_replay_lsn() >= %s::pg_lsn, false)"
        return conn.execute(query, (lsn,)).fetchone() == (True,)

    return reached


class Keeper(Generic[C]):
    """A cluster for the tests of a module; a new one where a test left it broken."""

    def __init__(self, make: Callable[[], C]) -> None:
        self._make = make
        self._trials: Trials[C] | None = None

    def trials(self) -> Trials[C]:
        """Return the trials of a cluster that is whole."""
        if self._trials and self._broken(self._trials):
            self.close()
        if not self._trials:
            cluster = self._make().__enter__()
            self._trials = Trials(cluster)
            cluster.wait_healthy()
        self._trials.ended_well = False
        return self._trials

    def _broken(self, trials: Trials[C]) -> bool:
        try:
            if not trials.ended_well:
                trials.cluster.wait_healthy(timeout=5)
        except AssertionError:
            return True
        return False

    def close(self) -> None:
        """End the cluster, if there is one."""
        trials, self._trials = self._trials, None
        if trials:
            trials.cluster.close()
