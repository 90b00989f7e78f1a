"""A paused cluster: nobody is succeeded, and what somebody stopped by hand stays stopped."""

from dataclasses import replace

import pytest

from pgregent.core.errors import Unavailable
from pgregent.core.events import Reinitialize, Restart, Switchover
from tests.sim.port import Port
from tests.sim.world import Work
from tests.stories.story import Story


def pause(story: Story, paused: bool = True) -> None:
    for node in story.cluster.nodes.values():
        node.settings = replace(node.settings, paused=paused)
        if node.agent is not None:
            node.agent.state.settings = node.settings


def shut_down(story: Story, name: str) -> None:
    """By hand, in good order."""
    server = story[name].server
    assert server is not None
    server.shut_down()
    story.until(f"{name} is down", lambda: story[name].server is None, 10.0)


@pytest.mark.parametrize("name", ["n1", "n2"])
def test_what_is_shut_down_stays_down_until_the_end_of_the_pause(name: str) -> None:
    story = Story()
    pause(story)
    shut_down(story, name)
    story.run(30.0)
    assert story[name].server is None
    agent = story[name].agent
    assert agent is not None and "the cluster is paused" in agent.state.why
    story.silent("suspect", "election")
    pause(story, False)
    story.well()


@pytest.mark.parametrize("name", ["n1", "n2"])
def test_what_crashes_is_started_in_its_place(name: str) -> None:
    story = Story()
    pause(story)
    story.run(10.0)
    story[name].kill_server()
    story.until("it runs again", lambda: story[name].server is not None, 1.0)
    story.well()
    story.silent("suspect", "election")
    assert story.register.term == 1


def test_an_agent_that_is_away_for_longer_than_the_lease() -> None:
    """Its guard stops the primary; the next agent starts it again."""
    story = Story()
    pause(story)
    story["n1"].kill_agent()
    story.run(10.0)
    assert story["n1"].server is None
    story["n1"].start_agent()
    story.primary_is("n1", within=5.0)
    assert story.register.term == 1


def test_one_that_leaves_after_its_server_was_shut_down_by_hand_hands_nothing_over() -> None:
    story = Story()
    pause(story)
    shut_down(story, "n1")
    story["n1"].leave()
    story.until("n1 has left", lambda: story["n1"].agent is None, 10.0)
    story.run(5.0)
    assert story.register.term == 1


def test_a_dead_primary_is_not_succeeded_until_the_end_of_the_pause() -> None:
    story = Story()
    pause(story)
    story["n1"].kill()
    story.run(30.0)
    assert not story.serves("n2") and not story.serves("n3")
    story.silent("suspect", "election")
    pause(story, False)
    story.until("another serves", lambda: story.serves("n2") or story.serves("n3"), 15.0)


def test_commits_do_not_wait_for_a_standby_that_was_stopped() -> None:
    story = Story(nodes=2)
    pause(story)
    shut_down(story, "n2")
    story.acknowledges("n1", 5.0)
    pause(story, False)
    story.well()


def test_a_primary_that_was_stopped_starts_when_a_restart_is_asked_for() -> None:
    story = Story()
    pause(story)
    shut_down(story, "n1")
    story.run(10.0)
    agent = story["n1"].agent
    assert agent is not None
    agent.post(Restart())
    story.primary_is("n1", within=8.0)
    story.well()
    assert story.register.term == 1


def test_a_switchover_goes_to_its_end() -> None:
    story = Story()
    pause(story)
    agent = story["n1"].agent
    assert agent is not None
    agent.post(Switchover(story.register.term, "n3"))
    story.primary_is("n3", within=8.0)
    story.well()
    story.expect("n1 switchover", "n3 primary", "n1 follow")


def test_a_standby_without_data_is_made_anew_when_that_is_asked_for() -> None:
    story = Story()
    pause(story)
    story["n2"].kill()
    story["n2"].lose_data(state_too=False)
    story["n2"].start_agent()
    story.run(20.0)
    assert story["n2"].server is None
    agent = story["n2"].agent
    assert agent is not None and "the cluster is paused" in agent.state.why
    agent.post(Reinitialize())
    story.until("n2 runs", lambda: story["n2"].server is not None, 15.0)
    story.well()


def test_a_node_that_is_cut_off_is_fenced_though_paused() -> None:
    """Whoever has not heard of the pause could elect: its authority runs out all the same."""
    story = Story()
    pause(story)
    story.isolate("n1")
    story.until("n1 is stopped", lambda: story["n1"].server is None, 10.0)
    story.run(5.0)
    story.heal()
    story.primary_is("n1", within=10.0)
    story.well()
    assert story.register.term == 1


@pytest.mark.parametrize("runs", [True, False])
def test_a_standby_that_streams_late_after_a_long_pause_is_not_cloned(runs: bool) -> None:
    """The time that it did not stream for in the pause says nothing."""
    story = Story(clients=False)
    pause(story)
    shut_down(story, "n2")
    story.run(5.0)
    story.block("sql", "n1", "n2")
    if runs:
        agent = story["n2"].agent
        assert agent is not None
        agent.post(Restart())
    story.run(90.0)
    pause(story, False)
    story.run(5.0)
    story.heal()
    story.well()
    story.silent("rejoin")


def test_a_primary_that_does_not_answer_is_left_alone() -> None:
    """Its guard does not stop it either: it may be shutting down, or be looked at."""
    story = Story()
    pause(story)
    server = story["n1"].server
    assert server is not None
    server.hung = True
    story.run(15.0)
    assert story["n1"].server is server
    server.hung = False
    story.acknowledges("n1", 3.0)


@pytest.mark.parametrize("name", ["n1", "n2"])
def test_a_slow_shutdown_by_hand_of_what_was_restarted_once(name: str) -> None:
    """It does not answer while it shuts down; that it may start is over all the same."""
    story = Story()
    before = story[name].starts
    agent = story[name].agent
    assert agent is not None
    agent.post(Restart())
    story.until("it starts again", lambda: story[name].starts > before, 10.0)
    story.well()
    pause(story)
    server = story[name].server
    assert server is not None
    server.hung = True
    story.run(8.0)
    shut_down(story, name)
    story.run(20.0)
    assert story[name].server is None


def test_a_guard_that_dies_during_a_copy() -> None:
    """No server ran: it is started from the copy."""
    story = Story()
    pause(story)
    before = story["n2"].store.incarnation
    agent = story["n2"].agent
    assert agent is not None
    agent.post(Reinitialize())
    story.until("n2 copies", lambda: story["n2"].store.incarnation != before, 15.0)
    story["n2"].kill_guard()
    story.well()


def test_a_guard_that_dies_while_it_stops_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stop failed, but the server is stopped: it is started again as it would have been."""

    def stop(self: Port, immediate: bool) -> Work:
        del immediate
        self.stopping = True
        self.node.kill_guard()
        yield from self.connect_guard()
        self.stopping = False
        raise Unavailable("guard", "it died")

    story = Story()
    pause(story)
    agent = story["n1"].agent
    assert agent is not None
    with monkeypatch.context() as patch:
        patch.setattr(Port, "stop", stop)
        agent.post(Restart())
        story.until("n1 stops", lambda: story["n1"].server is None, 8.0)
        story.run(0.2)
        assert not agent.state.opened, "what was done to the server before counts no more"
    story.primary_is("n1", within=8.0)
    story.well()
    story.expect("n1 restart", "n1 failed", "n1 primary")


@pytest.mark.parametrize("asked", [0.0, 0.1, 0.3])
def test_the_end_of_the_pause_comes_while_the_primary_starts(asked: float) -> None:
    """How long it did not run in the pause is no evidence."""
    story = Story()
    pause(story)
    shut_down(story, "n1")
    story.run(20.0)
    if asked:
        agent = story["n1"].agent
        assert agent is not None
        agent.post(Restart())
        story.run(asked)
    pause(story, False)
    story.well()
    story.silent("suspect", "election")
    assert story.register.term == 1
