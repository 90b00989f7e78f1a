"""SASL's DIGEST-MD5 on a new connection to ZooKeeper.

Not through kazoo's sasl_options: a server without SASL, or one that keeps a connection whose login
it refused (allowSaslFailedClients), has kazoo ask again for ever, as fast as both can.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from kazoo.exceptions import (  # pyright: ignore[reportMissingTypeStubs]
    AuthFailedError,
    SessionClosedRequireSaslError,
)
from kazoo.protocol.serialization import SASL  # pyright: ignore[reportMissingTypeStubs]

REFUSED = "SASL: user or password not accepted, see zookeeper.auth_data"


@dataclass(frozen=True, slots=True)
class Login:
    """A user of the server's JAAS file."""

    user: str
    password: str = field(repr=False)


class NotAuthenticated(Exception):
    """The server did not take the login; its text says why, without the login."""


async def authenticate(login: Login, ask: Callable[[Any], Awaitable[Any]]) -> None:
    """Log in, in two round trips; then server and client know of each other's password.

    `ask` sends a request and returns the answer, which may be an exception. Raises
    NotAuthenticated, also when the connection is lost meanwhile.
    """
    digest = _digest(login)
    challenge = await _asked(ask, b"")
    if not challenge:
        raise NotAuthenticated(
            "SASL: the server does not offer it: give it a JAAS file and authProvider.1="
            "org.apache.zookeeper.server.auth.SASLAuthenticationProvider, or remove sasl from "
            "zookeeper.auth_data"
        )
    # What the server did not take it answers with an error, or with nothing.
    proof = await _asked(ask, _processed(digest, challenge))
    if not proof:
        raise NotAuthenticated(REFUSED)
    _processed(digest, proof)
    if not digest.complete:
        raise NotAuthenticated(REFUSED)


def _digest(login: Login) -> Any:
    from puresasl.client import SASLClient  # pyright: ignore[reportMissingTypeStubs]

    make: Any = SASLClient
    return make(
        # Every ZooKeeper's name in the digest.
        host="zk-sasl-md5",
        service="zookeeper",
        mechanism="DIGEST-MD5",
        username=login.user,
        password=_hashed(login.password),
    )


def _hashed(password: str) -> bytes:
    """Return what RFC 2831 has the digest made of: ISO 8859-1 where that is enough."""
    try:
        return password.encode("latin-1")
    except UnicodeEncodeError:
        return password.encode()


def _processed(digest: Any, token: bytes) -> bytes:
    try:
        return digest.process(token)
    except Exception as error:
        # Of a token that it cannot read pure-sasl says anything from KeyError to SASLError.
        raise NotAuthenticated(
            f"SASL: the server does not speak DIGEST-MD5 as expected ({type(error).__name__})"
        ) from None


async def _asked(ask: Callable[[Any], Awaitable[Any]], token: bytes) -> bytes | None:
    def request(client: Any) -> Any:
        answer = client.handler.async_result()
        # The way of kazoo's own add_auth_async; it has none for SASL.
        client._call(SASL(token), answer)
        return answer

    match await ask(request):
        case AuthFailedError() | SessionClosedRequireSaslError():
            raise NotAuthenticated(REFUSED)
        case Exception() as error:
            raise NotAuthenticated(f"SASL: {type(error).__name__}")
        case answer:
            return answer[0]
