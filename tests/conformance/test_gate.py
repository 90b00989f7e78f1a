"""The built-in entry point against real PostgreSQL 15 and against small TCP servers."""

import asyncio
import contextlib
import ctypes
import os
import pwd
import resource
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest
import uvloop
from psycopg.conninfo import make_conninfo

from pgregent.adapters.entry import wire
from pgregent.adapters.entry.gate import Address, Gate, Routes
from pgregent.core.errors import Refused

LOOPBACK = "127.0.0.1"
BIN = Path("/usr/lib/postgresql/15/bin")
BULK_BYTES = 50_000_000
SSL_REQUEST = struct.pack("!II", 8, 80877103)

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy")


@pytest.fixture(params=["asyncio", "uvloop"])
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    return (
        uvloop.EventLoopPolicy() if request.param == "uvloop" else asyncio.DefaultEventLoopPolicy()
    )


async def eventually(condition: Callable[[], Any], what: str = "", seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while True:
        if condition():
            return
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.01)


async def within(work: Awaitable[Any], seconds: float = 10) -> Any:
    async with asyncio.timeout(seconds):
        return await work


# --- servers -----------------------------------------------------------------------------------


class Postgres:
    """A PostgreSQL 15 of the tests' own."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.address = (LOOPBACK, free_port())
        user = pwd.getpwnam("postgres")
        self._as: dict[str, Any] = {
            "user": user.pw_uid,
            "group": user.pw_gid,
            "extra_groups": [],
        }
        os.chown(folder, user.pw_uid, user.pw_gid)
        self._run(BIN / "initdb", "-D", self.data, "-A", "trust", "-U", "postgres", "--no-sync")
        self._process: subprocess.Popen[Any] | None = None

    def _run(self, *command: object) -> None:
        subprocess.run(
            [str(part) for part in command],
            check=True,
            capture_output=True,
            timeout=60,
            cwd=self.data.parent,
            **self._as,
        )

    def start(self) -> None:
        settings = {
            "port": self.address[1],
            "listen_addresses": LOOPBACK,
            "unix_socket_directories": self.data,
            "fsync": "off",
        }
        options = [text for name, value in settings.items() for text in ("-c", f"{name}={value}")]
        with (self.data.parent / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(BIN / "postgres"), "-D", str(self.data), *options],
                stdout=log,
                stderr=log,
                cwd=self.data,
                **self._as,
            )
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(self.dsn(self.address)).close()
                return
            assert time.monotonic() < deadline, (self.data.parent / "log").read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(30)

    def dsn(self, address: Address, **more: str) -> str:
        wanted = {"user": "postgres", "dbname": "postgres", "connect_timeout": "20"} | more
        return make_conninfo(host=address[0], port=str(address[1]), **wanted)

    def sql(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run these, bypassing the gate; returns the rows of the last one."""
        with psycopg.connect(self.dsn(self.address), autocommit=True) as connection:
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    @contextlib.contextmanager
    def with_ssl(self) -> Generator[None, None, None]:
        key, certificate = self.data / "server.key", self.data / "server.crt"
        self._run(
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-keyout", key, "-out", certificate),
        )
        key.chmod(0o600)
        self.sql("ALTER SYSTEM SET ssl = on", "SELECT pg_reload_conf()")
        try:
            self._wait_for_ssl("require")
            yield
        finally:
            self.sql("ALTER SYSTEM RESET ssl", "SELECT pg_reload_conf()")
            self._wait_for_ssl("disable")

    def _wait_for_ssl(self, mode: str) -> None:
        deadline = time.monotonic() + 10
        while True:
            with contextlib.suppress(psycopg.OperationalError):
                with psycopg.connect(self.dsn(self.address, sslmode=mode)) as connection:
                    shown = connection.execute("SHOW ssl").fetchone()
                if shown == (("on",) if mode == "require" else ("off",)):
                    return
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    if not (BIN / "postgres").exists() or os.geteuid() != 0:
        pytest.skip("needs PostgreSQL 15 of Debian, and root to become the user postgres")
    folder = Path(tempfile.mkdtemp(prefix="pgregent-gate-"))
    server = None
    try:
        server = Postgres(folder)
        server.start()
        yield server
    finally:
        if server is not None:
            server.stop()
        shutil.rmtree(folder)


def free_port() -> int:
    with socket.create_server((LOOPBACK, 0)) as listener:
        return listener.getsockname()[1]


def startup(user: str = "x") -> bytes:
    body = struct.pack("!I", 196608) + f"user\0{user}\0\0".encode()
    return struct.pack("!I", len(body) + 4) + body


def message(kind: str, body: bytes) -> bytes:
    return kind.encode() + struct.pack("!I", len(body) + 4) + body


def kind(packet: bytes) -> wire.Kind | None:
    parsed = wire.parse(packet)
    return parsed.kind if parsed else None


class Fake:
    """A TCP server that welcomes a StartupMessage as PostgreSQL does, then echoes. Other
    behaviours: "silent" answers nothing, "closes" hangs up, "starting" says that it is starting
    up, "rejects" that the password is wrong, "refuses TLS" answers an SSLRequest with "no",
    "deaf" welcomes and then reads nothing."""

    def __init__(self, name: str = "", behaviour: str = "echo") -> None:
        self.name = name
        self.behaviour = behaviour
        self.connections = 0
        self.received: list[bytes] = []
        self.writers: set[asyncio.StreamWriter] = set()
        self.key = struct.pack("!I", 4711) + os.urandom(32)

    async def start(self, port: int = 0) -> "Fake":
        self._server = await asyncio.start_server(self._serve, LOOPBACK, port, backlog=2000)
        self.address: Address = self._server.sockets[0].getsockname()
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.add(writer)
        try:
            await self._talk(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.writers.discard(writer)
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.behaviour == "closes":
            return
        first = await reader.read(1000)
        self.received.append(first)
        if self.behaviour == "silent":
            await reader.read()
            return
        if self.behaviour == "refuses TLS" and first == SSL_REQUEST:
            writer.write(b"N")
            await reader.read()
            return
        if self.behaviour == "starting":
            writer.write(message("E", b"SFATAL\0C57P03\0Mstarting up\0\0"))
            return
        if self.behaviour == "rejects":
            writer.write(message("E", b"SFATAL\0C28P01\0Mwrong password\0\0"))
            return
        if kind(first) is not wire.Kind.STARTUP:
            return
        writer.write(message("R", bytes(4)) + message("S", f"name\0{self.name}\0".encode()))
        # In pieces, as TCP may do it.
        for part in (message("K", self.key)[:7], message("K", self.key)[7:], message("Z", b"I")):
            await writer.drain()
            await asyncio.sleep(0)
            writer.write(part)
        if self.behaviour == "deaf":
            await asyncio.Event().wait()
        while data := await reader.read(65536):
            self.received.append(data)
            writer.write(data)
            await writer.drain()
        if not writer.is_closing():
            writer.write(b"BYE")
            await writer.drain()

    async def stop(self) -> None:
        self._server.close()
        for writer in tuple(self.writers):
            writer.transport.abort()


class Raw:
    """A client that speaks bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def until(self, end: bytes) -> bytes:
        return await within(self.reader.readuntil(end))

    async def welcome(self) -> str:
        """Wait until a Fake lets us in; returns its name."""
        greeting = await self.until(message("Z", b"I"))
        return greeting.split(b"name\0")[1].split(b"\0")[0].decode()

    async def closed(self) -> bool:
        """Read up to the end of the connection."""
        with contextlib.suppress(ConnectionError):
            await within(self.reader.read())
        return True


class Stage:
    """A gate, and what a test opened around it."""

    def __init__(self, gate: Gate, exits: contextlib.AsyncExitStack) -> None:
        self.gate = gate
        self._exits = exits

    async def fake(self, name: str = "", behaviour: str = "echo", port: int = 0) -> Fake:
        fake = await Fake(name, behaviour).start(port)
        self._exits.push_async_callback(fake.stop)
        return fake

    async def raw(self, first: bytes | None = None, ro: bool = False) -> Raw:
        address = self.gate.ro_address if ro else self.gate.rw_address
        reader, writer = await asyncio.open_connection(*address)
        self._exits.callback(writer.close)
        writer.write(startup() if first is None else first)
        return Raw(reader, writer)


Connection = psycopg.AsyncConnection[tuple[Any, ...]]
Staging = Callable[..., Awaitable[Stage]]


@pytest.fixture
async def stage() -> AsyncIterator[Staging]:
    async with contextlib.AsyncExitStack() as exits:

        async def build(**options: Any) -> Stage:
            gate = Gate(**options)
            await gate.start((LOOPBACK, 0), (LOOPBACK, 0))
            exits.push_async_callback(lambda: within(gate.close()))
            return Stage(gate, exits)

        yield build


async def connect(postgres: Postgres, address: Address, **more: str) -> Connection:
    dsn = postgres.dsn(address, **more)
    return await within(psycopg.AsyncConnection.connect(dsn, autocommit=True), 20)


# --- routing -----------------------------------------------------------------------------------


async def test_routes_to_the_primary_and_to_the_least_loaded_standby(stage: Staging) -> None:
    s = await stage()
    primary, one, two = [await s.fake(name) for name in ("primary", "one", "two")]
    s.gate.set_routes(Routes(primary.address, 1, (one.address, two.address)))
    assert await (await s.raw()).welcome() == "primary"
    names = [await (client := await s.raw(ro=True)).welcome() for _ in range(4)]
    assert sorted(names) == ["one", "one", "two", "two"]
    client.writer.close()
    await eventually(lambda: s.gate.counters().sessions_ro == 3)
    assert await (await s.raw(ro=True)).welcome() == names[3]
    assert s.gate.sessions == 5 and s.gate.held == 0


async def test_read_only_falls_back_to_the_primary(stage: Staging) -> None:
    s = await stage()
    primary = await s.fake("primary")
    s.gate.set_routes(Routes(primary.address, 1))
    assert await (await s.raw(ro=True)).welcome() == "primary"
    s.gate.set_routes(Routes(primary.address, 1, ((LOOPBACK, free_port()),)))
    assert await (await s.raw(ro=True)).welcome() == "primary", "the standby refuses"


async def test_a_host_name_is_resolved(stage: Staging) -> None:
    s = await stage()
    primary = await s.fake("primary")
    s.gate.set_routes(Routes(("localhost", primary.address[1]), 1))
    assert await (await s.raw()).welcome() == "primary"


async def test_postgres_through_the_gate(stage: Staging, postgres: Postgres) -> None:
    s = await stage()
    s.gate.set_routes(Routes(postgres.address, 1))
    async with await connect(postgres, s.gate.rw_address) as connection:
        cursor = await connection.execute("SELECT inet_server_port()")
        assert await cursor.fetchone() == (postgres.address[1],)
        assert s.gate.counters().sessions_rw == 1
    await eventually(lambda: s.gate.sessions == 0)
    with pytest.raises(psycopg.OperationalError, match='database "nowhere" does not exist'):
        await connect(postgres, s.gate.rw_address, dbname="nowhere")


async def test_an_error_arrives_though_the_server_hangs_up_behind_it(stage: Staging) -> None:
    s = await stage()
    primary = await s.fake("primary", "rejects")
    s.gate.set_routes(Routes(primary.address, 1))
    for _ in range(50):
        assert b"C28P01" in await within((await s.raw()).reader.read())
    await eventually(lambda: s.gate.sessions == 0)


async def test_a_taken_port_is_refused() -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        gate = Gate()
        with pytest.raises(Refused, match=f"{taken.getsockname()[1]}.*[Aa]ddress already in use"):
            await gate.start((LOOPBACK, 0), taken.getsockname())


# --- holding -----------------------------------------------------------------------------------


async def test_holds_until_a_primary_comes(stage: Staging, postgres: Postgres) -> None:
    s = await stage()
    s.gate.set_routes(Routes(None, 1, reason="An election runs."))
    work = asyncio.ensure_future(connect(postgres, s.gate.rw_address))
    await eventually(lambda: s.gate.held == 1)
    began = time.monotonic()
    s.gate.set_routes(Routes(postgres.address, 2))
    async with await work:
        assert time.monotonic() - began < 1
        assert s.gate.held == 0


async def test_holds_while_the_primary_refuses(stage: Staging) -> None:
    s = await stage()
    port = free_port()
    s.gate.set_routes(Routes((LOOPBACK, port), 1))
    clients = [await s.raw() for _ in range(20)]
    await eventually(lambda: s.gate.held == 20)
    await s.fake("late", port=port)
    assert {await client.welcome() for client in clients} == {"late"}


@pytest.mark.parametrize("behaviour", ["closes", "starting"])
async def test_many_held_clients_knock_one_at_a_time(stage: Staging, behaviour: str) -> None:
    s = await stage()
    primary = await s.fake("primary", behaviour)
    s.gate.set_routes(Routes(primary.address, 1))
    clients = [await s.raw() for _ in range(100)]
    await eventually(lambda: s.gate.held == 100)
    before, began = primary.connections, time.monotonic()
    await eventually(lambda: primary.connections >= before + 10)
    assert time.monotonic() - began >= 9 * 0.025
    primary.behaviour = "echo"
    assert {await client.welcome() for client in clients} == {"primary"}


async def test_a_held_client_leaves_a_silent_primary_for_the_next(stage: Staging) -> None:
    s = await stage()
    frozen, other = await s.fake("frozen", "silent"), await s.fake("other")
    s.gate.set_routes(Routes(frozen.address, 1))
    client = await s.raw()
    await eventually(lambda: frozen.received)
    s.gate.set_routes(Routes(None, 1))
    await eventually(lambda: not frozen.writers, "the attempt is called back")
    assert s.gate.held == 1
    s.gate.set_routes(Routes(other.address, 2))
    assert await client.welcome() == "other"


async def test_a_client_that_leaves_while_held_is_dropped(stage: Staging) -> None:
    s = await stage()
    clients = [await s.raw() for _ in range(5)]
    await eventually(lambda: s.gate.held == 5)
    for client in clients:
        client.writer.close()
    await eventually(lambda: s.gate.held == 0, seconds=1)


@pytest.mark.parametrize("sslmode", ["disable", "prefer"])
async def test_hold_timeout_as_a_client_sees_it(
    stage: Staging, postgres: Postgres, sslmode: str
) -> None:
    s = await stage(hold_timeout=0.3)
    s.gate.set_routes(Routes(None, 1, reason="Node b is not reachable."))
    with pytest.raises(psycopg.OperationalError, match=r"FATAL.*Node b is not reachable") as caught:
        await connect(postgres, s.gate.rw_address, sslmode=sslmode)
    assert "held for 0.3 s" in str(caught.value)
    assert s.gate.counters().timed_out == 1 and s.gate.held == 0


async def test_hold_timeout_carries_57p03(stage: Staging) -> None:
    s = await stage(hold_timeout=0.2)
    s.gate.set_routes(Routes((LOOPBACK, free_port()), 1))
    for opening in (startup(), SSL_REQUEST):
        client = await s.raw(opening)
        if opening is SSL_REQUEST:
            assert await within(client.reader.readexactly(1)) == b"N"
            client.writer.write(startup())
        error = await within(client.reader.read())
        assert error[:1] == b"E" and b"SFATAL\0" in error and b"C57P03\0" in error
        assert b"Connection refused" in error


async def test_libpq_tries_its_next_host_after_57p03(stage: Staging, postgres: Postgres) -> None:
    s = await stage(hold_timeout=0.2)
    hosts = {"host": f"{LOOPBACK},{LOOPBACK}"}
    ports = f"{s.gate.rw_address[1]},{postgres.address[1]}"
    dsn = make_conninfo(postgres.dsn(postgres.address), **hosts, port=ports)
    async with await within(psycopg.AsyncConnection.connect(dsn)) as connection:
        assert connection.info.port == postgres.address[1]


# --- cutting -----------------------------------------------------------------------------------


async def test_another_term_cuts_and_no_primary_does_not(stage: Staging) -> None:
    s = await stage()
    old, new = await s.fake("old"), await s.fake("new")
    s.gate.set_routes(Routes(old.address, 1))
    client = await s.raw()
    await client.welcome()
    s.gate.set_routes(Routes(None, 1, reason="An election runs."))
    client.writer.write(b"still here")
    assert await client.until(b"here")
    s.gate.set_routes(Routes(old.address, 1))
    client.writer.write(b"still here")
    assert await client.until(b"here"), "it resumed in the same term"
    s.gate.set_routes(Routes(new.address, 2))
    assert await client.closed()
    await eventually(lambda: not old.writers and s.gate.sessions == 0)
    assert s.gate.counters().cut == 1
    again = await s.raw()
    assert await again.welcome() == "new"
    s.gate.set_routes(Routes(new.address, 3))
    assert await again.closed(), "the same server in another term"


async def test_cut_ends_sessions_though_there_is_no_primary(stage: Staging) -> None:
    s = await stage()
    old = await s.fake("old")
    s.gate.set_routes(Routes(old.address, 1))
    client = await s.raw()
    await client.welcome()
    s.gate.set_routes(Routes(None, 1, cut=True))
    assert await client.closed()


async def test_read_only_sessions_end_with_their_standby(stage: Staging) -> None:
    s = await stage()
    primary, one, two = [await s.fake(name) for name in ("primary", "one", "two")]
    s.gate.set_routes(Routes(primary.address, 1, (one.address,)))
    on_one = await s.raw(ro=True)
    assert await on_one.welcome() == "one"
    s.gate.set_routes(Routes(one.address, 2, (two.address,)))
    on_one.writer.write(b"promoted")
    assert await on_one.until(b"promoted")
    s.gate.set_routes(Routes(two.address, 3))
    assert await on_one.closed()


async def test_psycopg_session_is_cut_in_the_middle_of_a_query(
    stage: Staging, postgres: Postgres
) -> None:
    s = await stage()
    s.gate.set_routes(Routes(postgres.address, 1))
    connection = await connect(postgres, s.gate.rw_address)
    work = asyncio.ensure_future(connection.execute("SELECT pg_sleep(60)"))
    await eventually(lambda: postgres.sql(SLEEPERS) == [(1,)])
    s.gate.set_routes(Routes((LOOPBACK, free_port()), 2))
    with pytest.raises(psycopg.OperationalError):
        await within(work, 1)
    await connection.close()
    postgres.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)'"
    )


SLEEPERS = "SELECT count(*)::int FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)'"


async def test_a_server_that_dies_closes_its_clients(stage: Staging) -> None:
    s = await stage()
    primary = await s.fake()
    s.gate.set_routes(Routes(primary.address, 1))
    client = await s.raw()
    await client.welcome()
    await primary.stop()
    assert await client.closed()
    await eventually(lambda: s.gate.sessions == 0)


# --- cancel requests ---------------------------------------------------------------------------


async def cancelled(postgres: Postgres, connection: Connection) -> None:
    """Cancel as libpq 17 and later do, with the connection's own sslmode."""
    work = asyncio.ensure_future(connection.execute("SELECT pg_sleep(60)"))
    await eventually(lambda: postgres.sql(SLEEPERS) == [(1,)])
    await connection.cancel_safe()
    with pytest.raises(psycopg.errors.QueryCanceled):
        await within(work)
    await connection.execute("SELECT 1")


@contextlib.asynccontextmanager
async def psql_sleeping(
    postgres: Postgres, address: Address, sslmode: str = "prefer"
) -> AsyncGenerator[asyncio.subprocess.Process, None]:
    """A psql that cancels at SIGINT as libpq before 17 does: in the clear, on one connection."""
    process = await asyncio.create_subprocess_exec(
        *(str(BIN / "psql"), "-X", "-d", postgres.dsn(address, sslmode=sslmode)),
        *("-c", "SELECT pg_sleep(60)"),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        await eventually(lambda: postgres.sql(SLEEPERS) == [(1,)])
        yield process
        process.send_signal(signal.SIGINT)
        _, errors = await within(process.communicate())
        assert b"canceling statement due to user request" in errors
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_cancel_on_the_read_write_port(stage: Staging, postgres: Postgres) -> None:
    s = await stage()
    s.gate.set_routes(Routes(postgres.address, 1))
    async with await connect(postgres, s.gate.rw_address) as connection:
        await cancelled(postgres, connection)
    async with psql_sleeping(postgres, s.gate.rw_address):
        pass
    async with psql_sleeping(postgres, s.gate.rw_address):
        s.gate.set_routes(Routes(None, 1))
    assert s.gate.counters().cancels == 3


@pytest.mark.parametrize("sslmode", ["disable", "prefer"])
async def test_cancel_on_the_read_only_port_finds_its_standby(
    stage: Staging, postgres: Postgres, sslmode: str
) -> None:
    s = await stage()
    other = await s.fake("other", "refuses TLS")
    s.gate.set_routes(Routes(None, 1, (postgres.address,)))
    async with await connect(postgres, s.gate.ro_address, sslmode=sslmode) as connection:
        s.gate.set_routes(Routes(None, 1, (other.address, postgres.address)))
        await cancelled(postgres, connection)
    s.gate.set_routes(Routes(None, 1, (postgres.address,)))
    async with psql_sleeping(postgres, s.gate.ro_address, sslmode):
        s.gate.set_routes(Routes(None, 1, (other.address, postgres.address)))
    assert {kind(packet) for packet in other.received} <= {wire.Kind.NEGOTIATION}
    assert len(other.received) == (sslmode == "prefer")


async def test_cancel_finds_a_long_key_that_comes_in_pieces(stage: Staging) -> None:
    s = await stage()
    one, two = await s.fake("one"), await s.fake("two")
    s.gate.set_routes(Routes(None, 1, (one.address, two.address)))
    names = {await (await s.raw(ro=True)).welcome() for _ in range(2)}
    assert names == {"one", "two"}
    request = struct.pack("!II", 8 + len(two.key), 80877102) + two.key
    assert await (await s.raw(request, ro=True)).closed()
    assert request in two.received and request not in one.received
    unknown = request[:-1] + bytes([request[-1] ^ 1])
    assert await (await s.raw(unknown, ro=True)).closed()
    assert unknown in one.received and unknown in two.received


async def test_cancel_of_a_tls_session_reaches_its_standby(
    stage: Staging, postgres: Postgres
) -> None:
    s = await stage()
    other = await s.fake("other")
    with postgres.with_ssl():
        s.gate.set_routes(Routes(None, 1, (postgres.address,)))
        async with psql_sleeping(postgres, s.gate.ro_address, "require"):
            s.gate.set_routes(Routes(None, 1, (other.address, postgres.address)))
    assert other.connections == 1


# --- TLS ---------------------------------------------------------------------------------------


async def test_ssl_request_passes_through(stage: Staging, postgres: Postgres) -> None:
    s = await stage()
    s.gate.set_routes(Routes(postgres.address, 1))
    with pytest.raises(psycopg.OperationalError, match="server does not support SSL"):
        await connect(postgres, s.gate.rw_address, sslmode="require")
    async with await connect(postgres, s.gate.rw_address, sslmode="prefer") as connection:
        assert not connection.pgconn.ssl_in_use
    with postgres.with_ssl():
        async with await connect(postgres, s.gate.rw_address, sslmode="require") as connection:
            assert connection.pgconn.ssl_in_use
            await cancelled(postgres, connection)


# --- bulk data ---------------------------------------------------------------------------------


def reset_peak_memory() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def memory_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


async def test_copy_out_with_a_slow_reader(stage: Staging, postgres: Postgres) -> None:
    s = await stage()
    s.gate.set_routes(Routes(postgres.address, 1))
    rows = BULK_BYTES // 1000
    query = f"COPY (SELECT repeat('x', 999) FROM generate_series(1, {rows})) TO STDOUT"
    stalled = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'ClientWrite'"
    async with await connect(postgres, s.gate.rw_address) as connection:
        reset_peak_memory()
        before = memory_bytes("VmHWM")
        async with connection.cursor() as cursor, cursor.copy(query.encode()) as copy:
            received = len(await copy.read())
            await eventually(lambda: postgres.sql(stalled), "the server waits for its client")
            async for data in copy:
                received += len(data)
        assert received == rows * 1000
        assert memory_bytes("VmHWM") - before < BULK_BYTES // 4


async def test_copy_in(stage: Staging, postgres: Postgres) -> None:
    s = await stage()
    s.gate.set_routes(Routes(postgres.address, 1))
    postgres.sql("DROP TABLE IF EXISTS bulk", "CREATE UNLOGGED TABLE bulk (line text)")
    block = (b"x" * 999 + b"\n") * 100
    async with await connect(postgres, s.gate.rw_address) as connection:
        reset_peak_memory()
        before = memory_bytes("VmHWM")
        async with connection.cursor() as cursor, cursor.copy("COPY bulk FROM STDIN") as copy:
            for _ in range(BULK_BYTES // len(block)):
                await copy.write(block)
        assert memory_bytes("VmHWM") - before < BULK_BYTES // 4
    assert postgres.sql("SELECT count(*)::int, sum(length(line))::int FROM bulk") == [
        (BULK_BYTES // 1000, BULK_BYTES // 1000 * 999)
    ]


async def test_a_server_that_does_not_read_stops_its_client_only(stage: Staging) -> None:
    s = await stage()
    deaf = await s.fake("deaf", "deaf")
    s.gate.set_routes(Routes(deaf.address, 1))
    client = await s.raw()
    await client.welcome()
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < 10 * BULK_BYTES:
            client.writer.write(bytes(100_000))
            sent += 100_000
            async with asyncio.timeout(1):
                await client.writer.drain()
    assert sent < BULK_BYTES, "kernel and gate together take only so much"
    assert await (await s.raw()).welcome() == "deaf"


async def test_half_close_lets_the_answer_through(stage: Staging) -> None:
    s = await stage()
    primary = await s.fake()
    s.gate.set_routes(Routes(primary.address, 1))
    client = await s.raw()
    await client.welcome()
    client.writer.write(b"last words")
    client.writer.write_eof()
    assert await within(client.reader.read()) == b"last wordsBYE"
    await eventually(lambda: s.gate.sessions == 0)


async def test_a_packet_that_trickles_in(stage: Staging) -> None:
    s = await stage()
    primary = await s.fake("primary")
    s.gate.set_routes(Routes(primary.address, 1))
    slow = await s.raw(startup()[:5])
    assert await (await s.raw()).welcome() == "primary"
    for byte in startup()[5:]:
        slow.writer.write(bytes([byte]))
        await slow.writer.drain()
    assert await slow.welcome() == "primary"


# --- limits ------------------------------------------------------------------------------------


async def test_a_thousand_idle_sessions(stage: Staging) -> None:
    s = await stage()
    assert len(set(resource.getrlimit(resource.RLIMIT_NOFILE))) == 1, "raised to the hard limit"
    primary = await s.fake("primary")
    s.gate.set_routes(Routes(primary.address, 1))
    clients = [await s.raw() for _ in range(1000)]
    await asyncio.gather(*(client.welcome() for client in clients))
    assert s.gate.sessions == 1000
    began = time.process_time()
    clients[500].writer.write(b"awake")
    assert await clients[500].until(b"awake")
    assert time.process_time() - began < 0.2
    s.gate.set_routes(Routes(None, 1, cut=True))
    assert all(await asyncio.gather(*(client.closed() for client in clients)))
    await eventually(lambda: s.gate.sessions == 0 and not primary.writers)


async def test_accept_pauses_when_there_is_no_room(stage: Staging) -> None:
    s = await stage(max_sessions=2)
    primary = await s.fake("primary")
    s.gate.set_routes(Routes(primary.address, 1))
    first, second = await s.raw(), await s.raw()
    await first.welcome()
    await second.welcome()
    third, fourth = await s.raw(), await s.raw()
    waiting = asyncio.ensure_future(third.welcome())
    began = time.process_time()
    done, _ = await asyncio.wait([waiting], timeout=0.5)
    assert not done and time.process_time() - began < 0.1, "waits, and does not spin"
    first.writer.close()
    assert await within(waiting) == "primary"
    second.writer.close()
    assert await fourth.welcome() == "primary"


async def test_accept_survives_running_out_of_descriptors(stage: Staging) -> None:
    s = await stage()
    primary = await s.fake("primary")
    s.gate.set_routes(Routes(primary.address, 1))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    client = socket.socket()
    spare = os.dup(0)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (spare, hard))
        began = time.process_time()
        client.connect(s.gate.rw_address)
        client.sendall(startup())
        await asyncio.sleep(0.5)
        assert time.process_time() - began < 0.1 and s.gate.counters().accepted == 0
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(spare)
    reader, writer = await asyncio.open_connection(sock=client)
    assert await Raw(reader, writer).welcome() == "primary"
    writer.close()


def go_deaf(sock: socket.socket) -> None:
    """Drop all that arrives before TCP sees it, as when the machine has vanished."""
    drop_all = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))
    program = struct.pack("HL", 1, ctypes.addressof(drop_all))
    sock.setsockopt(socket.SOL_SOCKET, 26, program)  # SO_ATTACH_FILTER


async def test_a_vanished_client_is_noticed_and_a_slow_one_left_alone(stage: Staging) -> None:
    s = await stage(dead_after=1.0)
    primary = await s.fake("primary")
    s.gate.set_routes(Routes(primary.address, 1))
    slow, vanished = await s.raw(), await s.raw()
    for client in (slow, vanished):
        await client.welcome()
        cast(asyncio.Transport, client.writer.transport).pause_reading()
    flood = list(primary.writers)
    for writer in flood:
        writer.write(bytes(30_000_000))
    go_deaf(vanished.writer.get_extra_info("socket"))
    for writer in flood:
        writer.write(b"X")
    await eventually(lambda: s.gate.counters().dead_peers == 1, seconds=20)
    await asyncio.sleep(2)  # the slow one reads nothing for several times `dead_after`
    assert s.gate.sessions == 1
    cast(asyncio.Transport, slow.writer.transport).resume_reading()
    assert (await within(slow.reader.readexactly(30_000_001))).endswith(b"X")
