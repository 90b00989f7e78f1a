"""The store that agents agree through: four verbs, no locks, no sessions."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Versioned:
    """A stored value and the store's version of it (>= 1, grows with every change of the key)."""

    value: bytes
    version: int


@dataclass(frozen=True, slots=True)
class CasDone:
    """The value was stored; `version` is its version."""

    version: int


@dataclass(frozen=True, slots=True)
class CasConflict:
    """The key had another version; nothing was stored."""


@dataclass(frozen=True, slots=True)
class CasUnknown:
    """No reply: it may be stored, now or later. Reading the old value proves nothing."""

    reason: str


CasResult = CasDone | CasConflict | CasUnknown


class Dcs(Protocol):
    """Every call is bounded by the adapter's own timeout. Keys are full paths ("/service/x/y")."""

    async def read(self, prefix: str) -> Mapping[str, Versioned]:
        """Read all keys under `prefix`, linearizably. Raises Unavailable("dcs", …)."""
        ...

    async def cas(self, key: str, expected_version: int, value: bytes) -> CasResult:
        """Store `value` if the key's version is `expected_version` (0: the key is absent).

        Never retried inside. Raises Unavailable only when it surely was not and will not be stored.
        """
        ...

    async def put(self, key: str, value: bytes) -> None:
        """Store unconditionally. Raises Unavailable (the outcome does not matter to the caller)."""
        ...

    def watch(self, prefix: str) -> AsyncIterator[None]:
        """Yield once at the start and then after changes under `prefix` (changes may be merged).

        Never raises because the store is away: yields when it is back.
        """
        ...

    async def close(self) -> None:
        """Free everything."""
        ...
