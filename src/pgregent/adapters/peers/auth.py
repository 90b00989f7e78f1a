"""Who is at the other end: a challenge-response over a shared key, and a MAC on every frame.

acceptor -> dialer    challenge   JSON {version, min_version, nonce}
dialer -> acceptor    hello       MAC, JSON {version, min_version, role, from, to, nonce}
acceptor -> dialer    welcome     MAC
afterwards            frame       MAC, payload

Each MAC covers the exact bytes of the challenge and the hello, so both nonces, both names, role
and versions are bound into it, and into the session keys. The dialer speaks first, so a stranger
gets nothing but a nonce. Whoever holds the key can take any name: it is one key per cluster.
Payloads are authenticated, not encrypted.
"""

import hmac
import json
import secrets
from dataclasses import dataclass
from enum import Enum
from typing import Any, cast

from pgregent.core.errors import Refused

VERSION = 1
MIN_VERSION = 1
MAC_BYTES = 32
MAX_HANDSHAKE_BYTES = 2048
_LABEL = b"pgregent peer channel v1"


class Role(Enum):
    """What the dialer is: an agent, or a gate that only listens."""

    PEER = "peer"
    SUBSCRIBER = "subscriber"


@dataclass(frozen=True, slots=True)
class Hello:
    """What a dialer claims: it is `name`, in `role`, and means to talk to `to`."""

    name: str
    to: str
    role: Role


def derive_key(secret: str, scope: str) -> bytes:
    """Make the channel's key (32 bytes) of the cluster's secret, as HKDF-SHA256 does."""
    if not secret:
        raise Refused("the cluster's secret is empty; the peer channel needs one to authenticate")
    extracted = hmac.digest(_LABEL, secret.encode(), "sha256")
    return hmac.digest(extracted, _LABEL + b"\0" + scope.encode() + b"\x01", "sha256")


def make_challenge() -> bytes:
    """Ask a dialer to prove that it holds the key, now."""
    return _encode(version=VERSION, min_version=MIN_VERSION, nonce=secrets.token_hex(32))


def make_hello(key: bytes, hello: Hello, challenge: bytes) -> bytes:
    """Answer a challenge. Raises Refused if the acceptor's version does not fit."""
    if len(challenge) > MAX_HANDSHAKE_BYTES:
        raise Refused("the peer's challenge is too long: it is not a pgregent agent")
    _check_version(_decode(challenge))
    body = _encode(
        version=VERSION,
        min_version=MIN_VERSION,
        role=hello.role.value,
        nonce=secrets.token_hex(32),
        **{"from": hello.name, "to": hello.to},
    )
    return _mac(key, b"hello", challenge, body) + body


def check_hello(key: bytes, challenge: bytes, frame: bytes) -> Hello:
    """Return what the dialer proved. Raises Refused; nothing is parsed before the MAC is right."""
    mac, body = frame[:MAC_BYTES], frame[MAC_BYTES:]
    too_long = len(frame) > MAX_HANDSHAKE_BYTES
    if too_long or not hmac.compare_digest(mac, _mac(key, b"hello", challenge, body)):
        raise Refused("wrong key: both sides need the same secret and the same scope")
    fields = _decode(body)
    _check_version(fields)
    try:
        return Hello(str(fields["from"]), str(fields["to"]), Role(fields["role"]))
    except (KeyError, ValueError) as error:
        raise Refused(f"hello without a usable from, to or role: {error}") from error


def make_welcome(key: bytes, challenge: bytes, hello: bytes) -> bytes:
    """Prove to the dialer that the acceptor holds the key too."""
    return _mac(key, b"welcome", challenge, hello)


def check_welcome(key: bytes, challenge: bytes, hello: bytes, frame: bytes) -> None:
    """Raise Refused unless the acceptor holds the key."""
    if not hmac.compare_digest(frame, make_welcome(key, challenge, hello)):
        raise Refused("the other side does not hold the cluster's key")


def dialer_session(key: bytes, challenge: bytes, hello: bytes) -> tuple["Sealer", "Opener"]:
    """Return the dialer's two ends of the connection; the acceptor's are the other two."""
    up = _mac(key, b"dialer to acceptor", challenge, hello)
    down = _mac(key, b"acceptor to dialer", challenge, hello)
    return Sealer(up), Opener(down)


def acceptor_session(key: bytes, challenge: bytes, hello: bytes) -> tuple["Sealer", "Opener"]:
    """Return the acceptor's two ends of the connection."""
    up = _mac(key, b"dialer to acceptor", challenge, hello)
    down = _mac(key, b"acceptor to dialer", challenge, hello)
    return Sealer(down), Opener(up)


class Sealer:
    """Authenticates the frames of one direction. As in TLS, the counter itself is not sent."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._counter = 0

    def seal(self, payload: bytes) -> bytes:
        """Return the frame of the next payload."""
        self._counter += 1
        return _mac(self._key, self._counter.to_bytes(8, "big"), payload) + payload


class Opener:
    """Checks the frames of one direction: each must be the very next one that was sealed."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._counter = 0

    def open(self, frame: bytes) -> bytes:
        """Return the payload. Raises Refused for a forged, replayed, reordered or lost frame."""
        self._counter += 1
        mac, payload = frame[:MAC_BYTES], frame[MAC_BYTES:]
        expected = _mac(self._key, self._counter.to_bytes(8, "big"), payload)
        if not hmac.compare_digest(mac, expected):
            raise Refused(f"frame {self._counter} is forged, replayed or out of order")
        return payload


def _mac(key: bytes, label: bytes, *parts: bytes) -> bytes:
    message = b"".join(len(part).to_bytes(4, "big") + part for part in (label, *parts))
    return hmac.digest(key, message, "sha256")


def _encode(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def _decode(body: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused("the peer's greeting is not JSON: it is not a pgregent agent") from error
    if not isinstance(fields, dict):
        raise Refused("the peer's greeting is not a JSON object: it is not a pgregent agent")
    return cast(dict[str, Any], fields)


def _check_version(theirs: dict[str, Any]) -> None:
    match theirs:
        case {"version": int(version), "min_version": int(minimum)}:
            if min(version, VERSION) < max(minimum, MIN_VERSION):
                raise Refused(
                    f"the peer speaks channel versions {minimum} to {version}, this agent "
                    f"{MIN_VERSION} to {VERSION}: upgrade the older one"
                )
        case _:
            raise Refused("the peer's greeting names no version: it is not a pgregent agent")
