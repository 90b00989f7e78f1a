"""The durability rule follows the standbys, and is changed jointly."""

from dataclasses import replace

from tests.stories.story import Story


def test_created_from_nothing() -> None:
    story = Story()
    assert story.register.term == 1
    assert story.rule() == "ANY 1 (n2, n3)"
    appended = [what for _, who, what in story.world.trace if who == "dcs" and "streams" in what]
    assert "the primary alone; n1: ANY 1" in appended[0]


def test_standby_dies_and_writes_go_on() -> None:
    """The rule can be met without it: it stays, so that a reboot does not disable failover."""
    story = Story(standby_grace=5.0)
    story["n3"].kill()
    story.acknowledges("n1")
    story.run(2.0)
    assert story.rule() == "ANY 1 (n2, n3)"
    story.until("n3 leaves the rule", lambda: story.rule() == "ANY 1 (n2)", 6.0)
    story["n3"].start_agent()
    story.well()
    assert story.rule() == "ANY 1 (n2, n3)"
    story.silent("election")


def test_last_standby_dies() -> None:
    """The rule cannot be met without it: it leaves at once on positive evidence."""
    story = Story(2)
    story["n2"].kill()
    story.until("the primary is alone", lambda: story.rule() == "the primary alone", 1.0)
    story.acknowledges("n1")
    story["n2"].start_agent()
    story.well()
    assert story.rule() == "ANY 1 (n2)"


def test_last_standby_freezes() -> None:
    story = Story(2)
    story["n2"].freeze()
    story.run(0.4)
    took = story.until("the primary is alone", lambda: story.rule() == "the primary alone", 3.0)
    assert took > 0.2
    story.acknowledges("n1")
    story["n2"].thaw()
    story.well()


def test_both_standbys_die_one_after_the_other() -> None:
    story = Story(standby_grace=3.0)
    story["n2"].kill()
    story.until("n2 leaves the rule", lambda: story.rule() == "ANY 1 (n3)", 6.0)
    story["n3"].kill()
    story.until("the primary is alone", lambda: story.rule() == "the primary alone", 2.0)
    story["n1"].kill_server()
    story.primary_is("n1", within=8.0)
    story["n2"].start_agent()
    story["n3"].start_agent()
    story.well()


def test_primary_dies_while_a_standby_is_down() -> None:
    """The rule had shrunk, so the other one may succeed alone."""
    story = Story(standby_grace=2.0)
    story["n3"].kill()
    story.until("n3 leaves the rule", lambda: story.rule() == "ANY 1 (n2)", 5.0)
    story["n1"].kill()
    story.primary_is("n2", within=2.0)
    story["n1"].start_agent()
    story["n3"].start_agent()
    story.well()


def test_primary_dies_before_the_rule_has_shrunk() -> None:
    """n2 alone cannot know whether n3 has more: nobody is appointed until n1 or n3 is back."""
    story = Story()
    story["n3"].kill()
    story.run(0.5)
    story["n1"].kill()
    story.run(5.0)
    assert story.register.term == 1
    assert not story.serves("n2")
    story["n3"].start_agent()
    story.until("somebody serves", lambda: story.serves("n2") or story.serves("n3"), 8.0)
    story["n1"].start_agent()
    story.well()


def test_change_whose_reply_is_lost_and_that_lands_later() -> None:
    story = Story(standby_grace=1.0)
    story.world.rates.cas_unknown = 1.0
    story["n3"].kill()
    story.run(4.0)
    story.world.rates.cas_unknown = 0.0
    story["n3"].start_agent()
    story["n1"].kill_server()
    story.well(60)


def test_strict_mode_waits_for_a_standby() -> None:
    story = Story(2, minimum_k=1)
    story["n2"].kill()
    story.run(3.0)
    story.never_acknowledges("n1", for_seconds=2.0)
    story["n2"].start_agent()
    story.well()
    story.acknowledges("n1")


def test_two_standbys_have_to_confirm() -> None:
    """ANY 2 of 3: any one of the standbys may then succeed, if two of them are there."""
    story = Story(4, nodes_wanted_k=2)
    assert story.rule() == "ANY 2 (n2, n3, n4)"
    story["n1"].kill()
    story["n2"].kill()
    story.primary_is("n3", within=3.0)
    story["n1"].start_agent()
    story["n2"].start_agent()
    story.well()


def test_a_mixture_of_two_rules_is_listed_while_k_changes() -> None:
    """While walsenders reload one by one, a commit may be let through by one of n2 and n3."""
    story = Story(3, nodes_wanted_k=2, standby_grace=2.0)
    assert story.rule() == "ANY 2 (n2, n3)"
    story["n3"].kill()
    story.until("n3 leaves the rule", lambda: story.rule() == "ANY 1 (n2)", 4.0)
    story["n3"].start_agent()
    story.well()
    assert story.rule() == "ANY 2 (n2, n3)"
    listed = [what for _, who, what in story.world.trace if who == "dcs" and "; n1: " in what]
    mixed = "n1: ANY 2 (n2, n3); n1: ANY 1 (n2, n3); n1: ANY 1 (n2)"
    assert any(mixed in what for what in listed), listed
    assert any("n1: ANY 1 (n2); n1: ANY 1 (n2, n3); n1: ANY 2 (n2, n3)" in what for what in listed)


def test_a_rule_of_two_shrinks_to_who_is_left_and_grows_again() -> None:
    story = Story(5, nodes_wanted_k=2, standby_grace=2.0)
    for name in ("n5", "n4", "n3"):
        story[name].kill()
    story.until("n2 confirms alone", lambda: story.rule() == "ANY 1 (n2)", 8.0)
    story.acknowledges("n1")
    story["n1"].kill()
    story.primary_is("n2", within=3.0)
    for name in ("n1", "n3", "n4", "n5"):
        story[name].start_agent()
    story.well()
    assert story.rule() == "ANY 2 (n1, n3, n4, n5)"


def test_a_minimum_of_two_is_kept() -> None:
    """Writes wait, and any two of the rule's members can elect."""
    story = Story(4, nodes_wanted_k=2, minimum_k=2, standby_grace=1.0)
    for name in ("n3", "n4"):
        story[name].kill()
    story.run(4.0)
    assert story.rule() == "ANY 2 (n2, n3, n4)"
    story.never_acknowledges("n1", for_seconds=2.0)
    for name in ("n3", "n4"):
        story[name].start_agent()
    story.well()
    assert story.rule() == "ANY 2 (n2, n3, n4)"


def test_a_minimum_does_not_keep_a_restarted_primary_from_taking_a_new_member() -> None:
    """The only standby is gone for good; the primary restarts, and a new one can clone."""
    story = Story(2, minimum_k=1)
    story["n2"].kill()
    story["n2"].lose_data(state_too=True)
    story["n1"].kill_server()
    story.run(5.0)
    story["n2"].start_agent()
    story.well()


def test_member_that_is_tagged_nosync_leaves_the_rule_at_once() -> None:
    story = Story(standby_grace=60.0)
    node = story["n3"]
    node.settings = replace(node.settings, nosync=True)
    node.kill_agent()
    node.start_agent()
    story.until("n3 is not waited for", lambda: story.rule() == "ANY 1 (n2)", 5.0)
    story.expect("n1 rule")
