"""Switchover, and leaving: a primary hands its office over, a standby leaves the rule first."""

from dataclasses import replace

from pgregent.core.durability import make_rule, with_rule
from pgregent.core.effects import Checkpoint, Clone, Exit, Initdb, Rewind, Stop
from pgregent.core.election import MAX_TERMS
from pgregent.core.events import Switchover
from pgregent.core.plan import do, write
from pgregent.core.types import Incarnation, PgState, Record, Register, Term
from pgregent.core.view import Leaving, Restarting, State

LEAVE_LIMIT = 5.0
"""Seconds that a standby waits for the primary to take it out of the rule."""
SHUTDOWN_RECORD_SIZE = 1024
"""An upper bound, in bytes, for the shutdown checkpoint's record and page headers."""
DCS_FRESH = 3.0
"""Seconds since the last read that showed the newest register, for the DCS to count as there: it is
read every second."""
HANDOVER_LIMIT = 5.0
"""Seconds after its shutdown that a primary tries to hand over; then the others elect."""


def plan_leaving(state: State) -> None:
    """One step on the way out."""
    register = state.register
    idle = state.pg is None or isinstance(state.pg, Clone | Rewind | Initdb)
    if state.postgres.state in (PgState.STOPPED, PgState.ABSENT) and idle:
        hands_over = state.is_primary and not state.hands_off
        if hands_over and register is not None and _hand_over(state, register):
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
        if register is not None and still_counted(state, register, state.leaving_since):
            state.why = "leaving: waiting for the primary to take it out of the rule"
            return
        if register is not None and _is_voter(state, register):
            state.why = "leaving: waiting for the end of the election, which may need its vote"
            return
        state.why = "leaving: stopping PostgreSQL"
        do(state, Stop(immediate=False), preempt=True)
        return
    _stop_primary(state)


def _is_voter(state: State, register: Register) -> bool:
    """Whether an election may come to its end with what this member said of its log."""
    votes = register.electing and state.vote is not None and state.leaving is Leaving.NODE
    return votes and state.now - state.leaving_since < LEAVE_LIMIT


def still_counted(state: State, register: Register, since: float) -> bool:
    """Whether the primary is about to take this member, which withdraws since then, out of the
    rule."""
    record = state.heard_lately(register.primary.name)
    if state.leaving is Leaving.CLUSTER or record is None or record.leaving or not register.rules:
        return False
    kept = len(register.rule.members) <= state.settings.minimum_k
    counted = not kept and any(state.me in rule.members for rule in register.rules)
    return counted and state.now - since < LEAVE_LIMIT


def candidate(state: State) -> Record | None:
    """The standby to hand over to: in the rule, eligible, staying, and the furthest of these that
    reach the DCS; in a switchover the one that was asked for, if it is among them."""
    register = state.register
    if register is None or not register.rules:
        return None
    wanted = state.switchover.candidate if state.switchover is not None else ""
    able: list[Record] = []
    for member in sorted(register.rule.members):
        record = state.heard_lately(member.name)
        if record is None or record.incarnation != member or record.leaving:
            continue
        able_now = record.eligible and record.state is PgState.STANDBY
        if state.switchover is not None and not record.dcs_ok:
            continue
        if able_now and wanted in ("", member.name):
            able.append(record)
    return max(able, key=lambda r: (r.dcs_ok, _log_end(r)), default=None)


def _log_end(record: Record) -> int:
    return record.position.lsn if record.position is not None else 0


def _stop_primary(state: State) -> None:
    if candidate(state) is None:
        state.why = "leaving: nobody can take over, stopping PostgreSQL"
        do(state, Stop(immediate=False), preempt=True)
        return
    _stop_to_hand_over(state, "leaving")


def _stop_to_hand_over(state: State, doing: str) -> None:
    if not state.checkpointed:
        state.why = f"{doing}: checkpoint first, so that the shutdown is short"
        do(state, Checkpoint())
    else:
        state.why = f"{doing}: holding the entry point and stopping PostgreSQL"
        state.holding = True
        do(state, Stop(immediate=False), preempt=True)


def switchover_refusal(state: State, asked: Switchover) -> str:
    """Why this member does not do what the operator asks; empty if it does."""
    register = state.register
    if register is None or register.term == 0 or not state.is_primary:
        name = register.primary.name if register is not None and register.term else "nobody"
        return f"{state.me.name} is not the primary, {name} is"
    if asked.term != register.term:
        return f"term {register.term} has begun since: {register.primary.name} is the primary"
    if register.electing or not state.opened or state.leaving is not Leaving.NO:
        return f"not now: {state.why}"
    if state.switchover is not None:
        return "a switchover is under way already"
    if state.restarting is not Restarting.NO:
        return "its PostgreSQL is being restarted"
    if why := dcs_is_away(state):
        return why
    members = [m.name for m in register.rule.members]
    if asked.candidate and asked.candidate not in members:
        able = ", ".join(members) or "nobody"
        return f"{asked.candidate} does not have all commits; {able} could take over"
    state.switchover = asked
    heir, state.switchover = candidate(state), None
    if heir is None:
        who = f"{asked.candidate} cannot" if asked.candidate else "no standby can"
        return (
            f"{who} take over now: that takes one that is eligible, running, heard lately and "
            "reaches the DCS"
        )
    return ""


def dcs_is_away(state: State) -> str:
    """Why it does not count as there (then nobody could be appointed, and the primary could not
    start again); empty if it does."""
    if state.register_lost:
        return "the DCS shows less than this member has seen: nobody can be appointed"
    if not state.dcs_ok or state.now - state.read_at > DCS_FRESH:
        why = state.dcs_why or f"for {state.now - state.read_at:.0f} s"
        return f"the DCS does not answer ({why}): nobody can be appointed"
    return ""


def begin_switchover(state: State, asked: Switchover) -> None:
    """Begin what the operator asks, or say why not."""
    refusal = switchover_refusal(state, asked)
    if refusal:
        state.announce("refused", f"switchover: {refusal}")
        return
    state.switchover, state.switchover_since = asked, state.now
    state.checkpointed = False
    to = asked.candidate or "the furthest standby"
    state.announce("switchover", f"the operator asks for a switchover to {to}")


def plan_switchover(state: State, asked: Switchover) -> bool:
    """One step of it; False once it is over: then the member does what it does anyway."""
    register = state.register
    if register is None or not state.is_primary or register.term != asked.term:
        return _end_switchover(state, "")
    if register.electing:
        return _end_switchover(state, "an election has begun")
    stopping = isinstance(state.pg, Stop)
    if state.postgres.state is PgState.PRIMARY and not stopping and (why := dcs_is_away(state)):
        return _end_switchover(state, why)
    match state.postgres.state:
        case PgState.PRIMARY if candidate(state) is not None or stopping:
            _stop_to_hand_over(state, "switchover")
            return True
        case PgState.UNKNOWN if isinstance(state.pg, Checkpoint | Stop):
            return True
        case PgState.STOPPED if _hand_over(state, register):
            return True
        case PgState.PRIMARY:
            return _end_switchover(state, "its candidate cannot take over any more")
        case _:
            return _end_switchover(state, state.why)


def _end_switchover(state: State, why: str) -> bool:
    if why:
        state.announce("refused", f"switchover: given up: {why}")
    state.switchover, state.holding = None, False
    return False


def _hand_over(state: State, register: Register) -> bool:
    """Whether a handover is under way: the candidate has to have the shutdown checkpoint."""
    postgres = state.postgres
    if state.leaving is Leaving.CLUSTER or register.electing:
        return False
    if state.durable.promoted != register.term:
        return False
    since = state.leaving_since if state.switchover is None else state.switchover_since
    if state.now - max(state.exited_at, since) > HANDOVER_LIMIT:
        return False
    if postgres.disk_timeline == 0:
        return True
    heir = candidate(state)
    whole = postgres.clean and postgres.checkpoint_lsn and postgres.disk_timeline == register.term
    if not whole or heir is None:
        return False
    state.why = f"waiting for {heir.incarnation.name} to have the shutdown checkpoint"
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
    leaves = "leaves and hands over" if state.switchover is None else "hands over (switchover)"
    why = f"{state.me.name} {leaves} to {heir.name}"
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
