"""Whose word lets a primary serve, and for how long: counted from when it was asked."""

from dataclasses import replace

from pgregent.core.effects import Publish
from pgregent.core.events import DeadlineKept, Event, PeerHeard, RegisterRead, Tick
from pgregent.core.lease import authority_until
from pgregent.core.publish import serving
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
LEASE = 5.0
NEVER = float("-inf")


def _primary(k: int = 1) -> State:
    """n1 in office since term 2, of three; the step at 10 s has just asked the others."""
    terms = (Term(1, N2, 0, 0), Term(2, ME, 1, 9))
    register = Register(9, 4, 2, ME, (Rule(ME, k, (N2, N3)),), False, "42", terms)
    durable = Durable(ME, register, promoted=2)
    state = State(Settings("n1", lease=LEASE), durable, started_at=0.0, now=9.9)
    step(state, Tick(), 10.0)
    return state


def _answer(state: State, who: Incarnation, grant: int = 2) -> Event:
    """To what was asked last."""
    heard = {"n1": state.beat}
    return PeerHeard(Record(who, 1, PgState.STANDBY, grant=grant, heard=heard))


def test_a_grant_counts_from_when_it_was_asked() -> None:
    state = _primary()
    assert authority_until(state) == NEVER
    step(state, _answer(state, N2), 13.0)
    assert authority_until(state) == 10.0 + LEASE


def test_a_read_counts_from_when_it_was_asked() -> None:
    state = _primary()
    step(state, RegisterRead(state.register, 11.0), 13.0)
    assert authority_until(state) == 11.0 + LEASE


def test_two_have_to_grant_where_two_have_to_confirm() -> None:
    state = _primary(k=2)
    asked = _answer(state, N3)
    step(state, _answer(state, N2), 10.1)
    assert authority_until(state) == NEVER
    step(state, Tick(), 12.0)
    step(state, _answer(state, N2), 12.1)
    step(state, asked, 12.2)
    assert authority_until(state) == 10.0 + LEASE


def test_a_stranger_grants_nothing() -> None:
    state = _primary()
    step(state, _answer(state, replace(N2, id="b")), 10.1)
    assert authority_until(state) == NEVER


def test_a_grant_is_of_a_term() -> None:
    state = _primary()
    step(state, _answer(state, N2, grant=1), 10.1)
    assert authority_until(state) == NEVER


def test_who_has_no_authority_any_more_does_not_serve() -> None:
    """Also where its guard is late."""
    state = _primary()
    state.postgres, state.opened = Postgres(PgState.PRIMARY, Position(2, 20)), True
    step(state, _answer(state, N2), 10.1)
    assert serving(state)
    step(state, Tick(), 10.0 + LEASE)
    assert not serving(state)


def test_the_older_rules_are_dropped_when_the_guard_has_its_deadline() -> None:
    """From then on others can be appointed; and this server may outlive its agent."""
    state = _primary()
    assert state.register is not None
    rules = (Rule(N2, 1, (ME, N3)), *state.register.rules)
    state.durable = replace(state.durable, register=replace(state.register, rules=rules))
    state.postgres = Postgres(PgState.PRIMARY, Position(2, 20))
    state.applied = state.barriered = rules[-1]
    step(state, _answer(state, N2), 10.1)
    assert state.cas is None
    step(state, DeadlineKept(15.0, 10.1), 10.2)
    assert state.cas is not None and state.cas.register.rules == rules[-1:]


def test_who_has_sealed_grants_nothing() -> None:
    state = _primary()
    assert state.register is not None
    member = State(Settings("n2"), Durable(N2, state.register), started_at=0.0, now=9.9)
    assert _granted(member, Tick(), 10.0) == 2
    sealed = replace(state.register, seq=10, round=5, electing=True)
    assert _granted(member, RegisterRead(sealed, 10.0), 10.1) == 0


def _granted(member: State, event: Event, now: float) -> int:
    """What its record grants after this event."""
    told = [e.record for e in step(member, event, now) if isinstance(e, Publish)]
    return told[-1].grant
