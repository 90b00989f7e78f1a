"""The DCS in memory, for tests: several clients of one store, and every fault on command."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from enum import Enum

from pgregent.core.errors import Unavailable
from pgregent.ports.dcs import CasConflict, CasDone, CasResult, CasUnknown, Versioned


class Landing(Enum):
    """When a CAS whose reply is lost takes effect."""

    NOW = "now"
    LATER = "later"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a store held at one moment."""

    entries: Mapping[str, Versioned]
    last_version: int


@dataclass(frozen=True, slots=True)
class _Write:
    key: str
    expected_version: int | None
    value: bytes


class MemoryStore:
    """What the clients share; create MemoryDcs(store) once per agent."""

    def __init__(self) -> None:
        self.entries: dict[str, Versioned] = {}
        self.last_version = 0
        self.clients: list[MemoryDcs] = []

    def snapshot(self) -> Snapshot:
        """Return what is stored now, for a later `restore`."""
        return Snapshot(dict(self.entries), self.last_version)

    def restore(self, snapshot: Snapshot | None = None) -> None:
        """Come back as the snapshot says (None: empty); versions go back too."""
        past = snapshot or Snapshot({}, 0)
        self.entries = dict(past.entries)
        self.last_version = past.last_version
        for client in self.clients:
            client.wake()

    def apply(self, write: _Write) -> CasResult:
        current = self.entries.get(write.key)
        if write.expected_version not in (None, current.version if current else 0):
            return CasConflict()
        self.last_version += 1
        self.entries[write.key] = Versioned(write.value, self.last_version)
        for client in self.clients:
            client.wake(write.key)
        return CasDone(self.last_version)


@dataclass(frozen=True, slots=True, eq=False)
class _Watcher:
    prefix: str
    changed: asyncio.Event


class MemoryDcs:
    """One client of a MemoryStore; faults hold for this client only, as its network would.

    `timeout_s` bounds a call while the store is frozen.
    """

    def __init__(self, store: MemoryStore | None = None, timeout_s: float = 1.2) -> None:
        self._store = store or MemoryStore()
        self._store.clients.append(self)
        self._timeout_s = timeout_s
        self._landing: Landing | None = None
        self._in_flight: list[_Write] = []
        self._unavailable = False
        self._frozen = False
        self._closed = False
        self._reachable = asyncio.Event()
        self._reachable.set()
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._watchers: list[_Watcher] = []

    # --- the port ---

    async def read(self, prefix: str) -> Mapping[str, Versioned]:
        if not await self._answers():
            raise Unavailable("dcs", "no reply")
        return {k: v for k, v in self._store.entries.items() if _is_under(k, prefix)}

    async def cas(self, key: str, expected_version: int, value: bytes) -> CasResult:
        write = _Write(key, expected_version, value)
        if not await self._answers():
            self._in_flight.append(write)
            return CasUnknown("no reply")
        landing, self._landing = self._landing, None
        match landing:
            case None:
                return self._store.apply(write)
            case Landing.NOW:
                self._store.apply(write)
            case Landing.LATER:
                self._in_flight.append(write)
            case Landing.NEVER:
                pass
        return CasUnknown("the reply was lost")

    async def put(self, key: str, value: bytes) -> None:
        write = _Write(key, None, value)
        if not await self._answers():
            self._in_flight.append(write)
            raise Unavailable("dcs", "no reply")
        self._store.apply(write)

    async def watch(self, prefix: str) -> AsyncIterator[None]:
        watcher = _Watcher(prefix, asyncio.Event())
        self._watchers.append(watcher)
        try:
            while not self._closed:
                watcher.changed.clear()
                yield None
                await watcher.changed.wait()
                await self._reachable.wait()
        finally:
            self._watchers.remove(watcher)

    async def close(self) -> None:
        self._closed = True
        self._unavailable = True
        self._reachable.set()
        self._thawed.set()
        self.wake()
        if self in self._store.clients:
            self._store.clients.remove(self)

    # --- faults ---

    def lose_next_reply(self, landing: Landing) -> None:
        """Answer this client's next CAS with CasUnknown, and apply it now, at `land` or never."""
        self._landing = landing

    def land(self) -> list[CasResult]:
        """Apply, in order, the writes still in flight; returns what the store made of each."""
        in_flight, self._in_flight = self._in_flight, []
        return [self._store.apply(write) for write in in_flight]

    def set_unavailable(self, unavailable: bool = True) -> None:
        """Refuse every call at once, and surely without effect, until told otherwise."""
        self._unavailable = unavailable
        self._reachability_changed()

    def freeze(self) -> None:
        """Answer nothing until `thaw`; writes that were given up in between land then."""
        self._frozen = True
        self._thawed.clear()
        self._reachability_changed()

    def thaw(self) -> None:
        """Answer again."""
        self._frozen = False
        self.land()
        self._thawed.set()
        self._reachability_changed()

    def wake(self, key: str | None = None) -> None:
        """Wake this client's watchers of `key` (None: all)."""
        for watcher in self._watchers:
            if key is None or _is_under(key, watcher.prefix):
                watcher.changed.set()

    def _reachability_changed(self) -> None:
        if self._unavailable or self._frozen:
            self._reachable.clear()
        elif not self._reachable.is_set():
            self._reachable.set()
            self.wake()

    async def _answers(self) -> bool:
        # A real store never answers within one turn of the event loop.
        await asyncio.sleep(0)
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._thawed.wait()
        except TimeoutError:
            return False
        if self._unavailable:
            raise Unavailable("dcs", "closed" if self._closed else "made unavailable")
        return True


def _is_under(key: str, prefix: str) -> bool:
    return key == prefix or key.startswith(prefix.rstrip("/") + "/")
