"""The DCS in ZooKeeper: reads that no lagging server can answer, writes that nobody sends twice.

A key is a znode with data. Those that only lead to keys have none (null, not empty), and each key
has a child with a random name, its *birth mark*: ZooKeeper's data versions start again when a key
is deleted, or the store emptied, and made anew, and a CAS that also needs the birth mark cannot
take the new key for the old one. A key that was made by hand is given a mark by its first CAS,
which conflicts. What leads to keys is not made a key by CAS, only by put.
"""

import asyncio
import logging
import random
import time
import uuid
from collections.abc import AsyncIterator, Generator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from typing import Any

from kazoo.exceptions import (  # pyright: ignore[reportMissingTypeStubs]
    BadVersionError,
    InvalidACLError,
    NoAuthError,
    NodeExistsError,
    NoNodeError,
)

from pgregent.adapters.dcs import zookeeper_options
from pgregent.adapters.dcs.zookeeper_call import (
    CALL_TIMEOUT_S,
    Call,
    Unsure,
    creation,
    done,
    parents,
    parts,
)
from pgregent.adapters.dcs.zookeeper_keys import ZookeeperKeys
from pgregent.adapters.dcs.zookeeper_link import Answer, Client, Link, Request
from pgregent.adapters.dcs.zookeeper_options import ZookeeperOptions
from pgregent.adapters.dcs.zookeeper_versions import Known, Versions
from pgregent.adapters.dcs.zookeeper_watch import MARK, Watcher, is_hidden, join
from pgregent.core.errors import Unavailable
from pgregent.ports.dcs import CasConflict, CasDone, CasResult, CasUnknown, Versioned

CALLS_MAX = 32
RETRY_S = 0.2

log = logging.getLogger("pgregent")


class ZookeeperDcs:
    """A client of one ZooKeeper server or ensemble. Create with `open`; end with `close`.

    Every call ends within CALL_TIMEOUT_S (1.2 s); without an answer by then the connection is given
    up for one to the next server. At most CALLS_MAX (32) calls wait at a time, further ones are
    Unavailable at once. After a new connection every CAS conflicts until its key was read again.
    """

    def __init__(self, options: ZookeeperOptions, client: str) -> None:
        """Raises Refused."""
        self._servers = list(zookeeper_options.servers(options))
        self._link_to = partial(
            Link,
            session_timeout_s=options.session_timeout_s,
            tls=zookeeper_options.tls(options),
            auth_data=zookeeper_options.auth(options),
            login=zookeeper_options.login(options),
            acl=zookeeper_options.acl(options),
        )
        self._client = client
        self._link: Link | None = None
        self._why = "no connection yet"
        self._connected = asyncio.Event()
        self._versions = Versions()
        self._watchers: list[Watcher] = []
        self._calls = 0
        self._closed = False
        random.shuffle(self._servers)
        self._connecting = asyncio.create_task(self._keep_connected())

    @classmethod
    async def open(cls, options: ZookeeperOptions, client: str) -> "ZookeeperDcs":
        """Connect, for ever; returns after CALL_TIMEOUT_S also while no server answers.

        `client` is the agent's name, for the log. Raises Refused.
        """
        dcs = cls(options, client)
        wait = asyncio.ensure_future(dcs._connected.wait())
        try:
            await asyncio.wait([wait], timeout=CALL_TIMEOUT_S)
        except BaseException:
            await dcs.close()
            raise
        finally:
            wait.cancel()
        return dcs

    async def read(self, prefix: str) -> Mapping[str, Versioned]:
        with self._call() as call:
            try:
                return await self._read(call, prefix)
            except Unsure as error:
                raise Unavailable("dcs", str(error)) from None

    async def cas(self, key: str, expected_version: int, value: bytes) -> CasResult:
        with self._call() as call:
            if expected_version == 0:
                return await self._create(call, key, value)
            known = self._versions.known(call.link, key, expected_version)
            if known is None:
                return CasConflict()
            if known.mark is None:
                await self._adopt(call, key, known)
                return CasConflict()
            return await self._replace(call, key, known, known.mark, value)

    async def put(self, key: str, value: bytes) -> None:
        with self._call() as call:
            for _ in range(2):
                try:
                    (answer,) = await call.answers(lambda c: c.set_async(key, value))
                except Unsure as error:
                    raise Unavailable("dcs", str(error)) from None
                if not isinstance(answer, NoNodeError):
                    done(answer, key)
                    return
                created = await self._create(call, key, value)
                if isinstance(created, CasDone):
                    return
                if isinstance(created, CasUnknown):
                    raise Unavailable("dcs", created.reason)
            raise Unavailable("dcs", f"{key} comes and goes")

    async def watch(self, prefix: str) -> AsyncIterator[None]:
        watcher = Watcher(_path(prefix))
        self._watchers.append(watcher)
        try:
            if self._link is not None:
                watcher.begin(self._link)
                with suppress(TimeoutError):
                    await asyncio.wait_for(watcher.complete.wait(), CALL_TIMEOUT_S)
            while not self._closed:
                watcher.changed.clear()
                yield None
                await watcher.changed.wait()
        finally:
            watcher.link = None
            self._watchers.remove(watcher)

    def patroni_keys(self, ttl: int) -> ZookeeperKeys:
        # How long a session is kept says session_timeout_s, whatever it holds.
        return ZookeeperKeys(self._call, self._versions)

    async def close(self) -> None:
        self._closed = True
        self._why = "closed"
        self._connecting.cancel()
        for watcher in self._watchers:
            watcher.changed.set()
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    # --- the connection ------------------------------------------------------------------------

    async def _keep_connected(self) -> None:
        said: set[str] = set()
        for attempt in count():
            server = self._servers[attempt % len(self._servers)]
            link = self._link_to(server)
            try:
                await link.connect()
            except Unavailable as error:
                self._why = error.reason
                if self._why not in said:
                    log.warning("%s: not connected to %s", self._client, self._why)
                    said.add(self._why)
                await asyncio.sleep(RETRY_S / len(self._servers))
                continue
            except asyncio.CancelledError:
                link.end("closed")
                raise
            log.info("%s: connected to ZooKeeper %s", self._client, server)
            self._begin(link)
            await link.ended.wait()
            self._link = None
            self._why = link.why
            said.clear()
            log.warning("%s: connection lost to %s", self._client, self._why)

    def _begin(self, link: Link) -> None:
        self._link = link
        for watcher in self._watchers:
            watcher.begin(link)
        self._connected.set()

    @contextmanager
    def _call(self) -> Generator[Call]:
        """Begin a call. Raises Unavailable: nothing was sent."""
        if self._link is None or self._link.ended.is_set():
            raise Unavailable("dcs", self._why if self._link is None else self._link.why)
        if self._calls >= CALLS_MAX:
            raise Unavailable("dcs", f"{CALLS_MAX} calls are waiting already")
        self._calls += 1
        try:
            yield Call(self._link, time.monotonic() + CALL_TIMEOUT_S)
        finally:
            self._calls -= 1

    # --- reading -------------------------------------------------------------------------------

    async def _read(self, call: Call, prefix: str) -> dict[str, Versioned]:
        """Raises Unsure and Unavailable.

        The first request is a transaction that changes nothing. It counts as a write: a majority
        has to agree, and what this server answers afterwards holds all that was written before.
        """
        level = [_path(prefix)]
        agreed, *answers = await call.answers(_agree, *_looks(level))
        done(agreed[0], "/")
        found: dict[str, tuple[bytes, Any]] = {}
        while level:
            below: list[str] = []
            for path, children, data in zip(level, answers[0::2], answers[1::2], strict=True):
                if isinstance(children, NoNodeError) or isinstance(data, NoNodeError):
                    continue
                names = done(children, path)
                value, stat = done(data, path)
                below += [join(path, name) for name in names if not is_hidden(path, name)]
                if value is not None and path != "/":
                    found[path] = value, stat
                    self._note(call, path, stat, _mark(names))
            level = below
            answers = await call.answers(*_looks(level))
        if call.link is not self._link:
            # Versions may be counted anew since.
            raise Unsure(call.link.why)
        number = self._versions.number
        return {key: Versioned(value, number(stat.mzxid)) for key, (value, stat) in found.items()}

    def _note(self, call: Call, key: str, stat: Any, mark: str | None) -> None:
        if call.link is self._link:
            self._versions.note(call.link, key, stat, mark)

    # --- writing -------------------------------------------------------------------------------

    async def _create(self, call: Call, key: str, value: bytes) -> CasResult:
        """Create the key and its birth mark, after its parents if need be. Raises Unavailable."""
        mark = f"{MARK}{uuid.uuid4().hex}"

        def request(client: Client) -> Any:
            transaction = client.transaction()
            transaction.create(key, b"")
            transaction.create(join(key, mark), b"")
            # Of a creation kazoo does not tell the number.
            transaction.set_data(key, value, 0)
            return transaction.commit_async()

        result = await self._transact(call, key, mark, request)
        if not isinstance(result, NoNodeError):
            return result
        above = parents(key)
        answers = await self._prepare(call, *(creation(path, None) for path in above))
        result = await self._transact(call, key, mark, request)
        if not isinstance(result, NoNodeError):
            return result
        # A refusal may also have been for one that was there.
        for path, answer in zip(above, answers, strict=True):
            if not isinstance(answer, NodeExistsError):
                done(answer, path)
        raise Unavailable("dcs", f"{key}: somebody removes its parents")

    async def _adopt(self, call: Call, key: str, known: Known) -> None:
        def request(client: Client) -> Any:
            transaction = client.transaction()
            transaction.check(key, known.data_version)
            transaction.create(join(key, f"{MARK}{uuid.uuid4().hex}"), b"")
            return transaction.commit_async()

        (answer,) = await self._prepare(call, request)
        for part in parts(answer):
            if isinstance(part, NoAuthError | InvalidACLError):
                done(part, key)

    async def _prepare(self, call: Call, *requests: Request) -> list[Answer]:
        """Ask for what a write needs first. Raises Unavailable: the write was not sent."""
        try:
            return await call.answers(*requests)
        except Unsure as error:
            raise Unavailable("dcs", f"before a write: {error}") from None

    async def _replace(
        self, call: Call, key: str, known: Known, mark: str, value: bytes
    ) -> CasResult:
        def request(client: Client) -> Any:
            transaction = client.transaction()
            transaction.check(join(key, mark), -1)
            transaction.set_data(key, value, known.data_version)
            return transaction.commit_async()

        result = await self._transact(call, key, mark, request)
        return CasConflict() if isinstance(result, NoNodeError) else result

    async def _transact(
        self, call: Call, key: str, mark: str, request: Request
    ) -> CasResult | NoNodeError:
        """Send a transaction that ends with the key's new data. Raises Unavailable."""
        number = self._versions.numbering()
        try:
            (answer,) = await call.answers(request)
        except Unsure as error:
            return CasUnknown(str(error))
        for part in parts(answer):
            match part:
                case NoNodeError():
                    return part
                case NodeExistsError() | BadVersionError():
                    return CasConflict()
                case NoAuthError() | InvalidACLError():
                    done(part, key)
                case _:
                    pass
        stat = answer[-1]
        self._note(call, key, stat, mark)
        return CasDone(number(stat.mzxid))


def _agree(client: Client) -> Any:
    transaction = client.transaction()
    transaction.check("/", -1)
    return transaction.commit_async()


def _looks(paths: list[str]) -> list[Request]:
    """Ask for the children and then for the data of each.

    In this order, because a CAS with an old birth mark and a new version fails, as it must, and one
    with a new mark and an old version could pass.
    """
    return [look for path in paths for look in (_children(path), _data(path))]


def _children(path: str) -> Request:
    return lambda client: client.get_children_async(path)


def _data(path: str) -> Request:
    return lambda client: client.get_async(path)


def _path(prefix: str) -> str:
    return prefix.rstrip("/") or "/"


def _mark(names: list[str]) -> str | None:
    return min((name for name in names if name.startswith(MARK)), default=None)
