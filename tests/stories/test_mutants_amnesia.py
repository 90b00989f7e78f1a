"""A DCS that was emptied: when the primary of the newest copy may write the register again."""

from dataclasses import replace

import pytest

from pgregent.core.effects import WriteRegister
from pgregent.core.events import PeerHeard, RegisterRead, Tick
from pgregent.core.step import step
from pgregent.core.types import (
    Durable,
    Incarnation,
    PgState,
    Position,
    Postgres,
    Record,
    Register,
    Rule,
    Settings,
    Term,
)
from pgregent.core.view import State

ME, N2, N3 = (Incarnation(name, "a") for name in ("n1", "n2", "n3"))
RULE = Rule(ME, 1, (N2, N3))
REGISTER = Register(9, 4, 1, ME, (RULE,), False, "42", (Term(1, ME, 0, 0),))


def _lost(register: Register = REGISTER, *, handing: int = 0) -> State:
    """n1, in office, has seen at 10 s that the DCS shows nothing, and has told the others."""
    durable = Durable(ME, register, promoted=1, handing=handing)
    state = State(Settings("n1"), durable, started_at=0.0, now=9.9)
    state.postgres = Postgres(PgState.PRIMARY, Position(1, 20), answered_at=9.9)
    step(state, Tick(), 9.95)
    step(state, RegisterRead(None, 9.99), 10.0)
    assert state.register_lost
    return state


def _agrees(state: State, who: Incarnation, register: Register, beat: int) -> list[WriteRegister]:
    """What n1 writes when this member says that it sees the loss too, having heard this beat."""
    record = Record(who, 1, PgState.STANDBY, register=register, dcs_lost=True, heard={"n1": beat})
    effects = step(state, PeerHeard(record), state.now + 0.01)
    return [e for e in effects if isinstance(e, WriteRegister)]


def test_it_is_written_again_newer_than_whatever_was_seen() -> None:
    state = _lost()
    (written,) = _agrees(state, N2, REGISTER, state.beat)
    assert (written.expected, written.register.term) == (0, 1)
    assert written.register.seq > REGISTER.seq + 1, "an append that landed unheard has that one"
    assert written.register.round > REGISTER.round + 1, "so has an election"


def test_not_while_it_may_have_been_succeeded() -> None:
    electing = replace(REGISTER, electing=True)
    state = _lost(electing)
    for member in (N2, N3):
        assert not _agrees(state, member, electing, state.beat)
    handing = _lost(handing=REGISTER.seq)
    for member in (N2, N3):
        assert not _agrees(handing, member, REGISTER, handing.beat)


def test_who_holds_another_copy_does_not_agree() -> None:
    state = _lost()
    assert not _agrees(state, N2, replace(REGISTER, seq=8), state.beat)


def test_who_spoke_before_the_loss_does_not_agree() -> None:
    state = _lost()
    assert not _agrees(state, N2, REGISTER, state.lost_beat - 1)


@pytest.mark.parametrize(("who", "enough"), [(N2, False), (N3, True)])
def test_the_last_rule_counts(who: Incarnation, enough: bool) -> None:
    """That the older one was dropped may have landed unheard: then n3 alone could elect."""
    register = replace(REGISTER, rules=(Rule(ME, 1, (N2,)), Rule(ME, 1, (N3,))))
    state = _lost(register)
    assert bool(_agrees(state, who, register, state.beat)) == enough
