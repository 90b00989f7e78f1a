"""Where a vote, or who gives it, is not what it seems, and would lose commits if it counted."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from pgregent.core.effects import WriteRegister
from pgregent.core.election import cancel, elect
from pgregent.core.types import Stage, Term
from pgregent.core.view import State
from tests.stories.story import Story

ALIVE = "is alive and stays primary"


def _all(story: Story, names: tuple[str, ...], know: Callable[[State], bool]) -> bool:
    agents = [story[name].agent for name in names]
    return all(agent is not None and know(agent.state) for agent in agents)


def _electing(state: State) -> bool:
    return state.register is not None and state.register.electing


def _begin_election(story: Story, why: str) -> None:
    assert story.dcs.apply(WriteRegister(story.register.seq, elect(story.register, why)))


def _restore_backup(story: Story, name: str, records: int) -> None:
    """Its machine is made anew from an old copy of the data, without what it promised."""
    node = story[name]
    node.kill()
    node.disk.log = node.disk.log[:records]
    node.disk.standby = True  # With a backup_label, it is not told from a standby's.
    node.store = node.stranger()


@pytest.mark.parametrize("name", ["n1", "n2"])
def test_one_made_anew_from_a_backup_counts_for_nothing(name: str) -> None:
    """Neither as the writer nor as a member of the rule, though it has their name."""
    story = Story(2)
    backup = len(story[name].disk.log)
    story.run(2.0)
    story.acknowledges("n1")
    for each in ("n1", "n2"):
        story[each].kill()
    _restore_backup(story, name, backup)
    story[name].start_agent()
    story.run(15.0)
    assert not story.serves(name)
    assert story.register.term == 1
    story["n1" if name == "n2" else "n2"].start_agent()
    story.until("one serves", lambda: story.serves("n1") or story.serves("n2"), 30.0)
    story.well(60)


def _promote_by_hand_and_kill(story: Story, name: str) -> None:
    node = story[name]
    assert node.server is not None
    node.kill_agent()
    node.server.by_hand = node.disk.foreign = True
    node.server.request_promotion()
    story.until("it runs on timeline 2", lambda: node.disk.position.timeline == 2, 2.0)
    node.kill()
    story.acknowledges("n1")


@pytest.mark.parametrize("seed", range(1, 9))
def test_one_promoted_by_hand_while_its_agent_was_down_does_not_vote(seed: int) -> None:
    """Its timeline has the number of term 2, that n1 is appointed for but not promoted in. n3 has
    what was acknowledged."""
    story = Story(seed=seed)
    _promote_by_hand_and_kill(story, "n2")
    story["n1"].kill()
    before = story.register
    term = Term(2, before.primary, 1, 0)
    appointed = replace(before, term=2, terms=(*before.terms, term))
    assert story.dcs.apply(WriteRegister(before.seq, elect(appointed, "it is dead")))
    story["n2"].start_agent()
    story.until("n2 is found out", lambda: story["n2"].store.stage is Stage.CLONE, 10.0)
    story.run(3.0)
    assert not any(story.serves(n) for n in ("n2", "n3"))
    story["n1"].start_agent()
    story.until("one serves", lambda: story.serves("n1") or story.serves("n3"), 20.0)
    story.well(60)


def test_one_promoted_by_hand_is_not_appointed() -> None:
    """While no agent watched it, and it was stopped again; its timeline is the newest, but nobody
    was appointed for it. Somebody has made a standby of it again: so it may not be told from one.
    n3 has what was acknowledged."""
    story = Story()
    _promote_by_hand_and_kill(story, "n2")
    story["n2"].disk.standby = True
    story["n1"].kill()
    _begin_election(story, "it is dead")
    story["n2"].start_agent()
    story.until("n2 votes", lambda: _all(story, ("n2",), lambda s: s.vote is not None), 10.0)
    story.run(3.0)
    assert not any(story.serves(n) for n in ("n2", "n3"))
    story["n1"].start_agent()
    story.until("one serves", lambda: story.serves("n1") or story.serves("n3"), 20.0)
    assert story.register.term == 3, "timeline 2 is on n2's disk"
    story.well(60)


def test_the_longer_log_of_an_older_term_is_not_the_newer_one() -> None:
    """n1's log of term 1 is the longest; n2 and n3 acknowledged in term 2."""
    story = Story()
    server = story["n1"].server
    assert server is not None
    story.block("sql", "n1", "n2")
    story.block("sql", "n1", "n3")
    for _ in range(200):
        server.append()
    story["n1"].kill()
    story.until("a successor serves", lambda: story.serves("n2") or story.serves("n3"), 3.0)
    story.heal()
    winner = story.cluster.primary.name
    other = "n3" if winner == "n2" else "n2"
    story.acknowledges(winner)
    assert story["n1"].disk.end > story[winner].disk.end
    story.block("sql", "n1", winner)
    story["n1"].start_agent()
    story[winner].kill()
    _begin_election(story, "it is dead")
    story.until("it is known", lambda: _all(story, (other,), _electing), 1.0)
    story.dcs.away = True
    story.run(5.0)
    story.dcs.away = False
    story.until("somebody serves", lambda: story.serves(other) or story.serves("n1"), 20.0)
    story.heal()
    story[winner].start_agent()
    story.well(60)


def test_a_vote_is_kept_as_long_as_its_election() -> None:
    """n3 has voted and cannot be heard by n2 any more; the DCS comes back late, n2 appoints."""
    story = Story(lease=60.0)
    story.isolate("n1", "peers", "dcs")
    _begin_election(story, "they hear nothing of n1")
    story.until("they know", lambda: _all(story, ("n2", "n3"), lambda s: s.vote is not None), 1.0)
    story.dcs.away = True
    story.run(0.2)
    story.block("peers", "n2", "n3")
    story.block("sql", "n1", "n2")
    story.run(15.0)
    story.never_acknowledges("n1", for_seconds=1.0)
    story.dcs.away = False
    story.until("one serves", lambda: story.serves("n2") or story.serves("n3"), 10.0)
    story.heal()
    story.well(60)


def test_of_two_nodes_one_is_not_deaf_alone() -> None:
    """n2 hears nothing of n1 and its connections get no answer; but n1 speaks in the DCS."""
    story = Story(2)
    story.block("peers", "n1", "n2")
    server = story["n1"].server
    assert server is not None
    server.hung = True
    story.run(3.0)
    server.hung = False
    story.expect("n2 suspect")
    story.silent("election")
    story.heal()
    story.well()
    assert story.register.term == 1


def test_an_office_is_taken_back_once_per_acknowledged_barrier() -> None:
    """So that one that gets no acknowledgements any more gives way in the end."""
    story = Story()
    for name in ("n2", "n3"):
        story.block("sql", "n1", name)
        story[name].kill_agent()
    _begin_election(story, "a false alarm")
    story.until("n1 takes it back", lambda: not story.register.electing, 3.0)
    assert story.register.term == 1
    _begin_election(story, "nothing is acknowledged")
    story.run(4.0)
    taken_back = [what for _, who, what in story.world.trace if who == "dcs" and ALIVE in what]
    assert len(taken_back) == 1, taken_back
    story.heal()
    for name in ("n2", "n3"):
        story[name].start_agent()
    story.well(60)


def test_an_office_is_not_taken_back_without_an_answer_of_its_server() -> None:
    story = Story()
    server = story["n1"].server
    assert server is not None
    server.hung = True
    _begin_election(story, "its postmaster is frozen")
    story.until("n1 gives way", lambda: story.register.term == 2, 10.0)
    assert not any(ALIVE in what for _, _, what in story.world.trace)
    server.hung = False
    story.well(60)


def test_a_vote_is_of_one_election() -> None:
    """n2 keeps n3's vote of an election that was cancelled; n3 confirms n1's commits since (only
    the agent of n1 is dead)."""
    story = Story(lease=60.0)
    story["n1"].kill_agent()
    _begin_election(story, "a false alarm")
    story.until("they know", lambda: _all(story, ("n2", "n3"), _electing), 1.0)
    story.dcs.away = True

    def has_the_vote(state: State) -> bool:
        record = state.peer("n3").record
        return record is not None and record.vote is not None

    story.until("n2 has n3's vote", lambda: _all(story, ("n2",), has_the_vote), 1.0)
    story.world.net.blocked.add(("peers", "n3", "n2"))
    story.block("dcs", "n3", "dcs")
    story.dcs.away = False
    register = story.register
    assert story.dcs.apply(WriteRegister(register.seq, cancel(register, "n1 is alive")))

    def follows(state: State) -> bool:
        return state.vote is None and state.postgres.streaming

    story.until("n3 follows", lambda: _all(story, ("n3",), follows), 5.0)
    story.block("peers", "n2", "n3")
    story.block("sql", "n1", "n2")
    story.run(0.2)
    _begin_election(story, "another one")
    story.until("n2 votes", lambda: _all(story, ("n2",), lambda s: s.vote is not None), 1.0)
    story.acknowledges("n1", within=3.0)
    story.run(3.0)
    assert not story.serves("n2")
    story.heal()
    story["n1"].start_agent()
    story.well(60)


def test_a_data_directory_that_is_being_remade_is_not_started_to_vote() -> None:
    """n1 dies in the middle of its rewind, and the next election begins."""
    story = Story()
    story.block("sql", "n1", "n2")
    story.block("sql", "n1", "n3")
    story.run(0.5)
    story["n1"].kill()
    story.until("a successor serves", lambda: story.serves("n2") or story.serves("n3"), 3.0)
    # Not before: what n1 had sent would still arrive.
    story.heal()
    story["n1"].start_agent()
    story.until("n1 is being remade", lambda: not story["n1"].disk.usable, 20.0)
    story["n1"].kill_agent()
    starts = story["n1"].starts
    winner = story.cluster.primary.name
    story[winner].kill()
    story["n3" if winner == "n2" else "n2"].freeze()
    _begin_election(story, "it is dead")
    story["n1"].start_agent()
    story.until("n1 knows", lambda: _all(story, ("n1",), _electing), 3.0)
    story.run(5.0)
    assert story["n1"].starts == starts, "it was started"
    story["n3" if winner == "n2" else "n2"].thaw()
    story[winner].start_agent()
    story.well(90)


def test_one_that_leaves_is_not_appointed_for_what_it_voted() -> None:
    """Its machine may be taken away next, and nobody could be without it then. Who appoints did not
    hear that it leaves, and knows it from the DCS."""
    story = Story()
    story["n3"].freeze()
    story["n1"].kill()
    _begin_election(story, "n1 is dead, and n3 does not answer")

    def voted() -> bool:
        vote = story.dcs.members["n2"].vote
        return vote is not None and vote.eligible

    story.until("n2 votes, also in the DCS", voted, 3.0)
    story["n2"].leave()
    story.run(1.0)
    story.dcs.slow["n2"] = 60.0
    story.until("n2 has left", lambda: story["n2"].agent is None, 10.0)
    story["n3"].kill()
    story.run(0.1)
    story["n3"].start_agent()
    story.until("one is appointed", lambda: story.register.term == 2, 10.0)
    assert story.register.primary.name == "n3", "n3 has appointed one that is gone"
    story.primary_is("n3", within=5.0)
    story.dcs.slow.clear()
    story["n2"].start_agent()
    story["n1"].start_agent()
    story.well(60)
