"""TCP sockets of the gate: listen, dial, set options, and tell a dead peer from a slow one."""

import asyncio
import errno
import resource
import socket
import sys
from collections.abc import Iterable

from pgregent.core.errors import Refused

Address = tuple[str, int]
"""Host (a name or an IP address) and port."""

_KEEPALIVE_IDLE_SECONDS = 10
_KEEPALIVE_INTERVAL_SECONDS = 5
_KEEPALIVE_COUNT = 3
_LOOKUP_AGAIN_SECONDS = 1.0
_BACKLOG = 1024
_TCP_INFO_BYTES = 60


def tune(sock: socket.socket) -> None:
    """TCP_NODELAY, and keepalive that notices a vanished idle peer within 25 s.

    Not TCP_USER_TIMEOUT: it also ends a connection whose living peer reads nothing for that
    long (a paused cursor, a COPY that waits for a lock). `peer_is_dead` makes the difference.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_INTERVAL_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_COUNT)


def peer_is_dead(sock: socket.socket, after_seconds: float) -> bool:
    """Whether data or window probes were sent again and again and nothing came back that long."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    except OSError:
        return False
    retransmits, probes = info[2], info[3]
    silent_ms = int.from_bytes(info[56:60], sys.byteorder)
    return max(retransmits, probes) >= 3 and silent_ms >= after_seconds * 1000


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard one; returns it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else sys.maxsize


async def listen(address: Address) -> socket.socket:
    """A listening socket, non-blocking. Host "" or "*" is every IPv4 interface. Raises Refused."""
    host, port = address
    try:
        infos = await asyncio.get_running_loop().getaddrinfo(
            "0.0.0.0" if host in ("", "*") else host, port, type=socket.SOCK_STREAM
        )
        family, _, _, _, sockaddr = infos[0]
        listener = socket.create_server(sockaddr, family=family, backlog=_BACKLOG)
    except (OSError, UnicodeError, OverflowError) as error:
        raise Refused(
            f"The entry point cannot listen on {host}:{port}: {error}. "
            "Choose a free port and an address of this machine, or stop the process that holds it."
        ) from error
    listener.setblocking(False)
    return listener


class Dialer:
    """Opens connections to servers. Names are looked up aside and remembered, the old answer
    being used while a newer one is on its way, so that a slow DNS delays nobody twice."""

    def __init__(self, connect_timeout: float) -> None:
        self._connect_timeout = connect_timeout
        self._known: dict[Address, list[tuple[int, Address]]] = {}
        self._looked_up: dict[Address, float] = {}
        self._lookups: dict[Address, asyncio.Task[None]] = {}

    def prefetch(self, addresses: Iterable[Address]) -> None:
        """Look up those that are names and not known yet; forget all others."""
        wanted = set(addresses)
        self._known = {a: found for a, found in self._known.items() if a in wanted}
        self._looked_up = {a: when for a, when in self._looked_up.items() if a in wanted}
        for address in wanted - self._known.keys():
            if _literal(address) is None:
                self._lookup(address)

    async def connect(self, address: Address) -> socket.socket:
        """A connected, tuned, non-blocking socket. Raises OSError."""
        failure = OSError(f"no address found for {address[0]}")
        for family, sockaddr in await self._resolve(address):
            try:
                return await self._open(family, sockaddr)
            except OSError as error:
                failure = error
        if _literal(address) is None:
            self._lookup(address)
        raise failure

    async def _open(self, family: int, sockaddr: Address) -> socket.socket:
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            tune(sock)
            async with asyncio.timeout(self._connect_timeout):
                await asyncio.get_running_loop().sock_connect(sock, sockaddr)
        except TimeoutError:
            sock.close()
            raise OSError(
                errno.ETIMEDOUT, f"no connection within {self._connect_timeout:g} s"
            ) from None
        except BaseException:
            sock.close()
            raise
        return sock

    async def _resolve(self, address: Address) -> list[tuple[int, Address]]:
        literal = _literal(address)
        if literal is not None:
            return [(literal, address)]
        if address not in self._known:
            await asyncio.shield(self._lookup(address))
        return self._known.get(address, [])

    def _lookup(self, address: Address) -> "asyncio.Future[None]":
        loop = asyncio.get_running_loop()
        task = self._lookups.get(address)
        if task is None:
            wait = self._looked_up.get(address, -_LOOKUP_AGAIN_SECONDS) + _LOOKUP_AGAIN_SECONDS
            task = loop.create_task(self._look_up(address, max(0.0, wait - loop.time())))
            self._lookups[address] = task
        return task

    async def _look_up(self, address: Address, wait_seconds: float) -> None:
        loop = asyncio.get_running_loop()
        try:
            await asyncio.sleep(wait_seconds)
            self._looked_up[address] = loop.time()
            infos = await loop.getaddrinfo(*address, type=socket.SOCK_STREAM)
            self._known[address] = [(i[0], (str(i[4][0]), address[1])) for i in infos]
        except (OSError, UnicodeError):
            pass  # an earlier answer stays; without one `connect` says that none was found
        finally:
            del self._lookups[address]


def _literal(address: Address) -> int | None:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, address[0])
        except OSError:
            continue
        return family
    return None
