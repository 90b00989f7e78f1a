"""A DCS that shows nothing, or less than this member has seen: who may write the register again.

Whatever a member acts on is on its disk first, so what the DCS forgot is known as far as anybody
acted on it. The primary of the newest copy writes it again once so many of those that its rule
names say that they see the loss too, and hold the same copy (they have sealed for nothing later),
that the others alone could not have appointed anybody. Its last rule counts: that the older ones
were dropped may have landed without its knowledge. Where every commit needs it, it needs nobody.

While the newest copy is an election's, its votes may have made an appointment that no member here
knows; while the primary was handing over, it may have done so. Then, and where members are missing,
only the operator can say that this loses nothing, or that the loss is accepted.

The argument as a model that can be run: tests/model/amnesia.py.
"""

from dataclasses import replace

from pgregent.core.effects import WriteRegister
from pgregent.core.plan import CAS_RETRY
from pgregent.core.types import NOBODY, Incarnation, Register, Term
from pgregent.core.view import State

JUMP = 10
"""By what seq and round are raised at least; to the time in milliseconds, if that is more. No
election of before the loss, and of a register written again and lost once more, may have had the
same round: the votes cast in it would count."""
BURNED_TERMS = 16
"""Terms that the operator's way out skips: somebody unknown may have been appointed in them."""


def plan_restore(state: State) -> None:
    """Write the register again, if this member may."""
    register = state.register
    if register is None or state.cas is not None or state.now - state.cas_failed_at < CAS_RETRY:
        return
    state.lost_why = _why_not(state, register)
    if not state.lost_why and register.term == 0:
        # Nobody was in office yet: somebody who knows better has a newer copy.
        state.cas = WriteRegister(state.lost_seq, register)
        state.out.append(state.cas)
    elif not state.lost_why:
        _write(state, register, "the DCS was emptied or restored: written again from the copies")


def restore_by_operator(state: State, seq: int) -> None:
    """The operator accepts that what only missing members know is lost. Nothing happens unless
    the register is lost and this member's copy is the one (`seq`) that the operator was shown."""
    register = state.register
    if register is None or register.seq != seq or not state.register_lost or state.cas is not None:
        return
    why = "the DCS was emptied or restored: the operator had this copy written again"
    newest = max([register.term, *(t.term for t in register.terms)])
    burned = Term(newest + BURNED_TERMS, NOBODY, 0, 0, why, state.epoch)
    _write(state, replace(register, terms=(*register.terms, burned)), why)


def _write(state: State, register: Register, why: str) -> None:
    known = max(register.seq, register.round, state.durable.rewritten)
    fresh = max(known + JUMP, int(state.epoch * 1000))
    state.durable = replace(state.durable, rewritten=fresh)
    again = replace(register, seq=fresh, round=fresh, electing=False, why=why)
    state.cas = WriteRegister(state.lost_seq, again)
    state.out.append(state.cas)


def _why_not(state: State, register: Register) -> str:
    """Empty if this member may write the register again."""
    primary = register.primary
    if register.term == 0:
        return "" if primary == state.me else f"{primary.name} has to create the cluster"
    if register.electing:
        return (
            "an election was under way, and its outcome may be known to others only: "
            "see `pgregent dcs restore`"
        )
    if state.durable.handing == register.seq:
        return (
            "it was handing its office over, and whether it did may be known to others only: "
            "see `pgregent dcs restore`"
        )
    if primary != state.me:
        return f"{primary.name}, its primary, has to write the register again"
    named = {primary, *(m for r in register.rules for m in (r.writer, *r.members))}
    absent = frozenset(named - _agreeing(state, register))
    if not register.rule.satisfied_by(absent):
        return ""
    names = " or ".join(sorted(m.name for m in absent))
    return f"waiting for {names}, who could have appointed another primary meanwhile"


def _agreeing(state: State, register: Register) -> set[Incarnation]:
    """Those who said, after this member had seen the loss, that they see it too, and who hold the
    same copy."""
    found = {state.me}
    for name in state.peers:
        record = state.heard_lately(name)
        if record is None or not record.dcs_lost or record.register != register:
            continue
        if record.heard.get(state.me.name, -1) >= state.lost_beat:
            found.add(record.incarnation)
    return found
