"""The words of the protocol as data. LSNs are integers (bytes), times are seconds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

PLACEHOLDER = "pgregent_placeholder"


@dataclass(frozen=True, slots=True, order=True)
class Incarnation:
    """A node as the protocol counts it: made new under the same name it is a stranger."""

    name: str
    id: str

    @property
    def label(self) -> str:
        """The application_name of its walreceiver; PostgreSQL compares these without case."""
        return f"{self.name}@{self.id}"


NOBODY = Incarnation("", "")
"""The writer of a term that was skipped."""


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """Where a log ends. The timeline is the term: this orders as Raft's (lastTerm, lastIndex)."""

    timeline: int
    lsn: int


@dataclass(frozen=True, slots=True)
class Rule:
    """Commits of `writer` were acknowledged once flushed on it and on `k` of `members`.

    `strict` (k = 0): there are fewer members than the operator's minimum, so PostgreSQL is given a
    name that nobody has, and commits wait.
    """

    writer: Incarnation
    k: int
    members: tuple[Incarnation, ...]
    strict: bool = False

    def satisfied_by(self, holders: frozenset[Incarnation]) -> bool:
        """Whether whatever was acknowledged under this rule is held by one of `holders`."""
        if self.writer in holders:
            return True
        return sum(m in holders for m in self.members) >= len(self.members) - self.k + 1

    def __str__(self) -> str:
        names = ", ".join(m.name for m in self.members)
        if self.strict:
            return "no standby, though one is required"
        return f"ANY {self.k} ({names})" if self.k else "the primary alone"


@dataclass(frozen=True, slots=True)
class Term:
    """A timeline and its one writer. `start` is where it forks from `parent` (an upper bound
    until the winner's promotion is recorded)."""

    term: int
    writer: Incarnation
    parent: int
    start: int
    why: str = ""
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Register:
    """The one DCS value that decides. `seq` grows by one with every successful CAS."""

    seq: int
    round: int
    term: int
    primary: Incarnation
    rules: tuple[Rule, ...]
    electing: bool
    system_id: str
    terms: tuple[Term, ...]
    why: str = ""
    released: bool = False
    """Given back to Patroni: nobody is in office, and only an adoption puts somebody there."""

    @property
    def rule(self) -> Rule:
        """The rule that is being applied."""
        return self.rules[-1]


class Stage(Enum):
    """What is being done to the data directory; anything but NONE makes its content unusable."""

    NONE = "none"
    CLONE = "clone"
    REWIND = "rewind"
    REWOUND = "rewound"
    """Rewound, and consistent only once it has replayed what it needs of its source's WAL."""


@dataclass(frozen=True, slots=True)
class Durable:
    """What a member must not forget. Persisted before anything that follows from it is done.

    A seal is the newest register being an election's: it is lifted only by a later one.
    """

    incarnation: Incarnation
    register: Register | None = None
    promoting: int = 0
    """The term that a promotion was requested for and that may still complete; 0: none."""
    promoted: int = 0
    """The term that this data directory was seen to be the primary of."""
    stage: Stage = Stage.NONE
    rewound: int = 0
    """The term whose primary it was rewound from, while REWOUND."""
    handing: int = 0
    """The seq of the register from which it tried to hand its office over; 0: never."""
    remade: int = 0
    """How often the data directory was made anew; part of the incarnation's id."""
    rewritten: int = 0
    """The seq and round under which it last tried to write a lost register again; 0: never."""
    beats: int = 0
    """Above every beat that this member has sent."""


class PgState(Enum):
    """What PostgreSQL is doing here."""

    UNKNOWN = "unknown"
    ABSENT = "absent"
    STOPPED = "stopped"
    STARTING = "starting"
    STANDBY = "standby"
    PRIMARY = "primary"


@dataclass(frozen=True, slots=True)
class Walsender:
    """A row of pg_stat_replication on the primary."""

    application_name: str
    streaming: bool
    flush_lsn: int


@dataclass(frozen=True, slots=True)
class Postgres:
    """The latest observation of the local server."""

    state: PgState = PgState.UNKNOWN
    position: Position | None = None
    replay_lsn: int = 0
    streaming: bool = False
    upstream_timeline: int = 0
    replay_paused: bool = False
    walsenders: tuple[Walsender, ...] = ()
    names: str = ""
    """synchronous_standby_names as a session sees it."""
    disk_timeline: int = 0
    """Stopped: the newest timeline with a real history file or in the control file."""
    clean: bool = False
    was_primary: bool = False
    """Stopped: it ran as a primary last (and is not a copy of one)."""
    checkpoint_lsn: int = 0
    """Stopped: where a primary's shutdown checkpoint is, the last record of its log; else 0."""
    answered_at: float = 0.0
    system_id: str = ""
    newest_history: int = 0


@dataclass(frozen=True, slots=True)
class Vote:
    """Where a sealed member's log ends, for the election `round`."""

    round: int
    position: Position
    newest_history: int
    eligible: bool
    reason: str = ""
    system_id: str = ""


@dataclass(frozen=True, slots=True)
class Suspicion:
    """Why a member holds that the primary of `term` is gone."""

    term: int
    positive: bool
    why: str


@dataclass(frozen=True, slots=True)
class Record:
    """What a member tells the others, ten times a second and at every change."""

    incarnation: Incarnation
    beat: int
    state: PgState
    position: Position | None = None
    replay_lsn: int = 0
    streaming: bool = False
    upstream_timeline: int = 0
    register: Register | None = None
    vote: Vote | None = None
    suspicion: Suspicion | None = None
    grant: int = 0
    """The term whose primary it has not sealed against; 0: none."""
    heard: Mapping[str, int] = field(default_factory=dict[str, int])
    """The last beat that it has of each peer."""
    down: bool = False
    """A primary that says that its PostgreSQL is gone and asks to be succeeded."""
    serving: bool = False
    leaving: bool = False
    dcs_ok: bool = True
    """Whether the DCS answers it: a new primary needs it before it can open."""
    dcs_lost: bool = False
    """The DCS shows it nothing, or less than its copy of the register."""
    eligible: bool = True
    sync: bool = True
    balanced: bool = True
    """Whether read-only clients may be routed here."""
    answered_ago: float = 0.0
    host: str = ""
    port: int = 0
    api_url: str = ""
    why: str = ""
    outage: float = 0.0
    agent_pid: int = 0


@dataclass(frozen=True, slots=True)
class Settings:
    """What the operator chose. Durations in seconds."""

    name: str
    suspect_after: float = 1.0
    lease: float = 5.0
    standby_grace: float = 60.0
    nodes_wanted_k: int = 1
    minimum_k: int = 0
    synchronous: bool = True
    heartbeat: float = 0.1
    startup_grace: float = 5.0
    reclaim_after: float = 1.0
    primary_start_timeout: float = 300.0
    slot_ttl: float = 1800.0
    paused: bool = False
    nofailover: bool = False
    nosync: bool = False
    noloadbalance: bool = False
    use_pg_rewind: bool = True
    host: str = ""
    port: int = 0
    api_url: str = ""
    agent_pid: int = 0
