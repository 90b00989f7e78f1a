"""Patroni's keys in the DCS, for the tools that read them there. They decide nothing."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Found:
    """A key as it was read. `held`: it vanishes with this very agent."""

    value: bytes
    version: int
    held: bool


@dataclass(frozen=True, slots=True)
class Guard:
    """Another key, and the version that Dcs.read() last showed of it."""

    key: str
    version: int


class PatroniKeys(Protocol):
    """Every call is bounded as those of Dcs are. All raise Unavailable("dcs", …): then what was to
    be written may be there or not."""

    async def read(self, keys: Collection[str]) -> Mapping[str, Found]:
        """Return those of the keys that there are, perhaps not the newest.

        Keeps alive what this agent holds: to be called once a second.
        """
        ...

    async def put(
        self,
        key: str,
        value: bytes,
        found: Found | None,
        *,
        ephemeral: bool = False,
        guard: Guard | None = None,
    ) -> bool:
        """Store it in place of what was `found`; `ephemeral`: as long as this agent holds it.

        False: nothing was stored, because that key or the guard has changed since; read again.
        """
        ...

    async def remove(self, key: str, found: Found) -> bool:
        """Remove it; False: it has changed since it was `found`, and stays."""
        ...


@runtime_checkable
class HasPatroniKeys(Protocol):
    """A DCS that Patroni's tools read, too."""

    def patroni_keys(self, ttl: int) -> PatroniKeys:
        """`ttl`: seconds after which what a dead agent held may be gone, where this can be set."""
        ...
