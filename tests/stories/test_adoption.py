"""A cluster comes over from Patroni, and goes back: what is refused, and what is written."""

from dataclasses import replace
from typing import Any

import pytest

from pgregent.core.adoption import (
    DataDir,
    Ended,
    Join,
    Nothing,
    PatronisWord,
    TakeOver,
    adopt,
    overtaken,
)
from pgregent.core.amnesia import restore_by_operator
from pgregent.core.effects import WriteRegister
from pgregent.core.election import choose
from pgregent.core.errors import Refused
from pgregent.core.history import Rejoin, rejoin
from pgregent.core.release import GiveBack, Stopped, release
from pgregent.core.types import Durable, Incarnation, Position, Register, Rule, Vote
from tests.stories.story import Story

NOW = 1_700_000_000.0
A, B = Incarnation("a", "1"), Incarnation("b", "2")
LINEAGE = (Ended(1, 100), Ended(2, 200))
TOLD = (Ended(1, 100, "first", 5.0, "b"), Ended(2, 200, "second", 6.0, "a"))
NO_WORD = PatronisWord()
RUNNING = PatronisWord(running=("b",))
WORD = PatronisWord(system_id="7", primary="a", log_end=300, history=TOLD)
PRIMARY = DataDir("7", 3, False, 300, LINEAGE)
STANDBY = DataDir("7", 3, True, 300, LINEAGE)


def taken_over(own: Durable | None = None, released: Register | None = None) -> TakeOver:
    found = adopt(own or Durable(A), PRIMARY, WORD, released, now=NOW)
    assert isinstance(found, TakeOver)
    return found


REGISTER = taken_over().register
AFTER = replace(taken_over().durable, register=REGISTER)
HELD = replace(REGISTER, seq=REGISTER.seq + 1)
"""An agent has acted on it since."""


def given_back(register: Register = REGISTER) -> Register:
    stopped = Stopped(register.term, clean=True, was_primary=True)
    own = Durable(register.primary, register)
    found = release(own, stopped, register, live=(), word=NO_WORD)
    assert isinstance(found, GiveBack)
    assert found.expected == register.seq
    return found.register


def test_the_primary_is_in_office_in_the_term_of_its_timeline() -> None:
    found = taken_over()
    assert (found.expected, found.register.term, found.register.primary) == (0, 3, A)
    assert found.register.rules == (Rule(A, 0, ()),)
    assert found.register.system_id == "7"
    assert (found.durable.incarnation, found.durable.promoted) == (A, 3)
    assert found.durable.register is None, "it is not there yet"


def test_one_that_may_never_acknowledge_alone_does_not_at_first_either() -> None:
    found = adopt(Durable(A), PRIMARY, WORD, None, now=NOW, strict=True)
    assert isinstance(found, TakeOver) and found.register.rules == (Rule(A, 0, (), strict=True),)


def test_what_patroni_told_of_earlier_timelines_is_kept() -> None:
    terms = [(t.term, t.parent, t.start, t.writer.name, t.why) for t in REGISTER.terms]
    assert terms == [
        (1, 0, 0, "unknown", ""),
        (2, 1, 100, "b", "first"),
        (3, 2, 200, "a", "a was adopted from Patroni"),
    ]
    assert all(t.writer not in (A, B) for t in REGISTER.terms[:-1]), "names, and no members"


@pytest.mark.parametrize(
    ("position", "wanted"),
    [
        (Position(3, 999), Rejoin.FOLLOW),
        (Position(2, 200), Rejoin.FOLLOW),
        (Position(2, 201), Rejoin.REWIND),
        (Position(1, 100), Rejoin.FOLLOW),
        (Position(1, 101), Rejoin.REWIND),
    ],
)
def test_a_log_of_an_earlier_timeline_is_told_from_a_diverged_one(
    position: Position, wanted: Rejoin
) -> None:
    assert rejoin(REGISTER, position) is wanted


def test_a_standby_that_was_left_on_an_earlier_timeline_may_vote_but_not_win() -> None:
    electing = replace(REGISTER, rules=(Rule(A, 1, (B,)),), electing=True)
    ahead, behind = (Vote(electing.round, Position(t, 200), t, True) for t in (3, 2))
    assert choose(electing, {A: ahead, B: behind}) == A
    assert choose(replace(electing, rules=(Rule(A, 0, ()),)), {B: ahead}) is None


def test_seq_and_round_are_above_all_of_an_earlier_life() -> None:
    """An agent with a copy of then would take a lower one for a loss, and write its own again."""
    before = replace(given_back(), seq=int(NOW * 1000) + 50, round=int(NOW * 1000) + 60)
    found = taken_over(released=before)
    assert found.expected == before.seq
    assert found.register.seq > before.round < found.register.round
    assert not found.register.released


@pytest.mark.parametrize(
    ("word", "data", "register", "why"),
    [
        ({"running": ("b",)}, {}, None, "Patroni still runs in this scope: found the keys of b"),
        ({"running": ("b",)}, {}, REGISTER, "Patroni still runs"),
        ({"system_id": ""}, {}, None, "no key `initialize`"),
        ({}, {"system_id": "8"}, None, "system identifier 8, the cluster in this scope 7"),
        ({}, {"system_id": "8"}, REGISTER, "system identifier 8"),
        ({"primary": "b"}, {"is_standby": True}, None, "adopt the primary first: it is b"),
        (
            {"primary": "", "history": (Ended(2, 1, "", 0.0, "b"),)},
            {"is_standby": True},
            None,
            "adopt the primary first: it is b",
        ),
        ({}, {"is_standby": True}, None, "see `patronictl list`"),
        ({"primary": ""}, {}, None, "Patroni's key `sync` names no primary"),
        ({"primary": "b"}, {}, None, "Patroni's last primary is b, by its key `sync`"),
        ({}, {"timeline": 2}, None, "on timeline 2, and Patroni's key `history` shows that time"),
        ({}, {"log_end": 0}, None, "neither running nor shut down cleanly"),
        ({}, {"log_end": 299}, None, "ends 1 bytes before the position in Patroni's key `status`"),
    ],
)
def test_refused(
    word: dict[str, Any], data: dict[str, Any], register: Register | None, why: str
) -> None:
    with pytest.raises(Refused) as refused:
        adopt(Durable(A), replace(PRIMARY, **data), replace(WORD, **word), register, now=NOW)
    assert why in str(refused.value)


def test_interrupted_anywhere_it_goes_on() -> None:
    first = taken_over()
    assert taken_over(first.durable) == first, "the register was not written"
    again = adopt(first.durable, PRIMARY, WORD, first.register, now=NOW + 1)
    assert again == replace(first, expected=first.register.seq), "it was, and that is not on disk"
    assert isinstance(adopt(AFTER, PRIMARY, WORD, first.register, now=NOW + 1), Nothing)


def test_two_hosts_are_not_both_adopted_as_the_primary() -> None:
    with pytest.raises(Refused, match="a primary's, on timeline 3, but the cluster's primary is a"):
        adopt(Durable(B), PRIMARY, WORD, REGISTER, now=NOW)


def test_a_primary_whose_state_directory_is_gone_is_not_made_anew() -> None:
    with pytest.raises(Refused, match="its state directory is gone"):
        adopt(Durable(Incarnation("a", "9")), PRIMARY, WORD, REGISTER, now=NOW)


def test_a_standby_joins() -> None:
    assert adopt(Durable(B), STANDBY, WORD, REGISTER, now=NOW) == Join(Durable(B))
    older = replace(STANDBY, timeline=2, lineage=LINEAGE[:1])
    assert isinstance(adopt(Durable(B), older, WORD, REGISTER, now=NOW), Join)
    with pytest.raises(Refused, match="on timeline 4, past the primary's, which is 3"):
        adopt(Durable(B), replace(STANDBY, timeline=4), WORD, REGISTER, now=NOW)
    there = Durable(B, REGISTER)
    assert isinstance(adopt(there, STANDBY, WORD, REGISTER, now=NOW), Nothing)


def test_a_standby_of_another_timeline_of_the_same_number_is_refused() -> None:
    """PostgreSQL cannot tell them apart: it would stream, acknowledge, and never replay."""
    for lineage in ((Ended(1, 100), Ended(2, 199)), (Ended(1, 200),)):
        other = replace(STANDBY, lineage=lineage)
        with pytest.raises(Refused, match="its timeline 3 is not the primary's: it leaves timel"):
            adopt(Durable(B), other, WORD, REGISTER, now=NOW)
    earlier = replace(STANDBY, timeline=2, lineage=(Ended(1, 99),))
    with pytest.raises(Refused, match="its timeline 2 is not the primary's"):
        adopt(Durable(B), earlier, WORD, REGISTER, now=NOW)
    unknown = replace(STANDBY, lineage=())
    assert isinstance(adopt(Durable(B), unknown, WORD, REGISTER, now=NOW), Join), "as in a backup"
    # Where the term's promotion is not recorded yet, its start is a bound.
    rules = (Rule(A, 0, ()), Rule(B, 0, ()))
    promoting = replace(HELD, primary=B, rules=rules)
    joins = adopt(Durable(Incarnation("c", "3")), other, WORD, promoting, now=NOW)
    assert isinstance(joins, Join)


@pytest.mark.parametrize(
    ("register", "why"),
    [
        (None, "its register is not in the DCS: start the agents"),
        (given_back(), "run `pgregent release` here first"),
    ],
)
def test_a_member_of_an_earlier_life_is_not_adopted_over(
    register: Register | None, why: str
) -> None:
    with pytest.raises(Refused, match=why):
        adopt(AFTER, PRIMARY, WORD, register, now=NOW)


LATER = (*TOLD, Ended(3, 300, "", 0.0, "b"))


@pytest.mark.parametrize(
    ("register", "word", "who"),
    [
        (REGISTER, WORD, ""),
        (REGISTER, PatronisWord(), ""),
        (REGISTER, replace(WORD, primary="b"), "b"),
        (REGISTER, replace(WORD, history=LATER), "a"),
        (REGISTER, replace(WORD, primary="", history=(Ended(3, 300),)), "another host"),
        # Once agents have acted, `sync` is theirs, and may be older than the register.
        (HELD, replace(WORD, primary="b"), ""),
        (replace(HELD, electing=True), replace(WORD, primary="b"), ""),
        (replace(HELD, term=4), replace(WORD, history=LATER), ""),
        # No agent has ever begun a timeline past the term.
        (HELD, replace(WORD, primary="b", history=LATER), "b"),
        (replace(HELD, electing=True), replace(WORD, primary="b", history=LATER), "b"),
        (replace(HELD, term=0, terms=()), WORD, ""),
    ],
)
def test_patroni_has_made_a_primary_since(register: Register, word: PatronisWord, who: str) -> None:
    found = overtaken(register, word)
    assert bool(found) == bool(who)
    assert f"by its keys {who} was made the primary since" in found or not who


# --- the way back ---

STOPPED = Stopped(3, clean=True, was_primary=True)


def test_released_by_its_primary_the_register_is_newer_and_empty() -> None:
    found = given_back()
    assert (found.seq, found.term, found.released) == (REGISTER.seq + 1, 0, True)
    assert found.round == REGISTER.round
    assert found.system_id == "7"
    assert release(Durable(B), STOPPED, found, live=(), word=NO_WORD) is None, "files only"


@pytest.mark.parametrize(
    ("own", "data", "register", "others", "why"),
    [
        (AFTER, STOPPED, HELD, {"live": ("b",)}, "agents of this cluster still run: b"),
        (AFTER, STOPPED, given_back(), {"live": ("b",)}, "agents of this cluster still run: b"),
        (AFTER, STOPPED, None, {}, "the DCS has no register"),
        (AFTER, STOPPED, HELD, {"word": RUNNING}, "Patroni runs in this scope already: b"),
        (AFTER, STOPPED, replace(HELD, electing=True), {}, "an election is under way"),
        (Durable(B, HELD), STOPPED, HELD, {}, "release the primary's host first, which"),
        (AFTER, replace(STOPPED, clean=False), HELD, {}, "was not shut down cleanly as the"),
        (AFTER, replace(STOPPED, was_primary=False), HELD, {}, "was not shut down cleanly"),
        (AFTER, replace(STOPPED, timeline=2), HELD, {}, "was not shut down cleanly"),
    ],
)
def test_not_released(
    own: Durable, data: Stopped, register: Register | None, others: dict[str, Any], why: str
) -> None:
    with pytest.raises(Refused) as refused:
        release(own, data, register, **{"live": (), "word": NO_WORD, **others})
    assert why in str(refused.value)


def test_a_register_that_the_operator_restored_is_not_an_adoptions() -> None:
    """Its primary is in office, and is given back by a clean stop only."""
    story = Story()
    agent = story["n1"].agent
    assert agent is not None and agent.state.register is not None
    state = agent.state
    state.cas, state.register_lost = None, True
    restore_by_operator(state, story.register.seq)
    assert isinstance(state.cas, WriteRegister)
    restored = state.cas.register
    own, unclean = Durable(restored.primary, restored), Stopped(1, clean=False, was_primary=True)
    with pytest.raises(Refused, match="was not shut down cleanly"):
        release(own, unclean, restored, live=(), word=NO_WORD)


def test_undone_before_any_agent_ran() -> None:
    """Whatever runs is Patroni's, and nothing of ours was ever in force."""
    unclean = Stopped(3, clean=False, was_primary=False)

    found = release(AFTER, unclean, REGISTER, live=(), word=RUNNING)
    assert found is not None and found.register.released
    with pytest.raises(Refused, match="release the primary's host first, which is a's"):
        release(Durable(B), unclean, REGISTER, live=(), word=RUNNING)


OVERTAKEN = replace(WORD, primary="b", history=LATER, running=("b",))


@pytest.mark.parametrize(
    ("own", "register"), [(Durable(B), REGISTER), (Durable(B), HELD), (AFTER, None)]
)
def test_nobody_is_told_to_move_away_what_patronis_primary_has(
    own: Durable, register: Register | None
) -> None:
    there = replace(PRIMARY, timeline=4)
    with pytest.raises(Refused, match="by its keys b was made the primary since"):
        adopt(own, there, replace(OVERTAKEN, running=()), register, now=NOW)


@pytest.mark.parametrize("register", [HELD, replace(HELD, electing=True)])
@pytest.mark.parametrize("own", [Durable(A, HELD), Durable(B, HELD), Durable(B)])
def test_undone_where_patroni_has_made_a_primary_since(own: Durable, register: Register) -> None:
    """On any host, since the primary's may be lost; Patroni's keys stay."""
    unclean = Stopped(4, clean=False, was_primary=False)
    found = release(own, unclean, register, live=(), word=OVERTAKEN)
    assert found is not None and (found.expected, found.in_office) == (register.seq, False)
    assert found.register.released and found.register.seq > register.seq
    with pytest.raises(Refused, match="agents of this cluster still run"):
        release(own, unclean, register, live=("c",), word=OVERTAKEN)


def test_undone_where_the_dcs_was_emptied_too() -> None:
    """An agent with the copy would write it again, and is refused like one with the register."""
    unclean = Stopped(4, clean=False, was_primary=False)
    found = release(Durable(A, HELD), unclean, None, live=(), word=OVERTAKEN)
    assert found is not None and (found.expected, found.register.seq) == (0, HELD.seq + 1)
    with pytest.raises(Refused, match="the DCS has no register"):
        release(Durable(A, HELD), unclean, None, live=(), word=WORD)


def test_agents_that_come_late_to_a_released_cluster_end_and_write_nothing() -> None:
    """They were cut off when it was given back; whoever runs is stopped, and the DCS is left."""
    story = Story()
    for name in ("n2", "n3"):
        story.isolate(name)
    story["n1"].kill()
    released = given_back(story.register)
    assert story.dcs.apply(WriteRegister(story.register.seq, released))
    story.heal()
    for name in ("n2", "n3"):
        node = story[name]
        story.until(f"{name} ends", lambda n=node: n.agent is None and n.server is None, 10.0)
    story["n1"].start_agent()
    story.until("n1 ends", lambda: story["n1"].agent is None, 10.0)
    assert story.register == released
