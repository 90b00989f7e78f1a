"""What every other member does: follow the primary, watch it, and elect another."""

from dataclasses import replace

from pgregent.core.effects import Checkpoint, Clone, Follow, Rewind, Seal, Start, Stop
from pgregent.core.election import (
    appoint,
    choose,
    elect,
    pre_vote,
    rank,
    renew_eligibility,
    suspicion,
    votes,
    wants_probe,
)
from pgregent.core.history import Rejoin, fork_is_final, rejoin
from pgregent.core.plan import do, probe, remake, write
from pgregent.core.types import PgState, Register, Stage
from pgregent.core.view import Leaving, State

TURN = 0.1
"""Seconds between the turns of those who could begin an election or make an appointment."""
OPENING_PATIENCE = 2.0
"""Seconds that a stopped member waits for a new primary to open: recovery here would cost time
there, where they share a machine or its disk."""
VOTE_PATIENCE = 5.0
"""Seconds without an answer after which a member that should vote stops its server."""
START_ATTEMPTS = 5
"""Failed starts after which a data directory is set aside and cloned anew."""
STUCK_LIMIT = 60.0
"""Seconds without streaming and without progress after which a standby is cloned anew."""


def plan_standby(state: State) -> None:
    """Follow the primary of the newest register, or take part in its election."""
    register = state.register
    assert register is not None
    state.down = False
    if _source_was_superseded(state, register):
        state.why = "the primary that it was rewound from is superseded: it has to be cloned"
        state.durable = replace(state.durable, stage=Stage.CLONE)
        do(state, Stop(immediate=True), preempt=True)
        return
    _disown_if_promoted_by_hand(state, register)
    if register.electing:
        seal_and_vote(state, register)
        try_appoint(state, register)
        return
    state.vote = None
    _watch(state, register)
    match state.postgres.state:
        case PgState.PRIMARY:
            state.why = f"superseded by {register.primary.name} in term {register.term}: stopping"
            do(state, Stop(immediate=True), preempt=True)
        case PgState.STANDBY if state.durable.promoting:
            state.why = "a promotion that was overtaken may still complete: stopping"
            do(state, Stop(immediate=True), preempt=True)
        case PgState.STANDBY:
            _follow(state, register)
        case PgState.STOPPED:
            _start(state, register)
        case PgState.ABSENT:
            _make_anew(state, register, Rejoin.CLONE, "it has no data")
        case PgState.STARTING if state.durable.stage is not Stage.REWOUND:
            state.why = "waiting for its PostgreSQL to finish recovery"
        case PgState.STARTING | PgState.UNKNOWN:
            _unanswered(state, state.settings.primary_start_timeout)


def _disown_if_promoted_by_hand(state: State, register: Register) -> None:
    """Its timeline may be the number of a term that somebody else is appointed for: it never votes
    with it, and is cloned."""
    postgres, durable = state.postgres, state.durable
    timeline = 0
    if postgres.state is PgState.PRIMARY and postgres.position is not None:
        timeline = postgres.position.timeline
    elif postgres.state is PgState.STOPPED and postgres.was_primary:
        timeline = postgres.disk_timeline
    own = {durable.promoting, durable.promoted}
    own |= {t.term for t in register.terms if t.writer == state.me}
    if timeline and timeline not in own and durable.stage is Stage.NONE:
        state.announce("refused", f"it was promoted by hand to timeline {timeline}")
        state.durable, state.vote = replace(durable, stage=Stage.CLONE), None


def _unanswered(state: State, limit: float) -> None:
    since = max(state.postgres.answered_at, state.started_at, state.exited_at)
    state.why = "waiting for its PostgreSQL to answer"
    if state.now - since > limit and state.pg is None and not state.settings.paused:
        state.why = "its PostgreSQL has not answered for too long: stopping it"
        state.start_failures += 1
        do(state, Stop(immediate=True))


def _source_was_superseded(state: State, register: Register) -> bool:
    """A rewound server that starts has to replay WAL that only its source has."""
    if state.durable.stage is not Stage.REWOUND:
        return False
    if state.postgres.state in (PgState.UNKNOWN, PgState.STANDBY):
        return False
    return register.term != state.durable.rewound


def _watch(state: State, register: Register) -> None:
    """Look for evidence that the primary is gone, and begin an election with those who agree."""
    if state.leaving is not Leaving.NO or state.settings.paused:
        state.suspicion = None
        primary = state.peer(register.primary.name)
        # It has as long to start after a pause as after anything else.
        primary.not_primary_since = max(primary.not_primary_since, state.now)
        return
    if wants_probe(state):
        probe(state, register.primary.name)
    before = state.suspicion
    found = suspicion(state)
    if found is None:
        state.suspicion = None
        return
    if before is None or before.term != found.term:
        state.suspected_at = state.now
        state.announce("suspect", found.why)
    if before is None or (before.term, before.positive) != (found.term, found.positive):
        state.suspicion = found
    holders = pre_vote(state)
    if holders is None:
        return
    turn = rank(state, holders - {register.primary})
    if state.now - state.suspected_at >= TURN * turn:
        write(state, elect(register, found.why))


def primary_serves(state: State, register: Register) -> bool:
    """Whether the register's primary says, and said lately, that it serves in its term."""
    record = state.heard_lately(register.primary.name)
    if record is None or record.incarnation != register.primary or not record.serving:
        return False
    return record.register is not None and record.register.term == register.term


def _follow(state: State, register: Register) -> None:
    position = state.postgres.position
    if position is None:
        state.why = "looking where its log ends"
        return
    needed = rejoin(register, position)
    if needed is not Rejoin.FOLLOW:
        state.why = f"its log went past where term {register.term} began: waiting to rewind"
        if state.settings.paused:
            state.why += ", once the cluster is no longer paused"
        elif fork_is_final(register) and primary_serves(state, register):
            state.needs_rewind = register.term
            do(state, Stop(immediate=False))
        return
    name = register.primary.name
    if state.upstream != register.primary or state.upstream_term != register.term:
        state.why = f"turning to {name}, primary of term {register.term}"
        do(
            state,
            Follow(register.primary, register.term),
            preempt=isinstance(state.pg, Checkpoint),
        )
        return
    state.why = f"streaming from {name} in term {register.term}"
    if not state.postgres.streaming:
        state.why = f"waiting to stream from {name}"
    _clone_if_stuck(state, register)


def _clone_if_stuck(state: State, register: Register) -> None:
    """A standby whose WAL is gone from the primary asks for it for ever."""
    postgres = state.postgres
    lsn = max(postgres.replay_lsn, postgres.position.lsn if postgres.position else 0)
    moves = state.postgres.streaming or lsn != state.stuck_lsn
    if moves or state.settings.paused or not primary_serves(state, register):
        state.stuck_lsn, state.stuck_since = lsn, state.now
    elif state.now - state.stuck_since > STUCK_LIMIT and can_be_spared(state, register):
        state.durable = replace(state.durable, stage=Stage.CLONE)
        do(state, Stop(immediate=False))


def can_be_spared(state: State, register: Register) -> bool:
    """Whether an election can do without what is on this member's disk; while the DCS is away, from
    here or from the primary, no rule can be changed, and those that name it would need it."""
    named = any(state.me == r.writer or state.me in r.members for r in register.rules)
    record = state.heard_lately(register.primary.name)
    changes = state.dcs_ok and record is not None and record.dcs_ok
    return fork_is_final(register) and (changes or not named)


def _start(state: State, register: Register) -> None:
    unknown = state.postgres.disk_timeline == 0 and not state.reinitializing
    if state.pg is not None or unknown:
        state.why = state.why if state.pg else "looking at its data directory (pg_controldata)"
        return
    if register.primary.name == state.me.name:
        state.why = (
            "the register names an earlier life of this member, whose state file is gone: bring "
            "that file back beside the data directory, or another member of the rule"
        )
        return
    if state.now - state.register_seen_at < OPENING_PATIENCE and not primary_serves(
        state, register
    ):
        state.why = f"leaving the machine to {register.primary.name} until it serves"
        return
    if state.peer(register.primary.name).record is None:
        state.why = f"waiting to learn the address of {register.primary.name}"
        return
    if state.reinitializing:
        _make_anew(state, register, Rejoin.CLONE, "the operator asks for it")
    elif state.durable.stage is Stage.REWOUND and state.start_failures < START_ATTEMPTS:
        state.why = f"rewound: starting as a standby of {register.primary.name}"
        do(state, Start(register.term, None, register.primary))
    elif state.durable.stage is not Stage.NONE:
        _make_anew(state, register, Rejoin.CLONE, "its data directory cannot be used")
    elif state.needs_rewind == register.term:
        how = Rejoin.REWIND if state.settings.use_pg_rewind else Rejoin.CLONE
        _make_anew(state, register, how, "its log has diverged")
    elif state.start_failures >= START_ATTEMPTS and not state.clone_unproven:
        _make_anew(state, register, Rejoin.CLONE, "its data directory does not start")
    elif state.postgres.disk_timeline == register.term:
        state.why = f"starting as a standby of {register.primary.name}"
        do(state, Start(register.term, None, register.primary))
    else:
        state.why = "starting without an upstream, to see where its log ends"
        do(state, Start(register.term, None, None))


def _make_anew(state: State, register: Register, how: Rejoin, because: str) -> None:
    """Rewind or clone, once nothing that an older rule counts on can be lost by it."""
    name = register.primary.name
    state.why = f"{because}: waiting for {name} to serve in term {register.term} to {how.value}"
    if state.leaving is not Leaving.NO or state.pg is not None:
        return
    if not can_be_spared(state, register) or not primary_serves(state, register):
        return
    source, term = register.primary, register.term
    before = state.durable
    stage = Stage.REWIND if how is Rejoin.REWIND else Stage.CLONE
    state.durable = remake(before, stage)
    effect = Rewind(source, term) if how is Rejoin.REWIND else Clone(source, term)
    if not do(state, effect):
        state.durable = before
        return
    state.reinitializing = False
    state.why = f"{because}: {how.value} from {name}"
    state.announce("rejoin", state.why, how=how.value)


def seal_and_vote(state: State, register: Register) -> None:
    """Take no more WAL of earlier terms and say where one's log ends."""
    if state.vote is not None and state.vote.round == register.round:
        renew_eligibility(state)
        return
    match state.postgres.state:
        case PgState.PRIMARY:
            state.why = "an election has begun: stopping, to vote from what is on disk"
            do(state, Stop(immediate=True), preempt=True)
        case PgState.STANDBY if state.durable.promoting:
            state.why = "an election has begun: stopping, since a promotion cannot be recalled"
            do(state, Stop(immediate=True), preempt=True)
        case PgState.STANDBY:
            state.why = f"sealing for the election of round {register.round}"
            do(state, Seal(register.round), preempt=not isinstance(state.pg, Stop | Start))
        case PgState.STOPPED if state.durable.stage is Stage.NONE:
            state.why = "starting sealed, to vote"
            if state.postgres.disk_timeline:
                do(state, Start(register.term, None, None))
        case PgState.UNKNOWN:
            _unanswered(state, VOTE_PATIENCE)
        case PgState.STARTING:
            state.why = "waiting for its PostgreSQL to finish recovery, to vote"
        case _:
            state.why = "it has nothing to vote with"


def try_appoint(state: State, register: Register) -> None:
    """Make the appointment once the votes suffice: the winner at once, the others in turn."""
    cast = votes(state, register)
    winner = choose(register, cast)
    if winner is None:
        if state.vote is not None:
            have = ", ".join(sorted(m.name for m in cast))
            state.why = f"the votes of {have} do not suffice yet for round {register.round}"
        return
    turn = 0.0 if winner == state.me else TURN * (2 + rank(state, frozenset(cast)))
    if state.now - state.register_seen_at >= turn:
        why = f"{register.why}; {winner.name} has everything that was acknowledged"
        write(state, appoint(state, register, winner, cast, why))
