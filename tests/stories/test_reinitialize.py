"""A standby's data directory made anew, as the operator asks: no commit waits for it."""

import pytest

from pgregent.core.events import Reinitialize, Restart
from pgregent.core.reinitialize import reinitialize_refusal
from pgregent.core.types import PgState, Postgres
from tests.sim.port import Port
from tests.stories.story import Story


def ask(story: Story, of: str) -> str:
    """Ask this member's agent; the refusal, or empty."""
    agent = story[of].agent
    assert agent is not None
    refusal = reinitialize_refusal(agent.state)
    agent.post(Reinitialize())
    return refusal


def test_it_is_cloned_and_leaves_the_rule_first() -> None:
    story = Story()
    story.checker.ways.clear()
    before = story["n2"].store.incarnation
    assert ask(story, "n2") == ""
    story.until("n2 is not counted on", lambda: story.rule() == "ANY 1 (n3)", 5.0)
    server = story["n2"].server
    assert server is not None and server.answers, "it stopped before it was taken out of the rule"
    story.until("n2 has a new copy", lambda: story["n2"].store.incarnation != before, 10.0)
    story.well()
    story.expect("n2 reinitialize", "n1 rule", "n2 rejoin", "n2 follow", "n1 rule")
    story.silent("suspect", "election", "refused")
    assert "clone" in story.checker.ways and "rewind" not in story.checker.ways


def test_the_only_standby_where_one_is_required() -> None:
    """It is still named while it is copied: commits wait, as they have to."""
    story = Story(nodes=2, minimum_k=1)
    before = story["n2"].store.incarnation
    assert ask(story, "n2") == ""
    story.until("n2 has a new copy", lambda: story["n2"].store.incarnation != before, 10.0)
    story.well()


def test_an_agent_that_dies_before_the_copy_begins_forgets_it() -> None:
    story = Story()
    before = story["n2"].store.incarnation
    assert ask(story, "n2") == ""
    story.until("n2 stops", lambda: story["n2"].server is None, 8.0)
    story["n2"].kill_agent()
    story["n2"].start_agent()
    story.well()
    assert story["n2"].store.incarnation == before


def test_an_election_ends_it() -> None:
    story = Story(nodes=2, minimum_k=1)
    before = story["n2"].store.incarnation
    story["n1"].kill()
    assert ask(story, "n2") == ""
    story.primary_is("n2", within=15.0)
    assert story["n2"].store.incarnation == before
    story["n1"].start_agent()
    story.well()


def test_refusals_change_nothing() -> None:
    story = Story()
    assert "n1 is the primary" in ask(story, "n1")
    assert ask(story, "n2") == ""
    story.until("it is under way", lambda: "being made anew already" in ask(story, "n2"), 5.0)
    story.well()
    story.dcs.away = True
    story.run(3.0)
    assert "commits or an election may depend" in ask(story, "n3")
    story.heal()
    story.well()
    assert story.register.term == 1


def test_a_primary_that_does_not_reach_the_dcs_needs_it() -> None:
    """It cannot take it out of the rule: its commits would wait, and its authority run out."""
    story = Story(nodes=2)
    story.isolate("n1", "dcs")
    story.run(5.0)
    story.acknowledges("n1")
    assert "commits or an election may depend" in ask(story, "n2")
    story.run(12.0)
    story.acknowledges("n1")
    story.silent("rejoin")


def test_a_data_directory_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """pg_controldata refuses it. A restart does not help, and is not in the way either."""
    look = Port.look

    def unreadable(self: Port) -> Postgres:
        return Postgres(PgState.STOPPED) if self.node.disk is broken else look(self)

    story = Story()
    story["n2"].kill()
    broken = story["n2"].disk
    monkeypatch.setattr(Port, "look", unreadable)
    story["n2"].start_agent()
    story.run(5.0)
    agent = story["n2"].agent
    assert agent is not None
    agent.post(Restart())
    story.run(5.0)
    assert story["n2"].server is None
    assert ask(story, "n2") == ""
    story.well()
    story.expect("n2 restart", "n2 reinitialize", "n2 rejoin", "n2 follow")


def test_a_strangers_directory_is_not_replaced() -> None:
    story = Story()
    story["n2"].kill()
    story["n2"].disk.system_id = "4711"
    story["n2"].start_agent()
    story.run(5.0)
    assert "another cluster's: move it away" in ask(story, "n2")
    story.run(5.0)
    story.silent("rejoin")
