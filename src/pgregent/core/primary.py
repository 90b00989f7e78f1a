"""What the member does that the register names as primary."""

from dataclasses import replace

from pgregent.core.durability import (
    appended,
    desired_rule,
    dropped,
    satisfies_all,
    streaming_members,
    synchronous_standby_names,
)
from pgregent.core.effects import Admit, ApplyRule, Checkpoint, Promote, Slots, Start, Stop
from pgregent.core.election import cancel, elect
from pgregent.core.lease import authority_until, has_authority
from pgregent.core.plan import commit_barrier, do, probe, write
from pgregent.core.standby import seal_and_vote, try_appoint
from pgregent.core.types import PgState, Register, Stage
from pgregent.core.view import Leaving, Restarting, State

SUCCESSION_WAIT = 3.0
"""Seconds that a dead primary leaves to its successors before it starts again in place."""
UNANSWERED_LIMIT = 5.0
"""Seconds without an answer to a fresh connection after which a primary gives up its server."""
RECLAIM_LIMIT = 5.0
"""Seconds of an election in which its primary tries to take the office back; then it votes."""
SLOTS_EVERY = 5.0


def plan_primary(state: State) -> None:
    """Take, hold or give up the office."""
    register = state.register
    assert register is not None
    if register.electing:
        _in_election(state, register)
        return
    state.vote = None
    postgres = state.postgres
    match postgres.state:
        case PgState.PRIMARY if postgres.position and postgres.position.timeline != register.term:
            state.why = f"PostgreSQL is on timeline {postgres.position.timeline}, not the term's"
            state.announce("fenced", state.why)
            do(state, Stop(immediate=True))
        case PgState.PRIMARY:
            _in_office(state, register)
        case PgState.STANDBY:
            _take_office(state, register)
        case PgState.STOPPED:
            _restart(state, register)
        case PgState.ABSENT:
            state.why = "its data directory is gone: another member has to succeed"
            _ask_succession(state, register)
        case PgState.STARTING:
            state.why = "waiting for its PostgreSQL to finish recovery"
        case PgState.UNKNOWN:
            _unanswered(state)


def _unanswered(state: State) -> None:
    silent = state.now - max(state.postgres.answered_at, state.started_at, state.exited_at)
    state.why = "waiting for its PostgreSQL to answer"
    limit = UNANSWERED_LIMIT if state.opened else state.settings.primary_start_timeout
    if silent > limit and state.pg is None and not state.settings.paused:
        state.why = f"its PostgreSQL has not answered a fresh connection for {silent:.0f} s"
        do(state, Stop(immediate=True), preempt=True)


def _in_office(state: State, register: Register) -> None:
    state.down = False
    rule = register.rule
    if state.durable.promoted != register.term or state.durable.stage is not Stage.NONE:
        # Promoted by hand just when it was appointed for that: this log is the term's.
        state.durable = replace(
            state.durable, promoted=register.term, promoting=0, stage=Stage.NONE
        )
    if state.applied != rule:
        state.why = f"applying the rule {rule}"
        _apply(state, register)
    elif state.barriered != rule and rule.strict:
        # A commit would wait; and the writer has everything that it ever acknowledged.
        state.barriered = rule
    elif state.barriered != rule:
        state.why = f"waiting for a commit to be acknowledged under the rule {rule}"
        commit_barrier(state, rule, register.term)
    elif len(register.rules) > 1 and rule.k and state.deadline_kept is None:
        state.why = "waiting for its guard to confirm until when it may serve"
    elif len(register.rules) > 1:
        state.why = f"a barrier was acknowledged under {rule}: dropping the older rules"
        write(state, _with_start(state, dropped(register, state.why)))
    elif state.closed:
        state.why = "what it holds was flushed by the rule: letting clients in"
        do(state, Admit())
    elif not state.opened:
        _open(state, register)
    else:
        state.why = f"primary of term {register.term}, acknowledging under {rule}"
        if not has_authority(state):
            state.why = "its authority has run out: neither the DCS nor the standbys answer"
    for member in rule.members:
        if state.peer(member.name).closed:
            probe(state, member.name)
    _change_rule(state, register)
    _keep_slots(state)


def _apply(state: State, register: Register) -> None:
    rule = register.rule
    empty = not synchronous_standby_names(rule)
    checkpoint = state.names_were_empty and not empty
    # An older rule of k = 0 may have been dropped while a walsender slept through it all.
    effect = ApplyRule(rule, checkpoint, all_walsenders=rule.k > 1)
    do(state, effect, preempt=isinstance(state.pg, ApplyRule | Checkpoint))


def _with_start(state: State, register: Register) -> Register:
    """The register with the point recorded where this term's timeline really forked."""
    told = state.promotion
    if told is None:
        return register
    terms = tuple(
        replace(t, start=told.start, parent=told.parent) if t.term == told.timeline else t
        for t in register.terms
    )
    return replace(register, terms=terms)


def _open(state: State, register: Register) -> None:
    state.opened, state.start_failures = True, 0
    outage = max(0.0, state.now - state.served_at) if state.served_at > 0 else 0.0
    entry = next((t for t in register.terms if t.term == register.term), None)
    why = entry.why if entry is not None and entry.why else "it holds the office"
    if state.restarted:
        why = "started again in place, and nobody has succeeded it"
    state.why = f"primary of term {register.term}, acknowledging under {register.rule}"
    if state.began:
        state.announce("primary", why, outage=outage)
    else:
        state.announce("resume", f"took over the running primary of term {register.term}")


def _change_rule(state: State, register: Register) -> None:
    if state.leaving is not Leaving.NO:
        return
    wanted, why = desired_rule(state)
    if wanted == register.rule:
        return
    streaming = streaming_members(state)
    met = sum(m in streaming for m in register.rule.members) >= register.rule.k
    if len(register.rules) > 1 and met:
        return
    if state.cas is None:
        write(state, appended(register, wanted, f"{why}: the rule becomes {wanted}"))
        if state.cas is not None:
            state.announce("rule", f"{why}: the rule becomes {wanted}")


def _keep_slots(state: State) -> None:
    names = tuple(
        sorted(
            name
            for name, peer in state.peers.items()
            if state.now - max(peer.heard_at, state.started_at) < state.settings.slot_ttl
        )
    )
    if names != state.slots or state.now - state.slots_at > SLOTS_EVERY:
        state.slots, state.slots_at = names, state.now
        state.out.append(Slots(names))


def _take_office(state: State, register: Register) -> None:
    postgres, durable = state.postgres, state.durable
    if postgres.position is None:
        state.why = "looking where its log ends before it is promoted"
        return
    if max(postgres.position.timeline, postgres.newest_history) >= register.term:
        if durable.promoted == register.term:
            do(state, Stop(immediate=False))
            state.why = "restarting as the primary that it was"
            return
        state.why = f"a promotion to term {register.term} was cut short: that takes a new term"
        _ask_succession(state, register)
        return
    if postgres.replay_paused:
        state.why = "its replay is paused, so it cannot be promoted: another member has to be"
        _ask_succession(state, register)
        return
    if not has_authority(state):
        state.why = "appointed, and confirming that in the DCS before it is promoted"
        return
    if durable.promoting != register.term:
        state.durable = replace(durable, promoting=register.term)
    state.why = f"appointed primary of term {register.term}: promoting"
    do(state, Promote(register.term), preempt=isinstance(state.pg, Checkpoint))


def _restart(state: State, register: Register) -> None:
    if state.durable.stage is not Stage.NONE:
        state.why = "its data directory is unusable: another member has to succeed"
        _ask_succession(state, register)
        return
    at_once = state.restarting is Restarting.STARTING or state.settings.paused
    waited = state.now - state.exited_at
    if not at_once and waited < SUCCESSION_WAIT and _others_could_succeed(state, register):
        state.why = "its PostgreSQL died: waiting for a standby to succeed"
        state.down = True
        return
    state.down = False
    if state.postgres.disk_timeline == 0 or state.pg is not None:
        state.why = "looking at its data directory (pg_controldata)"
        return
    if state.durable.promoted != register.term:
        state.why = "starting as a standby, to be promoted"
        do(state, Start(register.term, None, None))
        return
    if state.written_seq != register.seq:
        state.why = "confirming in the DCS that it is still the primary before it starts"
        write(state, replace(register, seq=register.seq + 1))
        return
    state.why = "starting in place: nobody has succeeded it"
    state.restarted = True
    do(state, Start(register.term, register.rule, None, authority_until(state)))


def _others_could_succeed(state: State, register: Register) -> bool:
    able = [
        record
        for name in state.peers
        if (record := state.heard_lately(name)) is not None
        and record.state is PgState.STANDBY
        and not record.leaving
    ]
    holders = frozenset(r.incarnation for r in able)
    return any(r.eligible for r in able) and satisfies_all(register, holders)


def _ask_succession(state: State, register: Register) -> None:
    """Say that this member cannot hold the office; where it alone can elect, elect."""
    state.down = True
    if satisfies_all(register, frozenset({state.me})) and state.postgres.state is PgState.STANDBY:
        write(state, elect(register, state.why))


def _may_reclaim(state: State, register: Register) -> bool:
    """Once per acknowledged barrier, so that one that cannot get acknowledgements gives way."""
    if state.leaving is not Leaving.NO or state.down:
        return False
    if state.now - state.register_seen_at > RECLAIM_LIMIT:
        return False
    return state.reclaim_armed or state.reclaim_round == register.round


def _in_election(state: State, register: Register) -> None:
    """An election against this primary: take the office back if it is alive; else vote."""
    postgres = state.postgres
    waited = state.now - state.register_seen_at
    if postgres.state is PgState.PRIMARY and _may_reclaim(state, register):
        state.why = "an election has begun though it is alive: taking the office back"
        if state.applied is None:
            _apply(state, register)
        elif postgres.answered_at > state.register_seen_at:
            # Another barrier re-arms it, and shows that acknowledgements still come.
            state.reclaim_armed, state.reclaim_round = False, register.round
            state.barriered = state.barrier = None
            write(state, cancel(register, f"{state.me.name} is alive and stays primary"))
        return
    gone = postgres.state in (PgState.PRIMARY, PgState.STOPPED)
    if gone and waited < state.settings.reclaim_after:
        state.why = "leaving the election to the others"
        return
    seal_and_vote(state, register)
    try_appoint(state, register)
