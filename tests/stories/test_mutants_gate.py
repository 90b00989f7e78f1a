"""Where the entry point must not route, whatever the primary says of itself."""

from dataclasses import replace

from pgregent.core.gate import Heard, route
from pgregent.core.types import Incarnation, PgState, Record, Register, Rule, Term

N1, N2 = Incarnation("n1", "a"), Incarnation("n2", "a")
REGISTER = Register(9, 4, 3, N1, (Rule(N1, 1, (N2,)),), False, "42", (Term(3, N1, 2, 9),))
OF_TERM_1 = replace(REGISTER, seq=5, term=1)
PRIMARY = Record(
    N1, 1, PgState.PRIMARY, register=REGISTER, serving=True, host="n1", port=5432, why="is fine"
)
STANDBY = Record(N2, 1, PgState.STANDBY, register=REGISTER, host="n2", port=5432)


def test_to_the_primary_of_the_newest_register() -> None:
    assert route([Heard(PRIMARY, 10.0), Heard(STANDBY, 10.0)], 10.1, 3.0).primary == ("n1", 5432)


def test_not_during_an_election() -> None:
    electing = replace(REGISTER, seq=10, electing=True)
    heard = [Heard(PRIMARY, 10.0), Heard(replace(STANDBY, register=electing), 10.0)]
    assert route(heard, 10.1, 3.0).primary is None
    assert route([Heard(PRIMARY, 10.0)], 10.1, 3.0, electing).primary is None


def test_not_on_the_word_that_a_primary_gave_in_an_earlier_term_of_its_own() -> None:
    earlier = replace(PRIMARY, register=OF_TERM_1)
    assert route([Heard(earlier, 10.0), Heard(STANDBY, 10.0)], 10.1, 3.0).primary is None


def test_not_on_a_word_that_is_too_old() -> None:
    assert route([Heard(PRIMARY, 10.0), Heard(STANDBY, 13.0)], 13.1, 3.0).primary is None


def test_not_to_one_made_anew_under_the_primarys_name() -> None:
    stranger = replace(PRIMARY, incarnation=Incarnation("n1", "b"))
    assert route([Heard(stranger, 10.0), Heard(STANDBY, 10.0)], 10.1, 3.0).primary is None
