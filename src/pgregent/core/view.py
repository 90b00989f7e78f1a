"""The state of one agent's core: everything that decisions are made from lives here."""

from dataclasses import dataclass, field, replace
from enum import Enum

from pgregent.core.effects import Announce, Barrier, Effect, PostgresEffect, WriteRegister
from pgregent.core.events import Promoted, Switchover
from pgregent.core.types import (
    Durable,
    Incarnation,
    PgState,
    Postgres,
    Record,
    Register,
    Rule,
    Settings,
    Stage,
    Suspicion,
    Vote,
)

BEATS_PER_LIFE = 1 << 32


class Leaving(Enum):
    """How far this node is with leaving."""

    NO = "no"
    NODE = "node"
    CLUSTER = "cluster"


class Restarting(Enum):
    """How far this node is with restarting its server, where the operator asked for that."""

    NO = "no"
    STOPPING = "stopping"
    STARTING = "starting"


@dataclass(slots=True)
class Peer:
    """What is known of another member."""

    record: Record | None = None
    heard_at: float = float("-inf")
    closed: bool = False
    """Its kernel closed the channel and it was not heard since."""
    closed_at: float = float("-inf")
    probed_ok_at: float = float("-inf")
    probed_bad_at: float = float("-inf")
    not_primary_since: float = float("inf")
    """Since when its records have said that its PostgreSQL runs, but not as a primary, or not."""
    probing: bool = False
    probe_asked_at: float = float("-inf")
    granted_at: float = float("-inf")
    granted_term: int = 0
    beat_seen: int = -1
    beat_changed_at: float = float("-inf")
    """When its beat in the DCS was last seen to change."""

    @property
    def answers_nothing(self) -> bool:
        """Positive evidence: its kernel closed the channel, and a fresh connection to its
        PostgreSQL that was begun since failed."""
        return self.closed and self.probed_bad_at >= max(self.closed_at, self.probed_ok_at)


@dataclass(slots=True)
class State:
    """One agent. `now` is the time of the event being handled (CLOCK_BOOTTIME in production)."""

    settings: Settings
    durable: Durable
    started_at: float
    now: float = 0.0
    awake_since: float = float("-inf")
    """When this member last came back from being frozen: silence before that says nothing."""
    epoch: float = 0.0
    postgres: Postgres = field(default_factory=Postgres)
    peers: dict[str, Peer] = field(default_factory=dict[str, Peer])

    # the DCS as last seen
    read_at: float = float("-inf")
    """When the last linearizable read that showed the newest register was asked for."""
    dcs_ok: bool = False
    dcs_why: str = "not read yet"
    dcs_foreign: bool = False
    """The DCS shows another cluster's register, which may have the same seq."""
    register_absent: bool = False
    """A read showed that there is no register, and this member never saw one."""
    register_lost: bool = False
    """The DCS shows nothing, or less than the copy on this member's disk."""
    lost_seq: int = 0
    """The seq that the DCS shows then; 0: no register."""
    lost_beat: int = 0
    """The first beat that was sent after the loss was seen: who has heard it spoke since."""
    lost_why: str = ""
    """Why this member does not write the register again then."""
    register_seen_at: float = float("-inf")
    """When the register's term, round or election was last seen to change."""
    seq_seen_at: float = float("-inf")
    written_seq: int = -1
    """The newest seq that a CAS of this agent produced since its PostgreSQL last stopped."""

    # work in hand: at most one of each kind
    cas: WriteRegister | None = None
    pg: PostgresEffect | None = None
    barrier: Barrier | None = None
    effects_done: int = 0
    pg_failed_at: float = float("-inf")
    cas_failed_at: float = float("-inf")

    # this server's life
    upstream: Incarnation | None = None
    upstream_term: int = 0
    exited_at: float = float("-inf")
    """When the server was last seen to die under this agent."""
    down: bool = False
    """This primary asks to be succeeded."""
    began: bool = False
    """This agent itself started or promoted the server that runs."""
    applied: Rule | None = None
    names_differ: int = 0
    """How many looks in a row showed other names than those of the rule applied."""
    names_were_empty: bool = True
    barriered: Rule | None = None
    barriers: int = 0
    opened: bool = False
    closed: bool = True
    """Clients may not have been let into this server: it was started as a primary, or it is not
    known how it was started."""
    restarted: bool = False
    """This server was started again in the term that it holds."""
    reclaim_armed: bool = True
    """A barrier was acknowledged since the office was last taken back."""
    reclaim_round: int = -1
    holding: bool = False
    checkpointed: bool = False
    needs_rewind: int = 0
    """The term that the log was seen to have diverged from; 0: none."""
    start_failures: int = 0
    """Starts that failed, or whose server died soon, since it last streamed or served."""
    server_started_at: float = float("-inf")
    clone_unproven: bool = False
    """Cloned, and not seen streaming since: cloning it again would not help."""
    promotion: Promoted | None = None
    """How this server's promotion ended, as it told; its timeline is the term."""
    stuck_since: float = float("inf")
    stuck_lsn: int = -1
    slots_at: float = float("-inf")
    slots: tuple[str, ...] = ()

    vote: Vote | None = None
    voted_at: float = float("-inf")
    suspicion: Suspicion | None = None
    suspected_at: float = float("-inf")
    served_at: float = float("-inf")
    """When a primary was last known to accept writes."""
    missing_since: dict[Incarnation, float] = field(default_factory=dict[Incarnation, float])
    behind: dict[str, tuple[int, float]] = field(default_factory=dict[str, tuple[int, float]])
    """Of each walsender that has WAL to confirm: the LSN it confirmed last, and since when."""
    leaving_since: float = float("inf")

    leaving: Leaving = Leaving.NO
    switchover: Switchover | None = None
    """What the operator asked of this primary, while it is under way."""
    switchover_since: float = float("-inf")
    restarting: Restarting = Restarting.NO
    restart_stops_at: float = float("inf")
    """When its shutdown began."""
    reinitializing: bool = False
    """The operator wants its data directory made anew, and the copy has not begun."""
    reinitialize_since: float = float("-inf")
    may_start: bool = False
    """Its server does not run because this agent stopped it, or the operator wants it started: it
    is, also while the cluster is paused."""
    exiting: bool = False
    deadline: float | None = None
    deadline_told_at: float = float("-inf")
    deadline_kept: float | None = None
    """The last deadline for the server that runs that its guard has confirmed."""
    beat: int = 0
    sent_at: dict[int, float] = field(default_factory=dict[int, float])
    published: Record | None = None
    published_at: float = float("-inf")
    put_at: float = float("-inf")
    put_vote: Vote | None = None
    why: str = "starting"
    out: list[Effect] = field(default_factory=list[Effect])

    @classmethod
    def of_new_life(cls, settings: Settings, durable: Durable, now: float, epoch: float) -> "State":
        """An agent that starts. Its beats come after those of all its earlier lives, also where the
        wall clock was set back: what a peer heard of those is never taken for this one."""
        beat = max(int(epoch * 1000), durable.beats)
        durable = replace(durable, beats=beat + BEATS_PER_LIFE)
        return cls(settings, durable, started_at=now, now=now, beat=beat)

    @property
    def me(self) -> Incarnation:
        """This member as the protocol counts it now."""
        return self.durable.incarnation

    @property
    def register(self) -> Register | None:
        """The newest register seen, which is on disk before anything follows from it."""
        return self.durable.register

    @property
    def is_primary(self) -> bool:
        """Whether the newest register names this very incarnation."""
        register = self.durable.register
        return register is not None and register.primary == self.durable.incarnation

    @property
    def withdraws(self) -> bool:
        """Whether commits and elections are to do without this member."""
        return self.leaving is not Leaving.NO or self.reinitializing

    @property
    def hands_off(self) -> bool:
        """Whether the cluster is paused, and its server stays stopped: somebody shut it down in
        good order. One that crashed, or that its guard ended, is started again."""
        put_down = self.postgres.clean or self.postgres.state is PgState.ABSENT
        return self.settings.paused and not self.may_start and put_down

    @property
    def is_strangers(self) -> bool:
        """Whether its data directory is another cluster's."""
        register, own = self.register, self.postgres.system_id
        if register is None or not register.system_id or not own:
            return False
        return own != register.system_id and self.durable.stage is Stage.NONE

    @property
    def running(self) -> bool:
        """Whether PostgreSQL answers here."""
        return self.postgres.state in (PgState.STANDBY, PgState.PRIMARY)

    def peer(self, name: str) -> Peer:
        """The peer's entry, made when first named."""
        return self.peers.setdefault(name, Peer())

    def heard_lately(self, name: str, within: float | None = None) -> Record | None:
        """The peer's record if it was heard within `within` seconds (default suspect_after)."""
        peer = self.peers.get(name)
        limit = self.settings.suspect_after if within is None else within
        if peer is None or peer.record is None or peer.closed or self.now - peer.heard_at > limit:
            return None
        return peer.record

    def announce(self, event: str, why: str, *, outage: float = 0.0, how: str = "") -> None:
        """Tell people; every decision does, in one sentence."""
        term = self.register.term if self.register else 0
        self.out.append(Announce(event, why, term, self.me.name, outage, how))
