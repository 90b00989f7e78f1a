"""A real HAProxy with our configuration and our watch; small servers stand in for PostgreSQL."""

import asyncio
import contextlib
import ctypes
import json
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from pgregent.adapters.entry.haproxy import Entry, Node, render
from pgregent.adapters.entry.haproxy_runtime import Runtime
from pgregent.adapters.peers.auth import derive_key
from pgregent.adapters.peers.channel import PeerChannel
from pgregent.agent.codec import encode
from pgregent.core.errors import Refused, Unavailable
from pgregent.core.types import Incarnation, PgState, Record, Register, Rule
from tests.conformance.pg import Pg, Servers, installations, servers_of

LOOPBACK = "127.0.0.1"
DOWN, UP, STOPPING = "0", "2", "3"
SECRET, SCOPE = "a secret of the tests", "demo"
_libc = ctypes.CDLL(None)

pytestmark = pytest.mark.skipif(shutil.which("haproxy") is None, reason="needs haproxy")


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server((LOOPBACK, 0))) for _ in range(count)]
        return [listener.getsockname()[1] for listener in listeners]


async def eventually(condition: Callable[[], Any], what: str, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.005)


def _die_with_tests() -> None:
    _libc.prctl(1, signal.SIGKILL)


def spawn(command: list[str], log: Path) -> "subprocess.Popen[bytes]":
    with log.open("ab") as out:
        return subprocess.Popen(
            command,
            stdout=out,
            stderr=out,
            preexec_fn=_die_with_tests,  # noqa: PLW1509 (HAProxy must not outlive the tests)
        )


def end(process: "subprocess.Popen[bytes]", number: signal.Signals = signal.SIGKILL) -> None:
    process.send_signal(number)
    process.wait(10)


class Member:
    """A stand-in for PostgreSQL and its agent: says its name, answers checks, publishes."""

    tls: ssl.SSLContext | None = None
    """What the agent's port is served with."""

    def __init__(self, name: str, port: int, api_port: int, start: float) -> None:
        self.name, self.port, self.api_port = name, port, api_port
        self.answers = {"primary": 503, "replica": 503, "liveness": 200}
        self.sessions: set[asyncio.StreamWriter] = set()
        self.greeted = 0
        self.me = Incarnation(name, "1")
        self.record = Record(self.me, 1, PgState.STANDBY, host=LOOPBACK, port=port)
        self._beat = int(start * 1000)
        self._pulse: asyncio.Task[None] | None = None
        self._runner: web.AppRunner | None = None

    async def start(self, host: str = LOOPBACK) -> None:
        self._host = host
        self._server = await asyncio.start_server(self._greet, host, self.port, backlog=1000)
        await self.start_agent()

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.greeted += 1
        self.sessions.add(writer)
        try:
            writer.write(f"{self.name}\n".encode())
            await reader.read()
        except OSError:
            pass
        finally:
            self.sessions.discard(writer)
            writer.close()

    async def start_agent(self) -> None:
        self.channel = PeerChannel(self.name, derive_key(SECRET, SCOPE), lambda _: None)
        app = web.Application()
        app.add_routes([*self.channel.routes(), web.route("OPTIONS", "/{path}", self._answer)])
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(
            self._runner, self._host, self.api_port, reuse_address=True, ssl_context=self.tls
        )
        await site.start()
        await self.channel.start()
        self._pulse = asyncio.create_task(self._beats())

    async def _answer(self, request: web.Request) -> web.Response:
        return web.Response(status=self.answers[request.match_info["path"]])

    async def _beats(self) -> None:
        while True:
            self.say()
            await asyncio.sleep(0.1)

    def say(self, **changes: Any) -> None:
        """Publish the record with these changes, as an agent does ten times a second."""
        self._beat += 1
        self.record = replace(self.record, beat=self._beat, **changes)
        self.channel.publish(encode(self.record))

    async def stop_agent(self) -> None:
        if self._runner is not None and self._pulse is not None:
            self._pulse.cancel()
            await self.channel.close()
            await self._runner.cleanup()
            self._runner = None

    async def stop(self) -> None:
        await self.stop_agent()
        self._server.close()
        for writer in tuple(self.sessions):
            writer.transport.abort()


@dataclass
class Cluster:
    """Two members, HAProxy, and the watch if it was started."""

    one: Member
    two: Member
    entry: Entry
    folder: Path
    seq: int = 0
    haproxy: "subprocess.Popen[bytes] | None" = None
    watch: "subprocess.Popen[bytes] | None" = None

    @property
    def nodes(self) -> list[Node]:
        return [Node(m.name, LOOPBACK, m.port, LOOPBACK, m.api_port) for m in (self.one, self.two)]

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def start_haproxy(self, text: str | None = None) -> None:
        config = self.folder / "haproxy.cfg"
        config.write_text(text or render(self.nodes, self.entry))
        self.haproxy = spawn(["haproxy", "-db", "-f", str(config)], self.folder / "log")

    def start_watch(self) -> None:
        code = (
            "import json, sys\n"
            "from pgregent.adapters.entry.haproxy import Node\n"
            "from pgregent.cli.haproxy_watch import run_watch\n"
            "nodes = [Node(**node) for node in json.loads(sys.argv[1])]\n"
            f"run_watch(nodes, {SECRET!r}, {SCOPE!r}, sys.argv[2])\n"
        )
        nodes = json.dumps([asdict(node) for node in self.nodes])
        command = [sys.executable, "-c", code, nodes, self.entry.socket]
        self.watch = spawn(command, self.folder / "log")

    def register(self, term: int, primary: Member, *, electing: bool = False) -> Register:
        """The next register."""
        self.seq += 1
        rule = Rule(primary.me, 1, (self.one.me, self.two.me))
        return Register(self.seq, term, term, primary.me, (rule,), electing, "1", ())

    def begin(self) -> None:
        """Member one is the primary of term 1 and serves, by word and by check."""
        self.one.answers["primary"] = self.two.answers["replica"] = 200
        register = self.register(1, self.one)
        self.one.say(register=register, state=PgState.PRIMARY, serving=True)
        self.two.say(register=register, streaming=True)

    def appoint(self, term: int = 2) -> None:
        """Member two is appointed; nobody serves yet."""
        register = self.register(term, self.two)
        self.two.say(register=register, streaming=False)

    def open(self) -> None:
        """Member two serves."""
        self.two.say(state=PgState.PRIMARY, serving=True)

    async def settled(self, name: str, *, listener: str = "primary", watched: bool = False) -> None:
        """New sessions reach `name`, and the watch's word is there if it is to be."""
        runtime = Runtime(self.entry.socket)

        async def look() -> bool:
            with contextlib.suppress(Unavailable):
                states = await runtime.run([f"show servers state {listener}"])
                words = await runtime.run(["show table watch"])
                up = [s.split()[3] for s in states[2:] if s.split()[5] == "2"]
                members = [server for server in up if ":" not in server]
                return members == [name] and (len(words) > 1) is watched
            return False

        deadline = time.monotonic() + 15
        while not await look():
            assert time.monotonic() < deadline, self.log()
            await asyncio.sleep(0.01)

    async def ready(self, *, watched: bool = True) -> None:
        """Everything runs, and member one is the primary."""
        self.begin()
        self.start_haproxy()
        if watched:
            self.start_watch()
        await self.settled("n1", watched=watched)

    def stop(self) -> None:
        for process in (self.watch, self.haproxy):
            if process is not None and process.poll() is None:
                end(process)


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="pgregent-haproxy-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
async def cluster(folder: Path) -> AsyncIterator[Cluster]:
    ports = free_ports(9)
    one, two = (Member(f"n{i + 1}", ports[i], ports[2 + i], time.time()) for i in range(2))
    entry = Entry(ports[4], ports[5], (ports[6], ports[7]), ports[8], str(folder / "admin.sock"))
    made = Cluster(one, two, entry, folder)
    try:
        await one.start()
        await two.start()
        yield made
    finally:
        made.stop()
        await one.stop()
        await two.stop()


@dataclass
class Client:
    """A session: who greeted it, and when."""

    name: str
    at: float
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ended(self, seconds: float = 5) -> float:
        """When the server side hung up."""
        async with asyncio.timeout(seconds):
            with contextlib.suppress(OSError):
                await self.reader.read()
        return time.monotonic()

    def open(self) -> bool:
        return not self.reader.at_eof()


async def connect(port: int, seconds: float = 20) -> Client:
    """A new session, which sends something first as PostgreSQL's clients do."""
    async with asyncio.timeout(seconds):
        reader, writer = await asyncio.open_connection(LOOPBACK, port)
        writer.write(b"hello")
        with contextlib.suppress(OSError):
            name = (await reader.readline()).decode().strip()
            return Client(name, time.monotonic(), reader, writer)
    return Client("", time.monotonic(), reader, writer)


async def ask(port: int) -> str:
    client = await connect(port)
    client.writer.close()
    return client.name


# The watch


async def test_sessions_end_at_the_appointment_and_new_ones_wait_for_the_barrier(cluster):
    await cluster.ready()
    session = await connect(cluster.entry.port)
    assert session.name == "n1"
    cluster.one.say(serving=False)
    appointed_at = time.monotonic()
    cluster.appoint()
    assert await session.ended() - appointed_at < 0.5
    # Its check goes on to say 200, and the new one's still says 503.
    greeted = cluster.one.greeted
    held = [asyncio.create_task(connect(cluster.entry.port)) for _ in range(200)]
    await asyncio.sleep(1.5)
    assert not any(task.done() for task in held)
    opened_at = time.monotonic()
    cluster.open()
    clients = await asyncio.gather(*held)
    assert [client.name for client in clients] == ["n2"] * 200
    assert cluster.one.greeted == greeted
    delays = sorted(client.at - opened_at for client in clients)
    print(f"opened after {delays[0] * 1000:.0f} to {delays[-1] * 1000:.0f} ms")


async def test_no_session_reaches_the_deposed_at_any_time(cluster):
    await cluster.ready()
    names: list[str] = []
    stop = asyncio.Event()

    async def knock() -> None:
        while not stop.is_set():
            names.append(await ask(cluster.entry.port))

    clients = [asyncio.create_task(knock()) for _ in range(4)]
    await eventually(lambda: len(names) > 50, "clients are served")
    session = await connect(cluster.entry.port)
    cluster.appoint()
    await session.ended()
    # Past HAProxy: its greeting comes after those of all who connected before.
    await ask(cluster.one.port)
    greeted = cluster.one.greeted
    # Longer than the checks need to come round, and than the watch's word lasts.
    await asyncio.sleep(3)
    cluster.open()
    count = len(names)
    await eventually(lambda: len(names) > count + 50, "clients are served again")
    stop.set()
    await asyncio.gather(*clients)
    assert cluster.one.greeted == greeted
    assert names[-20:] == ["n2"] * 20


async def test_a_pause_in_the_same_term_holds_new_sessions_and_keeps_the_old(cluster):
    await cluster.ready()
    session = await connect(cluster.entry.port)
    cluster.one.say(serving=False)
    await cluster_state(cluster, "n1", STOPPING)
    held = asyncio.create_task(connect(cluster.entry.port))
    await asyncio.sleep(0.5)
    assert session.open() and not held.done()
    cluster.one.say(serving=True)
    assert (await held).name == "n1"
    assert session.open()
    # The same member in another term is another primary.
    cluster.one.say(register=cluster.register(2, cluster.one))
    await session.ended()
    await cluster.settled("n1", watched=True)
    assert await ask(cluster.entry.port) == "n1"


async def cluster_state(cluster: Cluster, name: str, wanted: str) -> None:
    """Wait until the primary listener's server is in HAProxy's operational state `wanted`."""
    runtime, deadline = Runtime(cluster.entry.socket), time.monotonic() + 10
    found: dict[str, str] = {}
    while found.get(name) != wanted:
        assert time.monotonic() < deadline, (found, cluster.log())
        await asyncio.sleep(0.005)
        with contextlib.suppress(Unavailable):
            states = await runtime.run(["show servers state primary"])
            found = {line.split()[3]: line.split()[5] for line in states[2:]}


async def test_a_haproxy_that_was_restarted_is_told_again(cluster):
    await cluster.ready()
    cluster.appoint()
    cluster.open()
    await cluster.settled("n2", watched=True)
    # By the checks it would still be member one.
    assert cluster.haproxy is not None
    end(cluster.haproxy)
    cluster.start_haproxy()
    await cluster.settled("n2", watched=True)
    assert await ask(cluster.entry.port) == "n2"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_when_the_watch_ends_the_checks_take_over(cluster, number):
    """Whatever the watch said last: here, that nobody serves."""
    await cluster.ready()
    cluster.appoint()
    await cluster_state(cluster, "n1", DOWN)
    assert cluster.watch is not None
    ended_at = time.monotonic()
    end(cluster.watch, number)
    cluster.one.answers["primary"] = 503
    cluster.two.answers["primary"] = 200
    assert await ask(cluster.entry.port) == "n2"
    print(f"the checks took over after {time.monotonic() - ended_at:.2f} s")
    # And back: a session is cut by the checks too.
    await cluster.settled("n2")
    session = await connect(cluster.entry.port)
    cluster.two.answers["primary"] = 503
    await session.ended()
    cluster.one.answers["primary"] = 200
    assert await ask(cluster.entry.port) == "n1"


async def test_a_watch_that_hears_nobody_leaves_it_to_the_checks(cluster):
    await cluster.ready()
    for member in (cluster.one, cluster.two):
        await member.channel.close()
    await cluster.settled("n1")
    assert await ask(cluster.entry.port) == "n1"


async def test_a_watch_that_starts_cuts_nobody(cluster):
    """Though it hears one member before the other."""
    await cluster.ready(watched=False)
    await cluster.settled("n2", listener="replica")
    writer, reader = await connect(cluster.entry.port), await connect(cluster.entry.ro_port)
    await cluster.two.channel.close()
    cluster.start_watch()
    await eventually(lambda: "n2 at 127.0.0.1" in cluster.log(), "it misses member two")
    await cluster.two.channel.start()
    await cluster.settled("n1", watched=True)
    await cluster.settled("n2", listener="replica", watched=True)
    assert (writer.name, reader.name) == ("n1", "n2")
    assert writer.open() and reader.open()


async def test_readers_go_to_standbys_and_else_to_the_primary(cluster):
    await cluster.ready()
    assert await ask(cluster.entry.ro_port) == "n2"
    reader = await connect(cluster.entry.ro_port)
    cluster.two.say(streaming=False)
    await reader.ended()
    assert await ask(cluster.entry.ro_port) == "n1"
    cluster.two.say(streaming=True)
    await cluster.settled("n2", listener="replica", watched=True)
    assert await ask(cluster.entry.ro_port) == "n2"


async def test_the_watch_says_what_is_wrong(cluster):
    cluster.begin()
    cluster.start_haproxy("global\n stats socket " + cluster.entry.socket + " level admin\n")
    cluster.start_watch()
    await eventually(lambda: "is its haproxy.cfg ours?" in cluster.log(), "the wrong file is told")
    await cluster.one.stop_agent()
    await eventually(lambda: "n1 at 127.0.0.1" in cluster.log(), "the absent agent is told")


# The checks alone


async def test_checks_alone_fail_over(cluster):
    await cluster.ready(watched=False)
    session = await connect(cluster.entry.port)
    cluster.one.answers["primary"] = 503
    await session.ended()
    held = [asyncio.create_task(ask(cluster.entry.port)) for _ in range(200)]
    await asyncio.sleep(1.5)
    cluster.two.answers["primary"] = 200
    assert await asyncio.gather(*held) == ["n2"] * 200


async def test_an_agent_that_is_restarted_cuts_no_session_and_one_that_is_gone_does(cluster):
    await cluster.ready(watched=False)
    session = await connect(cluster.entry.port)
    await cluster.one.stop_agent()
    await cluster_state(cluster, "n1", STOPPING)
    await cluster.one.start_agent()
    await cluster.settled("n1")
    assert session.open()
    await cluster.one.stop_agent()
    await session.ended(10)


class Names(asyncio.DatagramProtocol):
    """A name service that knows one address for every name, or none."""

    address = ""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        question = data[12 : data.index(b"\0", 12) + 5]
        known = self.address and question.endswith(b"\0\0\1\0\1")
        flags, answers = (0x8180, 1) if known else (0x8183, 0)
        head = data[:2] + struct.pack("!5H", flags, 1, answers, 0, 0)
        answer = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 1, 4) if known else b""
        address = socket.inet_aton(self.address) if known else b""
        self.transport.sendto(head + question + answer + address, addr)


async def test_a_name_that_is_unknown_at_the_start_and_moves_later(cluster):
    cluster.begin()
    loop = asyncio.get_running_loop()
    transport, names = await loop.create_datagram_endpoint(Names, local_addr=(LOOPBACK, 0))
    port = transport.get_extra_info("sockname")[1]
    moved = Member("moved", cluster.two.port, cluster.two.api_port, time.time())
    try:
        one, two = cluster.nodes
        late = replace(two, host="late.invalid", api_host="late.invalid")
        text = render([one, late], cluster.entry)
        cluster.start_haproxy(text.replace("parse-resolv-conf", f"nameserver t 127.0.0.1:{port}"))
        await cluster.settled("n1")
        assert await ask(cluster.entry.port) == "n1"
        cluster.one.answers["primary"], cluster.two.answers["primary"] = 503, 200
        names.address = LOOPBACK
        await cluster.settled("n2")
        assert await ask(cluster.entry.port) == "n2"
        # The container is gone, its name too; it comes back elsewhere.
        names.address = ""
        await cluster.two.stop()
        moved.answers["primary"] = 200
        await moved.start(host="127.0.0.2")
        names.address = "127.0.0.2"
        assert await ask(cluster.entry.port) == "moved"
    finally:
        transport.close()
        await moved.stop()


async def test_statistics_on_each_port(cluster):
    await cluster.ready(watched=False)
    async with aiohttp.ClientSession() as session:
        for port in cluster.entry.stats_ports:
            async with session.get(f"http://{LOOPBACK}:{port}/;csv") as answer:
                text = await answer.text()
                assert answer.status == 200
                assert "primary,n1," in text and "replica,n2," in text


async def test_a_client_is_held_as_long_as_asked(cluster):
    cluster.entry = replace(cluster.entry, hold=1.0)
    cluster.start_haproxy()
    await eventually(lambda: Path(cluster.entry.socket).exists(), "HAProxy starts")
    await cluster_state(cluster, "n1", DOWN)
    began = time.monotonic()
    assert await ask(cluster.entry.port) == ""
    assert 0.8 < time.monotonic() - began < 3


# What is refused


def test_haproxy_accepts_every_form(folder: Path):
    nodes = [
        Node("a.b-c_1", "::1", 5432, "::1", 8008),
        Node("pg-slave", "pg-slave", 5432, "pg-slave", 8008),
        Node("hold", "10.0.0.1", 5432, "10.0.0.1", 8008),
        Node("here", "localhost", 5432, "localhost", 8008),
    ]
    entry = Entry(stats_ports=(7000, 6000), socket="127.0.0.1:9999", hold=0)
    config = folder / "haproxy.cfg"
    config.write_text(render(nodes, entry))
    checked = subprocess.run(
        ["haproxy", "-c", "-f", str(config)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
    assert "server here localhost:5432 check " in config.read_text()
    complaints = [s for s in checked.stderr.splitlines() if "WARN" in s or "ALERT" in s]
    assert all("could not resolve address" in s for s in complaints)


@pytest.mark.parametrize(
    ("nodes", "entry", "why"),
    [
        ([], Entry(), "no member is given"),
        ([Node("a", "h", 1, "h", 2)], Entry(ro_port=5432), "port 5432 is taken by --port"),
        ([Node("a", "h", 1, "h", 2)], Entry(hold=700), "found 700, expected 0 to 600"),
        ([Node("a", "h", 1, "h", 2)], Entry(socket="x.sock"), "found 'x.sock'"),
        ([Node("a", "h", 1, "h", 2)], Entry(socket="/a b"), "without spaces"),
        ([Node("a", "h,i", 1, "h", 2)], Entry(), "a: found the address 'h,i'"),
    ],
)
def test_what_haproxy_would_not_start_with(nodes, entry, why):
    with pytest.raises(Refused, match=why):
        render(nodes, entry)


@pytest.fixture
def servers() -> Iterator[Servers]:
    found = installations()
    if not found:
        pytest.skip("needs PostgreSQL")
    with servers_of(found[0]) as made:
        yield made


async def test_postgresql_through_haproxy(servers, cluster):
    one, two = await servers.primary("p1"), await servers.primary("p2")
    for member, pg in ((cluster.one, one), (cluster.two, two)):
        member.port = pg.port
        member.say(port=pg.port)
        await pg.execute(f"CREATE TABLE {pg.name} ()")
    await cluster.ready()
    # As a client of the entry point.
    client = Pg("entry", one.bin_dir, one.data_dir, one.owner, cluster.entry.port)
    tables = "SELECT relname FROM pg_class WHERE relname IN ('p1', 'p2')"
    assert await client.execute(tables) == [("p1",)]
    cluster.appoint()
    await cluster_state(cluster, "n1", DOWN)
    held = asyncio.create_task(client.execute(tables))
    await asyncio.sleep(0.3)
    assert not held.done()
    cluster.open()
    assert await held == [("p2",)]
