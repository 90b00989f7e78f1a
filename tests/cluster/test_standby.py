"""A standby fails, and the primary while a standby is away already."""

import time

from tests.cluster.faults import (
    TERM,
    frozen,
    kill_node,
    kill_postgres,
    some,
)
from tests.cluster.processes import send
from tests.cluster.trial import Trial, Trials

# With three nodes the other standby acknowledges: this is the noise of a busy machine.
NOISE = 1.0
# For a failover, far above the goals of the benchmark.
SLACK = 10.0


def assert_followed(trial: Trial, standby: str) -> None:
    """It came back with the data that it had, and nobody was elected meanwhile."""
    assert set(trial.rejoined(standby)) <= {"follow"}
    assert not trial.events("set_aside")
    assert not trial.events("primary")


def test_f_a_standby_killed(trials: Trials) -> None:
    with trials.trial() as trial:
        cluster, standby = trial.cluster, trial.standbys[0]
        fault = kill_node(cluster, standby)
        trial.wait_writes(fault, count=400)
        assert trial.outage(fault).gap < NOISE
        assert cluster.wait_healthy() == trial.primary
        assert_followed(trial, standby)


def test_f_postgres_of_a_standby_killed(trials: Trials) -> None:
    with trials.trial() as trial:
        cluster, standby = trial.cluster, trial.standbys[1]
        fault = kill_postgres(cluster, standby)
        trial.wait_writes(fault, count=400)
        assert trial.outage(fault).gap < NOISE
        assert cluster.wait_healthy() == trial.primary
        assert_followed(trial, standby)


def test_f_a_standby_frozen(trials: Trials) -> None:
    with trials.trial() as trial:
        cluster = trial.cluster
        with frozen(cluster.all_processes_of(trial.standbys[0])) as fault:
            trial.wait_writes(fault, count=1200)
            assert trial.outage(fault).gap < NOISE
        assert cluster.wait_healthy() == trial.primary
        assert not trial.events("primary")


def test_i_the_primary_killed_while_a_standby_is_away(trials: Trials) -> None:
    with trials.trial() as trial:
        cluster, away = trial.cluster, trial.standbys[0]
        agent = some(cluster.node(away).agent, "agent")
        # `up` would bring the standby back at once: it is to stay away for a while.
        with frozen({cluster.up_pid}):
            send([agent], TERM)
            cluster.wait_gone({agent} | cluster.postgres_processes(away), timeout=30)
            trial.wait_writes(time.monotonic())
            fault = kill_postgres(cluster, trial.primary)
            trial.wait_writes(fault, timeout=60)
            assert trial.outage(fault).gap < SLACK
        cluster.wait_healthy()
        assert trial.events("rule"), "the rule was shrunk before the standby went"
