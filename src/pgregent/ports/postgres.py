"""The local PostgreSQL server and its data directory, as the agent uses them.

Every call is bounded in time and raises Refused or Unavailable when it was not done or when it is
not known whether it was; the agent looks again either way.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from pgregent.core.events import Promoted, Sealed
from pgregent.core.types import Postgres


@dataclass(frozen=True, slots=True)
class Upstream:
    """A member's server: to stream, clone or rewind from."""

    name: str
    host: str
    port: int


class Answer(Enum):
    """What became of a fresh connection."""

    ANSWERED = "answered"
    REFUSED = "refused"
    SILENT = "silent"


class PostgresServer(Protocol):
    """One member's server."""

    async def open(self, on_exit: Callable[[str], None]) -> None:
        """Take over or start the guard; `on_exit` hears why a server ended unasked."""
        ...

    async def observe(self) -> Postgres:
        """Look at the server, or at the data directory when none runs. Never raises."""
        ...

    async def start(
        self,
        label: str,
        names: str,
        upstream: Upstream | None,
        standby: bool,
        deadline: float | None,
    ) -> None:
        """Start it and wait until it answers queries. `label` is this member's application_name,
        `names` its synchronous_standby_names; a standby without `upstream` is sealed."""
        ...

    async def stop(self, immediate: bool) -> None:
        """Stop until no process is left. A fast shutdown that takes too long ends as immediate."""
        ...

    async def follow(self, label: str, names: str, upstream: Upstream) -> None:
        """Make the running standby stream from `upstream`."""
        ...

    async def seal(self, round_: int, names: str) -> Sealed:
        """Take no more WAL; answer with the end of the log once nothing can arrive any more."""
        ...

    async def promote(self, term: int, names: str) -> Promoted:
        """Finish replay and promote to timeline `term`."""
        ...

    async def apply_names(self, names: str, checkpoint: bool, all_walsenders: bool = False) -> None:
        """Put synchronous_standby_names into force; CHECKPOINT makes the sync flag certain. With
        `all_walsenders`, every one has seen them, or is ended."""
        ...

    async def admit(self) -> None:
        """Let clients into a server that was started as a primary."""
        ...

    async def barrier(self, names: str) -> None:
        """Commit under `names` and return when it was acknowledged without a warning."""
        ...

    async def checkpoint(self) -> None:
        """CHECKPOINT."""
        ...

    async def initdb(self) -> str:
        """Create the data directory; returns the system identifier."""
        ...

    async def ensure_roles(self) -> None:
        """Create the replication role on the first primary, and complete it as its operator
        says, once."""
        ...

    async def rewind(self, source: Upstream) -> None:
        """pg_rewind from `source`."""
        ...

    async def clone(self, source: Upstream) -> None:
        """pg_basebackup beside the data directory, then swap; the old one is set aside."""
        ...

    async def keep_slots(self, members: tuple[str, ...]) -> None:
        """Physical slots for exactly these members (those of others are dropped when idle)."""
        ...

    async def set_deadline(self, at: float | None) -> None:
        """When the guard is to stop the server that runs now (CLOCK_BOOTTIME)."""
        ...

    async def probe(self, host: str, port: int) -> Answer:
        """What a fresh connection to another member's server says within 200 ms."""
        ...

    async def quit(self) -> None:
        """End the guard; nothing runs any more."""
        ...

    async def close(self) -> None:
        """Let go of guard and server; both go on."""
        ...

    def processes(self) -> tuple[int | None, int | None]:
        """The pids of guard and postmaster."""
        ...
