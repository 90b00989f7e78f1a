"""One member as the REST API sees it: the core's state, read at the moment of the question."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pgregent.core.effects import Clone, Initdb, Start, Stop
from pgregent.core.lease import authority_until
from pgregent.core.publish import serving
from pgregent.core.types import PgState, Record
from pgregent.core.view import State

LOOP_STALE_S = 3.0
"""An agent that has handled no event for this long knows nothing (one comes every 50 ms)."""
SILENT_S = 2.0
"""A peer that was not heard for this long is shown as such."""


@dataclass(slots=True)
class Node:
    """`clock` is the one that `state.now` is read from, `server_version` PostgreSQL's as a number
    (150004). `synchronous_mode` is Patroni's off, on or
    quorum, `maximum_lag` its maximum_lag_on_failover in bytes, `tags` the member's own,
    `pending_restart` PostgreSQL's parameters that wait for its next start: the value in force and
    the one that it will have. These change while the agent runs."""

    state: State
    scope: str
    clock: Callable[[], float]
    server_version: Callable[[], int | None] = lambda: None
    synchronous_mode: str = "off"
    maximum_lag: int = 1048576
    tags: Mapping[str, object] = field(default_factory=dict[str, object])
    pending_restart: Mapping[str, tuple[str, str]] = field(
        default_factory=dict[str, tuple[str, str]]
    )
    pending_since: float | None = None
    """The start of the server that this was told of."""

    @property
    def waits_for_restart(self) -> Mapping[str, tuple[str, str]]:
        """`pending_restart`, unless the server was started since: then it has all of it."""
        is_old = self.pending_since not in (None, self.state.server_started_at)
        return {} if is_old else self.pending_restart

    @property
    def alive(self) -> bool:
        """Whether the agent's loop runs."""
        return self.clock() - self.state.now <= LOOP_STALE_S

    @property
    def authority_left(self) -> float:
        """For how many seconds more this primary may serve; inf: no end, 0: it may not."""
        register = self.state.register
        if register is None or not register.rules or not self.state.is_primary:
            return 0.0
        until = authority_until(self.state)
        return float("inf") if until is None else max(0.0, until - self.clock())

    @property
    def serving(self) -> bool:
        """Whether clients may be routed here for writes at this moment.

        The core answers as of its last event; a process that just woke has not had one.
        """
        return self.alive and serving(self.state) and self.authority_left > 0

    @property
    def pg_state(self) -> str:
        """PostgreSQL's state in Patroni's words."""
        if not self.alive:
            return "unknown"
        match self.state.pg:
            case Initdb():
                return "initializing new cluster"
            case Clone():
                return "creating replica"
            case Start():
                return "starting"
            case Stop():
                return "stopping"
            case _:
                return self._observed()

    def _observed(self) -> str:
        postgres = self.state.postgres
        if postgres.state is not PgState.STOPPED:
            return state_word(postgres.state)
        if self.state.start_failures:
            return "start failed"
        return "stopped" if postgres.clean else "crashed"

    @property
    def role(self) -> str:
        """The role in Patroni's words."""
        match self.state.postgres.state:
            case PgState.PRIMARY:
                return "primary" if self.state.is_primary else "demoted"
            case PgState.STANDBY:
                return "replica"
            case PgState.ABSENT:
                return "uninitialized"
            case _:
                return "primary" if self.state.is_primary else "replica"

    @property
    def replica(self) -> bool:
        """Whether a standby of this cluster runs here, on the cluster's own history."""
        state, register = self.state, self.state.register
        ours = register.system_id if register is not None else ""
        strange = bool(ours and state.postgres.system_id) and state.postgres.system_id != ours
        running = self.pg_state == "running" and state.postgres.state is PgState.STANDBY
        return running and not strange and not state.needs_rewind

    @property
    def synchronous(self) -> bool:
        """Whether commits wait for this standby (among others)."""
        register = self.state.register
        return (
            self.role == "replica"
            and register is not None
            and bool(register.rules)
            and self.state.me in register.rule.members
        )

    @property
    def replication_state(self) -> str | None:
        """ "streaming", or None where it is not known to stream."""
        postgres = self.state.postgres
        return "streaming" if postgres.state is PgState.STANDBY and postgres.streaming else None

    @property
    def unlocked(self) -> bool:
        """Whether nobody is in office: an election is under way, or there was none yet."""
        register = self.state.register
        return register is None or register.term == 0 or register.electing

    @property
    def without_dcs(self) -> bool:
        """Whether this primary serves though the DCS does not answer."""
        return self.serving and not self.state.dcs_ok

    @property
    def dcs_last_seen(self) -> int:
        """When the DCS last showed the newest register, in seconds since the epoch; 0: never."""
        state = self.state
        never = state.read_at == float("-inf")
        return 0 if never else int(state.epoch - (state.now - state.read_at))

    @property
    def tags_set(self) -> dict[str, object]:
        """The member's tags without the flags that are off, as Patroni shows them."""
        return {key: value for key, value in self.tags.items() if value is not False}

    @property
    def primary_lsn(self) -> int | None:
        """The last that is known of the primary's log (bytes)."""
        state, register = self.state, self.state.register
        if register is None:
            return None
        if state.is_primary:
            position = state.postgres.position
        else:
            peer = state.peers.get(register.primary.name)
            record = peer.record if peer is not None else None
            known = record is not None and record.incarnation == register.primary
            position = record.position if known and record is not None else None
        return position.lsn if position is not None else None

    def lag(self, *, received: bool = False) -> int | None:
        """Bytes between the primary's log and what this standby has replayed (or only received);
        None if either is not known."""
        postgres, end = self.state.postgres, self.primary_lsn
        if end is None or postgres.position is None:
            return None
        return max(0, end - (postgres.position.lsn if received else postgres.replay_lsn))


def state_word(state: PgState) -> str:
    """PostgreSQL's state in Patroni's words."""
    match state:
        case PgState.PRIMARY | PgState.STANDBY:
            return "running"
        case PgState.ABSENT:
            return "stopped"
        case _:
            return state.value


def is_silent(state: State, record: Record) -> bool:
    """Whether the record is a peer's that is not heard any more."""
    name = record.incarnation.name
    if name == state.me.name:
        return False
    peer = state.peers[name]
    return peer.closed or state.now - peer.heard_at > SILENT_S


def lsn_text(lsn: int | None) -> str | None:
    """An LSN as PostgreSQL writes it."""
    return None if lsn is None else f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"
