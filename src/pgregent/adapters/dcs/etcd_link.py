"""One etcd member, asked through its v3 JSON gateway: used until it fails once, then left.

Requests are POST, which aiohttp sends once: what is sent can reach this member, or nobody.
"""

import asyncio
import base64
import json
import os
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import aiohttp

from pgregent.adapters.dcs.etcd_options import Login
from pgregent.core.errors import Unavailable

CALL_TIMEOUT_S = 1.2
CONNECT_TIMEOUT_S = 2.0
# A member whose kernel does not answer for this long is given up.
QUIET_S = 1.0
KEEPALIVE_S = 60.0
FAREWELL_S = 0.3
MESSAGE_BYTES_MAX = 64 << 20

Message = Mapping[str, Any]
"""What etcd says, in proto3's JSON: int64 as text, false, zero and empty left out."""

# gRPC's codes for what etcd checks before it writes anything.
_INVALID, _NOT_FOUND, _DENIED, _PRECONDITION, _UNAUTHENTICATED = 3, 5, 7, 9, 16
_NOT_DONE = frozenset({_INVALID, _NOT_FOUND, _DENIED, _PRECONDITION, _UNAUTHENTICATED})
# Not one of them: the write that finds that there is no space is refused with it, and stored.
_EXHAUSTED = 8
_NO_TOKEN = (
    "etcdserver: invalid auth token",
    "etcdserver: revision of auth store is old",
    "etcdserver: user name is empty",
)
_NO_AUTH = "etcdserver: authentication is not enabled"
_NO_PERMISSION = "etcdserver: permission denied"
_WRONG_PASSWORD = "etcdserver: authentication failed"


class Unsure(Exception):
    """No reply, or one that does not tell what happened."""


class Declined(Exception):
    """The member says that it surely did nothing: `said` are its own words, `advice` is ours."""

    def __init__(self, url: str, said: str, advice: str) -> None:
        super().__init__(f"etcd {url}: {advice}")
        self.said = said
        self.advice = advice


class Link:
    """One member and one user's token there. `ended` is set when it is not to be used any more."""

    def __init__(self, url: str, *, tls: ssl.SSLContext | None, login: Login | None) -> None:
        self.url = url
        self.ended = asyncio.Event()
        self.is_login_refused = False
        self._reason = ""
        self._login = login
        self._token = ""
        self._authenticating = asyncio.Lock()
        self._closing: asyncio.Task[None] | None = None
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, keepalive_timeout=KEEPALIVE_S, ssl=True if tls is None else tls
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    @property
    def why(self) -> str:
        """Why it could not be used, or no more."""
        return f"etcd {self.url}: {self._reason or 'no answer'}"

    async def connect(self) -> None:
        """Authenticate, and see that the member is part of a majority.

        Raises Unavailable, within CONNECT_TIMEOUT_S (2 s).
        """
        deadline = time.monotonic() + CONNECT_TIMEOUT_S
        try:
            if self._login is not None:
                await self._authenticate("", deadline)
            await self.ask("kv/range", {"key": encoded("/"), "keys_only": True}, deadline)
        except Declined as declined:
            if declined.said.startswith((*_NO_TOKEN, _WRONG_PASSWORD)):
                self.is_login_refused = True
                self.end(declined.advice)
            elif not declined.said.startswith(_NO_PERMISSION):
                self.end(declined.advice)
        except Unsure:
            pass
        if self.ended.is_set():
            raise Unavailable("dcs", self.why)

    async def ask(
        self, path: str, message: Message, deadline: float, *, once: bool = False
    ) -> Message:
        """Ask, linearizably; `deadline` in time.monotonic() seconds.

        A token that is not accepted any more is renewed, and the question asked again, except with
        `once`. Raises Unavailable and Declined: surely nothing was done, and nothing will be; and
        Unsure. What is no answer ends the link.
        """
        token = self._token
        try:
            return await self._post(path, message, deadline)
        except Declined as declined:
            if self._login is None or not declined.said.startswith(_NO_TOKEN):
                raise
            try:
                await self._authenticate(token, deadline)
            except Unsure as error:
                raise Unavailable("dcs", f"before it was asked: {error}") from None
            if once:
                raise
        return await self._post(path, message, deadline)

    @asynccontextmanager
    async def stream(self, path: str, body: bytes) -> AsyncGenerator[AsyncIterator[Message]]:
        """Ask what is answered with one message after another. Raises Unsure."""
        timeout = aiohttp.ClientTimeout(total=None, connect=QUIET_S)
        try:
            async with self._request(path, body, timeout) as response:
                yield _messages(response)
        except (aiohttp.ClientError, OSError, RuntimeError, ValueError) as error:
            raise Unsure(_worded(error)) from None

    def end(self, why: str) -> None:
        """Cut all connections; nothing more is sent."""
        if not self.ended.is_set():
            self._reason = why
            self.ended.set()
            self._closing = asyncio.create_task(self._session.close())

    async def close(self) -> None:
        """End it, within FAREWELL_S (0.3 s)."""
        self.end("closed")
        if self._closing is not None:
            await asyncio.wait([self._closing], timeout=FAREWELL_S)

    # --- one request ---------------------------------------------------------------------------

    def _request(self, path: str, body: bytes, timeout: aiohttp.ClientTimeout) -> Any:
        return self._session.post(
            f"{self.url}/v3/{path}",
            data=body,
            headers={"Authorization": self._token} if self._token else {},
            allow_redirects=False,
            timeout=timeout,
        )

    async def _post(self, path: str, message: Message, deadline: float) -> Message:
        if self.ended.is_set():
            raise Unavailable("dcs", self.why)
        left = max(0.01, deadline - time.monotonic())
        timeout = aiohttp.ClientTimeout(total=left, connect=min(left, QUIET_S))
        try:
            async with self._request(path, json.dumps(message).encode(), timeout) as response:
                status, body = response.status, await response.read()
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            # There was no connection that it could have been sent on.
            self.end(_worded(error))
            raise Unavailable("dcs", self.why) from None
        except TimeoutError:
            self.end(f"no answer within {CALL_TIMEOUT_S:g} s")
            raise Unsure(self.why) from None
        except (aiohttp.ClientError, OSError, RuntimeError) as error:
            self.end(_worded(error))
            raise Unsure(self.why) from None
        return self._answer(status, body)

    def _answer(self, status: int, body: bytes) -> Message:
        """Return the answer. Raises Declined and Unsure."""
        try:
            answer: Any = json.loads(body)
        except ValueError:
            answer = None
        found: Message = cast(Message, answer) if isinstance(answer, dict) else {}
        if isinstance(found.get("result"), dict):
            # Of what etcd answers as a stream, the first message.
            found = found["result"]
        if status == 200 and "header" in found:
            return found
        said = str(found.get("message") or found.get("error") or "")
        code = found.get("code")
        if status == 404 and not found:
            text = "no JSON gateway under /v3: expected etcd 3.4 or newer"
            raise Declined(self.url, "", text)
        if code in _NOT_DONE:
            raise Declined(self.url, said, self._advice(said))
        if code == _EXHAUSTED:
            raise Unsure(f"etcd {self.url}: {said}")
        self.end(said or f"its answer is not etcd's (HTTP status {status})")
        raise Unsure(self.why)

    def _advice(self, said: str) -> str:
        if said.startswith(_WRONG_PASSWORD):
            return "user or password not accepted, see etcd3.username and etcd3.password"
        if said.startswith(_NO_TOKEN) and self._login is None:
            return "it wants a user and password, see etcd3.username and etcd3.password"
        if said.startswith(_NO_TOKEN):
            return "the login had expired"
        if said.startswith(_NO_PERMISSION) and self._login is not None:
            return f"permission denied: {self._login.username} needs readwrite on the namespace"
        return said

    async def _authenticate(self, refused: str, deadline: float) -> None:
        """Get a token in place of `refused`. Raises what ask() does."""
        assert self._login is not None
        async with self._authenticating:
            if self._token != refused:
                return
            self._token = ""
            user = {"name": self._login.username, "password": self._login.password}
            try:
                answer = await self._post("auth/authenticate", user, deadline)
            except Declined as declined:
                # Patroni goes on without, too: so a cluster can be switched over to passwords.
                if declined.said.startswith(_NO_AUTH):
                    return
                raise
            self._token = str(answer.get("token", ""))


async def _messages(response: aiohttp.ClientResponse) -> AsyncIterator[Message]:
    """Yield what the gateway sends, one JSON object a line. Raises ValueError."""
    buffer = bytearray()
    async for chunk in response.content.iter_any():
        buffer += chunk
        *lines, rest = buffer.split(b"\n")
        buffer = bytearray(rest)
        for line in lines:
            if line.strip():
                yield cast(Message, json.loads(line))
        if len(buffer) > MESSAGE_BYTES_MAX:
            raise ValueError("a message of more than 64 MB")


def _worded(error: Exception) -> str:
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return f"its certificate is not accepted: {error.certificate_error}"
        case aiohttp.ClientConnectorError():
            # asyncio's own texts name the address again.
            number, text = error.os_error.errno, error.os_error.strerror
            return os.strerror(number) if number and number > 0 else text or str(error.os_error)
        case aiohttp.ConnectionTimeoutError():
            return f"no connection within {QUIET_S:g} s"
        case aiohttp.ServerDisconnectedError():
            return "it closed the connection"
        case _:
            return str(error) or type(error).__name__


def encoded(text: str | bytes) -> str:
    """Return it as the gateway takes bytes."""
    data = text if isinstance(text, bytes) else text.encode()
    return base64.b64encode(data).decode()


def decoded(text: Any) -> bytes:
    """Return the bytes that the gateway gave; of what it left out, b""."""
    return base64.b64decode(text or "")
