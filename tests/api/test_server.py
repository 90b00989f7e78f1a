"""Methods, paths, and clients that do not behave, against the real server on loopback."""

import asyncio
import contextlib
import http.client
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest
import uvloop
from aiohttp import web
from yarl import URL

from pgregent.adapters.peers.auth import derive_key
from pgregent.adapters.peers.channel import PeerChannel
from pgregent.api import health, server, status
from pgregent.api.node import Node
from pgregent.ports.peers import PeerClosed, PeerEvent, PeerMessage
from tests.api.members import LOOPBACK, node, primary, served, standby

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture")

DOCUMENTS = {"/patroni", "/cluster", "/history", "/metrics", "/pgregent/status"}
PATHS = sorted(health.PATHS | DOCUMENTS | {"/liveness", "/readiness"})
IDLE_S = 0.5
WITHIN_S = 5.0


@pytest.fixture(params=["asyncio", "uvloop"])
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    policies = {"asyncio": asyncio.DefaultEventLoopPolicy, "uvloop": uvloop.EventLoopPolicy}
    return policies[request.param]()


def own_routes(subject: Node) -> list[web.RouteDef]:
    return status.routes(subject, lambda: {"agent": 1})


@pytest.mark.parametrize("subject", [node(primary()), node(standby(), mode="on")])
async def test_head_and_options_say_what_get_says(subject: Node) -> None:
    async with served(subject, own_routes(subject)) as port, aiohttp.ClientSession() as session:
        for path in PATHS:
            url = f"http://{LOOPBACK}:{port}{path}"
            async with session.get(url) as answer:
                code = answer.status
            for method in ("HEAD", "OPTIONS"):
                for spelt in {url, url.rstrip("/") + "/", url + "?lag=1GB"}:
                    async with session.request(method, spelt) as answer:
                        assert (answer.status, await answer.read()) == (code, b""), (method, spelt)


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/xprimaryx", 404),
        ("GET", "/primary/x", 404),
        ("GET", "/primary//", 404),
        ("GET", "//primary", 404),
        ("GET", "/Primary", 404),
        ("HEAD", "/xprimaryx", 404),
        ("OPTIONS", "/xprimaryx", 404),
        ("POST", "/primary", 405),
        ("DELETE", "/cluster", 405),
    ],
)
async def test_paths_and_methods_that_there_are_not(method: str, path: str, code: int) -> None:
    async with (
        served(node(primary())) as port,
        aiohttp.ClientSession() as session,
        session.request(method, URL(f"http://{LOOPBACK}:{port}{path}", encoded=True)) as answer,
    ):
        assert answer.status == code
        if method not in ("HEAD", "OPTIONS"):
            assert path in (await answer.json())["error"]


async def test_a_bad_parameter_is_named() -> None:
    async with (
        served(node(standby())) as port,
        aiohttp.ClientSession() as session,
        session.get(f"http://{LOOPBACK}:{port}/replica?lag=16KB") as answer,
    ):
        assert answer.status == 400
        assert "lag: found '16KB', expected bytes" in (await answer.json())["error"]


async def test_the_check_of_haproxy() -> None:
    """What `option httpchk` sends by default."""
    async with served(node(primary())) as port:
        reader, writer = await asyncio.open_connection(LOOPBACK, port)
        writer.write(b"OPTIONS / HTTP/1.0\r\n\r\n")
        async with asyncio.timeout(WITHIN_S):
            answer = await reader.read()
        writer.close()
    assert answer.startswith(b"HTTP/1.0 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\n")


# --- clients that are slow ---------------------------------------------------------------------


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def dribble(writer: asyncio.StreamWriter) -> None:
    """A request head that comes a byte at a time and never ends."""
    with contextlib.suppress(ConnectionError):
        writer.write(b"GET / HTTP/1.1\r\nx: ")
        while True:
            writer.write(b"x")
            await asyncio.sleep(IDLE_S / 10)


async def closed(reader: asyncio.StreamReader) -> float:
    """The seconds until the server closes the connection."""
    began = time.monotonic()
    async with asyncio.timeout(WITHIN_S):
        with contextlib.suppress(ConnectionError):
            while await reader.read(65536):
                pass
    return time.monotonic() - began


ONE_REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
NO_BODY = b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nx"


@pytest.mark.parametrize("sent", [b"", b"GET / HT", ONE_REQUEST, ONE_REQUEST + b"GE", NO_BODY])
async def test_an_idle_connection_is_closed(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "IDLE_S", IDLE_S)
    monkeypatch.setattr(server, "BODY_S", IDLE_S)
    async with served(node(primary())) as port, connected(port) as (reader, writer):
        writer.write(sent)
        assert IDLE_S / 2 < await closed(reader) < WITHIN_S


@pytest.mark.parametrize("first", [b"", ONE_REQUEST])
async def test_a_slow_request_is_cut_off(first: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "IDLE_S", IDLE_S)
    async with served(node(primary())) as port, connected(port) as (reader, writer):
        writer.write(first)
        dribbling = asyncio.create_task(dribble(writer))
        try:
            assert IDLE_S / 2 < await closed(reader) < WITHIN_S
        finally:
            dribbling.cancel()
            await asyncio.wait([dribbling])


@contextlib.asynccontextmanager
async def reads_nothing(port: int) -> AsyncIterator[socket.socket]:
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, (LOOPBACK, port))
        yield client


async def test_a_client_that_reads_nothing_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "WRITE_S", IDLE_S)
    loop = asyncio.get_running_loop()
    async with served(node(primary())) as port, reads_nothing(port) as client:
        with pytest.raises(ConnectionError):
            async with asyncio.timeout(4 * WITHIN_S):
                while True:
                    await loop.sock_sendall(client, ONE_REQUEST * 1000)
    assert caplog.messages == []


async def test_a_client_that_leaves_without_its_answer(caplog: pytest.LogCaptureFixture) -> None:
    """The server waits to write when the client resets the connection: no news."""
    loop = asyncio.get_running_loop()
    async with served(node(primary())) as port:
        async with reads_nothing(port) as client:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    while True:
                        await loop.sock_sendall(client, ONE_REQUEST * 1000)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert await asyncio.to_thread(check, port) < WITHIN_S
    assert caplog.messages == []


async def test_a_silent_channel_is_not_an_idle_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "IDLE_S", IDLE_S)
    monkeypatch.setattr(server, "WRITE_S", IDLE_S)
    key = derive_key("secret", "demo")
    heard: list[PeerEvent] = []
    met = asyncio.Event()

    def on_event(event: PeerEvent) -> None:
        heard.append(event)
        met.set()

    agent = PeerChannel("n1", key, lambda event: None)
    gate = PeerChannel("gate", key, on_event, subscriber=True)
    async with served(node(primary()), agent.routes()) as port:
        await agent.start()
        await gate.start()
        try:
            agent.publish(b"first")
            gate.set_peers({"n1": (LOOPBACK, port)})
            async with asyncio.timeout(WITHIN_S):
                while not any(isinstance(event, PeerMessage) for event in heard):
                    met.clear()
                    await met.wait()
                # Nothing is awaited here but the time in which nothing must happen.
                await asyncio.sleep(3 * IDLE_S)
                agent.publish(b"last")
                while not any(isinstance(e, PeerMessage) and e.payload == b"last" for e in heard):
                    met.clear()
                    await met.wait()
            assert not [event for event in heard if isinstance(event, PeerClosed)]
        finally:
            await gate.close()
            await agent.close()


ATTACK = """
import contextlib, select, socket, sys
address, count = ("127.0.0.1", int(sys.argv[1])), int(sys.argv[2])
idle = [socket.create_connection(address, 5) for _ in range(count)]
slow = [socket.create_connection(address, 5) for _ in range(count)]
for each in slow:
    each.sendall(b"GET / HTTP/1.1\\r\\nx: ")
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0.1)[0]:
    for each in slow:
        each.sendall(b"x")
print("open", flush=True)
"""


@contextlib.contextmanager
def attack(port: int, count: int) -> Iterator[subprocess.Popen[bytes]]:
    """`count` idle and as many dribbling clients, in a process of their own."""
    argv = [sys.executable, "-c", ATTACK, str(port), str(count)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        try:
            yield child
        finally:
            child.kill()


def check(port: int) -> float:
    """The seconds that a check on a connection of its own takes."""
    began = time.monotonic()
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=2)
    try:
        connection.request("OPTIONS", "/primary")
        assert connection.getresponse().status == 200
    finally:
        connection.close()
    return time.monotonic() - began


async def test_400_idle_and_slow_clients_do_not_delay_a_check() -> None:
    async with served(node(primary())) as port:
        with attack(port, 200) as child:
            assert child.stdin and child.stdout
            async with asyncio.timeout(20):
                assert await asyncio.to_thread(child.stdout.readline) == b"ready\n"
            took = [await asyncio.to_thread(check, port) for _ in range(50)]
            child.stdin.close()
            # All were open until the end: otherwise nothing was measured.
            async with asyncio.timeout(WITHIN_S):
                assert await asyncio.to_thread(child.stdout.readline) == b"open\n"
    print(f"median {statistics.median(took) * 1000:.1f} ms, worst {max(took) * 1000:.1f} ms")
    assert statistics.median(took) < 0.05
    assert max(took) < 0.5
