"""The members of a cluster, however it was started: their processes, their events, their health."""

import json
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

import psycopg

from tests.cluster.command import Finished
from tests.cluster.processes import alive, descendants, wait_for, working_in

_LEADERS = {"leader", "primary"}
# What every standby says to the writers that ask it directly.
_NOISE = ("in a read-only transaction", "STATEMENT:  INSERT INTO written")


@dataclass(frozen=True, slots=True)
class Event:
    """One line of JSON and when it was read (time.monotonic() seconds)."""

    at: float
    body: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.body.get("event"))

    def has(self, **wanted: object) -> bool:
        """Return whether the body holds every one of `wanted`."""
        return all(self.body.get(key) == value for key, value in wanted.items())


class Events:
    """Reads JSON lines in a thread. Lines that are not JSON objects are kept in `foreign`."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._changed = threading.Condition()
        self._seen: list[Event] = []
        self._ended = False
        self.foreign: list[str] = []
        self._thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._thread.start()

    def _read(self, stream: IO[bytes]) -> None:
        for line in stream:
            now = time.monotonic()
            with self._changed:
                try:
                    body = json.loads(line)
                    self._seen.append(Event(now, dict(body)))
                except (ValueError, TypeError):
                    self.foreign.append(line.decode(errors="replace"))
                self._changed.notify_all()
        stream.close()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def mark(self) -> int:
        """Return a place in the stream: `since` it, only later events count."""
        with self._changed:
            return len(self._seen)

    def since(self, mark: int = 0) -> list[Event]:
        """Return the events after `mark`."""
        with self._changed:
            return self._seen[mark:]

    def named(self, name: str, since: int = 0, **wanted: object) -> list[Event]:
        """Return the events of that name whose body holds `wanted`."""
        return [e for e in self.since(since) if e.name == name and e.has(**wanted)]

    def wait(
        self, predicate: Callable[[Event], bool], timeout: float, since: int = 0, what: str = ""
    ) -> Event:
        """Return the first event after `since` that fits; AssertionError after `timeout` s."""
        deadline = time.monotonic() + timeout
        looked_at = since
        with self._changed:
            while True:
                for event in self._seen[looked_at:]:
                    if predicate(event):
                        return event
                looked_at = max(looked_at, len(self._seen))
                left = deadline - time.monotonic()
                if left <= 0 or self._ended:
                    why = "the stream ended" if self._ended else f"not within {timeout:g} s"
                    names = [e.name for e in self._seen[since:]]
                    raise AssertionError(f"no event {what}: {why}; seen: {names}")
                self._changed.wait(left)


@dataclass(frozen=True, slots=True)
class Member:
    """A member as the `ready` line names it."""

    name: str
    data_dir: Path
    port: int
    api_url: str
    host: str = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class NodeProcesses:
    """Pids of one member; None where there is no such process now."""

    agent: int | None
    guard: int | None
    postmaster: int | None


class Nodes(ABC):
    """A cluster as trials, faults and benchmarks see it. Use as a context manager."""

    base: Path
    """Everything of the cluster is below it."""
    dir: Path
    """Holds nodes/NAME."""
    bin_dir: Path
    events: Events
    dsn: str
    """The application's connection string, through the entry point."""

    def __init__(self) -> None:
        self.members: dict[str, Member] = {}
        self._streams: list[Events] = []

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def start(self) -> object:
        """Start everything and wait until it serves."""

    @abstractmethod
    def close(self) -> None:
        """Kill whatever is left, prove that nothing is, and remove the directory."""

    @abstractmethod
    def node(self, name: str) -> NodeProcesses:
        """Return the pids of a member."""

    @abstractmethod
    def cli(self, *arguments: str, timeout: float = 30.0) -> Finished:
        """Run a command of the product on this cluster."""

    @abstractmethod
    def with_password(self, **changed: Any) -> str:
        """Return `dsn` with the password itself, and other changes: in memory only."""

    @abstractmethod
    def logs(self) -> Iterable[Path]:
        """Return the files that tell what happened."""

    def other_entries(self) -> dict[str, str]:
        """Return connection strings through further entry points, by their names."""
        return {}

    def ever(self, name: str, **wanted: object) -> list[Event]:
        """Return the events of that name from the first start on."""
        return [event for stream in self._streams for event in stream.named(name, 0, **wanted)]

    def foreign_lines(self) -> list[str]:
        """Return what was read as events and was no JSON object."""
        return [line for stream in self._streams for line in stream.foreign]

    def listed(self) -> list[dict[str, Any]]:
        """Return the rows of `pgregent list -f json`."""
        done = self.cli("list", "-f", "json")
        assert done.code == 0, f"list: exit code {done.code}: {done.message}"
        return list(json.loads(done.out))

    def postmaster(self, name: str) -> int:
        """Return the pid in postmaster.pid; AssertionError where there is no such file."""
        path = self.members[name].data_dir / "postmaster.pid"
        assert path.exists(), f"{name} has no postmaster"
        return int(path.read_text().split()[0])

    def postgres_processes(self, name: str) -> set[int]:
        """Return every process of the member's server, postmaster or none, by /proc alone."""
        found = working_in(self.members[name].data_dir)
        for pid in list(found):
            found |= descendants(pid)
        return found

    def all_processes_of(self, name: str) -> set[int]:
        """Return agent, guard and every process of the member's server."""
        node = self.node(name)
        roots = {pid for pid in (node.agent, node.guard, node.postmaster) if pid}
        return roots.union(self.postgres_processes(name), *(descendants(pid) for pid in roots))

    def direct(self, name: str) -> str:
        """Return the application's connection string for one member, past the entry point."""
        member = self.members[name]
        return self.with_password(host=member.host, port=member.port)

    def direct_all(self) -> dict[str, str]:
        """Return direct() of every member."""
        return {name: self.direct(name) for name in self.members}

    def primary(self) -> str:
        """Return the one member that takes writes, by SQL; AssertionError unless it is one."""
        writable = self.writable(self.members)
        assert len(writable) == 1, f"{len(writable)} members take writes: {writable}"
        return writable[0]

    def writable(self, names: Iterable[str]) -> list[str]:
        """Return those of `names` that say, by SQL, that they are not in recovery."""
        return [name for name in names if self._in_recovery(name) is False]

    def standbys(self) -> list[str]:
        """Return the other members, in order of their names."""
        primary = self.primary()
        return sorted(name for name in self.members if name != primary)

    def _in_recovery(self, name: str) -> bool | None:
        try:
            with psycopg.connect(self.direct(name), connect_timeout=2) as conn:
                row = conn.execute("SELECT pg_is_in_recovery()").fetchone()
                return bool(row and row[0])
        except psycopg.Error:
            return None

    def unhealthy(self) -> str:
        """Return why the cluster is not whole by `list`, or ""."""
        try:
            rows = self.listed()
        except AssertionError as error:
            return str(error)
        leaders = [row for row in rows if str(row.get("Role")).lower() in _LEADERS]
        if len(leaders) != 1 or str(leaders[0].get("State")).lower() != "running":
            return f"not one running primary: {rows}"
        timeline = leaders[0].get("TL")
        others = [row for row in rows if row is not leaders[0]]
        bad = [r for r in others if r.get("State") != "streaming" or r.get("TL") != timeline]
        if bad or len(rows) != len(self.members):
            return f"not streaming on one timeline: {bad or rows}"
        return ""

    def wait_healthy(self, timeout: float = 60.0) -> str:
        """Wait until `list` and SQL agree on one primary and all others streaming; return it."""
        reasons = ["not asked yet"]

        def healthy() -> bool:
            reasons.append(self.unhealthy())
            return not reasons[-1]

        try:
            wait_for("one primary, all others streaming", healthy, timeout=timeout, every=0.25)
        except AssertionError as error:
            raise AssertionError(f"{error}: {reasons[-1]}\n{self.tail()}") from None
        return self.primary()

    def wait_gone(self, pids: set[int], timeout: float = 20.0) -> None:
        """Wait until none of `pids` lives."""
        wait_for(f"{pids} are gone", lambda: not any(map(alive, pids)), timeout=timeout)

    def tail(self, lines: int = 25) -> str:
        """Return the ends of all logs, for the report of a failure."""
        texts: list[str] = []
        for log in filter(Path.is_file, self.logs()):
            text = log.read_text(errors="replace").splitlines()
            told = [line for line in text if not any(noise in line for noise in _NOISE)]
            texts += [f"--- {log.relative_to(self.base)}", *told[-lines:]]
        events = [json.dumps(e.body) for stream in self._streams for e in stream.since()]
        return "\n".join([*texts, "--- last events", *events[-2 * lines :]])
