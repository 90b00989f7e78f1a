"""One connection to one ZooKeeper server, through kazoo: made once, lost once, never made again.

By itself kazoo connects again and then sends what was queued meanwhile, even in a new session
after the old one expired, perhaps to a server that came back empty. Here a lost connection takes
its requests with it: what it carried can reach the server it was meant for, or nobody.
"""

import asyncio
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, cast

from kazoo.client import (  # pyright: ignore[reportMissingTypeStubs]
    KazooClient,  # pyright: ignore[reportUnknownVariableType]
)
from kazoo.handlers.threading import (  # pyright: ignore[reportMissingTypeStubs]
    SequentialThreadingHandler,
)
from kazoo.handlers.utils import (  # pyright: ignore[reportMissingTypeStubs]
    selector_select,  # pyright: ignore[reportUnknownVariableType]
)
from kazoo.protocol.states import KazooState  # pyright: ignore[reportMissingTypeStubs]
from kazoo.retry import KazooRetry  # pyright: ignore[reportMissingTypeStubs]

from pgregent.adapters.dcs.zookeeper_sasl import Login, NotAuthenticated, authenticate
from pgregent.core.errors import Unavailable

# A server that is silent for this long in a handshake or within a message is given up.
QUIET_S = 1.0
CONNECT_TIMEOUT_S = 2.0
FAREWELL_S = 0.3

# kazoo comes without types.
Client = Any
Answer = Any
Request = Callable[[Client], Any]


class Link:
    """A connection and its session. On the event loop, except where it says otherwise."""

    def __init__(
        self,
        server: str,
        *,
        session_timeout_s: float,
        tls: ssl.SSLContext | None,
        auth_data: Sequence[tuple[str, str]],
        login: Login | None,
        acl: Sequence[Any] | None,
    ) -> None:
        self.server = server
        self.ended = asyncio.Event()
        self._login = login
        self._loop = asyncio.get_running_loop()
        self._up_or_ended = asyncio.Event()
        self._reason = ""
        self._why = _Why()
        self._handler = _Handler(tls, lambda: self._tell(self._lost))
        logger = logging.Logger("pgregent.zookeeper", logging.WARNING)
        logger.addHandler(self._why)
        make: Any = KazooClient
        self._client: Client = make(
            hosts=server,
            timeout=session_timeout_s,
            handler=self._handler,
            default_acl=acl,
            auth_data=set(auth_data),
            connection_retry=KazooRetry(max_tries=1),
            logger=logger,
        )

    async def connect(self) -> None:
        """Raises Unavailable when the server did not answer within CONNECT_TIMEOUT_S (2 s)."""
        self._client.add_listener(self._on_state)
        try:
            self._client.start_async()
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._up_or_ended.wait()
                if self._login is not None and not self.ended.is_set():
                    await authenticate(self._login, self.ask)
                # kazoo is "connected" before the server has accepted the credentials.
                answer = await self.ask(lambda client: client.exists_async("/"))
        except TimeoutError:
            self.end(f"no connection within {CONNECT_TIMEOUT_S:g} s")
        except NotAuthenticated as error:
            self._cut(str(error))
        except (OSError, RuntimeError) as error:
            # No more files or threads.
            self.end(str(error))
        else:
            if isinstance(answer, Exception):
                self.end(type(answer).__name__)
        if self.ended.is_set():
            raise Unavailable("dcs", self.why)

    @property
    def why(self) -> str:
        """Why it could not be made, or ended."""
        return f"ZooKeeper {self.server}: {self._reason or self._why.text or 'no answer'}"

    @property
    def session(self) -> int:
        """The session's id, once it is connected: what an ephemeral znode names as its owner."""
        return int(self._client.client_id[0])

    def ask(self, request: Request) -> "asyncio.Future[Answer]":
        """Send a request after all earlier ones; the future's result may be an exception.

        It stays open when the connection ends without kazoo noticing, so wait with a timeout.
        """
        answer: asyncio.Future[Answer] = self._loop.create_future()
        request(self._client).rawlink(partial(self._tell, _settle, answer))
        return answer

    def watcher(self, told: Callable[[Any], None]) -> Callable[[Any], None]:
        """Return what kazoo may call in its thread; `told` gets its events on the event loop."""
        return partial(self._tell, told)

    def end(self, why: str) -> None:
        """Cut the connection; nothing more is sent."""
        if not self.ended.is_set():
            self._cut(self._why.text or why)

    def _cut(self, reason: str) -> None:
        self._reason = reason
        self._handler.cut()
        self._lost()

    async def close(self) -> None:
        """Say farewell to the server, for FAREWELL_S (0.3 s) at most; then cut."""
        self.ended.set()
        stopped = self._dispose()
        await asyncio.wait([stopped], timeout=FAREWELL_S)
        self._handler.cut()
        await asyncio.wait([stopped], timeout=FAREWELL_S)

    def _lost(self) -> None:
        if not self.ended.is_set():
            self.ended.set()
            self._up_or_ended.set()
            self._handler.cut()
            self._dispose()

    def _dispose(self) -> "asyncio.Future[None]":
        stopped: asyncio.Future[None] = self._loop.create_future()

        def stop() -> None:
            # kazoo waits here until its own thread has ended.
            with suppress(Exception):
                self._client.stop()
                self._client.close()
            self._tell(lambda: stopped.done() or stopped.set_result(None))

        threading.Thread(target=stop, name="zookeeper-stop", daemon=True).start()
        return stopped

    def _on_state(self, state: str) -> None:
        """Called in kazoo's thread."""
        if state == KazooState.CONNECTED:
            self._handler.connect_no_more()
            self._why.text = ""
            self._tell(self._up_or_ended.set)
        else:
            self._tell(self._lost)

    def _tell(self, function: Callable[..., object], *args: object) -> None:
        """Call it on the event loop; from any thread."""
        with suppress(RuntimeError):  # the loop was closed without closing us
            self._loop.call_soon_threadsafe(function, *args)


def _settle(answer: "asyncio.Future[Answer]", result: Any) -> None:
    if not answer.done():
        answer.set_result(result.exception or result.value)


_select = cast(Callable[..., Any], selector_select)


class _Why(logging.Handler):
    """Keeps kazoo's last complaint. Its log is not passed on: below WARNING it shows passwords."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text.startswith(("Connection", "Cannot resolve", "AUTH_FAILED", "Unhandled")):
            self.text = text.removeprefix("Connection dropped: ")


class _Handler(SequentialThreadingHandler):
    """kazoo's surroundings: one thread, one TCP connection, bounded waits, no tracebacks.

    Replies and events are passed on by the connection's own thread, so in the server's order.
    """

    def __init__(self, tls: ssl.SSLContext | None, ended: Callable[[], None]) -> None:
        super().__init__()
        self._tls = tls
        self._ended = ended
        self._over = threading.Event()
        self._connection: socket.socket | None = None

    def connect_no_more(self) -> None:
        self._over.set()

    def cut(self) -> None:
        self._over.set()
        if self._connection is not None:
            with suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)

    def start(self) -> None:
        """No workers: without them kazoo calls back at once."""

    def dispatch_callback(self, callback: Any) -> None:
        callback.func(*callback.args)

    def spawn(self, func: Callable[..., object], *args: Any, **kwargs: Any) -> threading.Thread:
        def run() -> None:
            # What kazoo raises here it has logged.
            with suppress(Exception):
                func(*args, **kwargs)
            self._ended()

        thread = threading.Thread(target=run, name="zookeeper", daemon=True)
        thread.start()
        return thread

    def create_socket_pair(self) -> tuple[socket.socket, socket.socket]:
        receiver, sender = socket.socketpair()
        # It is written to on the event loop.
        sender.setblocking(False)
        return receiver, sender

    def create_connection(
        self, address: tuple[str, int], hostname: str | None = None, **_: object
    ) -> socket.socket:
        if self._over.is_set():
            raise OSError("the connection is over")
        connection = socket.create_connection(address, QUIET_S)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_hostname=hostname)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        if self._over.is_set():
            # cut() may have come before there was anything to cut.
            self.cut()
        return connection

    def select(
        self, rlist: list[Any], wlist: list[Any], xlist: list[Any], timeout: float | None = None
    ) -> tuple[list[Any], list[Any], list[Any]]:
        # What TLS has decrypted already, select does not see.
        ready = [s for s in rlist if isinstance(s, ssl.SSLSocket) and s.pending()]
        if ready:
            timeout = 0
        elif len(rlist) + len(wlist) == 1:
            timeout = QUIET_S if timeout is None else min(timeout, QUIET_S)
        found: Any = _select(rlist, wlist, xlist, timeout)
        return [s for s in rlist if s in ready or s in found[0]], found[1], found[2]
