"""What the core asks adapters to do, and what they answer. Unknown is an answer."""

from dataclasses import dataclass

from pgregent.core.types import Incarnation, Record, Register, Rule


@dataclass(frozen=True, slots=True)
class WriteRegister:
    """CAS the register from `expected` (its seq; 0: absent) to `register`. Answer: CasAnswer."""

    expected: int
    register: Register


@dataclass(frozen=True, slots=True)
class Start:
    """Start PostgreSQL: `rule` set: as the primary, with its names, closed to clients until
    Admit; else as a standby that streams from `upstream` (None: sealed). The guard knows
    `deadline` before it starts."""

    term: int
    rule: Rule | None
    upstream: Incarnation | None
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class Admit:
    """Let clients into a server that was started as a primary: until then only the agent and the
    standbys get in, since commits that nobody acknowledged may show."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop PostgreSQL until no process of it is left. Not immediate: a fast shutdown, bounded."""

    immediate: bool


@dataclass(frozen=True, slots=True)
class Follow:
    """Make the running standby stream from `upstream`."""

    upstream: Incarnation
    term: int


@dataclass(frozen=True, slots=True)
class Seal:
    """Stop taking WAL: clear primary_conninfo and restore_command, reload, and answer (Sealed)
    only when the walreceiver is gone and local WAL is known to its end."""

    round: int


@dataclass(frozen=True, slots=True)
class Promote:
    """Finish replay and promote; the timeline has to become `term`. Answer: Promoted. A standby's
    names stay in force, so that nothing is acknowledged before the core has seen the timeline and
    applied a rule. A failure does not mean that it will not promote."""

    term: int


@dataclass(frozen=True, slots=True)
class ApplyRule:
    """Make `rule` the synchronous_standby_names in force, seen on a fresh connection, and where
    it says so (`all_walsenders`) by every walsender: one that does not show that it has seen them
    would let commits through by an older k, and is ended."""

    rule: Rule
    checkpoint: bool
    all_walsenders: bool = False


@dataclass(frozen=True, slots=True)
class Barrier:
    """Commit on a connection opened now and see it acknowledged without a warning. `number`
    tells it from an earlier one under the same rule."""

    rule: Rule
    term: int
    number: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """CHECKPOINT, so that the shutdown that follows is short."""


@dataclass(frozen=True, slots=True)
class Initdb:
    """Create the cluster's first data directory."""


@dataclass(frozen=True, slots=True)
class Rewind:
    """pg_rewind from `source` (after a CHECKPOINT there)."""

    source: Incarnation
    term: int


@dataclass(frozen=True, slots=True)
class Clone:
    """pg_basebackup from `source` beside the data directory; when complete, set the old one
    aside and put the new one in its place."""

    source: Incarnation
    term: int


@dataclass(frozen=True, slots=True)
class Slots:
    """Keep physical slots for these members on the primary (and drop those of others)."""

    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Probe:
    """Make a fresh connection to a peer's PostgreSQL. Answer: Probed."""

    name: str


@dataclass(frozen=True, slots=True)
class Deadline:
    """The guard stops PostgreSQL at this time (None: never)."""

    at: float | None


@dataclass(frozen=True, slots=True)
class Publish:
    """Send the record to every peer."""

    record: Record


@dataclass(frozen=True, slots=True)
class PutMember:
    """Put the record in the DCS as this member's key."""

    record: Record


@dataclass(frozen=True, slots=True)
class Announce:
    """An event for people: what happened and why."""

    event: str
    why: str
    term: int = 0
    member: str = ""
    outage: float = 0.0
    how: str = ""


@dataclass(frozen=True, slots=True)
class Exit:
    """Stop the guard (nothing runs any more) and end the agent."""


PostgresEffect = (
    Start
    | Admit
    | Stop
    | Follow
    | Seal
    | Promote
    | ApplyRule
    | Checkpoint
    | Initdb
    | Rewind
    | Clone
)
Effect = (
    WriteRegister
    | PostgresEffect
    | Barrier
    | Slots
    | Probe
    | Deadline
    | Publish
    | PutMember
    | Announce
    | Exit
)
