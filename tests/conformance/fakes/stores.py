"""What the scenarios ask of a DCS: the simulator's, or a real one, driven the same way."""

import asyncio
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from pgregent.adapters.dcs.etcd import EtcdDcs, EtcdOptions
from pgregent.adapters.dcs.local import LocalDcs
from pgregent.adapters.dcs.memory import Landing, MemoryDcs, MemoryStore
from pgregent.adapters.dcs.zookeeper import ZookeeperDcs, ZookeeperOptions
from pgregent.core.effects import WriteRegister
from pgregent.core.types import Incarnation, PgState, Record, Register
from pgregent.ports.dcs import CasConflict, CasDone, Dcs
from tests.conformance import etcd_servers, zookeeper_servers
from tests.conformance.etcd_servers import EtcdServer
from tests.conformance.pg import eventually
from tests.conformance.zookeeper_servers import Relay, ZookeeperServer
from tests.sim.cluster import Cluster
from tests.sim.world import Proc, Task, Work

PREFIX = "/service/demo/pgregent"
REGISTER = f"{PREFIX}/register"
MEMBERS = f"{PREFIX}/members/"
BOUND_S = 15.0
SETTLES_WITHIN = 60.0
"""Seconds of virtual time after which nothing is under way in the simulator's DCS."""


class Fate(Enum):
    """When a write whose reply is lost takes effect."""

    NOW = "now"
    LATER = "later"
    NEVER = "never"


@dataclass
class View:
    """What a read found. `version` 0: there is no register."""

    register: int | None
    version: int
    members: dict[str, int]


class Client(ABC):
    """One member's connection."""

    @abstractmethod
    async def read(self) -> View:
        """Everything under the prefix. Raises Unavailable."""

    @abstractmethod
    async def cas(self, version: int, value: int) -> bool | None:
        """Write the register; None: unknown. Raises Unavailable."""

    @abstractmethod
    async def put(self, value: int) -> None:
        """Write its own member key. Raises Unavailable, or does not."""

    @abstractmethod
    async def watch(self) -> Callable[[], Awaitable[None]]:
        """Begin to watch; what it returns waits for a change since the last wait."""


class Store(ABC):
    """One store; `kind` names it."""

    kind: str

    @abstractmethod
    async def client(self, name: str) -> Client:
        """One more member."""

    @abstractmethod
    async def lose_next_reply(self, client: Client, fate: Fate) -> None:
        """Of a CAS of this client. (In the simulator the fate is chance.)"""

    @abstractmethod
    async def settle(self) -> None:
        """Let what is under way land."""

    @abstractmethod
    def away(self) -> AbstractAsyncContextManager[None]:
        """It answers nobody meanwhile."""

    @abstractmethod
    async def empty(self) -> None:
        """It comes back without anything; returns when it answers."""


# The simulator's


class FakeClient(Client):
    def __init__(self, store: "FakeStore", name: str) -> None:
        self._store, self._name = store, name

    async def read(self) -> View:
        register, records = await self._store.do(self._store.dcs.read(self._name))
        members = {record.incarnation.name: record.beat for record in records}
        if register is None:
            return View(None, 0, members)
        return View(register.round, register.seq, members)

    async def cas(self, version: int, value: int) -> bool | None:
        nobody = Incarnation("nobody", "0000")
        register = Register(version + 1, value, 0, nobody, (), True, "1", ())
        write = WriteRegister(version, register)
        try:
            return await self._store.do(self._store.dcs.cas(self._name, write))
        finally:
            self._store.world.rates.cas_unknown = 0.0

    async def put(self, value: int) -> None:
        record = Record(Incarnation(self._name, "0000"), value, PgState.STANDBY)
        await self._store.do(self._store.dcs.put(self._name, record))

    async def watch(self) -> Callable[[], Awaitable[None]]:
        woken: list[None] = []
        self._store.dcs.watchers[self._name] = lambda: woken.append(None)

        async def changed() -> None:
            world = self._store.world
            assert woken or world.run(world.now + BOUND_S, lambda: bool(woken))
            woken.clear()

        return changed


class FakeStore(Store):
    kind = "fake"

    def __init__(self, seed: int) -> None:
        self.cluster = Cluster(seed)
        self.world, self.dcs = self.cluster.world, self.cluster.dcs
        # Nodes are not part of it: nothing is to be objected to what is written.
        self.cluster.checker.broken = lambda what: None

    async def do(self, work: Work) -> Any:
        ended: list[tuple[Any, Exception | None]] = []
        Task(self.world, Proc("test"), work, lambda value, error: ended.append((value, error)))
        assert ended or self.world.run(self.world.now + BOUND_S, lambda: bool(ended))
        value, error = ended[0]
        if error is not None:
            raise error
        return value

    async def client(self, name: str) -> Client:
        return FakeClient(self, name)

    async def lose_next_reply(self, client: Client, fate: Fate) -> None:
        self.world.rates.cas_unknown = 1.0

    async def settle(self) -> None:
        self.world.run(self.world.now + SETTLES_WITHIN)

    @asynccontextmanager
    async def away(self) -> AsyncGenerator[None]:
        self.dcs.away = True
        yield
        self.dcs.away = False

    async def empty(self) -> None:
        self.dcs.forget()


@asynccontextmanager
async def fake_store(seed: int, folder: Path) -> AsyncGenerator[Store]:
    yield FakeStore(seed)


# Real ones


class RealClient(Client):
    def __init__(self, dcs: Dcs, name: str) -> None:
        self.dcs, self.name = dcs, name

    async def read(self) -> View:
        found = await self.dcs.read(PREFIX)
        own = f"{MEMBERS}{self.name}"
        members = {
            key.removeprefix(MEMBERS): int(entry.value)
            for key, entry in found.items()
            if key.startswith(MEMBERS) and key != own
        }
        entry = found.get(REGISTER)
        return View(int(entry.value), entry.version, members) if entry else View(None, 0, members)

    async def cas(self, version: int, value: int) -> bool | None:
        match await self.dcs.cas(REGISTER, version, b"%d" % value):
            case CasDone():
                return True
            case CasConflict():
                return False
            case _:
                return None

    async def put(self, value: int) -> None:
        await self.dcs.put(f"{MEMBERS}{self.name}", b"%d" % value)

    async def watch(self) -> Callable[[], Awaitable[None]]:
        changes = self.dcs.watch(PREFIX)
        await _next(changes)

        async def changed() -> None:
            await _next(changes)

        return changed


async def _next(changes: AsyncIterator[None]) -> None:
    async with asyncio.timeout(BOUND_S):
        await anext(changes)


class RealStore(Store):
    def __init__(self) -> None:
        self.clients: list[RealClient] = []

    async def close(self) -> None:
        """End every client."""
        for client in self.clients:
            await client.dcs.close()

    async def client(self, name: str) -> Client:
        self.clients.append(RealClient(await self.connect(name), name))
        return self.clients[-1]

    @abstractmethod
    async def connect(self, name: str) -> Dcs:
        """One more client of the adapter's."""

    async def all_answer(self) -> None:
        """Wait until it answers every client."""
        for client in self.clients:

            async def answers(client: RealClient = client) -> bool:
                await client.read()
                return True

            await eventually(f"{self.kind} answers", answers)


class MemoryStores(RealStore):
    kind = "memory"

    def __init__(self) -> None:
        super().__init__()
        self._store = MemoryStore()

    async def connect(self, name: str) -> Dcs:
        return MemoryDcs(self._store)

    def _dcs(self) -> list[MemoryDcs]:
        return [c.dcs for c in self.clients if isinstance(c.dcs, MemoryDcs)]

    async def lose_next_reply(self, client: Client, fate: Fate) -> None:
        assert isinstance(client, RealClient) and isinstance(client.dcs, MemoryDcs)
        client.dcs.lose_next_reply(Landing(fate.value))

    async def settle(self) -> None:
        for dcs in self._dcs():
            dcs.land()

    @asynccontextmanager
    async def away(self) -> AsyncGenerator[None]:
        for dcs in self._dcs():
            dcs.set_unavailable()
        yield
        for dcs in self._dcs():
            dcs.set_unavailable(False)

    async def empty(self) -> None:
        self._store.restore()


class LocalStores(RealStore):
    kind = "local"

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    async def connect(self, name: str) -> Dcs:
        return await LocalDcs.open(self._path)

    async def lose_next_reply(self, client: Client, fate: Fate) -> None:
        raise NotImplementedError("no reply of a file is lost on command")

    async def settle(self) -> None:
        raise NotImplementedError("nothing of a file is under way")

    def away(self) -> AbstractAsyncContextManager[None]:
        raise NotImplementedError("a file is away only where its disk is")

    async def empty(self) -> None:
        connection = sqlite3.connect(self._path)
        with connection:
            connection.execute("DELETE FROM entries")
        connection.close()


class ServerStores(RealStore):
    """Each client comes through a relay of its own, where requests and replies can be held."""

    def __init__(self, server: ZookeeperServer | EtcdServer, relays: AsyncExitStack) -> None:
        super().__init__()
        self._server, self._stack = server, relays
        self._relays: dict[str, Relay] = {}
        self._lost: tuple[Relay, Fate] | None = None

    @abstractmethod
    def relay_to_server(self) -> AbstractAsyncContextManager[Relay]:
        """One more relay."""

    @abstractmethod
    async def open_at(self, host: str, name: str) -> Dcs:
        """One more client of the adapter's, of this host only."""

    async def connect(self, name: str) -> Dcs:
        relay = await self._stack.enter_async_context(self.relay_to_server())
        self._relays[name] = relay
        return await self.open_at(relay.host, name)

    async def lose_next_reply(self, client: Client, fate: Fate) -> None:
        assert isinstance(client, RealClient)
        relay = self._relays[client.name]
        (relay.down if fate is Fate.NOW else relay.up).clear()
        self._lost = relay, fate

    async def settle(self) -> None:
        assert self._lost is not None
        relay, fate = self._lost
        if fate is Fate.NEVER:
            relay.stop()
            return
        relay.release()
        # What was held back is written before what a later connection through it asks.
        await self.all_answer()

    @asynccontextmanager
    async def away(self) -> AsyncGenerator[None]:
        self._server.kill()
        try:
            yield
        finally:
            await self._start()

    async def empty(self) -> None:
        self._server.kill()
        self._server.wipe()
        for relay in self._relays.values():
            relay.release()
        await self._start()

    async def _start(self) -> None:
        self._server.start()
        await self.all_answer()


class ZookeeperStores(ServerStores):
    kind = "zookeeper"

    def __init__(self, server: ZookeeperServer, relays: AsyncExitStack) -> None:
        super().__init__(server, relays)
        self._zookeeper = server

    def relay_to_server(self) -> AbstractAsyncContextManager[Relay]:
        return zookeeper_servers.relay_to(self._zookeeper)

    async def open_at(self, host: str, name: str) -> Dcs:
        return await ZookeeperDcs.open(ZookeeperOptions(hosts=(host,)), name)


class EtcdStores(ServerStores):
    kind = "etcd"

    def __init__(self, server: EtcdServer, relays: AsyncExitStack) -> None:
        super().__init__(server, relays)
        self._etcd = server

    def relay_to_server(self) -> AbstractAsyncContextManager[Relay]:
        return etcd_servers.relay_to(self._etcd)

    async def open_at(self, host: str, name: str) -> Dcs:
        return await EtcdDcs.open(EtcdOptions(hosts=(host,)), name)


@asynccontextmanager
async def memory_store(folder: Path) -> AsyncGenerator[Store]:
    store = MemoryStores()
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def local_store(folder: Path) -> AsyncGenerator[Store]:
    store = LocalStores(folder / "dcs.sqlite")
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def zookeeper_store(folder: Path) -> AsyncGenerator[Store]:
    server = zookeeper_servers.shared()
    async with AsyncExitStack() as relays:
        store = ZookeeperStores(server, relays)
        try:
            yield store
        finally:
            await store.close()


@asynccontextmanager
async def etcd_store(folder: Path) -> AsyncGenerator[Store]:
    server = etcd_servers.shared()
    async with AsyncExitStack() as relays:
        store = EtcdStores(server, relays)
        try:
            yield store
        finally:
            await store.close()
