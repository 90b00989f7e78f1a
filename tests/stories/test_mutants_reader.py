"""What a reader who had not seen the tests expected to go unnoticed (docs/mutants.md)."""

from collections.abc import Callable

from pgregent.core.effects import WriteRegister
from pgregent.core.election import elect
from pgregent.core.errors import Unavailable
from pgregent.core.events import Switchover
from pgregent.core.view import State
from tests.sim.world import Work
from tests.stories.story import Story


def _state(story: Story, name: str) -> State:
    agent = story[name].agent
    assert agent is not None
    return agent.state


def _electing(state: State) -> bool:
    return state.register is not None and state.register.electing


def _begin_election(story: Story) -> None:
    before = story.register
    assert story.dcs.apply(WriteRegister(before.seq, elect(before, "it is dead")))


def _hand_over_to_n2(story: Story) -> None:
    agent = story["n1"].agent
    assert agent is not None
    agent.post(Switchover(1, "n2"))


def _at_the_appointment(story: Story, term: int, do: Callable[[], None]) -> None:
    """Do it as soon as this one is stored, before anybody hears of it."""
    apply = story.dcs.apply

    def and_do(write: WriteRegister) -> bool:
        before = story.dcs.register
        stored = apply(write)
        if stored and before is not None and before.term < write.register.term == term:
            do()
        return stored

    story.dcs.apply = and_do


def test_the_second_handover_of_a_life_may_have_landed_unheard_too() -> None:
    """The first came to nothing. n3 hears only n1; n2 succeeds, and then the DCS is emptied."""
    story = Story(standby_grace=1.0)
    state = _state(story, "n1")
    _hand_over_to_n2(story)
    story.until("n1 stops", lambda: story["n1"].server is None, 8.0)
    story.isolate("n1", "dcs")
    story.until("n1 tries it", lambda: state.durable.handing > 0, 2.0)
    story["n2"].kill()
    story.until("it is given up", lambda: state.switchover is None, 3.0)
    # Not before: what is under way would still land.
    story.run(1.5)
    story.heal()
    story.primary_is("n1", within=10.0)
    story["n2"].start_agent()
    story.well()
    # Its last look at the DCS has to have been answered.
    story.run(2.0)
    assert story.register.term == 1

    def cut_off() -> None:
        story.isolate("n1", "dcs")
        story.isolate("n3", "dcs")
        for kind in ("peers", "sql"):
            for other in ("n1", "n3"):
                story.block(kind, "n2", other)

    _at_the_appointment(story, 2, cut_off)
    _hand_over_to_n2(story)
    story.primary_is("n2", within=20.0)
    story.acknowledges("n2")
    assert _state(story, "n3").register == state.register != story.register
    story.isolate("n2")
    story.dcs.forget()
    for name in ("n1", "n3"):
        for way in ((name, "dcs"), ("dcs", name)):
            story.world.net.blocked.discard(("dcs", *way))
    story.run(20.0)
    assert not story.serves("n1")
    story.heal()
    story.well(60)


def test_a_number_on_the_disk_of_one_that_is_not_appointed_is_not_given_again() -> None:
    """n2 was promoted by hand to timeline 2; its log is the longest. It was stopped and made a
    standby again, so it cannot be told from one that has the number by right."""
    story = Story(standby_grace=1.0)
    story["n2"].kill_agent()
    server = story["n2"].server
    assert server is not None
    server.by_hand = story["n2"].disk.foreign = True
    server.request_promotion()
    story.until("it runs on timeline 2", lambda: story["n2"].disk.position.timeline == 2, 2.0)
    for _ in range(300):
        server.append()
    story["n2"].kill()
    story["n2"].disk.standby = True
    end = story["n2"].disk.end
    story.until("n2 leaves the rule", lambda: story.rule() == "ANY 1 (n3)", 5.0)
    for other in ("n1", "n3"):
        story.block("sql", "n2", other)
    story["n1"].kill()
    story["n3"].freeze()
    _begin_election(story)
    story["n2"].start_agent()
    story.until("n2 votes", lambda: _state(story, "n2").vote is not None, 10.0)
    story["n3"].thaw()
    story.primary_is("n3", within=10.0)
    story["n1"].start_agent()
    story.until("n1 confirms", lambda: story.rule() == "ANY 1 (n1)", 20.0)
    story.acknowledges("n3")
    story["n3"].kill()
    assert story["n3"].disk.end < end
    _begin_election(story)
    n1, n2 = (_state(story, name) for name in ("n1", "n2"))
    story.until("they know", lambda: _electing(n1) and _electing(n2), 1.0)
    # Until both have voted, if n2 has anything to vote with.
    story.dcs.away = True
    story.run(4.0)
    story.dcs.away = False
    story.until("one serves", lambda: story.serves("n1") or story.serves("n2"), 10.0)
    story.heal()
    story["n3"].start_agent()
    story.well(60)


def test_who_cannot_reach_the_dcs_leaves_its_turn_to_the_next() -> None:
    """n1 is silent. n2 would be the first to begin an election; n3 is the furthest."""
    story = Story()
    story.isolate("n2", "dcs")
    story.block("sql", "n1", "n2")
    story.run(0.2)
    story["n1"].kill(silently=True)
    story.primary_is("n3", within=5.0)
    story.heal()
    story["n1"].start_agent()
    story.well(60)


def test_a_voter_whose_server_dies_votes_again() -> None:
    """The DCS was away since before anybody could be appointed. Only n2 is left."""
    story = Story(2)
    story["n1"].kill()
    _begin_election(story)
    state = _state(story, "n2")
    story.until("n2 knows", lambda: _electing(state), 1.0)
    story.dcs.away = True
    story.until("n2 votes", lambda: state.vote is not None, 3.0)
    server = story["n2"].server
    assert server is not None
    server.die("killed")
    story.run(2.0)
    story.dcs.away = False
    story.primary_is("n2", within=10.0)
    story["n1"].start_agent()
    story.well(60)


def test_a_successor_short_of_the_minimum_opens_for_who_has_to_rewind() -> None:
    """n1's log went past the fork, and the only other member is lost before the barrier."""
    story = Story(minimum_k=1, standby_grace=1.0)
    server = story["n1"].server
    assert server is not None
    for a, b in (("n1", "n2"), ("n1", "n3"), ("n2", "n3")):
        story.block("sql", a, b)
    for _ in range(5):
        server.append()
    story["n1"].kill()
    story.until("a successor is appointed", lambda: story.register.term == 2, 3.0)
    winner = story.register.primary.name
    lost = "n3" if winner == "n2" else "n2"
    story[lost].kill()
    story.heal()
    story["n1"].start_agent()
    story.primary_is(winner, within=15.0)
    story.acknowledges(winner, within=30.0)
    story[lost].start_agent()
    story.well(60)


def test_nobody_succeeds_a_primary_whose_guard_does_not_hear_its_deadline() -> None:
    """Until when it may serve was told, but not confirmed."""
    story = Story(2, lease=2.0)
    story["n2"].kill()
    story.until("n1 is alone", lambda: story.rule() == "the primary alone", 10.0)
    story.run(2.0)
    guard, agent = story["n1"].guard, story["n1"].agent
    assert guard is not None and agent is not None and guard.deadline is None

    def deaf(number: int, at: float | None) -> Work:
        del number, at
        yield 1.0
        raise Unavailable("guard", "it does not answer")

    hears, agent.port.set_deadline = agent.port.set_deadline, deaf
    story["n2"].start_agent()
    story.until("n2 is to confirm", lambda: story.rule().endswith("ANY 1 (n2)"), 10.0)
    story.run(3.0)
    story.isolate("n1")
    story.run(10.0)
    assert not story.serves("n2")
    agent.port.set_deadline = hears
    story.heal()
    story.well(60)
