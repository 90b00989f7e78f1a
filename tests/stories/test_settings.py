"""What a member's file says, through the agent's own reading of it, in the life of a cluster."""

from dataclasses import fields, replace
from typing import Any

import pytest

from pgregent.agent.wiring import settings_of
from pgregent.config.load import check_config
from pgregent.core.types import PgState
from tests.stories.story import Story

FILE = """\
scope: demo
name: n1
restapi: {listen: "127.0.0.1:8008"}
local: {path: /srv/demo/dcs.sqlite}
postgresql:
  listen: 127.0.0.1:5432
  data_dir: /srv/demo/data
  authentication:
    superuser: {username: postgres, password: one}
    replication: {username: replicator, password: two}
"""
PLACE = ("name", "host", "port", "api_url", "agent_pid")
"""Settings that each simulated member has of its own."""


def settings(pgregent: str = "{}", dcs: str = "", tags: str = "{}") -> dict[str, Any]:
    """The core's settings of an agent whose file says this."""
    dynamic = f"bootstrap: {{dcs: {{synchronous_mode: on, {dcs}}}}}\n"
    text = f"{FILE}{dynamic}pgregent: {pgregent}\ntags: {tags}\n"
    config, found = check_config(text, {})
    assert config is not None, found
    made = settings_of(config, config.bootstrap.dcs)
    return {f.name: getattr(made, f.name) for f in fields(made) if f.name not in PLACE}


def take(story: Story, dcs: str) -> None:
    """The dynamic configuration is changed while they run."""
    for node in story.cluster.nodes.values():
        node.settings = replace(node.settings, **settings(dcs=dcs))
        if node.agent is not None:
            node.agent.state.settings = node.settings


def test_silence_is_suspicious_after_suspect_after() -> None:
    story = Story(**settings("{suspect_after: 3, lease: 8}"))
    story["n1"].kill(silently=True)
    story.run(2.7)
    story.silent("suspect", "election")
    assert story.primary_is("n2", within=3.0) > 0.2
    story.expect("n2 suspect", "n2 election", "n2 primary")
    story["n1"].start_agent()
    story.well(60)


def test_a_smaller_suspect_after_is_sooner() -> None:
    story = Story(**settings("{suspect_after: 0.4}"))
    story["n1"].kill(silently=True)
    assert story.primary_is("n2", within=0.95) > 0.3
    story["n1"].start_agent()
    story.well(60)


def test_synchronous_node_count_is_how_many_standbys_confirm() -> None:
    story = Story(4, **settings(dcs="synchronous_node_count: 2"))
    assert story.rule() == "ANY 2 (n2, n3, n4)"
    story.world.net.blocked |= {("sql", "n1", name) for name in ("n3", "n4")}
    story.never_acknowledges("n1", for_seconds=0.8)


def test_member_tagged_nosync_never_enters_the_rule() -> None:
    """Made anew with the tag, it streams like the others, and no commit waits for it."""
    story = Story()
    node = story["n3"]
    node.lose_data(state_too=True)
    node.settings = replace(node.settings, **settings(tags="{nosync: true}"))
    node.start_agent()
    story.until("n3 streams again", lambda: streams(story, "n3"), 20.0)
    story.run(3.0)
    assert story.rule() == "ANY 1 (n2)"
    story["n2"].kill()
    story.until("the primary is alone", lambda: story.rule() == "the primary alone", 2.0)
    story.run(3.0)
    assert story.rule() == "the primary alone"
    assert streams(story, "n3")
    story.acknowledges("n1")
    story["n2"].start_agent()
    story.until("n2 is back", lambda: story.rule() == "ANY 1 (n2)", 20.0)


def streams(story: Story, name: str) -> bool:
    agent = story[name].agent
    return agent is not None and agent.state.postgres.streaming


def test_a_server_that_does_not_answer_is_stopped_and_tried_again() -> None:
    story = Story(2, **settings(dcs="primary_start_timeout: 20"))
    server = story["n2"].server
    assert server is not None and server.state is PgState.STANDBY
    server.hung = True
    story.run(18.0)
    assert story["n2"].server is server
    assert server.alive
    story.until("it is stopped", lambda: story["n2"].server is not server, 4.0)
    story.well(60)


def test_lease_bounds_how_long_a_primary_that_is_cut_off_serves() -> None:
    story = Story(clients=False, **settings("{lease: 9}"))
    story.isolate("n1")
    story.run(8.0)
    assert story["n1"].server is not None
    story.until("the guard stops n1", lambda: story["n1"].server is None, 3.0)
    story.heal()
    story.well()


def test_standby_grace_is_how_long_a_missing_standby_stays_in_the_rule() -> None:
    story = Story(**settings("{standby_grace: 8}"))
    story["n3"].kill()
    story.run(7.0)
    assert story.rule() == "ANY 1 (n2, n3)"
    story.until("n3 leaves the rule", lambda: story.rule() == "ANY 1 (n2)", 2.0)


def test_synchronous_mode_strict_lets_the_primary_never_acknowledge_alone() -> None:
    story = Story(2, **settings(dcs="synchronous_mode_strict: true"))
    story["n2"].kill()
    story.run(3.0)
    story.never_acknowledges("n1", for_seconds=2.0)
    story["n2"].start_agent()
    story.well()


def test_member_tagged_nofailover_never_becomes_the_primary() -> None:
    story = Story(2)
    node = story["n2"]
    node.settings = replace(node.settings, **settings(tags="{nofailover: true}"))
    node.kill_agent()
    node.start_agent()
    story.well()
    story["n1"].kill()
    story.run(10.0)
    assert not story.serves("n2")
    assert story.register.term == 1
    story["n1"].start_agent()
    story.well(60)


@pytest.mark.parametrize(("use_pg_rewind", "way"), [("true", "rewind"), ("false", "clone")])
def test_use_pg_rewind_is_how_a_diverged_member_is_repaired(use_pg_rewind: str, way: str) -> None:
    story = Story(**settings(dcs=f"postgresql: {{use_pg_rewind: {use_pg_rewind}}}"))
    story.checker.ways.clear()
    story.block("sql", "n1", "n2")
    story.block("sql", "n1", "n3")
    story.run(0.3)
    assert story["n1"].disk.end > story["n2"].disk.end
    story["n1"].kill()
    story.heal()
    story.until("a successor serves", lambda: story.serves("n2") or story.serves("n3"), 3.0)
    story["n1"].start_agent()
    story.well()
    assert way in story.checker.ways


def test_pause_is_nobody_being_succeeded() -> None:
    story = Story()
    take(story, dcs="pause: true")
    story["n1"].kill()
    story.run(20.0)
    story.silent("suspect", "election")
    assert story.register.term == 1
    take(story, dcs="pause: false")
    story.until("another serves", lambda: story.serves("n2") or story.serves("n3"), 10.0)


@pytest.mark.parametrize(("ttl", "kept"), [("'1min'", 60.0), ("0", 30.0)])
def test_member_slots_ttl_is_how_long_a_missing_members_slot_is_kept(ttl: str, kept: float) -> None:
    """`ttl`, 30 s, at least: else a member that is restarted would find none."""
    story = Story(**settings(dcs=f"member_slots_ttl: {ttl}"))
    story["n3"].kill()
    story.run(kept - 2.0)
    assert story["n1"].disk.slots == {"n2", "n3"}
    story.run(10.0)
    assert story["n1"].disk.slots == {"n2"}


def test_a_priority_of_0_is_the_flag() -> None:
    """And any other is none."""
    for tags, of in (("0", True), ("1", False), ("7", False)):
        found = settings(tags=f"{{failover_priority: {tags}, sync_priority: {tags}}}")
        assert (found["nofailover"], found["nosync"]) == (of, of)
    story = Story(2)
    node = story["n2"]
    node.settings = replace(node.settings, **settings(tags="{failover_priority: 0}"))
    node.kill_agent()
    node.start_agent()
    story.well()
    story["n1"].kill()
    story.run(10.0)
    assert story.register.term == 1
