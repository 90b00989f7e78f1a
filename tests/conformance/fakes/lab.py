"""What the scenarios ask of PostgreSQL: real servers, or the simulator's, driven the same way.

Nothing here knows an agent. Where time passes, it is real or virtual; who waits does it by
`eventually`.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

T = TypeVar("T")


@dataclass
class Commit:
    """A client's commit of one number. `lsn`: WAL up to there holds it (bytes)."""

    number: int
    lsn: int = 0
    acked: bool = False
    """The client was told, without a warning."""


class Session(ABC):
    """A client's connection, opened when it was made."""

    @abstractmethod
    async def commit(self) -> Commit:
        """Commit; returns once it is in the WAL: acknowledged, or waiting for standbys."""


class Stop(Enum):
    """How a server ends."""

    FAST = "fast"
    IMMEDIATE = "immediate"
    KILL = "kill"


class Part(Enum):
    """A process of a server that may be slow to notice a reload or a request."""

    CHECKPOINTER = "checkpointer"
    STARTUP = "startup"
    WALSENDER = "walsender"


class Rewind(Enum):
    """What pg_rewind said."""

    DONE = "done"
    NOT_REQUIRED = "not required"
    FAILED = "failed"


class Lab(ABC):
    """Servers by name. The label of a standby is its name."""

    major: int

    async def commit(self, name: str) -> Commit:
        """Commit on a connection made now."""
        return await (await self.connect(name)).commit()

    @abstractmethod
    async def connect(self, name: str) -> Session:
        """A new session. Raises Unavailable."""

    # Making and ending servers

    @abstractmethod
    async def primary(self, name: str, names: str = "", *, archives: bool = False) -> None:
        """A new primary that takes writes, started under these synchronous_standby_names."""

    @abstractmethod
    async def standby(self, name: str, of: str) -> None:
        """A new standby, streaming all there is."""

    @abstractmethod
    async def start(self, name: str, *, of: str | None = None, names: str = "") -> None:
        """Start a standby that streams `of`, or from nobody, again; returns when it answers."""

    @abstractmethod
    async def start_primary(self, name: str, names: str = "") -> None:
        """Start a primary again; returns when it answers."""

    @abstractmethod
    async def begin_stop(self, name: str, how: Stop) -> None:
        """Ask for the end and return at once."""

    @abstractmethod
    async def runs(self, name: str) -> bool:
        """Whether anything of the server still runs."""

    async def stop(self, name: str, how: Stop) -> None:
        """Stop it and see it gone."""
        await self.begin_stop(name, how)
        await self.gone(name)

    async def gone(self, name: str) -> None:
        """Wait until nothing of it runs."""

        async def ended() -> bool:
            return not await self.runs(name)

        await self.eventually(f"{name} ends", ended)

    # What goes wrong

    @abstractmethod
    def slow(self, name: str, part: Part) -> AbstractAsyncContextManager[None]:
        """A process that notices nothing meanwhile. (In the simulator each is late anyway.)"""

    @abstractmethod
    def frozen(self, name: str) -> AbstractAsyncContextManager[None]:
        """All of the server is stopped, as by SIGSTOP."""

    @abstractmethod
    def postmaster_frozen(self, name: str) -> AbstractAsyncContextManager[None]:
        """The postmaster alone is stopped, as by SIGSTOP."""

    @abstractmethod
    async def replay_stops(self, name: str, of: str) -> None:
        """max_connections is raised on the primary first; returns when replay is paused."""

    @abstractmethod
    async def end_wait(self, commit: Commit, *, terminate: bool) -> None:
        """pg_cancel_backend, or pg_terminate_backend, of the only session that waits."""

    @abstractmethod
    async def orphan_commits(self, name: str) -> set[int]:
        """SIGKILL of the postmaster, and nothing else, under a client that commits all the time;
        some of what it commits after that. It goes on until the server is stopped by KILL."""

    # Configuration

    @abstractmethod
    async def set_names(self, name: str, names: str) -> None:
        """Change the names and reload; returns when a new session shows them."""

    @abstractmethod
    async def checkpoint(self, name: str) -> None:
        """CHECKPOINT."""

    @abstractmethod
    async def follow(self, name: str, of: str) -> None:
        """Point a running standby there and reload; returns at once."""

    @abstractmethod
    async def unfollow(self, name: str, *, restore: bool = False) -> None:
        """Clear primary_conninfo (`restore`: but not restore_command) and reload; returns at
        once."""

    @abstractmethod
    async def switch_wal(self, name: str) -> int:
        """Have the primary's segment archived; the LSN that is in the archive then."""

    # Timelines

    @abstractmethod
    async def write_much(self, name: str) -> None:
        """WAL of more bytes than all that a scenario writes elsewhere, and no commit."""

    @abstractmethod
    async def request_promotion(self, name: str) -> None:
        """Ask for it and return at once."""

    @abstractmethod
    async def put_stub(self, name: str, timeline: int) -> None:
        """A history file that names no ancestor, into the data directory."""

    @abstractmethod
    async def remove_late_stubs(self, name: str) -> None:
        """Take away the stubs above the newest real history file."""

    @abstractmethod
    async def fails_to_start(self, name: str) -> bool:
        """Start a stopped server as a standby that streams from nobody: whether it ends, or polls
        for WAL and takes no connections. It is ended then."""

    @abstractmethod
    async def rewind(self, name: str, source: str, *, checkpoint: bool = True) -> Rewind:
        """pg_rewind of a stopped server, after a CHECKPOINT of the source or without."""

    @abstractmethod
    async def rewind_fails(self, name: str, source: str) -> None:
        """pg_rewind that ends after it has begun to change the stopped server's files."""

    @abstractmethod
    async def tries_in_vain(self, name: str, of: str) -> None:
        """Wait until a standby that cannot stream from there has tried some times."""

    # Looking

    @abstractmethod
    async def is_primary(self, name: str) -> bool:
        """Whether it has ended recovery."""

    @abstractmethod
    async def position(self, name: str) -> tuple[int, int]:
        """(timeline, lsn) of the end of a running server's log; a standby's once it has read all
        of it."""

    @abstractmethod
    async def received(self, name: str) -> int | None:
        """How far a standby says to have received WAL right now, None if it does not know."""

    @abstractmethod
    async def has_receiver(self, name: str) -> bool:
        """Whether a walreceiver runs."""

    @abstractmethod
    async def counts(self, name: str, standby: str) -> bool:
        """Whether the primary's walsender takes this standby for a synchronous one."""

    @abstractmethod
    async def confirmed(self, name: str, standby: str) -> int:
        """How far the primary heard that this standby has flushed; 0: it has no such standby."""

    @abstractmethod
    async def control_timeline(self, name: str) -> int:
        """The timeline of the last checkpoint, as the control file says."""

    @abstractmethod
    async def checkpoint_lsn(self, name: str) -> int:
        """The last checkpoint of a stopped primary, as the control file says."""

    @abstractmethod
    async def is_clean(self, name: str) -> bool:
        """Whether the control file of a stopped server says that it was shut down."""

    @abstractmethod
    async def reads(self, name: str) -> set[int]:
        """The numbers that a client sees there."""

    @abstractmethod
    async def waits(self, commit: Commit) -> bool:
        """Whether its session is alive and waits for standbys."""

    @abstractmethod
    async def mark(self, name: str) -> int:
        """A record that waits for nobody, at the end of the primary's log; its LSN."""

    # Waiting

    @abstractmethod
    async def eventually(self, what: str, check: Callable[[], Awaitable[T]]) -> T:
        """The first true result of `check`."""

    async def acked(self, commit: Commit) -> None:
        """Wait until the client was told."""

        async def told() -> bool:
            return commit.acked

        await self.eventually(f"commit {commit.number} is acknowledged", told)

    async def flushed(self, name: str, standby: str, lsn: int) -> None:
        """Wait until the primary has heard that this standby flushed up to there."""

        async def heard() -> bool:
            return await self.confirmed(name, standby) >= lsn

        await self.eventually(f"{standby} has flushed {lsn}", heard)

    async def receiver_ends(self, name: str) -> None:
        """Wait until no walreceiver runs."""

        async def gone() -> bool:
            return not await self.has_receiver(name)

        await self.eventually(f"the walreceiver of {name} ends", gone)

    async def promoted(self, name: str) -> int:
        """Wait until it is a primary; its timeline."""
        await self.eventually(f"{name} is promoted", lambda: self.is_primary(name))
        return (await self.position(name))[0]

    async def promote(self, name: str) -> int:
        """Promote it; its timeline."""
        await self.request_promotion(name)
        return await self.promoted(name)

    async def still_waits(self, name: str, commit: Commit, *, flushed_by: Iterable[str]) -> bool:
        """Whether it waits though these standbys are known to have flushed it, and more WAL."""
        for standby in flushed_by:
            await self.flushed(name, standby, commit.lsn)
        # Its acknowledgement, were there one, would be on its way before this one's.
        lsn = await self.mark(name)
        for standby in flushed_by:
            await self.flushed(name, standby, lsn)
        return await self.waits(commit)

    async def streams(self, name: str, of: str) -> None:
        """Wait until it has flushed all that is in the other's log."""
        await self.flushed(of, name, await self.mark(of))


LabMaker = Callable[[], AbstractAsyncContextManager[Lab]]


async def can_happen(
    makers: Iterable[LabMaker], scenario: Callable[[Lab], Awaitable[bool]]
) -> bool:
    """Whether the scenario comes out true in any of these labs."""
    for make in makers:
        async with make() as lab:
            if await scenario(lab):
                return True
    return False


@asynccontextmanager
async def nothing() -> AsyncGenerator[None]:
    """For what is so anyway."""
    yield


def any_of(k: int, *names: str) -> str:
    """synchronous_standby_names: any `k` of these."""
    return f"ANY {k} (" + ", ".join(f'"{name}"' for name in names) + ")"
