"""A promotion cannot be recalled, and a primary that starts again shows what was never safe."""

from dataclasses import replace

import pytest

from pgregent.core.effects import WriteRegister
from pgregent.core.election import elect
from pgregent.core.types import NOBODY, PgState
from tests.sim.fake_postgres import Server
from tests.stories.story import Story


def _slow_promotion(story: Story) -> tuple[str, Server]:
    """n1 is dead; who is appointed, and its server, of which a promotion was requested."""
    for name in ("n2", "n3"):
        server = story[name].server
        assert server is not None
        server.promotion_takes = (20.0, 20.0)
    story["n1"].kill()
    story.until("one is appointed", lambda: story.register.term == 2, 3.0)
    winner = story.register.primary.name
    server = story[winner].server
    assert server is not None
    story.until("its promotion is requested", lambda: server.promoting, 2.0)
    return winner, server


@pytest.mark.parametrize("agent_dies", [False, True])
def test_a_server_that_may_still_promote_is_stopped_before_it_votes(agent_dies: bool) -> None:
    story = Story()
    winner, server = _slow_promotion(story)
    if agent_dies:
        story[winner].kill_agent()
        story[winner].start_agent()
    register = story.register
    assert story.dcs.apply(WriteRegister(register.seq, elect(register, "it takes too long")))

    def voted() -> bool:
        agent = story[winner].agent
        return agent is not None and agent.state.vote is not None

    story.until(f"{winner} votes", voted, 8.0)
    assert not server.alive, f"{winner} voted, and its server is about to promote"
    story["n1"].start_agent()
    story.well(60)


def test_a_server_that_may_still_promote_follows_nobody() -> None:
    story = Story(lease=60.0)
    winner, server = _slow_promotion(story)
    story.isolate(winner, "peers", "dcs")
    story["n1"].start_agent()
    register = story.register
    assert story.dcs.apply(WriteRegister(register.seq, elect(register, "it takes too long")))
    story.until("another is appointed", lambda: story.register.term == 3, 10.0)
    # So nobody tells it of the election any more.
    story.run(1.0)
    assert server.alive and server.state is PgState.STANDBY
    story.heal()
    story.until("it is stopped", lambda: not server.alive, 1.0)
    story.well(60)


def test_a_primary_that_was_superseded_is_stopped_before_its_authority_ends() -> None:
    story = Story(lease=60.0)
    story.isolate("n1")
    register = story.register
    assert story.dcs.apply(WriteRegister(register.seq, elect(register, "it is cut off")))
    story.until("one serves", lambda: story.serves("n2") or story.serves("n3"), 5.0)
    server = story["n1"].server
    assert server is not None and server.alive
    story.heal()
    story.until("n1 is stopped", lambda: not server.alive, 3.0)
    story.well(60)


def test_a_handover_is_only_to_one_that_has_it_all() -> None:
    """n2 gets nothing; n3, which alone has what n1 acknowledged last, dies as n1 leaves."""
    story = Story()
    story.block("sql", "n1", "n2")
    story["n2"].kill_server()
    story.run(3.0)
    story.acknowledges("n1")
    story["n1"].leave()
    story["n3"].kill()
    story.run(10.0)
    assert not story.serves("n2")
    story.heal()
    for name in ("n1", "n3"):
        story[name].start_agent()
    story.well(60)


def test_what_a_crash_made_visible_is_not_shown_before_others_have_it() -> None:
    """n1's last commits were never acknowledged; in the end they are nowhere."""
    story = Story()
    story.block("sql", "n1", "n2")
    story.block("sql", "n1", "n3")
    story.run(1.0)
    for name in ("n1", "n2", "n3"):
        story[name].kill()
    story["n1"].start_agent()

    def runs() -> bool:
        server = story["n1"].server
        return server is not None and server.state is PgState.PRIMARY

    story.until("n1 runs", runs, 6.0)
    # So it cannot shrink the rule to itself, which would make them safe.
    story.dcs.away = True
    story.run(3.0)
    assert not story.serves("n1")
    story["n1"].kill()
    story.heal()
    story["n2"].start_agent()
    story["n3"].start_agent()
    story.until("one serves", lambda: story.serves("n2") or story.serves("n3"), 20.0)
    story["n1"].start_agent()
    story.well(60)


@pytest.mark.parametrize("seed", range(1, 6))
def test_one_on_another_timeline_than_its_terms_acknowledges_nothing(seed: int) -> None:
    """Somebody promotes it by hand just when it is appointed: that ends on the next number, which
    is not the term's."""
    story = Story(nodes=2, seed=seed)
    register = story.register
    burned = replace(register.terms[-1], term=5, writer=NOBODY, parent=0)
    skipped = replace(register, seq=register.seq + 1, terms=(*register.terms, burned))
    assert story.dcs.apply(WriteRegister(register.seq, skipped))
    story.run(1.0)
    server = story["n2"].server
    assert server is not None
    server.by_hand = server.disk.foreign = True
    server.promotion_takes = (0.0001, 0.0001)
    story["n1"].kill()
    story.until("it is appointed", lambda: story.register.term == 6, 3.0)
    assert server.state is PgState.STANDBY
    server.request_promotion()
    story.until("it is promoted", lambda: server.state is PgState.PRIMARY, 1.0)
    assert server.timeline == 2
    acked: list[bool] = []
    while server.alive:
        story.cluster.write("n2", lambda: acked.append(True))
        story.run(0.01)
    assert not acked
    story["n1"].start_agent()
    story.well(60)
