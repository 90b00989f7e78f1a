"""The primary is gone, or seems to be."""

from dataclasses import replace

import pytest

from tests.stories.story import Story


def test_postgres_dies() -> None:
    story = Story()
    story["n1"].kill_server()
    assert story.primary_is("n2", within=1.0) < 0.7
    story.expect("n1 postgres_exited", "n2 suspect", "n2 election", "n2 register", "n2 primary")
    story.well()
    assert story.register.term == 2


def test_whole_node_dies_and_comes_back() -> None:
    story = Story()
    story["n1"].kill()
    assert story.primary_is("n2", within=1.0) < 0.7
    story.expect("n2 suspect", "n2 election", "n2 primary")
    story["n1"].start_agent()
    story.well()
    story.expect("n2 primary", "n2 rule")


def test_power_fails() -> None:
    """Nobody's kernel says anything: silence has to be agreed on."""
    story = Story()
    story["n1"].kill(silently=True)
    story.run(0.9)
    story.silent("election")
    assert story.primary_is("n2", within=2.0) < 1.5
    story["n1"].start_agent()
    story.well(60)


def test_frozen_primary_cannot_acknowledge_when_it_goes_on() -> None:
    story = Story()
    story["n1"].freeze()
    assert story.primary_is("n2", within=3.0) < 2.0
    story.run(15.0)
    story["n1"].thaw()
    story.never_acknowledges("n1", for_seconds=1.0)
    story.well()
    assert story.register.term == 2


def test_cut_off_primary_is_fenced_and_the_others_go_on() -> None:
    story = Story(lease=2.0)
    story.isolate("n1")
    story.primary_is("n2", within=4.0)
    story.never_acknowledges("n1", for_seconds=3.0)
    story.until("the guard stops n1", lambda: story["n1"].server is None, 4.0)
    story.heal()
    story.well()


def test_successor_dies_too() -> None:
    """The rules of both earlier terms hold until a barrier of the third."""
    story = Story()
    story["n1"].kill_server()
    story.until("n2 is appointed", lambda: story.register.term == 2, 2.0)
    story["n2"].kill()
    story.run(4.0)
    story["n2"].start_agent()
    story.well(60)


def test_primary_is_killed_twice_with_its_successor() -> None:
    story = Story()
    story["n1"].kill()
    story.primary_is("n2", within=2.0)
    story["n2"].kill()
    story.run(1.0)
    story["n1"].start_agent()
    story["n2"].start_agent()
    story.well(60)


def test_appointed_member_that_never_promotes_leaves_a_gap_in_the_timelines() -> None:
    story = Story()
    story["n1"].kill()
    story.until("n2 is appointed", lambda: story.register.term == 2, 2.0)
    story["n2"].kill()
    story["n1"].start_agent()
    story.until("another is appointed", lambda: story.register.term == 3, 10.0)
    story["n2"].start_agent()
    story.well(60)
    winner = story.cluster.primary
    assert winner.name != "n2"
    assert winner.disk.histories == {2: False, 3: True}
    assert {r.timeline for r in winner.disk.log} == {1, 3}


def test_promotion_cut_short_needs_a_new_term() -> None:
    """The history file was written, the first record was not."""
    story = Story(2)
    story["n1"].kill()
    story.until("n2 wrote the history", lambda: 2 in story["n2"].disk.histories, 2.0)
    story["n2"].kill()
    assert story["n2"].disk.position.timeline == 1
    story["n1"].start_agent()
    story["n2"].start_agent()
    story.well(60)
    assert story.register.term > 2


def test_a_standby_promoted_by_hand_never_votes_with_that_log() -> None:
    """Its timeline has the number of the next term. Until n1 is back, nobody has everything."""
    story = Story()
    server = story["n3"].server
    assert server is not None
    server.by_hand = server.disk.foreign = True
    server.request_promotion()
    story.until("n3 is stopped", lambda: story["n3"].server is not server, 2.0)
    story["n1"].kill()
    story.run(6.0)
    assert not any(story.serves(name) for name in story.cluster.nodes)
    story["n1"].start_agent()
    story.well()
    assert "clone" in story.checker.ways


def test_member_tagged_nofailover_is_not_appointed() -> None:
    story = Story()
    story["n2"].settings = replace(story["n2"].settings, nofailover=True)
    story["n2"].kill_agent()
    story["n2"].start_agent()
    story.well()
    story["n1"].kill_server()
    story.primary_is("n3", within=2.0)
    story.well()


def test_member_that_is_ahead_but_paused_is_waited_for() -> None:
    """Only n3 has what was acknowledged, and its replay is paused."""
    story = Story()
    story["n3"].pause_replay(True)
    story.block("sql", "n1", "n2")
    story.run(0.3)
    story.acknowledges("n1")
    story["n1"].kill_server()
    story.run(2.0)
    assert not any(story.serves(n) for n in ("n2", "n3"))
    # Not before: what n1 had sent to n2 would still arrive.
    story.heal()
    story["n3"].pause_replay(False)
    story.until("somebody serves", lambda: story.serves("n3") or story.serves("n1"), 10.0)
    story.well()


def test_everything_dies_at_once_and_the_primary_starts_in_place() -> None:
    """It makes a CAS of its own first, and opens after a barrier."""
    story = Story()
    for name in ("n1", "n2", "n3"):
        story[name].kill()
    story.run(1.0)
    seq = story.register.seq
    story["n1"].start_agent()
    story.until("n1 runs", lambda: story["n1"].server is not None, 3.0)
    assert story.register.seq > seq
    assert not story.serves("n1")
    story["n2"].start_agent()
    story["n3"].start_agent()
    story.primary_is("n1", within=5.0)
    story.well()
    assert story.register.term == 1


def test_primary_loses_its_data_directory() -> None:
    story = Story()
    story["n1"].lose_data(state_too=False)
    story.primary_is("n2", within=5.0)
    story.well()
    assert story["n1"].store.incarnation.id == "n11.1"
    story.expect("n2 primary", "n1 rejoin")


def test_primary_is_created_anew_under_its_name() -> None:
    """The new n1 is a stranger, and the register's n1 does not exist any more."""
    story = Story()
    story["n1"].lose_data(state_too=True)
    story["n1"].start_agent()
    story.primary_is("n2", within=8.0)
    story.well()


@pytest.mark.parametrize(("use_pg_rewind", "way"), [(True, "rewind"), (False, "clone")])
def test_diverged_log_is_repaired(use_pg_rewind: bool, way: str) -> None:
    story = Story(use_pg_rewind=use_pg_rewind)
    story.checker.ways.clear()
    story.block("sql", "n1", "n2")
    story.block("sql", "n1", "n3")
    story.run(0.3)
    assert story["n1"].disk.end > story["n2"].disk.end
    story["n1"].kill()
    story.heal()
    story.until("a successor serves", lambda: story.serves("n2") or story.serves("n3"), 3.0)
    story["n1"].start_agent()
    story.well()
    assert way in story.checker.ways
