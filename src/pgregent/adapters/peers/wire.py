"""One WebSocket of the peer channel, with what aiohttp does not offer on both of its sides."""

import asyncio
import contextlib
import fcntl
import os
import socket
import struct
from typing import Any

import aiohttp
from aiohttp import WSMsgType, web

from pgregent.ports.peers import Evidence

MAX_FRAME_BYTES = 256 * 1024
RECEIVE_BUFFER_BYTES = 128 * 1024
GOODBYE_S = 0.5
_SIOCOUTQNSD = 0x894B

WebSocket = aiohttp.ClientWebSocketResponse | web.WebSocketResponse


class Ended(Exception):
    """The connection is over; the message is one sentence for people."""

    def __init__(self, evidence: Evidence, reason: str) -> None:
        super().__init__(reason)
        self.evidence = evidence


class Wire:
    """Binary frames in, binary frames out, and an end that says what it was."""

    def __init__(self, ws: WebSocket, connection: Any) -> None:
        """Take over `ws`, whose transport's "socket" is `connection` and is open now."""
        self._ws = ws
        # A copy of our own: uvloop's socket objects outlive their file descriptor.
        self._socket = socket.socket(fileno=os.dup(connection.fileno()))
        # Bounds what a frozen process finds when it wakes, and so how old that can be.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)

    async def send(self, frame: bytes) -> None:
        """Send; waits only while the transport's buffer is full. Raises ConnectionError."""
        await self._ws.send_bytes(frame)

    def unsent_bytes(self) -> int:
        """Return what the kernel holds back, for the peer does not read (Linux)."""
        return struct.unpack("i", fcntl.ioctl(self._socket.fileno(), _SIOCOUTQNSD, bytes(4)))[0]

    async def receive(self, timeout_s: float | None) -> bytes:
        """Return the next binary frame. Raises Ended when there is none."""
        try:
            message = await self._ws.receive(timeout_s)
        except TimeoutError:
            raise Ended(Evidence.TIMEOUT, f"silent for {timeout_s:g} s") from None
        match message.type:
            case WSMsgType.BINARY:
                return message.data
            case WSMsgType.CLOSE:
                said = "".join(c for c in message.extra or "" if c.isprintable())
                reason = f"the other side closed the connection ({said or 'and did not say why'})"
                raise Ended(Evidence.PEER_LEFT, reason)
            case WSMsgType.ERROR if isinstance(message.data, aiohttp.WebSocketError):
                raise Ended(Evidence.LOCAL, f"not a valid frame ({message.data})")
            case WSMsgType.CLOSED | WSMsgType.CLOSING | WSMsgType.ERROR:
                raise Ended(Evidence.PEER_CLOSED, "the peer's kernel closed the connection")
            case _:
                raise Ended(Evidence.LOCAL, "not a binary frame")

    async def close(self, reason: str) -> None:
        """Say goodbye, so that a live peer does not take it for a death, and free everything.

        Takes at most GOODBYE_S seconds.
        """
        try:
            with contextlib.suppress(TimeoutError, ConnectionError):
                async with asyncio.timeout(GOODBYE_S):
                    await self._ws.close(code=1008, message=reason.encode("ascii", "replace")[:120])
        finally:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
