"""The few bytes of PostgreSQL's protocol that an entry point must understand."""

import struct
from dataclasses import dataclass
from enum import Enum

_CANCEL_CODE = 80877102
_NEGOTIATION_CODES = (80877103, 80877104)  # SSLRequest, GSSENCRequest
_TLS_HANDSHAKE = b"\x16"
_CANNOT_CONNECT_NOW = b"C57P03\0"
MAX_STARTUP_BYTES = 10_000  # PostgreSQL's MAX_STARTUP_PACKET_LENGTH
_MAX_MESSAGE_BYTES = 65_536


class Kind(Enum):
    """What a client's packet asks for before its session begins."""

    STARTUP = "StartupMessage"
    NEGOTIATION = "SSLRequest or GSSENCRequest"
    CANCEL = "CancelRequest"
    OPAQUE = "anything else, for instance TLS without an SSLRequest: for the server to judge"


@dataclass(frozen=True, slots=True)
class Packet:
    """A whole packet; `data` is every byte received so far, to be passed on unchanged."""

    kind: Kind
    data: bytes

    @property
    def cancel_key(self) -> bytes:
        """Of a CancelRequest: process id and secret, as in the server's BackendKeyData."""
        return self.data[8:]


def parse(data: bytes) -> Packet | None:
    """What a client has sent so far, or None when the rest of its packet is still to come."""
    if data[:1] == _TLS_HANDSHAKE:
        return Packet(Kind.OPAQUE, data)
    if len(data) < 8:
        return None
    length, code = struct.unpack_from("!II", data)
    if not 8 <= length <= MAX_STARTUP_BYTES or len(data) > length:
        # PostgreSQL refuses such a length, and bytes stuffed behind an SSLRequest too.
        return Packet(Kind.OPAQUE, data)
    if len(data) < length:
        return None
    if code == _CANCEL_CODE:
        return Packet(Kind.CANCEL, data)
    return Packet(Kind.NEGOTIATION if code in _NEGOTIATION_CODES else Kind.STARTUP, data)


def error_response(message: str, detail: str) -> bytes:
    """A FATAL ErrorResponse. With SQLSTATE 57P03 (cannot_connect_now) libpq tries its next host."""
    fields = (("S", "FATAL"), ("V", "FATAL"), ("C", "57P03"), ("M", message), ("D", detail))
    body = b"".join(f"{code}{text}".replace("\0", " ").encode() + b"\0" for code, text in fields)
    return b"E" + struct.pack("!I", len(body) + 5) + body + b"\0"


def refuses_for_now(reply: bytes) -> bool:
    """Whether a server answers a StartupMessage with "starting up", "shutting down" or so."""
    return reply[:1] == b"E" and _CANNOT_CONNECT_NOW in reply


class KeyScanner:
    """Finds BackendKeyData in what a server sends before ReadyForQuery; `done` when it is past."""

    __slots__ = ("_pending", "done", "key")

    def __init__(self) -> None:
        self._pending = bytearray()
        self.done = False
        self.key: bytes | None = None

    def feed(self, data: bytes) -> None:
        """Take the next bytes from the server; sets `key` (process id and secret) in passing."""
        pending = self._pending
        pending += data
        while len(pending) >= 5 and not self.done:
            kind = chr(pending[0])
            end = 1 + int.from_bytes(pending[1:5], "big")
            if kind in "ZE" or not 5 <= end <= _MAX_MESSAGE_BYTES:
                self.done = True
            elif len(pending) < end:
                return
            elif kind == "K":
                self.key = bytes(pending[5:end])
                self.done = True
            else:
                del pending[:end]
