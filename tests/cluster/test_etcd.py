"""The seed's two nodes on etcd in place of ZooKeeper: a failover, an outage, an empty store."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.command import run_cli
from tests.cluster.faults import kill_node
from tests.cluster.pair import Pair
from tests.cluster.trial import Keeper, Trials
from tests.conformance.etcd_servers import EtcdServer, skip_if_missing
from tests.conformance.zookeeper_servers import free_port

# Far above the goals of the benchmark: a busy machine must not fail a correct run.
SLACK = 10.0
NOISE = 3.0


class EtcdPair(Pair):
    """The seed's files with the section `etcd3` instead of `zookeeper`."""

    def __init__(self, bin_dir: Path) -> None:
        super().__init__(bin_dir)
        of_the_seed = f"zookeeper:\n hosts:\n   - {self.zookeeper.host}\n"
        self.etcd = self.zookeeper = EtcdServer(self.base / "etcd")  # pyright: ignore
        for file in self.files.values():
            text = file.read_text()
            assert of_the_seed in text
            file.write_text(text.replace(of_the_seed, f"etcd3:\n  hosts: ['{self.etcd.host}']\n"))


@pytest.fixture(scope="module")
def keeper(bin_dir: Path) -> Iterator[Keeper[EtcdPair]]:
    skip_if_missing()
    if not (shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")):
        pytest.skip("haproxy is not installed: apt-get install haproxy")
    found = Keeper(lambda: EtcdPair(bin_dir))
    yield found
    found.close()


@pytest.fixture
def trials(keeper: Keeper[EtcdPair]) -> Trials[EtcdPair]:
    return keeper.trials()


def test_the_primary_killed(trials: Trials[EtcdPair]) -> None:
    with trials.trial() as trial:
        pair = trial.cluster
        fault = kill_node(pair, trial.primary)
        trial.wait_writes(fault)
        assert 0 < trial.outage(fault).gap < SLACK
        pair.start_stopped()
        assert pair.wait_healthy() == trial.standbys[0]


def test_etcd_frozen_then_empty_under_a_running_cluster(trials: Trials[EtcdPair]) -> None:
    with trials.trial() as trial:
        pair = trial.cluster
        away = time.monotonic()
        with pair.etcd.frozen():
            time.sleep(8.0)
        pair.etcd.kill()
        pair.etcd.wipe()
        pair.etcd.start()
        pair.etcd.wait_ready()
        pair.events.wait(lambda e: e.name == "dcs_restored", 30.0, trial.mark, "dcs_restored")
        trial.wait_writes(time.monotonic())
        assert not trial.not_acknowledged(), "who holds the office goes on"
        assert trial.outage(away).gap < NOISE
        assert pair.wait_healthy() == trial.primary


def test_commands_find_the_members_in_etcd(trials: Trials[EtcdPair]) -> None:
    with trials.trial() as trial:
        pair, (name, *_) = trial.cluster, trial.cluster.members
        # As from another machine: no agent is where this file says.
        text, own = pair.files[name].read_text(), pair.members[name].api_url.removeprefix("http://")
        file = pair.base / "operator.yml"
        file.write_text(text.replace(own, f"127.0.0.1:{free_port()}").replace(name, "operator"))
        for command in ("list", "why"):
            told = run_cli(command, "-c", str(file))
            assert told.code == 0, told.message
            assert all(member in told.out for member in pair.members)
