"""Throw-away PostgreSQL servers: real ones, each in a folder of its own, stopped by process id."""

import asyncio
import atexit
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import LiteralString, TypeVar

from pgregent.adapters.postgres import render, sql, tools, wal
from pgregent.core.errors import Unavailable

T = TypeVar("T")
_libc = ctypes.CDLL(None)
MEMORY = Path("/dev/shm")
ROOM_BYTES = 2 << 30
SUPERUSER = "admin"
PASSWORD = "p'a\\s:s w%rd"
ADMIN = sql.Credentials(SUPERUSER, PASSWORD)
SMALL: Mapping[str, render.Value] = {
    "shared_buffers": "16MB",
    "max_wal_size": "256MB",
    "wal_keep_size": "128MB",
    "hot_standby_feedback": False,
    "unix_socket_directories": "",
    "listen_addresses": "127.0.0.1",
    "restart_after_crash": False,
    "logging_collector": False,
    "dynamic_shared_memory_type": "mmap",
}


def system_bin_dir() -> Path | None:
    found = tools.find_bin_dir()
    return found if found.is_relative_to(tools.SYSTEM_ROOT) else None


def wheel_bin_dir() -> Path | None:
    found = tools.find_bin_dir(wheel_first=True)
    return found if tools.WHEEL_INSTALL in found.parts else None


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def eventually(
    what: str, check: Callable[[], Awaitable[T]], timeout: float = 15.0, every: float = 0.01
) -> T:
    """The first true result of `check`; fails after `timeout` seconds."""
    deadline, last = time.monotonic() + timeout, None
    while time.monotonic() < deadline:
        try:
            if result := await check():
                return result
        except Unavailable as error:
            last = error
        await asyncio.sleep(every)
    raise AssertionError(f"{what}: not within {timeout:g} s ({last})")


def memory() -> Path | None:
    """A file system in memory with plenty of room, from which programs may be run; or None."""
    found = os.statvfs(MEMORY) if MEMORY.is_dir() else None
    if found is None or found.f_flag & os.ST_NOEXEC:
        return None
    return MEMORY if found.f_bavail * found.f_frsize >= ROOM_BYTES else None


@contextmanager
def folder(owner: render.Owner | None) -> Generator[Path]:
    """A folder that PostgreSQL reaches, removed at the end; in memory if possible: copying a
    data directory is most of the work of a test."""
    path = Path(tempfile.mkdtemp(prefix="pgregent-pg-", dir=memory()))
    try:
        if owner is not None:
            os.chown(path, owner.uid, owner.gid)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def descendants(pid: int) -> list[int]:
    """All processes below `pid`."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            parents.setdefault(int(stat[1]), []).append(int(entry.name))
    found, todo = list[int](), [pid]
    while todo:
        below = parents.get(todo.pop(), [])
        found += below
        todo += below
    return found


def _stop_with_tests() -> None:
    # Also when the tests are killed no server stays: PR_SET_PDEATHSIG, an immediate shutdown.
    _libc.prctl(1, signal.SIGQUIT)


@dataclass
class Pg:
    """One server. `role` is what it was last told to be."""

    name: str
    bin_dir: Path
    data_dir: Path
    owner: render.Owner | None
    port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def server(self) -> sql.Server:
        return sql.Server("127.0.0.1", self.port)

    @property
    def passfile(self) -> Path:
        return self.data_dir.with_name(f"{self.name}.pgpass")

    @property
    def log(self) -> Path:
        return self.data_dir.with_name(f"{self.name}.log")

    def upstream(self, other: "Pg") -> render.Upstream:
        """How this server reaches `other`, with a password file of its own."""
        entry = render.PassEntry("127.0.0.1", "*", SUPERUSER, PASSWORD)
        render.write_file(self.passfile, render.pass_file([entry]), self.owner)
        return render.Upstream("127.0.0.1", other.port, SUPERUSER, self.passfile, self.name)

    def configure(self, **parameters: render.Value) -> None:
        render.keep_base(self.data_dir, self.data_dir, self.owner)
        text = render.postgresql_conf({**SMALL, "port": self.port, **parameters})
        render.write_file(self.data_dir / render.POSTGRESQL_CONF, text, self.owner)
        hba = ["host all all 127.0.0.1/32 scram-sha-256"]
        hba.append("host replication all 127.0.0.1/32 scram-sha-256")
        render.write_file(self.data_dir / "pg_hba.conf", render.lines_conf(hba), self.owner)

    def set_role(self, role: render.Role) -> None:
        path = self.data_dir / render.ROLE_CONF
        render.write_file(path, render.role_conf(role), self.owner)

    def spawn(self) -> None:
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [self.bin_dir / "postgres", "-D", self.data_dir],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=wal.tool_environment() | {"HOME": str(self.data_dir.parent)},
                start_new_session=True,
                preexec_fn=_stop_with_tests,  # noqa: PLW1509 (one system call)
                user=None if self.owner is None else self.owner.uid,
                group=None if self.owner is None else self.owner.gid,
                extra_groups=None if self.owner is None else [],
            )

    async def start(self) -> None:
        """Start and wait until connections are accepted."""
        self.spawn()

        async def answers() -> bool:
            assert self.process is not None
            if self.process.poll() is not None:
                raise AssertionError(f"{self.name} ended:\n{self.log.read_text()[-3000:]}")
            await sql.close(await sql.connect(self.server, ADMIN, timeout=2))
            return True

        await eventually(f"{self.name} starts", answers)

    def signal_all(self, number: int) -> None:
        """Signal the postmaster and everything below it."""
        if self.process is not None and self.process.poll() is None:
            for pid in (self.process.pid, *descendants(self.process.pid)):
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue

    def stop(self, number: int = signal.SIGINT) -> None:
        """SIGINT: fast, SIGQUIT: immediate, SIGKILL: all of it at once."""
        if self.process is None:
            return
        if number == signal.SIGKILL:
            self.signal_all(signal.SIGKILL)
        elif self.process.poll() is None:
            self.process.send_signal(number)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.signal_all(signal.SIGKILL)
            self.process.wait(5)
        self.process = None

    @asynccontextmanager
    async def session(
        self, settings: Mapping[str, str] | None = None
    ) -> AsyncGenerator[sql.Connection]:
        conn = await sql.connect(self.server, ADMIN, timeout=5, settings=settings)
        try:
            yield conn
        finally:
            await sql.close(conn)

    async def execute(self, query: LiteralString, *arguments: object) -> list[tuple[object, ...]]:
        """Run one statement as a client would; rows as tuples."""
        async with self.session({"search_path": "public"}) as conn:
            cursor = await conn.execute(query, arguments or None)
            rows = await cursor.fetchall() if cursor.description else []
            return [tuple(row.values()) for row in rows]

    async def status(self) -> sql.PgStatus:
        async with self.session() as conn:
            return await sql.observe(conn)


@dataclass
class Servers:
    """Makes servers in one folder; `template` is a data directory fresh from initdb."""

    bin_dir: Path
    root: Path
    template: Path
    owner: render.Owner | None
    made: list[Pg] = field(default_factory=list[Pg])

    def _new(self, name: str) -> Pg:
        pg = Pg(name, self.bin_dir, self.root / name, self.owner)
        self.made.append(pg)
        return pg

    async def primary(self, name: str, **parameters: render.Value) -> Pg:
        """A running primary made from the template."""
        pg = self._new(name)
        copy_tree(self.template, pg.data_dir)
        pg.configure(**parameters)
        pg.set_role(render.Role())
        await pg.start()
        return pg

    async def standby(self, name: str, of: Pg, **parameters: render.Value) -> Pg:
        """A running standby that streams from `of`, which has all its WAL still."""
        pg = self._new(name)
        copy_tree(self.template, pg.data_dir)
        await self.start_standby(pg, of, **parameters)
        return pg

    async def start_standby(self, pg: Pg, of: Pg, **parameters: render.Value) -> None:
        """Configure `pg`, start it and wait until it streams from `of`."""
        pg.configure(**parameters)
        pg.set_role(render.Role(upstream=pg.upstream(of)))
        render.set_standby_signal(pg.data_dir, True, self.owner)
        await pg.start()
        await eventually(f"{pg.name} streams", lambda: streams(pg, of))

    def close(self) -> None:
        """Stop and remove all servers; the template stays."""
        for pg in self.made:
            # Killed, it would leave its shared memory.
            pg.signal_all(signal.SIGCONT)
            pg.stop(signal.SIGQUIT)
            shutil.rmtree(pg.data_dir, ignore_errors=True)
            pg.log.unlink(missing_ok=True)
        self.made.clear()


async def streams(pg: Pg, of: Pg) -> bool:
    """Whether `pg` receives WAL from `of` on its timeline."""
    here, there = await pg.status(), await of.status()
    receiver = here.walreceiver
    return (
        receiver is not None
        and (receiver.status, receiver.sender_port) == ("streaming", of.port)
        and receiver.received_timeline == there.timeline
        and here.replay_lsn >= there.flush_lsn
    )


def copy_tree(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", "--", source, target], check=True, timeout=30)


def installations() -> list[Path]:
    """The system's PostgreSQL and the wheel's, as far as they are there."""
    return [path for path in (system_bin_dir(), wheel_bin_dir()) if path is not None]


async def make_template(bin_dir: Path, root: Path, owner: render.Owner | None) -> Path:
    """A data directory fresh from initdb."""
    pwfile, template = root / "pwfile", root / "template"
    render.write_file(pwfile, PASSWORD, owner)
    await tools.initdb(bin_dir, template, superuser=SUPERUSER, pwfile=pwfile, owner=owner)
    return template


@cache
def template_of(bin_dir: Path) -> tuple[Path, Path, render.Owner | None]:
    """Programs within reach, a template made with them, and the user; kept until the end."""
    owner = tools.service_owner()
    kept = folder(owner)
    root = kept.__enter__()
    atexit.register(kept.__exit__, None, None, None)
    bin_dir = tools.reachable_bin_dir(bin_dir, owner, root)
    return bin_dir, asyncio.run(make_template(bin_dir, root, owner)), owner


@contextmanager
def servers_of(bin_dir: Path) -> Generator[Servers]:
    """Servers of one installation in a folder of their own; all gone at the end."""
    reached, template, owner = template_of(bin_dir)
    with folder(owner) as root:
        made = Servers(reached, root, template, owner)
        try:
            yield made
        finally:
            made.close()
