"""Agents come and go; their servers need not."""

import pytest

from pgregent.core.effects import WriteRegister
from pgregent.core.election import elect
from pgregent.core.types import PgState
from tests.stories.story import Story


def test_primarys_agent_dies_and_comes_back() -> None:
    story = Story()
    server = story["n1"].server
    story["n1"].kill_agent()
    story.run(1.0)
    story.acknowledges("n1")
    story["n1"].start_agent()
    story.primary_is("n1", within=2.0)
    story.well()
    assert story["n1"].server is server
    story.silent("election")


def test_primarys_agent_stays_dead() -> None:
    """After the lease the guard stops the server, and the others have elected by then."""
    story = Story(lease=2.0)
    story["n1"].kill_agent()
    story.until("another serves", lambda: story.serves("n2") or story.serves("n3"), 6.0)
    story.until("the guard stops n1", lambda: story["n1"].server is None, 3.0)
    story["n1"].start_agent()
    story.well()


def test_every_agent_dies() -> None:
    story = Story()
    servers = [story[n].server for n in ("n1", "n2", "n3")]
    for name in ("n1", "n2", "n3"):
        story[name].kill_agent()
    story.run(1.0)
    for name in ("n1", "n2", "n3"):
        story[name].start_agent()
    story.well()
    assert [story[n].server for n in ("n1", "n2", "n3")] == servers
    assert story.register.term == 1


def test_agent_dies_after_it_has_voted() -> None:
    """Its seal is on disk: back again, it does not turn to the old primary."""
    story = Story()
    story["n1"].freeze()
    story.until("an election begins", lambda: story.register.electing, 3.0)
    story["n3"].kill_agent()
    story["n2"].kill_agent()
    story["n1"].thaw()
    story["n2"].start_agent()
    story["n3"].start_agent()
    story.well()


def test_primary_leaves_and_hands_over() -> None:
    story = Story()
    story["n1"].leave()
    story.until("n1 is gone", lambda: story["n1"].agent is None, 5.0)
    story.primary_is(story.register.primary.name, within=2.0)
    story.checker.ways.clear()
    story["n1"].start_agent()
    story.well()
    assert story.register.term == 2
    assert not story.checker.ways & {"rewind", "clone"}
    story.silent("election")


def test_primary_leaves_and_nobody_can_take_over() -> None:
    story = Story(1)
    story["n1"].leave()
    story.until("n1 is gone", lambda: story["n1"].agent is None, 5.0)
    story["n1"].start_agent()
    story.well()
    assert story.register.term == 1


def test_standby_leaves_after_it_was_taken_out_of_the_rule() -> None:
    story = Story()
    story["n3"].leave()
    story.until("n3 is gone", lambda: story["n3"].agent is None, 5.0)
    assert story.rule() == "ANY 1 (n2)"
    story["n3"].start_agent()
    story.well()
    story.silent("election")


def test_whole_cluster_leaves_and_comes_back() -> None:
    story = Story()
    for name in ("n1", "n2", "n3"):
        story[name].leave(whole_cluster=True)
    story.until("all are gone", lambda: not any(n.agent for n in story.cluster.nodes.values()), 9.0)
    for name in ("n1", "n2", "n3"):
        story[name].start_agent()
    story.well()
    assert (story.register.term, story.cluster.primary.name) == (1, "n1")


def test_living_primary_takes_its_office_back() -> None:
    """An election is begun against it, but no votes come: twice, since each time it proves anew
    that it gets acknowledgements."""
    story = Story()
    for _ in range(2):
        agents = [a for n in ("n2", "n3") if (a := story[n].agent) is not None]
        for agent in agents:
            agent.proc.frozen += 1
        begun = elect(story.register, "somebody holds that n1 is dead")
        assert story.dcs.apply(WriteRegister(story.register.seq, begun))
        story.until("n1 takes it back", lambda: not story.register.electing, 3.0)
        for agent in agents:
            story.world.thaw(agent.proc)
        story.well()
    assert story.register.term == 1


@pytest.mark.parametrize("seed", range(1, 6))
def test_guard_has_a_deadline_when_a_promotion_was_cut_short(seed: int) -> None:
    """The node dies after it was told to promote, and comes back; then its agent dies."""
    story = Story(seed=seed, lease=1.0)
    story["n1"].kill()

    def promoting() -> str:
        agents = {n: story[n].agent for n in ("n2", "n3")}
        return next((n for n, a in agents.items() if a and a.state.durable.promoting), "")

    story.until("somebody promotes", lambda: bool(promoting()), 10.0)
    winner = story[promoting()]
    winner.kill()
    story.run(0.3)
    winner.start_agent()
    story.cluster.run(
        5.0, lambda: winner.server is not None and winner.server.state is PgState.PRIMARY
    )
    story.run(0.03)
    if winner.server is not None and winner.server.state is PgState.PRIMARY:
        winner.kill_agent()
        story.until("the guard stops it", lambda: winner.server is None, 4.0)
