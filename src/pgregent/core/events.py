"""What the core is told: what happened, and what became of its effects. Unknown is an answer."""

from dataclasses import dataclass

from pgregent.core.effects import Barrier, PostgresEffect, WriteRegister
from pgregent.core.types import Position, Postgres, Record, Register


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class RegisterRead:
    """A linearizable read, asked for at `asked_at`, showed this (None: there is no register)."""

    register: Register | None
    asked_at: float
    members: tuple[Record, ...] = ()


@dataclass(frozen=True, slots=True)
class DcsFailed:
    """The DCS did not answer."""

    reason: str


@dataclass(frozen=True, slots=True)
class CasAnswer:
    """`done`: True stored, False surely not, None unknown (it may still land)."""

    effect: WriteRegister
    done: bool | None
    reason: str = ""
    asked_at: float = 0.0


@dataclass(frozen=True, slots=True)
class PeerHeard:
    """A peer's record came over the channel."""

    record: Record


@dataclass(frozen=True, slots=True)
class PeerClosed:
    """The channel to a peer closed; `positive`: by the peer's kernel."""

    name: str
    positive: bool


@dataclass(frozen=True, slots=True)
class Probed:
    """A fresh connection to a peer's PostgreSQL, begun at `asked_at`: did it answer? `refused`:
    its kernel said that nobody listens; else it was silent."""

    name: str
    answered: bool
    refused: bool
    asked_at: float


@dataclass(frozen=True, slots=True)
class DeadlineKept:
    """The guard, told at `asked_at`, stops the server that runs at this time (None: never)."""

    at: float | None
    asked_at: float


@dataclass(frozen=True, slots=True)
class Observed:
    """The local server as just observed. `effects_done` guards against observations that were
    begun before the last PostgreSQL effect ended: it is the count of effects at the question."""

    postgres: Postgres
    effects_done: int


@dataclass(frozen=True, slots=True)
class PostgresExited:
    """The guard saw the postmaster end (or found it gone)."""

    why: str


@dataclass(frozen=True, slots=True)
class Sealed:
    """Answer to Seal."""

    round: int
    position: Position
    newest_history: int


@dataclass(frozen=True, slots=True)
class Promoted:
    """Answer to Promote: the timeline it runs now and where it forked from its parent."""

    timeline: int
    parent: int
    start: int


@dataclass(frozen=True, slots=True)
class Created:
    """Answer to Initdb."""

    system_id: str


@dataclass(frozen=True, slots=True)
class Done:
    """A PostgreSQL effect was done; `result` where it has one, and a fresh observation."""

    effect: PostgresEffect | Barrier
    result: Sealed | Promoted | Created | None = None
    postgres: Postgres | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """It was not done, or it is not known whether it was; both are followed by looking again."""

    effect: PostgresEffect | Barrier
    reason: str
    postgres: Postgres | None = None


@dataclass(frozen=True, slots=True)
class Leave:
    """This node is to stop; `cluster`: all of them are (so no switchover)."""

    cluster: bool


@dataclass(frozen=True, slots=True)
class Switchover:
    """The operator wants another primary than that of `term`: `candidate`, or ("") the one that is
    furthest."""

    term: int
    candidate: str = ""


@dataclass(frozen=True, slots=True)
class Restart:
    """The operator wants this member's PostgreSQL restarted; a primary stays primary."""


@dataclass(frozen=True, slots=True)
class Reinitialize:
    """The operator wants this standby's data directory made anew from the primary's."""


@dataclass(frozen=True, slots=True)
class RestoreDcs:
    """The operator accepts the loss of what missing members know, and has the copy of the register
    with this `seq` written again."""

    seq: int


Event = (
    Tick
    | RegisterRead
    | DcsFailed
    | CasAnswer
    | PeerHeard
    | PeerClosed
    | Probed
    | DeadlineKept
    | Observed
    | PostgresExited
    | Done
    | Failed
    | Leave
    | Switchover
    | Restart
    | Reinitialize
    | RestoreDcs
)
