"""Three servers behind the PostgreSQL port: real ones with their guards, or the simulator's."""

import asyncio
import contextlib
import itertools
import os
import pwd
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psycopg

from pgregent.adapters.postgres import sql
from pgregent.adapters.postgres.layout import ServerConfig
from pgregent.adapters.postgres.server import LocalServer
from pgregent.core.errors import Unavailable
from pgregent.core.events import Promoted, Sealed
from pgregent.core.types import Incarnation, Postgres
from pgregent.ports.postgres import Upstream
from tests.conformance import pg
from tests.sim.cluster import Cluster
from tests.sim.node import Guard, Node
from tests.sim.port import Port
from tests.sim.world import Proc, Task, Work

T = TypeVar("T")
NAMES = ("n1", "n2", "n3")
SERVERS_END_AFTER = 120.0
"""Seconds; the guards then stop their servers, should the tests have been killed."""


@dataclass
class Write:
    """A client's commit. `acked`: the client was told, and not warned."""

    number: int
    acked: bool = False


class Trio(ABC):
    """The servers n1, n2 and n3; none has a data directory yet."""

    servers: "Mapping[str, LocalServer | FakeServer]"
    deadline: float | None = None

    @abstractmethod
    def upstream(self, name: str) -> Upstream:
        """How the others reach it."""

    @abstractmethod
    async def make_primary(self, name: str) -> None:
        """A running primary that takes writes, from a data directory fresh from initdb."""

    @abstractmethod
    async def prepare(self, name: str) -> None:
        """Make a new primary, under empty names, ready for writes."""

    @abstractmethod
    async def write(self, name: str) -> Write:
        """Commit; returns once it is acknowledged, or in the WAL and waiting for standbys."""

    @abstractmethod
    async def held(self, name: str) -> set[int]:
        """The writes in the log of a running server; not for a primary with commits that wait,
        which its readers do not see."""

    @abstractmethod
    async def eventually(self, what: str, check: Callable[[], Awaitable[T]]) -> T:
        """The first true result of `check`."""


# The real ones


class RealTrio(Trio):
    """Use `real_trio`, which cleans up."""

    def __init__(self, root: Path, bin_dir: Path, template: Path) -> None:
        self._template = template
        self._numbers = itertools.count(1)
        self._clients: list[asyncio.Task[None]] = []
        stat = template.stat()
        self._owner = pg.render.Owner(stat.st_uid, stat.st_gid) if os.geteuid() == 0 else None
        self.deadline = time.clock_gettime(time.CLOCK_BOOTTIME) + SERVERS_END_AFTER
        self._real = {
            name: LocalServer(self._config(root / name, name, bin_dir), lambda path, size: None)
            for name in NAMES
        }
        self.servers = self._real

    def _config(self, folder: Path, name: str, bin_dir: Path) -> ServerConfig:
        folder.mkdir()
        if self._owner is not None:
            os.chown(folder, self._owner.uid, self._owner.gid)
        config = ServerConfig(
            name=name,
            data_dir=folder / "data",
            bin_dir=bin_dir,
            log_file=folder / "postgresql.log",
            listen_host="127.0.0.1",
            port=pg.free_port(),
            superuser=pg.ADMIN,
            replication=sql.Credentials("replicator", "r'e p"),
            owner=self._owner,
            user=None if self._owner is None else pwd.getpwuid(self._owner.uid).pw_name,
            parameters={"fsync": "off", "shared_buffers": "16MB", "max_wal_size": "256MB"},
            initdb=("--no-sync",),
        )
        config.state_dir.mkdir(mode=0o711)
        return config

    def upstream(self, name: str) -> Upstream:
        return Upstream(name, "127.0.0.1", self._real[name].config.port)

    async def make_primary(self, name: str) -> None:
        server = self._real[name]
        pg.copy_tree(self._template, server.config.data_dir)
        await server.start("", "", None, False, self.deadline)
        await self.prepare(name)

    async def prepare(self, name: str) -> None:
        await self._real[name].ensure_roles()
        async with self._session(name) as conn:
            await conn.execute("CREATE TABLE writes (number int)")

    @asynccontextmanager
    async def _session(self, name: str) -> AsyncGenerator[sql.Connection]:
        conn = await self._connect(name)
        try:
            yield conn
        finally:
            await sql.close(conn)

    async def _connect(self, name: str) -> sql.Connection:
        address = sql.Server("127.0.0.1", self._real[name].config.port)
        settings = {"search_path": "public"}
        return await sql.connect(
            address, pg.ADMIN, timeout=5, application_name="client", settings=settings
        )

    async def write(self, name: str) -> Write:
        write, conn = Write(next(self._numbers)), await self._connect(name)
        pid = conn.info.backend_pid
        client = asyncio.create_task(self._commit(conn, write))
        self._clients.append(client)
        async with self._session(name) as look:

            async def settled() -> bool:
                query = "SELECT wait_event FROM pg_stat_activity WHERE pid = %s"
                row = await (await look.execute(query, (pid,))).fetchone()
                return client.done() or (row is not None and row["wait_event"] == "SyncRep")

            await self.eventually("the commit waits, or is done", settled)
        return write

    async def _commit(self, conn: sql.Connection, write: Write) -> None:
        warnings: list[str] = []
        conn.add_notice_handler(lambda notice: warnings.append(notice.message_primary or ""))
        try:
            await conn.execute("INSERT INTO writes VALUES (%s)", (write.number,))
            write.acked = not warnings
        except psycopg.OperationalError:
            pass  # Its server has ended.
        finally:
            await sql.close(conn)

    async def held(self, name: str) -> set[int]:
        async def replayed() -> bool:
            seen = await self.servers[name].observe()
            return seen.position is not None and seen.replay_lsn >= seen.position.lsn

        await self.eventually(f"{name} has replayed its log", replayed)
        async with self._session(name) as conn:
            cursor = await conn.execute("SELECT number FROM writes")
            return {int(row["number"]) for row in await cursor.fetchall()}

    async def eventually(self, what: str, check: Callable[[], Awaitable[T]]) -> T:
        return await pg.eventually(what, check)

    async def open(self) -> None:
        """Start the guards."""
        await asyncio.gather(*(s.open(lambda why: None) for s in self._real.values()))

    async def close(self) -> None:
        """End the guards and all that runs below them."""
        await asyncio.gather(*(_end(server) for server in self._real.values()))
        if self._clients:
            await asyncio.wait(self._clients, timeout=5)


async def _end(server: LocalServer) -> None:
    pids = [pid for pid in server.processes() if pid is not None]
    try:
        await asyncio.wait_for(server.quit(), 10)
        await pg.eventually("the guard ends", _gone(pids))
    except (Unavailable, TimeoutError, AssertionError):
        await server.close()
    finally:
        _kill(pids)


def _gone(pids: list[int]) -> Callable[[], Awaitable[bool]]:
    async def gone() -> bool:
        return not any(_runs(pid) for pid in pids)

    return gone


def _runs(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"


def _kill(pids: list[int]) -> None:
    below = [pid for parent in pids if _runs(parent) for pid in (parent, *pg.descendants(parent))]
    for pid in below:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@asynccontextmanager
async def real_trio() -> AsyncGenerator[Trio]:
    """Real servers in a folder of their own; all gone at the end."""
    bin_dir, template, owner = await asyncio.to_thread(pg.template_of, pg.installations()[0])
    with pg.folder(owner) as root:
        trio = RealTrio(root, bin_dir, template)
        try:
            await trio.open()
            yield trio
        finally:
            await trio.close()


# The simulator's


class FakeServer:
    """The simulator's port, with the real one's methods; virtual time goes on while one waits."""

    def __init__(self, node: Node) -> None:
        self.node, self._port = node, Port(node)

    async def _do(self, work: Work) -> Any:
        world, ended = self.node.world, list[tuple[Any, Exception | None]]()
        Task(world, Proc("test"), work, lambda value, error: ended.append((value, error)))
        if not ended and not world.run(world.now + 600.0, lambda: bool(ended)):
            raise AssertionError(f"not done: {self.node.cluster_.transcript()}")
        value, error = ended[0]
        if error is not None:
            raise error
        return value

    async def observe(self) -> Postgres:
        if self.node.server is None:
            self._port.gone()
        return self._port.look()

    async def start(
        self,
        label: str,
        names: str,
        upstream: Upstream | None,
        standby: bool,
        deadline: float | None,
    ) -> None:
        source = upstream.name if upstream is not None else None
        await self._do(self._port.start(label, names, source, standby, deadline))

    async def stop(self, immediate: bool) -> None:
        await self._do(self._port.stop(immediate))

    async def follow(self, label: str, names: str, upstream: Upstream) -> None:
        await self._do(self._port.follow(label, names, upstream.name))

    async def seal(self, round_: int, names: str) -> Sealed:
        return await self._do(self._port.seal(round_, names))

    async def promote(self, term: int, names: str) -> Promoted:
        # The checker wants to know who was appointed.
        self.node.checker.appointed[term] = self.node.store.incarnation
        return await self._do(self._port.promote(term, names))

    async def apply_names(self, names: str, checkpoint: bool, all_walsenders: bool = False) -> None:
        await self._do(self._port.apply_names(names, checkpoint, all_walsenders))

    async def barrier(self, names: str) -> None:
        await self._do(self._port.barrier(names))

    async def admit(self) -> None:
        await self._do(self._port.admit())

    async def checkpoint(self) -> None:
        await self._do(self._port.checkpoint())

    async def keep_slots(self, members: tuple[str, ...]) -> None:
        await self._do(self._port.keep_slots(members))

    async def initdb(self) -> str:
        return await self._do(self._port.initdb())

    async def rewind(self, source: Upstream) -> None:
        await self._do(self._port.rewind(source.name))

    async def clone(self, source: Upstream) -> None:
        await self._do(self._port.clone(source.name))


class FakeTrio(Trio):
    """Nodes without agents."""

    def __init__(self, seed: int) -> None:
        self.cluster = Cluster(seed)
        self.world = self.cluster.world
        for node in self.cluster.nodes.values():
            node.guard = Guard(node)
            node.store = node.stranger()
        self.servers = {name: FakeServer(node) for name, node in self.cluster.nodes.items()}

    def upstream(self, name: str) -> Upstream:
        return Upstream(name, name, 5432)

    async def make_primary(self, name: str) -> None:
        await self.servers[name].initdb()
        await self.servers[name].start("", "", None, False, None)

    async def prepare(self, name: str) -> None:
        pass

    async def write(self, name: str) -> Write:
        write = Write(self.cluster.checker.new_write())
        server = self.cluster[name].server
        assert server is not None

        def acknowledged() -> None:
            write.acked = True

        assert server.commit(write.number, acknowledged)
        self.world.run(self.world.now + 1.0, lambda: write.acked)
        return write

    async def held(self, name: str) -> set[int]:
        return self.cluster[name].disk.writes()

    async def eventually(self, what: str, check: Callable[[], Awaitable[T]]) -> T:
        until = self.world.now + 15.0
        while self.world.now < until:
            if result := await check():
                return result
            self.world.run(self.world.now + 0.01)
        raise AssertionError(f"{what}: not in time\n{self.cluster.transcript()}")


@asynccontextmanager
async def fake_trio(seed: int) -> AsyncGenerator[Trio]:
    """The simulator's servers; its checker must have had no objection."""
    trio = FakeTrio(seed)
    yield trio
    assert trio.cluster.checker.violations == []


# What the scenarios are made of


def label(name: str) -> str:
    """The application_name of a member's walreceiver."""
    return Incarnation(name, "a1B2").label


def any_of(*names: str) -> str:
    """synchronous_standby_names: any one of these members."""
    listed = ", ".join(f'"{label(name)}"' for name in names)
    return f"ANY 1 ({listed})"
