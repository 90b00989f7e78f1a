"""The peer channel over real sockets, and over real processes where one has to die or freeze."""

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest
import uvloop
from aiohttp import WSMsgType, web

from pgregent.adapters.peers import auth, channel
from pgregent.adapters.peers.channel import MAX_PAYLOAD_BYTES, PATH, PeerChannel
from pgregent.core.errors import Bug, Refused
from pgregent.ports.peers import Evidence, PeerClosed, PeerConnected, PeerEvent, PeerMessage

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture")

KEY = auth.derive_key("a secret of the tests", "demo")
OTHER_KEY = auth.derive_key("another secret", "demo")
DEADLINE_S = 10.0


async def until(condition: Callable[[], object], what: str, deadline_s: float = DEADLINE_S):
    """Wait until the condition holds; return its value."""
    end = time.monotonic() + deadline_s
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {deadline_s} s: {what}"
        await asyncio.sleep(0.002)
    return value


class Node:
    """A channel with the HTTP server that it is mounted on, and the events that it reported."""

    def __init__(self, name: str, key: bytes = KEY, *, subscriber: bool = False) -> None:
        self.name = name
        self.events: list[PeerEvent] = []
        self.times: list[float] = []
        self.channel = PeerChannel(name, key, self._on_event, subscriber=subscriber)
        self.runner: web.AppRunner | None = None
        self.port = 0

    def _on_event(self, event: PeerEvent) -> None:
        self.events.append(event)
        self.times.append(time.monotonic())

    async def start(self, port: int = 0) -> "Node":
        app = web.Application()
        app.add_routes(self.channel.routes())
        self.runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", port)
        await site.start()
        self.port = self.runner.addresses[0][1]
        await self.channel.start()
        return self

    def know(self, **ports: int) -> None:
        self.channel.set_peers({name: ("127.0.0.1", port) for name, port in ports.items()})

    async def stop(self) -> None:
        await self.channel.close()
        if self.runner:
            await self.runner.cleanup()

    def payloads(self, name: str) -> list[bytes]:
        return [e.payload for e in self.events if isinstance(e, PeerMessage) and e.name == name]

    def turns(self) -> list[PeerEvent]:
        """Return the events without the messages."""
        return [e for e in self.events if not isinstance(e, PeerMessage)]

    def closed(self) -> list[tuple[str, Evidence]]:
        return [(e.name, e.evidence) for e in self.events if isinstance(e, PeerClosed)]

    def connected(self, name: str) -> bool:
        turns = [e for e in self.turns() if e.name == name]
        return bool(turns) and isinstance(turns[-1], PeerConnected)


@pytest.fixture(params=["asyncio", "uvloop"])
def event_loop_policy(request: pytest.FixtureRequest):
    policies = {"asyncio": asyncio.DefaultEventLoopPolicy, "uvloop": uvloop.EventLoopPolicy}
    return policies[request.param]()


@pytest.fixture
async def nodes() -> AsyncIterator[Callable[..., "asyncio.Future[Node]"]]:
    """Start nodes with it; it stops them all."""
    started: list[Node] = []

    async def start(name: str, key: bytes = KEY, **options: bool) -> Node:
        node = Node(name, key, **options)
        started.append(node)
        return await node.start()

    yield start
    await asyncio.gather(*(node.stop() for node in started))


async def pair(nodes) -> tuple[Node, Node]:
    """Return n1 and n2, connected."""
    one, two = await nodes("n1"), await nodes("n2")
    one.know(n2=two.port)
    two.know(n1=one.port)
    await until(lambda: one.connected("n2") and two.connected("n1"), "n1 and n2 connect")
    return one, two


class Child:
    """A peer in a process of its own, which publishes and reports its events as JSON lines."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.port = 0
        self.lines: list[dict[str, object]] = []
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, name: str, peers: dict[str, int], **options: object) -> "Child":
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(Path(__file__)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        child = cls(process)
        config = {"name": name, "key": KEY.hex(), "peers": peers, "uvloop": True, **options}
        assert process.stdin
        process.stdin.write(json.dumps(config).encode() + b"\n")
        ready = await until(lambda: child.lines, f"{name} starts")
        child.port = int(ready[0]["port"])
        return child

    async def _read(self) -> None:
        assert self.process.stdout
        async for line in self.process.stdout:
            self.lines.append(json.loads(line))

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    async def stop(self) -> None:
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
        await self.process.wait()
        await self._reader


@pytest.fixture
async def children() -> AsyncIterator[Callable[..., "asyncio.Future[Child]"]]:
    started: list[Child] = []

    async def start(name: str, peers: dict[str, int], **options: object) -> Child:
        started.append(await Child.start(name, peers, **options))
        return started[-1]

    yield start
    for child in started:
        await child.stop()


async def child_main(config: dict) -> None:
    """Be a peer: publish each `interval_s`; stdout gets the port, then what was heard."""

    def tell(event: PeerEvent) -> None:
        fact: dict[str, object] = {"event": type(event).__name__, "name": event.name}
        if isinstance(event, PeerMessage):
            fact["head"] = event.payload[:20].decode()
        if isinstance(event, PeerClosed):
            fact["evidence"] = event.evidence.name
        print(json.dumps(fact), flush=True)

    node = Node(config["name"], bytes.fromhex(config["key"]))
    node.channel._on_event = (lambda _: None) if config.get("quiet") else tell
    node.know(**config["peers"])
    await node.start()
    print(json.dumps({"port": node.port, "pid": os.getpid()}), flush=True)
    for number in range(int(300 / config.get("interval_s", 0.1))):
        node.channel.publish(f"{number:<{config.get('size', 100)}}".encode())
        await asyncio.sleep(config.get("interval_s", 0.1))


# Broadcast


async def test_each_hears_the_newest_state_of_the_other(nodes):
    one, two = await pair(nodes)
    one.channel.publish(b"first")
    await until(lambda: two.payloads("n1") == [b"first"], "n2 hears n1")
    two.channel.publish(b"answer")
    await until(lambda: one.payloads("n2") == [b"answer"], "n1 hears n2")
    assert one.turns() == [PeerConnected("n2")]
    assert one.channel.reasons() == {}
    event = one.events[-1]
    assert isinstance(event, PeerMessage)
    assert abs(event.received_at - one.times[-1]) < 0.05


async def test_a_new_connection_gets_the_newest_payload_only(nodes):
    one, two = await nodes("n1"), await nodes("n2")
    for text in (b"old", b"older", b"newest"):
        one.channel.publish(text)
    two.know(n1=one.port)
    one.know(n2=two.port)
    await until(lambda: two.payloads("n1"), "n2 hears n1")
    assert two.payloads("n1") == [b"newest"]


async def test_a_payload_up_to_the_limit_passes_and_above_it_is_a_bug(nodes):
    one, two = await pair(nodes)
    one.channel.publish(b"x" * MAX_PAYLOAD_BYTES)
    payloads = await until(lambda: two.payloads("n1"), "the largest payload arrives")
    assert len(payloads[0]) == MAX_PAYLOAD_BYTES
    with pytest.raises(Bug, match="at most"):
        one.channel.publish(b"x" * (MAX_PAYLOAD_BYTES + 1))


async def test_orderly_close_is_no_death(nodes):
    one, two = await pair(nodes)
    await two.channel.close()
    await until(one.closed, "n1 sees the end")
    assert one.closed() == [("n2", Evidence.PEER_LEFT)]
    assert two.closed() == [("n1", Evidence.LOCAL)]


async def test_a_subscriber_hears_all_and_is_no_peer(nodes):
    one, two = await pair(nodes)
    gate = await nodes("gate-1", subscriber=True)
    gate.know(n1=one.port, n2=two.port)
    one.channel.publish(b"from n1")
    two.channel.publish(b"from n2")
    await until(lambda: gate.payloads("n1") and gate.payloads("n2"), "the gate hears both")
    assert [e for e in one.turns() + two.turns() if e.name == "gate-1"] == []
    again = await nodes("gate-1", subscriber=True)
    again.know(n1=one.port)
    await until(lambda: again.payloads("n1"), "the gate's successor hears n1")
    with pytest.raises(Bug, match="does not publish"):
        gate.channel.publish(b"x")


@pytest.mark.parametrize("role", ["peer", "subscriber"])
async def test_a_silent_connection_is_made_anew(nodes, monkeypatch, role):
    monkeypatch.setattr(channel, f"{role.upper()}_SILENCE_S", 0.3)
    two = await nodes("n2")
    two.know(n1=1)
    one = await nodes("n1", subscriber=role == "subscriber")
    one.know(n2=two.port)
    await until(lambda: len(one.turns()) >= 3, "n1 dials again")
    assert [type(e) for e in one.turns()][:3] == [PeerConnected, PeerClosed, PeerConnected]
    assert one.closed()[0] in (("n2", Evidence.TIMEOUT), ("n2", Evidence.PEER_LEFT))


# Membership


async def test_peers_leave_return_and_move(nodes):
    one, two = await pair(nodes)
    two.know()
    await until(lambda: one.closed() and two.closed(), "n1 has left")
    assert two.closed() == [("n1", Evidence.LOCAL)]
    assert one.closed() == [("n2", Evidence.PEER_LEFT)]
    await until(lambda: "not a member" in one.channel.reasons()["n2"], "n1 says why")
    two.know(n1=one.port)
    await until(lambda: one.connected("n2") and two.connected("n1"), "n1 has returned")

    moved = await nodes("n2")
    moved.know(n1=one.port)
    one.know(n2=moved.port)
    await until(lambda: moved.connected("n1") and one.connected("n2"), "n1 dials the new address")
    assert one.closed()[1:] == [("n2", Evidence.LOCAL)]


async def test_an_address_that_leads_to_another_node_is_refused(nodes):
    one, three = await nodes("n1"), await nodes("n3")
    three.know(n1=one.port)
    one.know(n2=three.port)
    reason = await until(lambda: "this is n3" in one.channel.reasons()["n2"], "n1 says why")
    assert reason
    assert one.events == [] == three.events


async def test_the_larger_name_never_dials_and_is_refused_if_it_does(nodes):
    two = await nodes("n2")
    two.know(n1=1, n3=1)
    await expect_refusal(two, auth.Hello("n3", "n2", auth.Role.PEER), "n2 dials n3")
    assert "has not connected to n2 yet" in two.channel.reasons()["n1"]


async def test_redialing_is_paced(nodes):
    accepted = 0

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal accepted
        accepted += 1
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        one = await nodes("n1")
        start = time.monotonic()
        one.know(n2=server.sockets[0].getsockname()[1])
        # aiohttp's client connects twice where the server hangs up before it answers.
        await until(lambda: accepted >= 10, "n1 dials again")
        elapsed_s = time.monotonic() - start
    assert 0.4 <= elapsed_s < 3
    assert "cannot connect" in one.channel.reasons()["n2"]


async def test_the_newer_of_two_connections_of_one_name_wins(nodes):
    two = await nodes("n2")
    two.know(n1=1)
    async with raw_peer(two, "n1") as (first, _, _):
        await until(lambda: two.connected("n1"), "the first connects")
        async with raw_peer(two, "n1") as (_, sealer, send):
            message = await first.receive(2)
            assert message.type is WSMsgType.CLOSE
            await send(sealer.seal(b"from the newer"))
            await until(lambda: two.payloads("n1") == [b"from the newer"], "it is heard")
            assert [type(e) for e in two.turns()] == [PeerConnected, PeerClosed, PeerConnected]
            assert two.closed() == [("n1", Evidence.LOCAL)]


# Authentication


@contextlib.asynccontextmanager
async def raw_peer(node: Node, name: str, key: bytes = KEY, role: auth.Role = auth.Role.PEER):
    """Dial `node` frame by frame; yield the WebSocket, its Sealer and its send function."""
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(
            f"http://127.0.0.1:{node.port}{PATH}", autoping=False, autoclose=False
        ) as ws,
    ):
        challenge = (await ws.receive(2)).data
        hello = auth.make_hello(key, auth.Hello(name, node.name, role), challenge)
        await ws.send_bytes(hello)
        auth.check_welcome(key, challenge, hello, (await ws.receive(2)).data)
        sealer, _ = auth.dialer_session(key, challenge, hello)
        yield ws, sealer, ws.send_bytes


async def expect_refusal(node: Node, claim: auth.Hello, why: str, key: bytes = KEY) -> None:
    async with aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{node.port}{PATH}"
        async with session.ws_connect(url, autoclose=False) as ws:
            challenge = (await ws.receive(2)).data
            await ws.send_bytes(auth.make_hello(key, claim, challenge))
            answer = await ws.receive(2)
            assert answer.type is WSMsgType.CLOSE, answer
            assert why in answer.extra
    assert node.events == []


async def test_a_dialer_without_the_key_is_refused_by_the_acceptor(nodes):
    two = await nodes("n2")
    two.know(n1=1)
    claim = auth.Hello("n1", "n2", auth.Role.PEER)
    await expect_refusal(two, claim, "wrong key", OTHER_KEY)
    assert "wrong key" in two.channel.reasons()["n1"]
    await expect_refusal(two, auth.Hello("n0", "n2", auth.Role.PEER), "n0 is not a member")


async def test_both_sides_say_that_the_keys_differ(nodes):
    one, two = await nodes("n1", OTHER_KEY), await nodes("n2")
    two.know(n1=one.port)
    one.know(n2=two.port)
    await until(lambda: "wrong key" in one.channel.reasons()["n2"], "n1 says why")
    await until(lambda: "wrong key" in two.channel.reasons()["n1"], "n2 says why")
    assert one.events == [] == two.events


@pytest.mark.parametrize("welcome", ["garbage", "other key", "reflected"])
async def test_an_impostor_of_the_acceptor_is_refused_by_the_dialer(nodes, welcome):
    heard: list[bytes] = []

    async def impostor(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(compress=False)
        await ws.prepare(request)
        challenge = auth.make_challenge()
        await ws.send_bytes(challenge)
        hello = (await ws.receive(2)).data
        answers = {
            "garbage": bytes(32),
            "other key": auth.make_welcome(OTHER_KEY, challenge, hello),
            "reflected": hello[: auth.MAC_BYTES],
        }
        await ws.send_bytes(answers[welcome])
        async for message in ws:
            heard.append(message.data)
        return ws

    app = web.Application()
    app.add_routes([web.get(PATH, impostor)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        one = await nodes("n1")
        one.channel.publish(b"for n2 only")
        one.know(n2=runner.addresses[0][1])
        await until(
            lambda: "does not hold the cluster's key" in one.channel.reasons()["n2"], "n1 says why"
        )
        assert one.events == []
        assert heard == []
    finally:
        await one.stop()
        await runner.cleanup()


async def test_a_server_that_is_not_ours_is_named_as_such(nodes):
    async def redirect(_: web.Request) -> web.Response:
        raise web.HTTPFound("/elsewhere")

    visited: list[str] = []

    async def elsewhere(request: web.Request) -> web.Response:
        visited.append(request.path)
        return web.Response()

    app = web.Application()
    app.add_routes([web.get(PATH, redirect), web.get("/elsewhere", elsewhere)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        one = await nodes("n1")
        one.know(n2=runner.addresses[0][1])
        await until(lambda: "redirect" in one.channel.reasons()["n2"], "n1 says why")
        assert visited == []
    finally:
        await runner.cleanup()


async def test_a_server_that_upgrades_and_hangs_up_is_dialed_again(nodes):
    accepted = 0

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal accepted
        accepted += 1
        request = (await reader.readuntil(b"\r\n\r\n")).decode()
        nonce = re.search(r"Sec-WebSocket-Key: (\S+)", request, re.IGNORECASE)
        assert nonce
        magic = nonce[1] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(magic.encode()).digest()).decode()
        head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade"
        writer.write(f"{head}\r\nSec-WebSocket-Accept: {accept}\r\n\r\n".encode())
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        one = await nodes("n1")
        one.know(n2=server.sockets[0].getsockname()[1])
        await until(lambda: accepted >= 3, "n1 dials again")
        assert "closed the connection" in one.channel.reasons()["n2"]
        assert one.events == []


@pytest.mark.parametrize("host", ["bad host", "", "a" * 300, "256.256.256.256", "127.1"])
async def test_an_unusable_host_is_a_reason_and_can_be_corrected(nodes, host):
    one, two = await nodes("n1"), await nodes("n2")
    two.know(n1=one.port)
    one.channel.set_peers({"n2": (host, two.port)})
    await until(lambda: "cannot connect" in one.channel.reasons()["n2"], "n1 says why")
    one.channel.set_peers({"n2": ("localhost", two.port)})
    await until(lambda: one.connected("n2") and two.connected("n1"), "n1 dials by name")


def test_a_hello_is_bound_to_nonce_names_role_and_versions():
    challenge = auth.make_challenge()
    claim = auth.Hello("n1", "n2", auth.Role.PEER)
    hello = auth.make_hello(KEY, claim, challenge)
    assert auth.check_hello(KEY, challenge, hello) == claim
    with pytest.raises(Refused, match="wrong key"):
        auth.check_hello(KEY, auth.make_challenge(), hello)
    for old, new in ((b'"n1"', b'"n3"'), (b'"n2"', b'"n3"'), (b'"peer"', b'"subscriber"')):
        with pytest.raises(Refused, match="wrong key"):
            auth.check_hello(KEY, challenge, hello.replace(old, new))
    for position in range(len(hello)):
        tampered = bytearray(hello)
        tampered[position] ^= 1
        with pytest.raises(Refused, match="wrong key"):
            auth.check_hello(KEY, challenge, bytes(tampered))


def test_keys_differ_by_secret_scope_and_direction():
    assert auth.derive_key("s", "a") != auth.derive_key("s", "b")
    assert auth.derive_key("s", "a") != auth.derive_key("t", "a")
    with pytest.raises(Refused, match="empty"):
        auth.derive_key("", "a")
    challenge = auth.make_challenge()
    hello = auth.make_hello(KEY, auth.Hello("n1", "n2", auth.Role.PEER), challenge)
    dial_seal, dial_open = auth.dialer_session(KEY, challenge, hello)
    accept_seal, accept_open = auth.acceptor_session(KEY, challenge, hello)
    assert accept_open.open(dial_seal.seal(b"up")) == b"up"
    assert dial_open.open(accept_seal.seal(b"down")) == b"down"
    with pytest.raises(Refused, match="forged"):
        dial_open.open(dial_seal.seal(b"reflected"))


def test_versions_that_do_not_overlap_are_refused():
    challenge = json.loads(auth.make_challenge())
    claim = auth.Hello("n1", "n2", auth.Role.PEER)
    later = json.dumps({**challenge, "version": 3, "min_version": 1}).encode()
    assert auth.make_hello(KEY, claim, later)
    too_new = json.dumps({**challenge, "version": 3, "min_version": 2}).encode()
    with pytest.raises(Refused, match="versions 2 to 3"):
        auth.make_hello(KEY, claim, too_new)
    for junk in (b"[]", b"\xff", b"{}", b'{"version": "1", "min_version": 1}', b"[" * 2000):
        with pytest.raises(Refused, match="not a pgregent agent"):
            auth.make_hello(KEY, claim, junk)
    with pytest.raises(Refused, match="too long"):
        auth.make_hello(KEY, claim, b"[" * 100_000)


@pytest.mark.parametrize("frame", ["text", "ping", "too large", "unsealed", "from a subscriber"])
async def test_an_authenticated_peer_that_breaks_the_protocol_is_closed(nodes, frame):
    two = await nodes("n2")
    two.know(n1=1)
    subscriber = frame == "from a subscriber"
    role = auth.Role.SUBSCRIBER if subscriber else auth.Role.PEER
    async with raw_peer(two, "n1", role=role) as (ws, sealer, send):
        match frame:
            case "text":
                await ws.send_str("hello")
            case "ping":
                await ws.ping()
            case "too large":
                await send(sealer.seal(bytes(MAX_PAYLOAD_BYTES + 1)))
            case "unsealed":
                await send(b"x" * 100)
            case _:
                await send(sealer.seal(b"a subscriber speaks"))
        assert (await ws.receive(2)).type is WSMsgType.CLOSE
    assert two.payloads("n1") == []
    assert two.closed() == ([] if subscriber else [("n1", Evidence.LOCAL)])


class Relay:
    """A man in the middle: passes bytes on, and can alter or repeat what it passes."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.attack: tuple[str, str] | None = None
        self.attacks = 0
        self._writers: list[asyncio.StreamWriter] = []

    async def start(self) -> "Relay":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers += [writer, there_writer]
        await asyncio.gather(
            self._pass("up", reader, there_writer), self._pass("down", there_reader, writer)
        )

    async def _pass(
        self, way: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while chunk := await reader.read(65536):
                writer.write(self._altered(way, chunk))
                await writer.drain()
        writer.close()

    def _altered(self, way: str, chunk: bytes) -> bytes:
        if self.attack is None or self.attack[0] != way:
            return chunk
        _, kind = self.attack
        self.attack = None
        self.attacks += 1
        return chunk + chunk if kind == "replay" else chunk[:-1] + bytes([chunk[-1] ^ 1])

    async def stop(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()


@pytest.mark.parametrize("kind", ["replay", "tamper"])
@pytest.mark.parametrize("way", ["up", "down"])
async def test_a_man_in_the_middle_is_noticed(nodes, way, kind):
    one, two = await nodes("n1"), await nodes("n2")
    relay = await Relay(two.port).start()
    try:
        one.know(n2=relay.port)
        two.know(n1=one.port)
        await until(lambda: one.connected("n2") and two.connected("n1"), "they connect")
        sender, victim = (one, two) if way == "up" else (two, one)
        sender.channel.publish(b"good")
        await until(lambda: victim.payloads(sender.name) == [b"good"], "a good frame passes")
        relay.attack = (way, kind)
        sender.channel.publish(b"bad")
        await until(victim.closed, "the victim closes")
        assert relay.attacks == 1
        assert victim.closed() == [(sender.name, Evidence.LOCAL)]
        ended = victim.events[[isinstance(e, PeerClosed) for e in victim.events].index(True)]
        assert isinstance(ended, PeerClosed)
        assert "forged, replayed" in ended.reason
        # The replayed frame was good once; the tampered one never is, until a new connection.
        before = victim.events[: victim.events.index(ended)]
        expected = [b"good", b"bad"] if kind == "replay" else [b"good"]
        assert [e.payload for e in before if isinstance(e, PeerMessage)] == expected
        await until(lambda: victim.connected(sender.name), "they connect again")
    finally:
        await one.stop()
        await two.stop()
        await relay.stop()


# Strangers


async def test_a_stranger_gets_one_frame_and_two_seconds(nodes):
    two = await nodes("n2")
    url = f"http://127.0.0.1:{two.port}{PATH}"
    async with aiohttp.ClientSession() as session:
        async with session.ws_connect(url, autoclose=False) as ws:
            await ws.receive(2)
            await ws.send_bytes(b"x")
            await ws.send_bytes(b"y")
            assert (await ws.receive(2)).type is WSMsgType.CLOSE
        start = time.monotonic()
        async with session.ws_connect(url, autoclose=False) as ws:
            await ws.receive(2)
            assert (await ws.receive(5)).type is WSMsgType.CLOSE
        assert 1.9 < time.monotonic() - start < 4
        response = await session.get(url)
        assert response.status == 400
    assert two.events == []


async def test_a_flood_of_idle_connections_delays_nobody(nodes):
    two = await nodes("n2")
    url = f"http://127.0.0.1:{two.port}{PATH}"
    sockets = [socket.create_connection(("127.0.0.1", two.port)) for _ in range(100)]
    try:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            idle = await asyncio.gather(
                *(session.ws_connect(url, autoclose=False) for _ in range(200)),
                return_exceptions=True,
            )
            strangers = two.channel._strangers
            assert 0 < len(strangers) <= channel.MAX_STRANGERS
            one = await nodes("n1")
            two.know(n1=one.port)
            start = time.monotonic()
            one.know(n2=two.port)
            await until(lambda: one.connected("n2") and two.connected("n1"), "a peer connects")
            assert time.monotonic() - start < 0.5
            await until(lambda: not strangers, "the idle ones are closed", 5)
            for ws in idle:
                if isinstance(ws, aiohttp.ClientWebSocketResponse):
                    await ws.close()
    finally:
        for connection in sockets:
            connection.close()


# Death and frost


@pytest.mark.parametrize("child_name", ["n1", "n3"])
async def test_a_killed_process_is_noticed_at_once(nodes, children, child_name):
    delays_s: list[float] = []
    two = await nodes("n2")
    for _ in range(3):
        two.events.clear()
        two.times.clear()
        two.know(**{child_name: 1})
        child = await children(child_name, {"n2": two.port})
        two.know(**{child_name: child.port})
        await until(lambda: two.payloads(child_name), "they talk")
        killed_at = time.monotonic()
        child.signal(signal.SIGKILL)
        await until(two.closed, "the death is noticed")
        assert two.closed() == [(child_name, Evidence.PEER_CLOSED)]
        delays_s.append(two.times[-1] - killed_at)
        await child.stop()
    assert statistics.median(delays_s) < 0.05, delays_s


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("child_name", ["n1", "n3"])
async def test_a_frozen_process_costs_nothing_and_is_heard_again(nodes, children, child_name):
    two = await nodes("n2")
    two.know(**{child_name: 1})
    child = await children(child_name, {"n2": two.port}, interval_s=0.02)
    two.know(**{child_name: child.port})
    await until(lambda: two.payloads(child_name), "they talk")
    child.signal(signal.SIGSTOP)
    before, heard, published = resident_bytes(), len(child.lines), 0
    end = time.monotonic() + 3
    while time.monotonic() < end:
        published += 1
        two.channel.publish(f"{published:<200000}".encode())
        await asyncio.sleep(0.02)
    assert two.closed() == []
    assert resident_bytes() - before < 8 * 1024 * 1024
    frozen_count = len(two.payloads(child_name))
    child.signal(signal.SIGCONT)
    last = f"{published:<20}"
    await until(lambda: child.lines[-1].get("head") == last, "the newest arrives at the child")
    await until(lambda: len(two.payloads(child_name)) > frozen_count, "the child is heard again")
    assert published > 50
    assert len(child.lines) - heard < 20, "older payloads were kept for the frozen peer"
    assert two.closed() == []


async def test_a_peer_that_stays_frozen_is_closed_in_the_end(nodes, children, monkeypatch):
    monkeypatch.setattr(channel, "STALLED_S", 0.5)
    two = await nodes("n2")
    two.know(n3=1)
    child = await children("n3", {"n2": two.port}, interval_s=0.02)
    two.know(n3=child.port)
    await until(lambda: two.payloads("n3"), "they talk")
    child.signal(signal.SIGSTOP)
    start = time.monotonic()

    def ended() -> bool:
        two.channel.publish(bytes(100_000))
        return bool(two.closed())

    await until(ended, "the connection is given up")
    assert time.monotonic() - start > 0.5
    assert two.closed() == [("n3", Evidence.TIMEOUT)]
    await until(lambda: "no answer within" in two.channel.reasons()["n3"], "n2 dials again")
    child.signal(signal.SIGCONT)
    await until(lambda: two.connected("n3"), "they talk again")


def open_sockets() -> int:
    links = (Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd"))
    return sum(link.is_symlink() and "socket:" in os.readlink(link) for link in links)


async def test_closing_is_quick_and_leaves_nothing_though_a_peer_is_frozen(nodes, children):
    before = open_sockets()
    two = await nodes("n2")
    two.know(n3=1)
    child = await children("n3", {"n2": two.port}, quiet=True)
    two.know(n3=child.port)
    await until(lambda: two.payloads("n3"), "they talk")
    child.signal(signal.SIGSTOP)
    for _ in range(30):
        two.channel.publish(bytes(MAX_PAYLOAD_BYTES))
        await asyncio.sleep(0.02)
    start = time.monotonic()
    await two.stop()
    assert time.monotonic() - start < 2.5
    assert two.closed() == [("n3", Evidence.LOCAL)]
    await child.stop()
    await until(lambda: open_sockets() <= before, "no socket is left", 3)


async def test_ended_connections_leave_no_file_descriptor(nodes):
    two = await nodes("n2")
    two.know(n1=1)
    before = open_sockets()
    for _ in range(20):
        async with raw_peer(two, "n1"):
            pass
        with pytest.raises(aiohttp.ClientError):
            async with raw_peer(two, "n1") as (ws, _, send):
                await send(b"forged")
                await ws.receive(2)
                raise aiohttp.ClientError
    await until(lambda: open_sockets() <= before, "every socket is closed")


if __name__ == "__main__":
    settings = json.loads(sys.stdin.readline())
    (uvloop.run if settings["uvloop"] else asyncio.run)(child_main(settings))
