"""Leaving: a standby after the rule was changed, a primary after its office was handed over."""

from dataclasses import replace

from pgregent.core.durability import make_rule, with_rule
from pgregent.core.effects import Checkpoint, Clone, Exit, Initdb, Rewind, Stop
from pgregent.core.election import MAX_TERMS
from pgregent.core.plan import do, write
from pgregent.core.types import Incarnation, PgState, Record, Register, Term
from pgregent.core.view import Leaving, State

LEAVE_LIMIT = 5.0
"""Seconds that a standby waits for the primary to take it out of the rule."""
SHUTDOWN_RECORD_SIZE = 1024
"""An upper bound, in bytes, for the shutdown checkpoint's record and page headers."""
HANDOVER_LIMIT = 5.0
"""Seconds after its shutdown that a primary tries to hand over; then the others elect."""


def plan_leaving(state: State) -> None:
    """One step on the way out."""
    register = state.register
    idle = state.pg is None or isinstance(state.pg, Clone | Rewind | Initdb)
    if state.postgres.state in (PgState.STOPPED, PgState.ABSENT) and idle:
        if state.is_primary and register is not None and _hand_over(state, register):
            return
        state.why = "stopped: leaving"
        state.exiting = True
        state.out.append(Exit())
        return
    since = max(state.leaving_since, state.postgres.answered_at)
    if state.postgres.state is PgState.UNKNOWN and state.now - since > LEAVE_LIMIT:
        state.why = "leaving: its PostgreSQL does not answer, stopping it"
        do(state, Stop(immediate=True), preempt=True)
        return
    if register is None or state.leaving is Leaving.CLUSTER or not state.is_primary:
        if register is not None and _still_counted(state, register):
            state.why = "leaving: waiting for the primary to take it out of the rule"
            return
        state.why = "leaving: stopping PostgreSQL"
        do(state, Stop(immediate=False), preempt=True)
        return
    _stop_primary(state)


def _still_counted(state: State, register: Register) -> bool:
    record = state.heard_lately(register.primary.name)
    if state.leaving is Leaving.CLUSTER or record is None or record.leaving:
        return False
    counted = any(state.me in rule.members for rule in register.rules)
    return counted and state.now - state.leaving_since < LEAVE_LIMIT


def candidate(state: State) -> Record | None:
    """The standby to hand over to: in the rule, eligible, staying, and the furthest of these."""
    register = state.register
    if register is None or not register.rules:
        return None
    able: list[Record] = []
    for member in sorted(register.rule.members):
        record = state.heard_lately(member.name)
        if record is None or record.incarnation != member or record.leaving:
            continue
        if record.eligible and record.state is PgState.STANDBY:
            able.append(record)
    return max(able, key=_log_end, default=None)


def _log_end(record: Record) -> int:
    return record.position.lsn if record.position is not None else 0


def _stop_primary(state: State) -> None:
    if candidate(state) is None:
        state.why = "leaving: nobody can take over, stopping PostgreSQL"
        do(state, Stop(immediate=False), preempt=True)
    elif not state.checkpointed:
        state.why = "leaving: checkpoint first, so that the shutdown is short"
        do(state, Checkpoint())
    else:
        state.why = "leaving: holding the entry point and stopping PostgreSQL"
        state.holding = True
        do(state, Stop(immediate=False), preempt=True)


def _hand_over(state: State, register: Register) -> bool:
    """Whether a handover is under way: the candidate has to have the shutdown checkpoint."""
    postgres = state.postgres
    if state.leaving is Leaving.CLUSTER or register.electing:
        return False
    if state.durable.promoted != register.term:
        return False
    if state.now - max(state.exited_at, state.leaving_since) > HANDOVER_LIMIT:
        return False
    if postgres.disk_timeline == 0:
        return True
    heir = candidate(state)
    if not postgres.clean or heir is None:
        return False
    state.why = f"leaving: waiting for {heir.incarnation.name} to have the shutdown checkpoint"
    if heir.replay_lsn > postgres.checkpoint_lsn:
        if state.durable.handing != register.seq:
            # The CAS may land without this member ever hearing of it.
            state.durable = replace(state.durable, handing=register.seq)
        write(state, handed_over(state, register, heir.incarnation, postgres.checkpoint_lsn))
    return True


def handed_over(state: State, register: Register, heir: Incarnation, end: int) -> Register:
    """The register with `heir` in office. The old rules stay until its barrier."""
    newest = max([register.term, *(t.term for t in register.terms)])
    term = 1 + max(newest, state.postgres.newest_history)
    why = f"{state.me.name} leaves and hands over to {heir.name}"
    others = tuple(m for m in register.rule.members if m != heir and _stays(state, m))
    # The shutdown checkpoint is the last record; the heir's promotion will tell its exact end.
    entry = Term(term, heir, register.term, end + SHUTDOWN_RECORD_SIZE, why, state.epoch)
    return replace(
        register,
        seq=register.seq + 1,
        term=term,
        primary=heir,
        rules=with_rule(register, make_rule(state, heir, others)),
        terms=(*register.terms, entry)[-MAX_TERMS:],
        why=why,
    )


def _stays(state: State, member: Incarnation) -> bool:
    record = state.heard_lately(member.name)
    return record is not None and record.incarnation == member and not record.leaving
