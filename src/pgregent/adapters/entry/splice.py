"""Two TCP connections joined: what one receives the other sends, no faster than it can."""

import asyncio
import socket
from collections.abc import Callable
from typing import cast

from pgregent.adapters.entry.sockets import peer_is_dead
from pgregent.adapters.entry.wire import KeyScanner


class Splice:
    """A client's and a server's connection, from the server's first answer to the end of both.

    Owns both sockets. `greeting` is what the server has answered so far. `on_end` is called once,
    when both are closed; `on_key` gets BackendKeyData when it passes (None: TLS, unreadable).
    When one end is gone the other has `drain_seconds` to take what is buffered for it.
    """

    __slots__ = (
        "_aborted",
        "_client",
        "_drain_seconds",
        "_on_end",
        "_on_key",
        "_scan",
        "_server",
        "flowing",
    )

    def __init__(
        self,
        client: socket.socket,
        server: socket.socket,
        greeting: bytes,
        *,
        on_end: Callable[[], None],
        on_key: Callable[[bytes], None] | None,
        drain_seconds: float,
    ) -> None:
        self._client = _ClientEnd(self, client, b"")
        self._server = _ServerEnd(self, server, greeting)
        self._client.other, self._server.other = self._server, self._client
        self._on_end = on_end
        self._on_key = on_key
        self._drain_seconds = drain_seconds
        self._scan = KeyScanner() if on_key is not None else None
        self._aborted = False
        self.flowing = False

    async def open(self) -> None:
        """Let bytes flow. When it fails, both are closed and `on_end` is called all the same."""
        loop = asyncio.get_running_loop()
        client, server = self._client, self._server
        try:
            await loop.connect_accepted_socket(lambda: client, client.sock)
            await loop.create_connection(lambda: server, sock=server.sock)
        except BaseException:
            self.abort()
            for end in (client, server):
                if end.transport is None:
                    end.sock.close()
                    end.connection_lost(None)
            raise
        if self._aborted or client.lost:
            self.abort()
            return
        self.flowing = True
        server.flow(self._read_key if self._scan is not None else None)
        if server.lost:
            client.close(self._drain_seconds)
        else:
            client.flow(None)

    def abort(self) -> None:
        """Close both at once, whatever is buffered."""
        self._aborted = True
        self._client.abort()
        self._server.abort()

    def abort_if_dead(self, after_seconds: float) -> bool:
        """Abort when a peer has left data unacknowledged that long; says whether."""
        if any(end.is_dead(after_seconds) for end in (self._client, self._server)):
            self.abort()
            return True
        return False

    def lost(self, end: "_End") -> None:
        """An end is closed: the other one follows."""
        if end.other.lost:
            self._on_end()
        elif self.flowing:
            end.other.close(self._drain_seconds)

    def _read_key(self, data: bytes) -> None:
        scan, client = self._scan, self._client.transport
        assert scan is not None and self._on_key is not None and client is not None
        client.write(data)
        scan.feed(data)
        if scan.done:
            self._server.forward = client.write
            self._scan = None
            if scan.key is not None:
                self._on_key(scan.key)


class _End(asyncio.Protocol):
    """One of the two connections; `forward` takes what it receives."""

    __slots__ = ("_early", "eof", "forward", "lost", "other", "sock", "splice", "transport")

    def __init__(self, splice: Splice, sock: socket.socket, early: bytes) -> None:
        self.splice = splice
        self.sock = sock
        self.other: _End = self
        self.transport: asyncio.Transport | None = None
        self.forward: Callable[[bytes], None] = self._keep
        self._early = early
        self.eof = False
        self.lost = False

    def _keep(self, data: bytes) -> None:
        assert self.transport is not None
        self._early += data
        self.transport.pause_reading()

    def flow(self, through: Callable[[bytes], None] | None) -> None:
        """Both connections are there: pass on what came early, and from now on everything."""
        to = self.other.transport
        assert self.transport is not None and to is not None
        self.forward = through or to.write
        if not self.eof:
            # Before writing, which may pause it again.
            self.transport.resume_reading()
        if self._early:
            self.forward(self._early)
            self._early = b""
        if self.eof:
            to.write_eof()

    def close(self, drain_seconds: float) -> None:
        """Send what is buffered, then close; abort if that takes too long."""
        assert self.transport is not None
        self.transport.close()
        if self.transport.get_write_buffer_size():
            asyncio.get_running_loop().call_later(drain_seconds, self.abort)

    def abort(self) -> None:
        if self.transport is not None and not self.lost:
            self.transport.abort()

    def is_dead(self, after_seconds: float) -> bool:
        return not self.lost and peer_is_dead(self.sock, after_seconds)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.forward(data)

    def pause_writing(self) -> None:
        if self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other.transport is not None and not self.other.eof:
            self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.splice.lost(self)


class _ClientEnd(_End):
    __slots__ = ()

    def eof_received(self) -> bool:
        # A client may have said its last word and still wait for the answer.
        self.eof = True
        if self.splice.flowing and self.other.transport is not None and not self.other.lost:
            self.other.transport.write_eof()
        return True


class _ServerEnd(_End):
    """PostgreSQL never half-closes: its EOF ends the session (`eof_received` closes by default)."""

    __slots__ = ()
