"""A restart that the operator asks for: nobody succeeds, and a refusal says why."""

import pytest

from pgregent.core.events import Restart, Switchover
from pgregent.core.restart import restart_refusal
from tests.sim.port import Port
from tests.sim.world import Work
from tests.stories.story import Story


def refusal(story: Story, of: str) -> str:
    """Of this member's agent; empty: none."""
    agent = story[of].agent
    assert agent is not None
    return restart_refusal(agent.state)


def ask(story: Story, of: str) -> str:
    """Ask this member's agent; the refusal, or empty."""
    refused, agent = refusal(story, of), story[of].agent
    assert agent is not None
    agent.post(Restart())
    return refused


def starts_anew(story: Story, name: str, before: int) -> None:
    story.until(f"{name} has started again", lambda: story[name].starts > before, 10.0)


def test_a_primary_stays_primary() -> None:
    story = Story()
    before = story["n1"].starts
    assert ask(story, "n1") == ""
    starts_anew(story, "n1", before)
    story.well()
    story.expect("n1 restart", "n1 primary")
    story.silent("suspect", "election", "postgres_exited", "refused")
    assert story.register.term == 1


def test_a_standby_streams_again() -> None:
    story = Story()
    before = story["n2"].starts
    assert ask(story, "n2") == ""
    starts_anew(story, "n2", before)
    story.well()
    story.expect("n2 restart", "n2 follow")
    story.silent("suspect", "election", "rejoin", "refused")
    assert story.register.term == 1


def test_clients_are_held_meanwhile() -> None:
    """The entry point leads nobody to a server that is about to stop."""
    story = Story()
    assert ask(story, "n1") == ""
    story.until("it is held", lambda: not story.serves("n1"), 8.0)
    server = story["n1"].server
    assert server is not None and server.answers
    story.primary_is("n1", within=8.0)
    story.acknowledges("n1")


def test_a_standby_dies_during_the_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule changes at once; commits do not wait for the checkpoint."""

    def checkpoint(self: Port) -> Work:
        yield 60.0

    monkeypatch.setattr(Port, "checkpoint", checkpoint)
    story = Story(nodes=2)
    assert ask(story, "n1") == ""
    story.run(0.5)
    story["n2"].kill()
    story.acknowledges("n1", 3.0)
    story.expect("n1 restart", "n1 rule")


@pytest.mark.parametrize("name", ["n1", "n2"])
def test_a_shutdown_that_takes_long_is_cut_short(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A standby that is slow to take the last WAL holds it up."""
    stop = Port.stop

    def slowly(self: Port, immediate: bool) -> Work:
        if not immediate:
            yield 60.0
        yield from stop(self, immediate)

    monkeypatch.setattr(Port, "stop", slowly)
    story = Story()
    before = story[name].starts
    assert ask(story, name) == ""
    starts_anew(story, name, before)
    story.primary_is("n1", within=2.0)
    story.well()
    assert story.register.term == 1


def test_a_server_that_does_not_come_back_is_succeeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The primary's PostgreSQL starts no more: the others do not wait for it for ever."""

    def start(self: Port, *args: object) -> Work:
        yield 600.0

    story = Story()
    assert ask(story, "n1") == ""
    story.until("n1 stops", lambda: story["n1"].server is None, 8.0)
    with monkeypatch.context() as patch:
        patch.setattr(Port, "start", start)
        story.until("another serves", lambda: story.serves("n2") or story.serves("n3"), 15.0)


def test_an_election_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the entry point is not held by what was given up."""

    def checkpoint(self: Port) -> Work:
        yield 60.0

    story = Story()
    with monkeypatch.context() as patch:
        patch.setattr(Port, "checkpoint", checkpoint)
        assert ask(story, "n1") == ""
        story.run(0.1)
        story.isolate("n1")
        story.until("another serves", lambda: story.serves("n2") or story.serves("n3"), 15.0)
    story.heal()
    story.well()
    agent = story["n1"].agent
    assert agent is not None and not agent.state.holding


def test_refusals_change_nothing() -> None:
    story = Story()
    assert ask(story, "n2") == ""
    under_way = "a restart is under way"
    story.until("it is under way", lambda: under_way in refusal(story, "n2"), 5.0)
    assert under_way in ask(story, "n2")
    story.well()
    story.dcs.away = True
    away = "the DCS does not answer"
    story.until("n1 sees it", lambda: away in refusal(story, "n1"), 10.0)
    assert away in ask(story, "n1")
    story.heal()
    story.well()
    assert story["n1"].starts == 1


def test_the_dcs_goes_away_during_the_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped then, the primary could not start before the DCS is back."""

    def checkpoint(self: Port) -> Work:
        yield 6.0

    monkeypatch.setattr(Port, "checkpoint", checkpoint)
    story = Story()
    assert ask(story, "n1") == ""
    story.run(0.5)
    story.dcs.away = True
    story.run(12.0)
    assert story.serves("n1")
    story.acknowledges("n1")
    story.expect("n1 restart", "n1 refused")
    assert story["n1"].starts == 1


@pytest.mark.parametrize("restarting", ["n2", "n3"])
def test_a_handover_does_not_wait_for_a_standbys_checkpoint(
    monkeypatch: pytest.MonkeyPatch, restarting: str
) -> None:
    """Neither where the next primary was to be restarted, nor where one was that has to follow."""

    def checkpoint(self: Port) -> Work:
        yield 60.0 if self.node.name == restarting else 0.1

    monkeypatch.setattr(Port, "checkpoint", checkpoint)
    story = Story()
    starts = story["n2"].starts
    assert ask(story, restarting) == ""
    story.run(0.2)
    agent = story["n1"].agent
    assert agent is not None
    agent.post(Switchover(1, "n2"))
    story.primary_is("n2", within=1.0)
    assert story.register.term == 2 and story["n2"].starts == starts
    if restarting == "n2":
        story.expect("n2 restart", "n2 refused")


def test_one_that_was_just_appointed_is_not_restarted() -> None:
    story = Story()
    agent = story["n1"].agent
    assert agent is not None
    agent.post(Switchover(1, "n2"))
    story.until("n2 is appointed", lambda: story.register.term == 2, 8.0)
    story.until("n2 sees it", lambda: "promoting" in refusal(story, "n2"), 0.5)
