"""The DCS is away, slow to answer, cut off or emptied."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from pgregent.core.effects import WriteRegister
from pgregent.core.events import RestoreDcs
from pgregent.core.types import NOBODY, Incarnation, Register, Rule, Term
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


def test_a_standby_that_gets_no_wal_is_not_cloned_during_an_outage() -> None:
    """The rule that names it cannot be changed, and n3 alone could not be appointed then."""
    story = Story()
    story.dcs.away = True
    story.block("sql", "n1", "n2")
    story["n2"].kill_server()
    story.run(80.0)
    story.acknowledges("n1")
    story["n1"].kill()
    story.heal()
    story.primary_is("n3", within=5.0)
    story["n1"].start_agent()
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


def test_grants_under_a_rule_that_was_dropped_unheard_do_not_count() -> None:
    """n1 does not hear that its own drop landed; n2, which only the older rule names, stays on its
    side, and n3 succeeds it."""
    story = Story(lease=2.0)
    net, agent, n2 = story.world.net, story["n1"].agent, story["n2"]
    assert agent is not None
    n2.settings = replace(n2.settings, nosync=True)
    n2.kill_agent()
    n2.start_agent()

    def appended() -> bool:
        return agent.state.register is not None and len(agent.state.register.rules) == 2

    story.until("n1 knows both rules", appended, 5.0)
    net.blocked |= {("dcs", "dcs", "n1")}
    story.until("the drop has landed", lambda: len(story.register.rules) == 1, 2.0)
    assert story.rule() == "ANY 1 (n3)"
    net.blocked |= {("peers", a, "n3") for a in ("n1", "n2")}
    net.blocked |= {("peers", "n3", a) for a in ("n1", "n2")}
    net.blocked |= {("sql", "n1", "n3"), ("sql", "n3", "n1")}
    net.blocked |= {("dcs", a, "dcs") for a in ("n1", "n2")} | {("dcs", "dcs", "n2")}
    story.primary_is("n3", within=5.0)
    story.until("the guard stops n1", lambda: story["n1"].server is None, 3.0)
    story.heal()
    story.well()


def test_what_was_heard_of_an_earlier_life_is_not_taken_for_this_one() -> None:
    """n1's wall clock was set back before its agent started again."""
    story = Story()
    story["n2"].freeze()
    story["n1"].wall_offset = -3600.0
    story["n1"].kill_agent()
    story["n1"].start_agent()
    story.run(0.5)
    agent, before = story["n1"].agent, story["n2"].agent
    assert agent is not None and before is not None and before.state.published is not None
    assert min(agent.state.sent_at) > before.state.published.heard["n1"]
    assert agent.state.peers["n2"].granted_term == 0
    story["n2"].thaw()
    story.well()


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


def _kill_at(story: Story, name: str, when: Callable[[Register], bool]) -> list[bool]:
    """Kill `name` as soon as such a register is stored, before it can hear of it."""
    apply, hit = story.dcs.apply, list[bool]()

    def and_kill(write: WriteRegister) -> bool:
        stored = apply(write)
        if stored and not hit and when(write.register):
            hit.append(True)
            story.world.call(0.0, None, story[name].kill)
        return stored

    story.dcs.apply = and_kill
    return hit


def test_older_rules_may_have_been_dropped_unheard() -> None:
    """Then the standby that was added last could elect alone, and did."""
    story = Story(nodes=2)
    story["n2"].kill()
    story.until("n1 is alone", lambda: story.rule() == "the primary alone", 20.0)
    story.run(1.0)
    hit = _kill_at(story, "n1", lambda r: len(r.rules) == 1 and r.rule.k == 1)
    story["n2"].start_agent()
    story.until("the drop landed", lambda: bool(hit), 20.0)
    story.primary_is("n2", within=10.0)
    story.acknowledges("n2", 5.0)
    story["n2"].kill()
    story.run(0.2)
    story.dcs.forget()
    story["n1"].start_agent()
    story.run(20.0)
    assert story.dcs.register is None, story.transcript()


def test_a_standby_may_have_left_the_rule_unheard() -> None:
    story = Story(standby_grace=1.0)
    hit = _kill_at(story, "n1", lambda r: len(r.rules) == 1 and len(r.rule.members) == 1)
    story["n2"].kill()
    story.until("the drop landed", lambda: bool(hit), 20.0)
    story.primary_is("n3", within=10.0)
    story.acknowledges("n3", 5.0)
    story["n3"].kill()
    story.run(0.2)
    story.dcs.forget()
    story["n1"].start_agent()
    story["n2"].start_agent()
    story.run(20.0)
    assert story.dcs.register is None, story.transcript()


def test_register_of_another_cluster_is_not_overwritten() -> None:
    story = Story(nodes=1)
    other = Incarnation("o1", "o11")
    terms = (Term(1, other, 0, 0),)
    theirs = Register(2, 0, 1, other, (Rule(other, 0, ()),), False, "another", terms, "created")
    story.dcs.forget(theirs)
    story.run(5.0)
    assert story.dcs.register == theirs, story.transcript()
    agent = story["n1"].agent
    assert agent is not None
    assert "another cluster" in agent.state.dcs_why


def test_loss_is_over_when_a_newer_register_was_heard() -> None:
    story = Story(lease=2.0)
    agent = story["n2"].agent
    assert agent is not None
    story.dcs.forget()
    story.until("n2 sees it", lambda: agent.state.register_lost, 3.0)
    story.isolate("n2", "dcs")
    story.until("it is back", lambda: story.dcs.register is not None, 5.0)
    story.run(3.0)
    assert agent.state.register == story.register
    assert not agent.state.register_lost


def test_operator_never_skips_the_same_terms_twice() -> None:
    story = Story(clients=False)
    for _ in range(2):
        for node in story.cluster.nodes.values():
            node.kill()
        story.dcs.forget()
        story["n3"].start_agent()
        agent = story["n3"].agent
        assert agent is not None
        state = agent.state
        story.until("n3 sees it", lambda s=state: s.register_lost, 5.0)
        assert state.register is not None
        agent.post(RestoreDcs(state.register.seq))
        story.until("it is back", lambda: story.dcs.register is not None, 3.0)
        story.run(0.5)
    skipped = [t.term for t in story.register.terms if t.writer == NOBODY]
    assert len(set(skipped)) == 2


@pytest.mark.parametrize("seed", range(8))
def test_new_member_waits_for_the_key_of_a_running_primary(seed: int) -> None:
    """It knows no address yet: only the DCS can tell it that there is a cluster."""
    story = Story(nodes=3, seed=seed, clients=False, standby_grace=60.0)
    story["n2"].kill()
    story["n3"].lose_data(state_too=True)
    story.block("peers", "n1", "n3")
    story.dcs.forget()
    story.run(0.1)
    story["n3"].start_agent()
    story.run(6.0)
    register = story.dcs.register
    ours = story["n1"].disk.system_id
    assert register is None or not register.term or register.system_id == ours


def test_dcs_answers_late() -> None:
    """The patience of who creates a cluster counts from its claim."""
    story = Story(nodes=2, clients=False)
    for node in story.cluster.nodes.values():
        node.kill()
    story["n2"].lose_data(state_too=True)
    story.dcs.forget()
    story.dcs.away = True
    story.block("peers", "n1", "n2")
    for node in story.cluster.nodes.values():
        node.start_agent()
    story.run(3.5)
    story.dcs.away = False
    story.run(5.0)
    register = story.dcs.register
    ours = story["n1"].disk.system_id
    assert register is None or not register.term or register.system_id == ours
