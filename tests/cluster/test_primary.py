"""The primary fails: killed, frozen, beheaded, asked to leave, killed together with its heir."""

import time

import pytest

from tests.cluster.faults import (
    KILL,
    TERM,
    HeldSession,
    diverge,
    frozen,
    kill_at_once,
    kill_node,
    kill_postgres,
    lose_wal,
    some,
    wait_new_agent,
)
from tests.cluster.processes import alive, send, wait_for
from tests.cluster.trial import Trial, Trials

# Far above the goals of the benchmark: a busy machine must not fail a correct run.
SLACK = 10.0


def assert_moved(trial: Trial, fault: float) -> None:
    """Another member is primary, and writes were out for a moment only."""
    assert trial.cluster.primary() != trial.primary
    assert 0 < trial.outage(fault).gap < SLACK


def test_a_postgres_of_the_primary_killed(trials: Trials) -> None:
    with trials.trial() as trial:
        fault = kill_postgres(trial.cluster, trial.primary)
        trial.wait_writes(fault)
        assert_moved(trial, fault)
        trial.cluster.wait_healthy()
        assert trial.rejoined(trial.primary)[-1:] in (["follow"], ["rewind"])


def test_b_the_whole_node_killed(trials: Trials) -> None:
    with trials.trial() as trial:
        fault = kill_node(trial.cluster, trial.primary)
        trial.wait_writes(fault)
        assert_moved(trial, fault)
        trial.cluster.wait_healthy()
        assert trial.rejoined(trial.primary)[-1:] in (["follow"], ["rewind"])


def test_c_its_agent_alone_killed(trials: Trials) -> None:
    with trials.trial() as trial:
        cluster, before = trial.cluster, trial.cluster.node(trial.primary)
        agent = some(before.agent, "agent")
        with HeldSession(cluster.dsn) as entry, HeldSession(cluster.direct(trial.primary)) as own:
            kill_at_once([agent])
            wait_new_agent(cluster, trial.primary, agent)
            assert cluster.wait_healthy() == trial.primary
            assert entry.intact()
            assert own.intact()
        after = cluster.node(trial.primary)
        assert (after.guard, after.postmaster) == (before.guard, before.postmaster)
        assert not trial.not_acknowledged(), "no session is cut"


def test_c_its_guard_alone_killed(trials: Trials) -> None:
    with trials.trial() as trial:
        cluster = trial.cluster
        guard = some(cluster.node(trial.primary).guard, "guard")
        server = cluster.postgres_processes(trial.primary)
        fault = kill_at_once([guard])
        cluster.wait_gone(server)
        trial.wait_writes(fault)
        cluster.wait_healthy()
        new = some(cluster.node(trial.primary).guard, "guard")
        assert new != guard
        assert cluster.postmaster(trial.primary) not in server


def test_c_agent_and_guard_killed_and_postgres_left_alive(trials: Trials) -> None:
    with trials.trial() as trial:
        cluster, node = trial.cluster, trial.cluster.node(trial.primary)
        orphan = cluster.postmaster(trial.primary)
        # `up` would bring the agent back at once: the orphan is to be alone for a while.
        with frozen({cluster.up_pid}):
            fault = kill_at_once([some(node.agent, "agent"), some(node.guard, "guard")])
            assert alive(orphan), "the fault is to leave PostgreSQL alive"
            trial.wait_writes(fault)
            assert cluster.writable(trial.standbys), "there is a successor"
            moment = time.monotonic()
            trial.wait_writes(moment, count=200)
            orphans = [a for a in trial.history if a.path == trial.primary and a.start > moment]
            assert not [a for a in orphans if a.outcome == "ok"]
        cluster.wait_gone({orphan})
        cluster.wait_healthy()
        assert not alive(orphan)
        assert trial.rejoined(trial.primary)[-1:] in (["follow"], ["rewind"])


def test_d_the_whole_node_frozen(trials: Trials) -> None:
    with trials.trial() as trial:
        cluster = trial.cluster
        pids = cluster.all_processes_of(trial.primary)
        with frozen(pids) as fault:
            trial.wait_writes(fault, timeout=20)
            assert 0 < trial.outage(fault).gap < SLACK
            # The fault is 20 s long: this is its length, not a wait for anything.
            time.sleep(max(0.0, fault + 20 - time.monotonic()))
        assert cluster.wait_healthy() != trial.primary
        assert trial.rejoined(trial.primary)[-1:] in (["follow"], ["rewind"])


def test_e_its_agent_asked_to_leave(trials: Trials) -> None:
    with trials.trial() as trial:
        cluster = trial.cluster
        agent = some(cluster.node(trial.primary).agent, "agent")
        fault = time.monotonic()
        send([agent], TERM)
        cluster.wait_gone({agent})
        trial.wait_writes(fault)
        cluster.wait_healthy()
        assert_moved(trial, fault)
        assert trial.rejoined(trial.primary) == ["follow"], "a planned handover needs no rewind"
        assert not trial.events("set_aside")


def test_e_the_agent_restarted_by_command(trials: Trials) -> None:
    with trials.trial() as trial:
        cluster, before = trial.cluster, trial.cluster.node(trial.primary)
        with HeldSession(cluster.dsn) as entry, HeldSession(cluster.direct(trial.primary)) as own:
            done = cluster.cli("agent-restart", trial.primary)
            assert done.code == 0, done.message
            wait_new_agent(cluster, trial.primary, some(before.agent, "agent"))
            assert cluster.wait_healthy() == trial.primary
            assert entry.intact()
            assert own.intact()
        assert cluster.node(trial.primary).postmaster == before.postmaster
        assert not trial.not_acknowledged(), "no session is cut"


def test_k_killed_twice_within_two_seconds(trials: Trials) -> None:
    with trials.trial() as trial:
        cluster = trial.cluster
        pids = {name: cluster.all_processes_of(name) for name in cluster.members}
        fault = kill_at_once(sorted(pids[trial.primary]))
        heir = wait_for(
            "a successor within the two seconds",
            lambda: cluster.writable(trial.standbys),
            timeout=1.8,
            every=0.01,
        )
        second = kill_at_once(sorted(pids[heir[0]] | cluster.postgres_processes(heir[0])))
        assert second - fault < 2.0
        trial.wait_writes(second, timeout=90)
        cluster.wait_healthy(timeout=90)


def test_a_diverged_primary_is_rewound(trials: Trials) -> None:
    with trials.trial() as trial:
        diverge(trial.cluster, trial.primary)
        assert trial.wait_rejoined(trial.primary, "rewind").body["why"]
        assert trial.cluster.wait_healthy() != trial.primary
        assert "clone" not in trial.rejoined(trial.primary)


@pytest.mark.parametrize("lost", ["WAL since the common checkpoint", "all of its WAL"])
def test_a_primary_that_cannot_be_rewound_is_cloned(trials: Trials, lost: str) -> None:
    recoverable = lost != "all of its WAL"
    with trials.trial() as trial:
        cluster, data_dir = trial.cluster, trial.cluster.members[trial.primary].data_dir
        agent = some(cluster.node(trial.primary).agent, "agent")
        with frozen({agent}):
            diverge(cluster, trial.primary, checkpoint=recoverable)
            assert lose_wal(cluster, trial.primary, keep_recovery=recoverable)
            send([agent], KILL)
        trial.wait_rejoined(trial.primary, "clone", timeout=60)
        # A standby that is stuck on what it was rewound to is cloned after a minute.
        assert cluster.wait_healthy(timeout=150) != trial.primary
        (event, *_) = trial.events("set_aside", member=trial.primary)
        assert event.body["bytes"] > 0
        assert event.body["path"] != str(data_dir)
