"""The DCS is away, slow to answer, cut off or emptied."""

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


def test_emptied_dcs_is_refused() -> None:
    """Nobody takes the office from a register that is older than what was seen."""
    story = Story(lease=2.0)
    kept = story.register
    story.dcs.register = None
    story.run(8.0)
    assert story.dcs.register is None
    story.acknowledges("n1")
    story.dcs.register = kept
    story.well()
    assert story.register.term == 1


def test_restored_dcs_is_refused() -> None:
    story = Story(lease=2.0)
    old = story.register
    story["n1"].kill_server()
    story.primary_is("n2", within=2.0)
    story.well()
    kept = story.register
    story.dcs.register = old
    story.run(5.0)
    assert story.dcs.register is old
    assert not story.serves("n1")
    story.dcs.register = kept
    story.well()
