"""A cluster of pgregent as a user has it: one `pgregent up`, its events, its command line."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.cluster.plain import make_directory
from tests.cluster.processes import (
    alive,
    belonging_to,
    descendants,
    kill_all_of,
    send,
    wait_for,
    working_in,
)

COMMAND = (sys.executable, "-m", "pgregent.cli.main")
_LEADERS = {"leader", "primary"}
# What every standby says to the writers that ask it directly.
_NOISE = ("in a read-only transaction", "STATEMENT:  INSERT INTO written")
_DROPPED = ("PG", "PGREGENT_", "PATRONI_")


@dataclass(frozen=True, slots=True)
class Event:
    """One line of `up --json` and when it was read (time.monotonic() seconds)."""

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


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that ended."""

    code: int
    out: str
    err: str

    @property
    def message(self) -> str:
        return self.out + self.err


def clean_environment(**added: str) -> dict[str, str]:
    """Return the environment without what would point a client elsewhere."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(_DROPPED)}
    return kept | {"LC_ALL": "C.UTF-8"} | added


def run_cli(*arguments: str, timeout: float = 30.0, cwd: Path | None = None) -> Finished:
    """Run one command of the product to its end; its exit code is the caller's to judge."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        env=clean_environment(),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=timeout,
        check=False,
    )
    return Finished(done.returncode, done.stdout.decode(), done.stderr.decode(errors="replace"))


class Cluster:
    """`pgregent up` on a directory of its own. Use as a context manager; or start() and close().

    `up` runs in a session of its own; stop() signals that whole foreground group, as Ctrl-C does.
    """

    def __init__(
        self, bin_dir: Path, nodes: int = 3, arguments: Sequence[str] = (), command: Any = COMMAND
    ) -> None:
        self.base = make_directory("pgregent-test-")
        self.dir = self.base / "c"
        self.bin_dir = bin_dir
        self._command = [
            *command, "up", str(self.dir), "--nodes", str(nodes), "--entry-port", "0",
            "--port-base", "0", "--bin-dir", str(bin_dir), "--json", *arguments,
        ]  # fmt: skip
        self._up: subprocess.Popen[bytes] | None = None
        self.events: Events
        self._streams: list[Events] = []
        self.dsn = self.dsn_ro = ""
        self.members: dict[str, Member] = {}
        self.ready_after = 0.0

    def __enter__(self) -> "Cluster":
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def up_pid(self) -> int:
        assert self._up, "`up` was not started"
        return self._up.pid

    def start(self, timeout: float = 90.0) -> Event:
        """Run `up` and wait for `ready`."""
        started = time.monotonic()
        with (self.base / "up.stderr").open("ab") as errors:
            self._up = subprocess.Popen(
                self._command,
                env=clean_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        assert self._up.stdout
        self.events = Events(self._up.stdout)
        self._streams.append(self.events)
        try:
            ready = self.events.wait(lambda e: e.name == "ready", timeout, what="ready")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.tail()}") from None
        self.ready_after = ready.at - started
        self._adopt(ready.body)
        return ready

    def ever(self, name: str, **wanted: object) -> list[Event]:
        """Return the events of that name from every `up` that was run on this directory."""
        return [event for stream in self._streams for event in stream.named(name, 0, **wanted)]

    def foreign_lines(self) -> list[str]:
        """Return what any `up` printed that was no JSON object."""
        return [line for stream in self._streams for line in stream.foreign]

    def _adopt(self, ready: dict[str, Any]) -> None:
        self.dsn, self.dsn_ro = ready["dsn"], ready["dsn_ro"]
        self.members = {
            m["name"]: Member(
                m["name"],
                Path(m["data_dir"]),
                int(m["port"]),
                m["api_url"],
                m.get("host", "127.0.0.1"),
            )
            for m in ready["members"]
        }

    def stop(self, timeout: float = 60.0) -> int:
        """Ctrl-C and wait; return the exit code of `up`."""
        assert self._up, "`up` was not started"
        os.killpg(self._up.pid, signal.SIGINT)
        return self._up.wait(timeout)

    def reap_up(self, timeout: float = 10.0) -> None:
        """Wait for an `up` that was killed."""
        assert self._up, "`up` was not started"
        self._up.wait(timeout)

    def close(self) -> None:
        """Kill whatever is left, prove that nothing is, and remove the directory."""
        send(belonging_to(self.base), signal.SIGCONT)
        kill_all_of(self.base)
        if self._up:
            self._up.wait(10)
        shutil.rmtree(self.base)

    def cli(self, *arguments: str, timeout: float = 30.0) -> Finished:
        """Run a command of the product on this directory (`-d` goes after its name)."""
        name, *rest = arguments
        return run_cli(name, "-d", str(self.dir), *rest, timeout=timeout)

    def ps(self) -> dict[str, Any]:
        """Return what `pgregent ps -f json` says."""
        done = self.cli("ps", "-f", "json")
        assert done.code == 0, f"ps: exit code {done.code}: {done.message}"
        return dict(json.loads(done.out))

    def node(self, name: str) -> NodeProcesses:
        """Return the pids of a member."""
        pids = self.ps()["members"][name]
        return NodeProcesses(pids.get("agent"), pids.get("guard"), pids.get("postmaster"))

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

    def with_password(self, **changed: Any) -> str:
        """Return the connection string with the password of its passfile: in memory only."""
        parts: dict[str, Any] = {**conninfo_to_dict(self.dsn)}
        passfile = parts.pop("passfile", None)
        if passfile:
            parts["password"] = password_in(Path(str(passfile)), str(parts["user"]))
        return make_conninfo(**{**parts, **changed})

    def superuser(self, name: str) -> str:
        """Return the superuser's connection string for one member."""
        password = (self.dir / "secrets" / "superuser").read_text().strip()
        changed = {"user": "postgres", "dbname": "postgres", "password": password}
        return make_conninfo(self.direct(name), **changed)

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
        logs = [self.base / "up.stderr", *sorted(self.dir.glob("nodes/*/log/*"))]
        logs += sorted(self.dir.glob("nodes/*/log")) + sorted(self.dir.glob("*.log"))
        texts: list[str] = []
        for log in filter(Path.is_file, logs):
            text = log.read_text(errors="replace").splitlines()
            told = [line for line in text if not any(noise in line for noise in _NOISE)]
            texts += [f"--- {log.relative_to(self.base)}", *told[-lines:]]
        events = [json.dumps(e.body) for stream in self._streams for e in stream.since()]
        return "\n".join([*texts, "--- last events", *events[-2 * lines :]])


def password_in(passfile: Path, user: str) -> str:
    """Return the password of `user` from a password file, whatever server the line is for."""
    for line in passfile.read_text().splitlines():
        fields = line.replace("\\:", "\0").split(":", 4)
        if len(fields) == 5 and fields[3] in (user, "*"):
            return fields[4].replace("\0", ":").replace("\\\\", "\\")
    raise AssertionError(f"{passfile} holds no line for user {user}")
