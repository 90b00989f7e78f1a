"""Two nodes: the one standby is needed, so writes wait until it has left the rule."""

import time

from tests.cluster.faults import TERM, frozen, kill_node, kill_postgres, some
from tests.cluster.processes import send
from tests.cluster.trial import Trials

NODES = 2
SUSPECT_AFTER = 1.0
# The goals are 0.5 s and suspect_after + 1 s; a busy machine must not fail a correct run.
SLACK = 5.0


def test_f_the_standby_killed(trials: Trials) -> None:
    with trials.trial() as trial:
        fault = kill_node(trial.cluster, trial.standbys[0])
        trial.wait_writes(fault)
        assert trial.outage(fault).gap < SLACK
        assert trial.cluster.wait_healthy() == trial.primary


def test_f_the_standby_frozen(trials: Trials) -> None:
    with trials.trial() as trial:
        with frozen(trial.cluster.all_processes_of(trial.standbys[0])) as fault:
            trial.wait_writes(fault + SUSPECT_AFTER, timeout=20)
            assert trial.outage(fault).gap < SUSPECT_AFTER + SLACK
        assert trial.cluster.wait_healthy() == trial.primary
        assert trial.events("rule")


def test_f_the_standby_asked_to_leave(trials: Trials) -> None:
    with trials.trial() as trial:
        agent = some(trial.cluster.node(trial.standbys[0]).agent, "agent")
        fault = time.monotonic()
        send([agent], TERM)
        trial.cluster.wait_gone({agent})
        trial.wait_writes(time.monotonic())
        assert trial.outage(fault).gap < 1.0, "it leaves the rule before it goes"
        assert trial.cluster.wait_healthy() == trial.primary


def test_a_the_primary_killed(trials: Trials) -> None:
    with trials.trial() as trial:
        fault = kill_postgres(trial.cluster, trial.primary)
        trial.wait_writes(fault)
        assert 0 < trial.outage(fault).gap < 2 * SLACK
        assert trial.cluster.wait_healthy() != trial.primary
