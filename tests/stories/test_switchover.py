"""A switchover that the operator asks for: nobody rewinds, and a refusal says why."""

import pytest

from pgregent.core.effects import Switchover
from pgregent.core.switchover import switchover_refusal
from tests.stories.story import Story


def ask(story: Story, of: str, candidate: str = "") -> str:
    """Ask this member's agent; the refusal, or empty."""
    agent = story[of].agent
    assert agent is not None
    asked = Switchover(story.register.term, candidate)
    refusal = switchover_refusal(agent.state, asked)
    agent.post(asked)
    return refusal


@pytest.mark.parametrize("candidate", ["n2", "n3"])
def test_to_the_one_that_was_asked_for(candidate: str) -> None:
    story = Story()
    story.checker.ways.clear()
    assert ask(story, "n1", candidate) == ""
    story.primary_is(candidate, within=2.0)
    story.well()
    story.expect("n1 switchover", f"{candidate} primary", "n1 follow")
    story.silent("election", "suspect", "rejoin")
    assert story.register.term == 2
    assert not {"rewind", "clone"} & story.checker.ways


def test_to_the_furthest_and_back() -> None:
    story = Story(nodes=2)
    assert ask(story, "n1") == ""
    story.primary_is("n2", within=2.0)
    story.well()
    assert ask(story, "n2", "n1") == ""
    story.primary_is("n1", within=2.0)
    story.well()
    assert story.register.term == 3
    story.silent("election", "rejoin")


def test_refusals_change_nothing() -> None:
    story = Story()
    assert "n2 is not the primary, n1 is" in ask(story, "n2")
    assert "n4 does not have all commits; n2, n3 could" in ask(story, "n1", "n4")
    story["n3"].freeze()
    story.run(1.5)
    assert "n3 can take over" not in ask(story, "n1", "n2")
    story["n3"].thaw()
    story.well()


def test_a_request_of_an_earlier_term_is_refused() -> None:
    story = Story()
    agent = story["n2"].agent
    assert agent is not None
    story["n1"].kill_server()
    story.primary_is("n2", within=2.0)
    story.well()
    agent.post(Switchover(1))
    story.run(3.0)
    assert story.register.term == 2


def test_candidate_dies_meanwhile() -> None:
    """The others succeed by an election, or the primary goes on."""
    story = Story()
    assert ask(story, "n1", "n3") == ""
    story.until("n1 stops", lambda: story["n1"].server is None, 2.0)
    story["n3"].kill()
    story.until("somebody serves", lambda: story.serves("n1") or story.serves("n2"), 15.0)
    story["n3"].start_agent()
    story.well()


def test_agent_dies_in_the_middle() -> None:
    story = Story()
    assert ask(story, "n1", "n2") == ""
    story.until("n1 stops", lambda: story["n1"].server is None, 2.0)
    story["n1"].kill_agent()
    story.until("somebody serves", lambda: story.serves("n2") or story.serves("n3"), 15.0)
    story["n1"].start_agent()
    story.well()
