"""Where a rule that is too weak, or forgotten too early, would lose what was acknowledged."""

import pytest

from pgregent.core.durability import streaming_members
from pgregent.core.events import Switchover
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
    Walsender,
)
from pgregent.core.view import Peer, State
from tests.stories.story import Story


def test_an_appointee_dies_and_one_that_is_behind_is_left() -> None:
    """What n1 acknowledged with n2 is not on n3: until n2's barrier, n1's rule holds too."""
    story = Story()
    story.block("sql", "n1", "n3")
    story.block("sql", "n2", "n3")
    story["n3"].kill_server()
    story.until("n3 runs again", lambda: story["n3"].server is not None, 5.0)
    story.run(1.0)
    story.acknowledges("n1")
    story["n1"].kill()
    story.until("n2 is appointed", lambda: story.register.term == 2, 3.0)
    story["n2"].kill()
    story.heal()
    story.run(8.0)
    assert not story.serves("n3")
    for name in ("n1", "n2"):
        story[name].start_agent()
    story.well(60)


def test_the_heir_of_a_handover_dies_and_one_that_is_behind_is_left() -> None:
    """What n1 acknowledged with n2 is not on n3: until n2's barrier, n1's rule holds too."""
    story = Story()
    story.block("sql", "n1", "n3")
    story.block("sql", "n2", "n3")
    story["n3"].kill_server()
    story.until("n3 runs again", lambda: story["n3"].server is not None, 5.0)
    story.acknowledges("n1")
    agent = story["n1"].agent
    assert agent is not None
    agent.post(Switchover(1, "n2"))
    story.until("n2 is appointed", lambda: story.register.term == 2, 10.0)
    story["n1"].kill()
    story["n2"].kill()
    story.run(8.0)
    assert not story.serves("n3")
    story.heal()
    story["n1"].start_agent()
    story.until("somebody serves", lambda: story.serves("n1") or story.serves("n3"), 20.0)
    story["n2"].start_agent()
    story.well(60)


@pytest.mark.parametrize("seed", range(1, 11))
def test_a_primary_that_is_cut_off_does_not_shrink_its_rule_by_itself(seed: int) -> None:
    story = Story(2, seed=seed, lease=30.0)
    story.isolate("n1")
    story.never_acknowledges("n1", for_seconds=15.0)
    story.heal()
    story.well(60)


def test_the_rule_before_holds_while_the_names_are_the_old_ones() -> None:
    """n1's server is slow to see that n3 is not waited for any more; so n3 still confirms."""
    story = Story(standby_grace=1.0)
    server = story["n1"].server
    assert server is not None
    story["n3"].kill()
    server.reload = lambda: None
    story.until("n3 leaves the rule", lambda: story.rule().endswith("ANY 1 (n2)"), 4.0)
    story.isolate("n1", "dcs")
    story["n3"].start_agent()
    story.until("n3 streams", lambda: len(server.senders) == 2, 5.0)
    story.block("sql", "n1", "n2")
    story.run(0.2)
    story.acknowledges("n1")
    for name in ("n1", "n3"):
        story[name].kill()
    story.run(6.0)
    assert not story.serves("n2")
    story.heal()
    for name in ("n1", "n3"):
        story[name].start_agent()
    story.well(60)


def test_the_rule_before_holds_until_a_barrier_shows_that_the_new_one_is_met() -> None:
    """What n3 confirmed last, n2 does not have yet; then n3 leaves the rule."""
    story = Story(standby_grace=1.0)
    story.block("sql", "n1", "n2")
    story.run(0.2)
    story.acknowledges("n1")
    story["n3"].kill()
    story.until("n3 leaves the rule", lambda: story.rule().endswith("ANY 1 (n2)"), 4.0)
    story.run(1.0)
    story["n1"].kill()
    story.run(6.0)
    assert not story.serves("n2")
    story.heal()
    for name in ("n1", "n3"):
        story[name].start_agent()
    story.well(60)


def _two_are_wanted(seed: int, patch: pytest.MonkeyPatch) -> Story:
    """n2 alone confirmed until now; its walsender is held up, and sees no reload but where it
    reports a flush of what came after."""
    story = Story(3, seed=seed, nodes_wanted_k=2, standby_grace=1.0)
    story["n3"].kill()
    story.until("n2 confirms alone", lambda: story.rule() == "ANY 1 (n2)", 4.0)
    server = story["n1"].server
    assert server is not None

    def held_up(link: object) -> None:
        del link

    patch.setattr(server, "_adopt", held_up)
    for link in server.senders:
        link.slowest = 2.0
    story["n3"].start_agent()
    story.until("two are wanted", lambda: len(story.register.rules) > 1, 10.0)
    return story


@pytest.mark.parametrize("seed", range(1, 9))
def test_a_walsender_that_still_waits_for_one_when_two_are_wanted(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Late replies of n2 let through what n3 alone has; the barrier, too, if it were not for who
    looks whether every walsender has seen the new rule."""
    story = _two_are_wanted(seed, monkeypatch)
    story.until("they confirm", lambda: story.rule() == "ANY 2 (n2, n3)", 20.0)
    for name in ("n1", "n3"):
        story[name].kill()
    story.primary_is("n2", within=5.0)
    for name in ("n1", "n3"):
        story[name].start_agent()
    story.well(60)


@pytest.mark.parametrize("seed", range(1, 9))
def test_one_of_three_may_let_a_commit_through_while_two_are_to_confirm(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By n2's idea of the names one suffices, by n3's idea it is a member."""
    story = _two_are_wanted(seed, monkeypatch)
    story.acknowledges("n1", within=5.0)
    if len(story.register.rules) == 1:
        return
    for name in ("n1", "n3"):
        story[name].kill()
    story.run(5.0)
    assert not story.serves("n2")
    for name in ("n1", "n3"):
        story[name].start_agent()
    story.well(60)


def test_the_first_standby_confirms_from_the_barrier_on() -> None:
    """The checkpointer is slow to see that there are names again; until then nobody waits."""
    story = Story(2)
    story["n2"].kill()
    story.until("n1 is alone", lambda: story.rule() == "the primary alone", 5.0)
    server = story["n1"].server
    assert server is not None
    sees, checkpoint = server.set_flag, server.checkpoint

    def checkpoints() -> None:
        sees()
        checkpoint()

    server.set_flag = lambda: None
    server.checkpoint = checkpoints
    story["n2"].start_agent()
    story.until("n2 confirms", lambda: story.rule() == "ANY 1 (n2)", 10.0)
    story.block("sql", "n1", "n2")
    story.never_acknowledges("n1", for_seconds=0.3)
    story.heal()
    story.well()


@pytest.mark.parametrize(("timeline", "counts"), [(1, False), (2, True)])
def test_who_streams_the_rest_of_an_older_timeline_does_not_count(
    timeline: int, counts: bool
) -> None:
    """Past the fork, it confirms by LSN what it does not have."""
    me, other = Incarnation("n1", "a"), Incarnation("n2", "a")
    rules = (Rule(me, 0, ()),)
    register = Register(9, 4, 2, me, rules, False, "42", (Term(1, other, 0, 0), Term(2, me, 1, 9)))
    state = State(Settings("n1"), Durable(me, register, promoted=2), started_at=0.0, now=1.0)
    sender = Walsender(other.label, streaming=True, flush_lsn=30)
    state.postgres = Postgres(PgState.PRIMARY, Position(2, 20), walsenders=(sender,))
    record = Record(
        other, 1, PgState.STANDBY, Position(1, 30), register=register, upstream_timeline=timeline
    )
    state.peers["n2"] = Peer(record, heard_at=1.0)
    assert (other in streaming_members(state)) == counts


def test_a_successor_has_the_minimum_too() -> None:
    """Nobody is left to confirm: what it would acknowledge alone could be lost with it."""
    story = Story(2, minimum_k=1)
    story["n1"].kill()
    story.primary_is("n2", within=3.0)
    story.never_acknowledges("n2", for_seconds=2.0)
    story["n1"].start_agent()
    story.well()
    story.acknowledges("n2")
