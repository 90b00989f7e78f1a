"""The DCS is away, slow to answer, cut off or emptied."""

from pgregent.core.effects import RestoreDcs
from tests.stories.story import Story


def test_outage_stops_no_writes() -> None:
    story = Story(lease=2.0)
    story.dcs.away = True
    story.run(10.0)
    story.acknowledges("n1")
    story.heal()
    story.well()
    assert story.register.term == 1
    story.silent("election", "suspect")


def test_primary_dies_during_an_outage() -> None:
    """Nobody can be appointed; the primary cannot confirm either that it still is."""
    story = Story()
    story.dcs.away = True
    story["n1"].kill_server()
    story.run(5.0)
    assert not any(story.serves(n) for n in story.cluster.nodes)
    story.heal()
    story.until("somebody serves", lambda: any(map(story.serves, story.cluster.nodes)), 5.0)
    story.well()


def test_primary_is_cut_off_from_the_dcs() -> None:
    """The standbys' grants keep it in office."""
    story = Story(lease=2.0)
    story.isolate("n1", "dcs")
    story.run(8.0)
    story.acknowledges("n1")
    assert story.serves("n1")
    story.heal()
    story.well()
    assert story.register.term == 1


def test_outage_with_both_standbys_gone() -> None:
    """Neither reads nor grants: the authority runs out and the guard stops the server."""
    story = Story(lease=2.0)
    story.dcs.away = True
    story["n2"].kill()
    story["n3"].kill()
    story.never_acknowledges("n1", for_seconds=2.5)
    story.until("the guard stops n1", lambda: story["n1"].server is None, 3.0)
    story.heal()
    story["n2"].start_agent()
    story["n3"].start_agent()
    story.well()


def test_emptied_dcs_is_written_again() -> None:
    """The primary does, once a member of its rule sees the loss too; writes go on meanwhile."""
    story = Story(lease=2.0)
    before = story.register
    story.dcs.forget()
    story.acknowledges("n1")
    story.until("the register is back", lambda: story.dcs.register is not None, 5.0)
    assert (story.register.term, story.register.rules) == (1, before.rules)
    assert story.register.seq > before.seq + 1
    assert story.register.round > before.round + 1
    story.well()
    story["n1"].kill_server()
    story.until("a successor serves", lambda: story.serves("n2") or story.serves("n3"), 2.0)
    story.well()
    story.silent("fenced", "postgres_set_aside")


def test_older_dcs_is_written_again_by_the_newest_primary() -> None:
    """Nobody takes the office from a register that is older than what was seen."""
    story = Story(lease=2.0)
    old = story.register
    story["n1"].kill_server()
    story.primary_is("n2", within=2.0)
    story.well()
    story.dcs.forget(old)
    story.until("it is newer", lambda: story.register.seq > old.seq, 5.0)
    assert (story.register.primary.name, story.register.term) == ("n2", 2)
    story.well()


def test_everybody_comes_back_to_an_emptied_dcs() -> None:
    """As when all containers are made anew, and the DCS has no volume."""
    story = Story(nodes=2)
    for node in story.cluster.nodes.values():
        node.leave(True)
    story.run(5.0)
    story.dcs.forget()
    for node in story.cluster.nodes.values():
        node.start_agent()
    story.well()
    assert story.register.term == 1
    story.silent("rejoin")


def test_primary_alone_does_not_write_again_what_its_standby_may_have_changed() -> None:
    """Its standby could have been appointed before the DCS forgot."""
    story = Story(nodes=2)
    story["n1"].kill()
    story.primary_is("n2", within=3.0)
    story["n2"].kill()
    story.dcs.forget()
    story["n1"].start_agent()
    story.run(20.0)
    assert story.dcs.register is None
    assert not story.serves("n1")
    story["n2"].start_agent()
    story.well()
    assert story.register.primary.name == "n2"


def test_new_member_creates_no_second_cluster() -> None:
    story = Story(nodes=2)
    story["n2"].lose_data(state_too=True)
    story.run(0.5)
    for node in story.cluster.nodes.values():
        node.kill_agent()
    story.dcs.forget()
    story["n2"].start_agent()
    story.run(0.3)
    story["n1"].start_agent()
    story.run(10.0)
    system_ids = {n.disk.system_id for n in story.cluster.nodes.values() if n.disk.exists}
    assert len(system_ids) == 1
    story.acknowledges("n1")


def test_operator_has_it_written_again() -> None:
    """The primary and its disk are gone, and so is what only it knew."""
    story = Story()
    story["n1"].kill()
    story["n2"].kill()
    story["n3"].kill()
    story.dcs.forget()
    story["n2"].start_agent()
    story["n3"].start_agent()
    story.run(10.0)
    assert story.dcs.register is None
    agent = story["n2"].agent
    assert agent is not None
    assert agent.state.register is not None
    agent.post(RestoreDcs(agent.state.register.seq - 1))
    story.run(1.0)
    assert story.dcs.register is None, "not the copy that the operator was shown"
    agent.post(RestoreDcs(agent.state.register.seq))
    story.until("n2 or n3 serves", lambda: story.serves("n2") or story.serves("n3"), 30.0)
    assert story.register.term > 16
    story["n1"].start_agent()
    story.well()
