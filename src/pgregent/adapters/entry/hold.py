"""Clients that have no server yet: held, tried again, and told in the end."""

import asyncio
import os
import socket

from pgregent.adapters.entry import wire
from pgregent.adapters.entry.routes import Port, RouteTable
from pgregent.adapters.entry.sockets import Address, Dialer
from pgregent.adapters.entry.splice import Splice
from pgregent.adapters.entry.wire import Kind, Packet

_RETRY_SECONDS = 0.025
_FIRST_PACKET_SECONDS = 60.0  # PostgreSQL's default authentication_timeout
_LAST_WORDS_SECONDS = 2.0
_REPLY_BYTES = 65_536


def _reason(error: OSError) -> str:
    # The loops word a refusal differently; a failed look-up has a negative number.
    number = error.errno or 0
    return os.strerror(number) if number > 0 else str(error)


class HeldInVain(Exception):
    """The hold timeout passed without an answer from a server."""


class Client:
    """A client from accept to end. `target` and `term` say where it is, or is being tried."""

    __slots__ = ("gone", "key", "port", "scope", "server", "sock", "splice", "target", "term")

    def __init__(self, port: Port, sock: socket.socket) -> None:
        self.port = port
        self.sock = sock
        self.server: socket.socket | None = None
        self.splice: Splice | None = None
        self.target: Address | None = None
        self.term = 0
        self.key: bytes | None = None
        self.scope: asyncio.Timeout | None = None
        self.gone = False

    def interrupt(self) -> None:
        """Let it look again at the routes, and at its own end, if it is being held."""
        if self.scope is not None and not self.scope.expired():
            self.scope.reschedule(0)

    def drop_server(self) -> None:
        """Close the connection to the server, if there is one that is not spliced."""
        if self.server is not None:
            self.server.close()
            self.server = None


async def read_packet(client: Client) -> Packet | None:
    """The next whole packet; None at the client's end. Raises OSError, TimeoutError included."""
    loop = asyncio.get_running_loop()
    data = b""
    async with asyncio.timeout(_FIRST_PACKET_SECONDS):
        while chunk := await loop.sock_recv(client.sock, wire.MAX_STARTUP_BYTES):
            data += chunk
            packet = wire.parse(data)
            if packet is not None:
                return packet
    return None


class Holder:
    """Gets each client a server's first answer. Until that has come nothing but a "no" to an
    SSLRequest has reached the client, so its packet can go to one server after the other."""

    def __init__(self, table: RouteTable, hold_timeout: float, connect_timeout: float) -> None:
        self.held: set[Client] = set()
        self.dialer = Dialer(connect_timeout)
        self._table = table
        self._hold_timeout = hold_timeout
        self._connect_timeout = connect_timeout
        self._changed = asyncio.Event()
        self._lanes = {port: asyncio.Lock() for port in Port}

    def routes_changed(self) -> None:
        """Let those in who wait for any server, and call those back who are at a wrong one."""
        self._changed.set()
        self._changed = asyncio.Event()
        for client in self.held:
            if client.target is not None and not self._fits(client):
                client.interrupt()

    async def reach(self, client: Client, packet: Packet) -> bytes:
        """Send the packet to a server that fits; returns its answer, `client.server` being the
        connection. Raises HeldInVain, and ConnectionResetError when the client goes away."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._hold_timeout
        self.held.add(client)
        loop.add_reader(client.sock, self._look_for_end, client)
        try:
            while not client.gone:
                try:
                    async with asyncio.timeout_at(deadline) as client.scope:
                        answer = await self._exchange(client, packet)
                    if self._fits(client):
                        return answer
                except TimeoutError:
                    if loop.time() >= deadline:
                        raise HeldInVain from None
                client.drop_server()
            raise ConnectionResetError("the client went away while it was held")
        finally:
            client.scope = None
            loop.remove_reader(client.sock)
            self.held.discard(client)

    def aim(self, client: Client, target: Address | None) -> None:
        """Count the client for `target` from now on."""
        if client.target is not None:
            self._table.occupy(client.port, client.target, -1)
        if target is not None:
            self._table.occupy(client.port, target, 1)
        client.target = target
        client.term = self._table.routes.term

    def _fits(self, client: Client) -> bool:
        target = client.target
        return target is not None and self._table.fits(client.port, target, client.term)

    def _look_for_end(self, client: Client) -> None:
        try:
            client.gone = not client.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            client.gone = True
        # Bytes that came too early would call this again and again.
        asyncio.get_running_loop().remove_reader(client.sock)
        if client.gone:
            client.interrupt()

    async def _exchange(self, client: Client, packet: Packet) -> bytes:
        """Try until a server answers; the caller sets the limit."""
        loop, table = asyncio.get_running_loop(), self._table
        if client.server is not None and not self._fits(client):
            client.drop_server()
        while True:
            if client.server is None:
                self.aim(client, table.pick(client.port, loop.time()))
            target = client.target
            if target is None:
                await self._changed.wait()
            elif table.failing(target, loop.time()):
                answer = await self._in_turn(client, target, packet)
                if answer is not None:
                    return answer
            else:
                try:
                    return await self._ask(client, target, packet)
                except OSError as error:
                    table.failed(target, loop.time(), _reason(error))

    async def _in_turn(self, client: Client, target: Address, packet: Packet) -> bytes | None:
        """A thousand held clients need not all knock: one at a time does, the others wait for
        their turn. None: try again."""
        loop = asyncio.get_running_loop()
        async with self._lanes[client.port]:
            if not self._table.failing(target, loop.time()):
                return None
            await asyncio.sleep(_RETRY_SECONDS)
            try:
                # No longer, lest one client's silent server or unfinished packet block the lane.
                async with asyncio.timeout(self._connect_timeout):
                    return await self._ask(client, target, packet)
            except OSError as error:
                self._table.failed(target, loop.time(), _reason(error))
                return None

    async def _ask(self, client: Client, target: Address, packet: Packet) -> bytes:
        """One attempt. Raises OSError when the server refuses, or closes without an answer."""
        loop = asyncio.get_running_loop()
        try:
            if client.server is None:
                client.server = await self.dialer.connect(target)
            await loop.sock_sendall(client.server, packet.data)
            answer = await loop.sock_recv(client.server, _REPLY_BYTES)
            if not answer and packet.kind is not Kind.OPAQUE:
                raise ConnectionResetError("it closed the connection without an answer")
            if packet.kind is Kind.STARTUP and wire.refuses_for_now(answer):
                raise ConnectionRefusedError("it is starting up or shutting down")
        except BaseException:
            client.drop_server()
            raise
        self._table.answered(target)
        return answer

    async def tell(self, client: Client, packet: Packet | None) -> None:
        """Send the reason as PostgreSQL's own error. Raises OSError."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(_LAST_WORDS_SECONDS):
            while packet is not None and packet.kind is Kind.NEGOTIATION:
                # libpq shows no error that answers an SSLRequest since its fix of CVE-2024-10977.
                await loop.sock_sendall(client.sock, b"N")
                packet = await read_packet(client)
            if packet is not None and packet.kind is Kind.STARTUP:
                message = f"no {client.port.value} server to connect to"
                detail = f"The connection was held for {self._hold_timeout:g} s."
                text = f"{message}: {self._table.why_held(client.port)}"
                await loop.sock_sendall(client.sock, wire.error_response(text, detail))
