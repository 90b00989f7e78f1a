"""The peer channel: one authenticated WebSocket per pair of agents, on the agent's HTTP port.

The agent with the smaller name dials. A gate joins as a subscriber: it dials every agent, hears
all, says nothing, and does not count as a peer.
"""

import asyncio
import contextlib
import random
import socket
import ssl
import time
from collections.abc import Generator, Mapping

import aiohttp
from aiohttp import web
from aiohttp.abc import ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from pgregent.adapters.peers import auth
from pgregent.adapters.peers.auth import Role
from pgregent.adapters.peers.wire import GOODBYE_S, MAX_FRAME_BYTES, Ended, Wire
from pgregent.core.errors import Bug, Refused
from pgregent.ports.peers import Evidence, OnEvent, PeerClosed, PeerConnected, PeerMessage

PATH = "/pgregent/channel"
MAX_PAYLOAD_BYTES = MAX_FRAME_BYTES - auth.MAC_BYTES
MAX_STRANGERS = 64
MAX_SUBSCRIBERS = 64
CONNECT_S = 1.0
HANDSHAKE_S = 2.0
RETRY_S = (0.1, 0.2)
STALLED_S = 10.0
DNS_CACHE_S = 2
UNSENT_POLL_S = 0.02
# A subscriber sends nothing, so its kernel never learns that the agent's host lost power.
PEER_SILENCE_S = 10.0
SUBSCRIBER_SILENCE_S = 3.0


class _Link:
    """One authenticated connection."""

    def __init__(
        self, role: Role, name: str, wire: Wire, session: tuple[auth.Sealer, auth.Opener]
    ) -> None:
        self.role = role
        self.name = name
        self.wire = wire
        self.sealer, self.opener = session
        self.unsent = asyncio.Event()
        self.over = asyncio.Event()
        self.reason = ""
        self.task = asyncio.current_task()


class PeerChannel:
    """See ports.peers.Peers. `me` is this agent's name, `key` comes from auth.derive_key; with
    `tls` it dials agents whose port uses TLS."""

    def __init__(
        self,
        me: str,
        key: bytes,
        on_event: OnEvent,
        *,
        subscriber: bool = False,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._me = me
        self._tls = tls
        self._key = key
        self._on_event = on_event
        self._role = Role.SUBSCRIBER if subscriber else Role.PEER
        self._silence_s = SUBSCRIBER_SILENCE_S if subscriber else PEER_SILENCE_S
        self._peers: dict[str, tuple[str, int]] = {}
        self._links: dict[tuple[Role, str], _Link] = {}
        self._dialers: dict[str, asyncio.Task[None]] = {}
        self._strangers: dict[asyncio.Transport, None] = {}
        self._why: dict[str, str] = {}
        self._last_refusal = ""
        self._latest: bytes | None = None
        self._session: aiohttp.ClientSession | None = None

    def routes(self) -> list[web.RouteDef]:
        """Return what the agent's web application mounts (aiohttp's server)."""
        return [web.get(PATH, self._accept)]

    def publish(self, payload: bytes) -> None:
        """See ports.peers.Peers."""
        if self._role is Role.SUBSCRIBER:
            raise Bug("a subscriber of the peer channel does not publish")
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise Bug(f"a payload of {len(payload)} bytes; at most {MAX_PAYLOAD_BYTES} fit")
        self._latest = payload
        for link in self._links.values():
            link.unsent.set()

    def set_peers(self, peers: Mapping[str, tuple[str, int]]) -> None:
        """See ports.peers.Peers. An entry for this agent itself is ignored."""
        before, self._peers = self._peers, {n: a for n, a in peers.items() if n != self._me}
        for name in before.keys() - self._peers.keys():
            self._drop(name, f"{name} is no longer a member")
            self._why.pop(name, None)
        for name in before.keys() & self._peers.keys():
            if self._dials(name) and before[name] != self._peers[name]:
                self._drop(name, f"the address of {name} changed")
        self._start_dialers()

    def reasons(self) -> Mapping[str, str]:
        """See ports.peers.Peers."""
        absent = [n for n in self._peers if (Role.PEER, n) not in self._links]
        return {name: self._why_absent(name) for name in absent}

    async def start(self) -> None:
        """See ports.peers.Peers."""
        connector = aiohttp.TCPConnector(
            resolver=_RememberingResolver(),
            ttl_dns_cache=DNS_CACHE_S,
            limit=0,
            force_close=True,
            ssl=True if self._tls is None else self._tls,
        )
        trace = aiohttp.TraceConfig()
        trace.on_request_redirect.append(_refuse_redirect)
        self._session = aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trace_configs=[trace]
        )
        self._start_dialers()

    async def close(self) -> None:
        """See ports.peers.Peers."""
        session, self._session = self._session, None
        if session is None:
            return
        tasks = [link.task for link in self._links.values() if link.task]
        tasks += self._dialers.values()
        for link in list(self._links.values()):
            self._end(link, Evidence.LOCAL, f"{self._me} is stopping")
        for dialer in self._dialers.values():
            dialer.cancel()
        self._dialers.clear()
        for transport in list(self._strangers):
            transport.abort()
        if tasks:
            await asyncio.wait(tasks, timeout=2 * GOODBYE_S)
        await session.close()

    # Dialing

    def _dials(self, name: str) -> bool:
        return self._role is Role.SUBSCRIBER or self._me < name

    def _start_dialers(self) -> None:
        if self._session is None:
            return
        for name in self._peers:
            if self._dials(name) and name not in self._dialers:
                dialer = asyncio.create_task(self._dial_forever(self._session, name))
                dialer.add_done_callback(_report)
                self._dialers[name] = dialer

    def _drop(self, name: str, reason: str) -> None:
        if link := self._links.get((Role.PEER, name)):
            self._end(link, Evidence.LOCAL, reason)
        if dialer := self._dialers.pop(name, None):
            dialer.cancel()

    async def _dial_forever(self, session: aiohttp.ClientSession, name: str) -> None:
        host, port = self._peers[name]
        while True:
            reason = await self._dial(session, name, host, port)
            self._why[name] = f"{name} at {host}:{port}: {reason}"
            await asyncio.sleep(random.uniform(*RETRY_S))

    async def _dial(self, session: aiohttp.ClientSession, name: str, host: str, port: int) -> str:
        scheme = "http" if self._tls is None else "https"
        try:
            async with asyncio.timeout(CONNECT_S):
                ws = await session.ws_connect(
                    URL.build(scheme=scheme, host=host, port=port, path=PATH),
                    # Its parameters are invisible to type checkers.
                    timeout=aiohttp.ClientWSTimeout(ws_close=GOODBYE_S),  # pyright: ignore
                    autoping=False,
                    autoclose=False,
                    max_msg_size=MAX_FRAME_BYTES + 1,
                )
        except TimeoutError:
            return f"no answer within {CONNECT_S:g} s"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return f"cannot connect ({error})"
        if (connection := ws.get_extra_info("socket")) is None:
            return "it closed the connection at once"
        wire = Wire(ws, connection)
        reason = f"{self._me} closed the connection"
        try:
            reason = await self._serve(await self._introduce(name, wire))
        except (Ended, Refused, ConnectionError) as error:
            reason = str(error)
        finally:
            await wire.close(reason)
        return reason

    async def _introduce(self, name: str, wire: Wire) -> _Link:
        claim = auth.Hello(self._me, name, self._role)
        challenge = await wire.receive(HANDSHAKE_S)
        hello = auth.make_hello(self._key, claim, challenge)
        await wire.send(hello)
        auth.check_welcome(self._key, challenge, hello, await wire.receive(HANDSHAKE_S))
        session = auth.dialer_session(self._key, challenge, hello)
        return _Link(Role.PEER, name, wire, session)

    # Accepting

    async def _accept(self, request: web.Request) -> web.StreamResponse:
        if self._session is None:
            raise web.HTTPServiceUnavailable(text="the agent is starting or stopping\n")
        ws = web.WebSocketResponse(
            timeout=GOODBYE_S,
            autoping=False,
            autoclose=False,
            compress=False,
            max_msg_size=MAX_FRAME_BYTES + 1,
        )
        await ws.prepare(request)
        if (transport := request.transport) is None:
            return ws
        wire = Wire(ws, transport.get_extra_info("socket"))
        reason = f"{self._me} closed the connection"
        try:
            with self._stranger(transport):
                link = await self._authenticate(wire)
            reason = await self._serve(link)
        except Refused as error:
            reason = str(error)
            self._last_refusal = f"a connection from {request.remote} was refused: {reason}"
        except (Ended, ConnectionError) as error:
            reason = str(error)
        finally:
            await wire.close(reason)
        return ws

    @contextlib.contextmanager
    def _stranger(self, transport: asyncio.Transport) -> Generator[None, None, None]:
        # The oldest goes: a peer proves itself within milliseconds, a flood of idle ones waits.
        if len(self._strangers) >= MAX_STRANGERS:
            oldest = next(iter(self._strangers))
            del self._strangers[oldest]
            oldest.abort()
        self._strangers[transport] = None
        try:
            yield
        finally:
            self._strangers.pop(transport, None)

    async def _authenticate(self, wire: Wire) -> _Link:
        challenge = auth.make_challenge()
        await wire.send(challenge)
        frame = await wire.receive(HANDSHAKE_S)
        hello = auth.check_hello(self._key, challenge, frame)
        self._check_claim(hello)
        await wire.send(auth.make_welcome(self._key, challenge, frame))
        session = auth.acceptor_session(self._key, challenge, frame)
        return _Link(hello.role, hello.name, wire, session)

    def _check_claim(self, hello: auth.Hello) -> None:
        if hello.to != self._me:
            raise Refused(f"this is {self._me}, not {hello.to}: correct the address")
        if hello.role is Role.SUBSCRIBER:
            known = sum(role is Role.SUBSCRIBER for role, _ in self._links)
            if known >= MAX_SUBSCRIBERS and (hello.role, hello.name) not in self._links:
                raise Refused(f"{known} subscribers are connected already")
        elif hello.name not in self._peers:
            raise Refused(f"{hello.name} is not a member that {self._me} knows")
        elif self._dials(hello.name):
            raise Refused(f"{self._me} dials {hello.name}, not the other way round")

    # An authenticated connection

    async def _serve(self, link: _Link) -> str:
        """Run the connection to its end; return why it ended."""
        if self._session is None:
            raise Refused(f"{self._me} is stopping")
        key = (link.role, link.name)
        if older := self._links.get(key):
            self._end(older, Evidence.LOCAL, f"replaced by a newer connection of {link.name}")
        self._links[key] = link
        if link.role is Role.PEER:
            self._on_event(PeerConnected(link.name))
        if self._latest is not None:
            link.unsent.set()
        over = asyncio.create_task(link.over.wait())
        tasks = [asyncio.create_task(work) for work in (self._receive(link), self._send(link))]
        try:
            done, _ = await asyncio.wait([over, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._end(link, Evidence.LOCAL, f"{self._me} closed the connection")
            for task in (over, *tasks):
                task.cancel()
            await asyncio.wait([over, *tasks])
        return link.reason

    def _end(self, link: _Link, evidence: Evidence, reason: str) -> None:
        if link.over.is_set():
            return
        link.over.set()
        link.reason = reason
        del self._links[link.role, link.name]
        if link.role is Role.PEER:
            self._why[link.name] = reason
            self._on_event(PeerClosed(link.name, evidence, reason))

    async def _receive(self, link: _Link) -> None:
        silence_s = self._silence_s if link.role is Role.PEER else None
        try:
            while True:
                payload = link.opener.open(await link.wire.receive(silence_s))
                if link.role is Role.SUBSCRIBER:
                    raise Refused("a subscriber sent a message")
                self._on_event(PeerMessage(link.name, payload, time.monotonic()))
        except Ended as end:
            self._end(link, end.evidence, str(end))
        except Refused as refusal:
            self._end(link, Evidence.LOCAL, str(refusal))

    async def _send(self, link: _Link) -> None:
        try:
            while True:
                await link.unsent.wait()
                async with asyncio.timeout(STALLED_S):
                    while link.wire.unsent_bytes():  # noqa: ASYNC110 (there is no event for it)
                        await asyncio.sleep(UNSENT_POLL_S)
                    link.unsent.clear()
                    await link.wire.send(link.sealer.seal(self._latest or b""))
        except TimeoutError:
            self._end(link, Evidence.TIMEOUT, f"nothing could be sent for {STALLED_S:g} s")
        except ConnectionError:
            # What the peer said last may still be unread: the receiver tells why it ended.
            await link.over.wait()

    def _why_absent(self, name: str) -> str:
        if self._dials(name):
            return self._why.get(name, f"{name} has not been reached yet")
        sentence = self._why.get(name) or f"{name} has not connected to {self._me} yet"
        return f"{sentence} ({self._last_refusal})" if self._last_refusal else sentence


class _RememberingResolver(ThreadedResolver):
    """Answers with the last known addresses when the name service fails."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[tuple[str, int], list[ResolveResult]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        try:
            self._known[host, port] = await super().resolve(host, port, family)
        except OSError:
            if (host, port) not in self._known:
                raise
        return self._known[host, port]


async def _refuse_redirect(*_: object) -> None:
    raise aiohttp.ClientError("it answered with a redirect: it is not a pgregent agent")


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        context = {"message": "the peer channel stopped dialing", "exception": error}
        task.get_loop().call_exception_handler(context)
