"""The checks while the real core fails over, in the simulator."""

from pgregent.api import health
from pgregent.api.node import Node
from tests.stories.story import Story

NAMES = ("n1", "n2", "n3")


def passes(story: Story, path: str) -> list[str]:
    """The members that answer this check with 200."""
    found: list[str] = []
    for name in NAMES:
        agent = story[name].agent
        if agent is None or story[name].frozen:
            continue
        node = Node(agent.state, "demo", lambda: story.now, synchronous_mode="quorum")
        if health.healthy(node, path, {}):
            found.append(name)
    return found


def test_one_member_is_primary_and_none_while_nobody_serves() -> None:
    story = Story()
    assert passes(story, "/primary") == ["n1"]
    assert passes(story, "/replica") == passes(story, "/quorum") == ["n2", "n3"]
    assert passes(story, "/health") == list(NAMES)
    story["n1"].kill_server()
    seen: list[list[str]] = []

    def served_by_another() -> bool:
        now = passes(story, "/primary")
        if not seen or seen[-1] != now:
            seen.append(now)
        return bool(now) and now != ["n1"]

    story.until("another serves", served_by_another, 2.0)
    assert seen[-2:] == [[], ["n2"]]
    story.well()
    assert passes(story, "/primary") == ["n2"]
    assert passes(story, "/quorum") == ["n1", "n3"]


def test_a_frozen_primary_does_not_pass_when_it_wakes() -> None:
    """Its core has had no event yet that could tell it; only the clock has moved on."""
    story = Story(lease=2.0)
    agent = story["n1"].agent
    assert agent is not None
    woken = Node(agent.state, "demo", lambda: story.now)
    assert woken.serving
    story["n1"].freeze()
    story.primary_is("n2", within=3.0)
    story.run(max(0.0, woken.authority_left))
    assert woken.alive
    assert not woken.serving
    assert passes(story, "/primary") == ["n2"]
