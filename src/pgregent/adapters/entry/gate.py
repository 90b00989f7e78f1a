"""pgregent's built-in entry point: clients connect here and reach the primary of the current term.

It decides nothing: somebody else feeds it `Routes`. Runs on uvloop or on plain asyncio, in one
event loop; nothing here is to be called from another thread.
"""

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass

from pgregent.adapters.entry.hold import Client, HeldInVain, Holder, read_packet
from pgregent.adapters.entry.routes import Port, Routes, RouteTable
from pgregent.adapters.entry.sockets import Address, listen, raise_descriptor_limit, tune
from pgregent.adapters.entry.splice import Splice
from pgregent.adapters.entry.wire import Kind, Packet

__all__ = ["Address", "Counters", "Gate", "Routes"]

_ACCEPT_AGAIN_SECONDS = 0.1
_OTHER_DESCRIPTORS = 64
_DESCRIPTORS_PER_SESSION = 2
_SWEEP_SESSIONS = 500


@dataclass(frozen=True, slots=True)
class Counters:
    """Sessions and held clients now; the other numbers count since the start."""

    sessions_rw: int
    sessions_ro: int
    held: int
    accepted: int
    cut: int
    timed_out: int
    cancels: int
    dead_peers: int


class Gate:
    """The read-write and the read-only port. `hold_timeout`: how many seconds a client waits for
    a server before it gets an error; `connect_timeout`: seconds for one TCP connection attempt;
    `dead_after`: a peer is dead when it left data unacknowledged for so many seconds;
    `max_sessions`: None means as many as file descriptors allow."""

    def __init__(
        self,
        *,
        hold_timeout: float = 15.0,
        connect_timeout: float = 1.0,
        dead_after: float = 30.0,
        max_sessions: int | None = None,
    ) -> None:
        self._connect_timeout = connect_timeout
        self._dead_after = dead_after
        self._max_sessions = max_sessions
        # Longer than an attempt takes, so that a silent server is not taken for a new one.
        self._table = RouteTable(failure_seconds=2 * connect_timeout)
        self._holder = Holder(self._table, hold_timeout, connect_timeout)
        self._clients: set[Client] = set()
        self._keys: dict[bytes, Client] = {}
        self._listeners: dict[Port, socket.socket] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._counts: Counter[str] = Counter()
        self._empty = asyncio.Event()

    async def start(self, rw: Address, ro: Address) -> None:
        """Listen on both (port 0: any free one) and serve. Raises Refused."""
        descriptors = raise_descriptor_limit() - _OTHER_DESCRIPTORS
        limit = max(1, descriptors // _DESCRIPTORS_PER_SESSION)
        self._room = asyncio.Semaphore(self._max_sessions or limit)
        try:
            for port, address in ((Port.RW, rw), (Port.RO, ro)):
                self._listeners[port] = await listen(address)
        except BaseException:
            await self.close()
            raise
        for port, listener in self._listeners.items():
            self._spawn(self._accept(port, listener))
        self._spawn(self._sweep())

    async def close(self) -> None:
        """Stop listening and end every session at once."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for listener in self._listeners.values():
            listener.close()
        for client in tuple(self._clients):
            if client.splice is not None:
                client.splice.abort()
        self._empty.clear()
        if self._clients:
            await self._empty.wait()

    @property
    def rw_address(self) -> Address:
        """Where the read-write port listens."""
        return self._listeners[Port.RW].getsockname()[:2]

    @property
    def ro_address(self) -> Address:
        """Where the read-only port listens."""
        return self._listeners[Port.RO].getsockname()[:2]

    @property
    def sessions(self) -> int:
        """Clients that are joined to a server."""
        return sum(client.splice is not None for client in self._clients)

    @property
    def held(self) -> int:
        """Clients that wait for a server."""
        return len(self._holder.held)

    def counters(self) -> Counters:
        """Numbers for the status."""
        live = Counter(client.port for client in self._clients if client.splice is not None)
        counts = self._counts
        return Counters(
            sessions_rw=live[Port.RW],
            sessions_ro=live[Port.RO],
            held=self.held,
            accepted=counts["accepted"],
            cut=counts["cut"],
            timed_out=counts["timed_out"],
            cancels=counts["cancels"],
            dead_peers=counts["dead_peers"],
        )

    def set_routes(self, routes: Routes) -> None:
        """Use these from now on. Sessions that do not fit are cut before this returns; held
        clients go on in the same moment. The same routes once more change nothing."""
        if routes == self._table.routes:
            return
        self._table.change(routes)
        for client in tuple(self._clients):
            if client.splice is None or client.target is None:
                continue
            if not self._table.may_stay(client.port, client.target, client.term):
                self._counts["cut"] += 1
                client.splice.abort()
        self._holder.routes_changed()
        primary = () if routes.primary is None else (routes.primary,)
        self._holder.dialer.prefetch((*primary, *routes.standbys))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, port: Port, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(listener)
            except OSError:
                # Out of descriptors or memory: clients wait in the kernel's backlog meanwhile.
                await asyncio.sleep(_ACCEPT_AGAIN_SECONDS)
                continue
            try:
                await self._room.acquire()
            except BaseException:
                sock.close()
                raise
            self._counts["accepted"] += 1
            client = Client(port, sock)
            self._clients.add(client)
            self._spawn(self._serve(client))

    async def _serve(self, client: Client) -> None:
        try:
            tune(client.sock)
            await self._begin(client)
        except OSError:
            pass  # the client went away, or did not say in time what it wants
        finally:
            if client.splice is None:
                client.drop_server()
                client.sock.close()
                self._end(client)

    async def _begin(self, client: Client) -> None:
        """Follow the client's packets up to the one that a session grows from."""
        while (packet := await read_packet(client)) is not None:
            if packet.kind is Kind.CANCEL:
                client.drop_server()
                await self._cancel(client.port, packet)
                return
            try:
                answer = await self._holder.reach(client, packet)
            except HeldInVain:
                self._counts["timed_out"] += 1
                await self._holder.tell(client, packet)
                return
            if packet.kind is not Kind.NEGOTIATION or answer != b"N":
                await self._join(client, answer, readable=packet.kind is Kind.STARTUP)
                return
            await asyncio.get_running_loop().sock_sendall(client.sock, answer)

    async def _join(self, client: Client, answer: bytes, readable: bool) -> None:
        assert client.server is not None

        def remember(key: bytes) -> None:
            client.key = key
            self._keys[key] = client

        client.splice = Splice(
            client.sock,
            client.server,
            answer,
            on_end=lambda: self._end(client),
            on_key=remember if readable else None,
            drain_seconds=self._dead_after,
        )
        await client.splice.open()

    def _end(self, client: Client) -> None:
        if client not in self._clients:
            return
        self._clients.remove(client)
        self._holder.aim(client, None)
        if client.key is not None and self._keys.get(client.key) is client:
            del self._keys[client.key]
        self._room.release()
        if not self._clients:
            self._empty.set()

    async def _cancel(self, port: Port, packet: Packet) -> None:
        """Pass a CancelRequest to the server that gave out its key; to all, if that was under TLS.
        Returns when they have closed, which is when they have acted on it."""
        self._counts["cancels"] += 1
        holder = self._keys.get(packet.cancel_key)
        if holder is not None and holder.target is not None:
            servers = {holder.target}
        else:
            servers = self._table.servers(port)
        await asyncio.gather(*(self._cancel_at(server, packet.data) for server in servers))

    async def _cancel_at(self, server: Address, request: bytes) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            sock = await self._holder.dialer.connect(server)
            with contextlib.closing(sock):
                async with asyncio.timeout(self._connect_timeout):
                    await loop.sock_sendall(sock, request)
                    await loop.sock_recv(sock, 1)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._dead_after / 4)
            for number, client in enumerate(tuple(self._clients)):
                if number % _SWEEP_SESSIONS == 0:
                    await asyncio.sleep(0)
                if client.splice is not None and client.splice.abort_if_dead(self._dead_after):
                    self._counts["dead_peers"] += 1
