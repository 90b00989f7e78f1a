"""The same on the other servers that are here: killed, asked to leave, rewound."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import servers
from tests.cluster.cluster import Cluster
from tests.cluster.faults import TERM, diverge, kill_postgres, some
from tests.cluster.processes import send
from tests.cluster.trial import Trials

OTHERS = servers.others()


@pytest.fixture(params=OTHERS.values(), ids=list(OTHERS))
def bin_dir(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


@pytest.fixture
def trials(bin_dir: Path) -> Iterator[Trials]:
    with Cluster(bin_dir) as cluster:
        yield Trials(cluster)


def test_killed_rewound_and_asked_to_leave(trials: Trials) -> None:
    cluster = trials.cluster
    with trials.trial() as trial:
        trial.wait_writes(kill_postgres(cluster, trial.primary))
        assert cluster.wait_healthy() != trial.primary
    with trials.trial() as trial:
        diverge(cluster, trial.primary)
        trial.wait_rejoined(trial.primary, "rewind")
    with trials.trial() as trial:
        agent = some(cluster.node(trial.primary).agent, "agent")
        send([agent], TERM)
        cluster.wait_gone({agent})
        assert cluster.wait_healthy() != trial.primary
        assert trial.rejoined(trial.primary) == ["follow"]
