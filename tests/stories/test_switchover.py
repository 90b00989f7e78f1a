"""A switchover that the operator asks for: nobody rewinds, and a refusal says why."""

import pytest

from pgregent.core import reasons
from pgregent.core.events import RestoreDcs, Switchover
from pgregent.core.publish import record_of
from pgregent.core.switchover import switchover_refusal
from tests.sim.port import Port
from tests.sim.world import Work
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
    story.primary_is(candidate, within=8.0)
    story.well()
    story.expect("n1 switchover", f"{candidate} primary", "n1 follow")
    story.silent("election", "suspect", "rejoin")
    assert story.register.term == 2
    assert not {"rewind", "clone"} & story.checker.ways


def test_to_the_furthest_and_back() -> None:
    story = Story(nodes=2)
    assert ask(story, "n1") == ""
    story.primary_is("n2", within=8.0)
    story.well()
    assert ask(story, "n2", "n1") == ""
    story.primary_is("n1", within=8.0)
    story.well()
    assert story.register.term == 3
    story.silent("election", "rejoin")


def test_refusals_change_nothing() -> None:
    story = Story()
    assert "n2 is not the primary, n1 is" in ask(story, "n2")
    assert "n4 does not have all commits; n2, n3 could" in ask(story, "n1", "n4")
    story["n3"].freeze()
    story.run(1.5)
    assert "n3 cannot take over now" in ask(story, "n1", "n3")
    story["n3"].thaw()
    story.well()
    assert story.register.term == 1


def test_a_request_of_an_earlier_term_is_refused() -> None:
    story = Story()
    agent = story["n2"].agent
    assert agent is not None
    story["n1"].kill_server()
    story.primary_is("n2", within=8.0)
    story.well()
    agent.post(Switchover(1))
    story.run(3.0)
    assert story.register.term == 2


def test_candidate_dies_meanwhile() -> None:
    """The others succeed by an election, or the primary goes on."""
    story = Story()
    assert ask(story, "n1", "n3") == ""
    story.until("n1 stops", lambda: story["n1"].server is None, 8.0)
    story["n3"].kill()
    story.until("somebody serves", lambda: story.serves("n1") or story.serves("n2"), 15.0)
    story["n3"].start_agent()
    story.well()


def test_agent_dies_in_the_middle() -> None:
    story = Story()
    assert ask(story, "n1", "n2") == ""
    story.until("n1 stops", lambda: story["n1"].server is None, 8.0)
    story["n1"].kill_agent()
    story.until("somebody serves", lambda: story.serves("n2") or story.serves("n3"), 15.0)
    story["n1"].start_agent()
    story.well()


def slow_checkpoints(monkeypatch: pytest.MonkeyPatch, seconds: float) -> list[str]:
    """The members that were asked for a checkpoint, as they are."""
    asked: list[str] = []

    def checkpoint(self: Port) -> Work:
        asked.append(self.node.name)
        yield seconds

    monkeypatch.setattr(Port, "checkpoint", checkpoint)
    return asked


def test_standby_dies_during_the_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule changes at once; it does not wait for the checkpoint."""
    slow_checkpoints(monkeypatch, 60.0)
    story = Story(nodes=2)
    assert ask(story, "n1", "n2") == ""
    story.run(0.5)
    story["n2"].kill()
    story.acknowledges("n1", 3.0)
    story.expect("n1 switchover", "n1 refused", "n1 rule")


def test_server_that_does_not_answer_during_the_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    slow_checkpoints(monkeypatch, 5.0)
    story = Story(nodes=2)
    server = story["n1"].server
    assert server is not None
    assert ask(story, "n1", "n2") == ""
    story.run(0.5)
    server.hung = True
    story.run(1.6)
    server.hung = False
    story.primary_is("n2", within=8.0)
    story.well()


def test_every_handover_has_a_checkpoint_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = slow_checkpoints(monkeypatch, 0.01)
    story = Story(nodes=2)
    for of, to in (("n1", "n2"), ("n2", "n1")):
        assert ask(story, of, to) == ""
        story.primary_is(to, within=3.0)
        story.well()
    asked.clear()
    story["n1"].leave()
    story.primary_is("n2", within=5.0)
    assert asked == ["n1"]


@pytest.mark.parametrize("seed", range(1, 9))
def test_no_handover_from_a_server_that_was_shut_down_in_recovery(seed: int) -> None:
    """Its last checkpoint is not the end of its log."""
    story = Story(seed=seed)
    n1, n3 = story["n1"], story["n3"]
    story.block("sql", "n1", "n2")
    story.run(0.5)
    for _ in range(5):
        story.acknowledges("n1", 3.0)
    n3.kill(silently=True)
    n1.kill_server()
    story.until("an election runs", lambda: story.register.electing, 5.0)
    story.until("n1 has sealed", lambda: n1.server is not None, 8.0)
    assert n1.agent is not None
    state = n1.agent.state
    story.dcs.forget()
    story.until("n1 sees it", lambda: state.register_lost, 5.0)
    assert state.register is not None
    n1.agent.post(RestoreDcs(state.register.seq))
    story.until("it is back", lambda: story.dcs.register is not None, 5.0)
    n1.leave()
    story.run(6.0)
    assert story.register.primary.name != "n2"


def test_dcs_is_away() -> None:
    """Nobody could be appointed then, and the primary could not start again either."""
    story = Story()
    story.dcs.away = True
    story.run(4.0)
    assert "the DCS does not answer" in ask(story, "n1")
    story.run(8.0)
    story.acknowledges("n1")
    agent = story["n1"].agent
    assert agent is not None
    own = record_of(agent.state)
    assert reasons.succession(agent.state, own).endswith("the DCS does not answer")
    assert "nobody could succeed" in reasons.if_dies(agent.state, own)["n1"]
    story.heal()
    story.well()
    assert story.register.term == 1


def test_dcs_goes_away_during_the_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    slow_checkpoints(monkeypatch, 6.0)
    story = Story()
    assert ask(story, "n1", "n2") == ""
    story.run(0.5)
    story.dcs.away = True
    story.run(9.0)
    story.acknowledges("n1")
    story.expect("n1 switchover", "n1 refused")
    story.heal()
    story.well()


def test_candidate_that_does_not_reach_the_dcs() -> None:
    """It could be promoted, but not open."""
    story = Story()
    story.isolate("n2", "dcs")
    story.run(4.0)
    assert "n2 cannot take over now" in ask(story, "n1", "n2")
    assert ask(story, "n1") == ""
    story.primary_is("n3", within=8.0)
    story.heal()
    story.well()
