"""The DCS of the chaos clusters, on this machine's loopback: drawn, named in files, and led."""

import random
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cluster.chaos.dcs import DCS
from tests.cluster.chaos.settings import Settings, agent_yaml, drawn
from tests.cluster.command import run_cli
from tests.cluster.processes import wait_for
from tests.conformance import etcd_servers, zookeeper_servers

ADDRESSES = ["127.0.31.1", "127.0.31.2", "127.0.31.3"]


@pytest.fixture(params=DCS)
def kind(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    {"zookeeper": zookeeper_servers, "etcd": etcd_servers}[name].skip_if_missing()
    return name


@pytest.fixture
def servers(kind: str, tmp_path: Path) -> Iterator[dict[str, "subprocess.Popen[bytes]"]]:
    found: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for number, address in enumerate(ADDRESSES):
            command = DCS[kind].command(tmp_path / str(number), number, ADDRESSES)
            with (tmp_path / f"{number}.log").open("wb") as log:
                found[address] = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)
        yield found
    finally:
        for server in found.values():
            server.kill()
            server.wait(10)


def test_one_leads_and_another_when_it_is_gone(
    kind: str, servers: dict[str, "subprocess.Popen[bytes]"]
) -> None:
    def leaders() -> list[str]:
        return [address for address in ADDRESSES if DCS[kind].leads(address)]

    (first,) = wait_for("a leader", leaders, timeout=30)
    servers[first].kill()
    servers[first].wait(10)
    (second,) = wait_for("another leader", leaders, timeout=30)
    assert second != first


def test_agents_take_the_files(kind: str, tmp_path: Path, bin_dir: Path) -> None:
    nodes = {"n1": "192.0.2.11", "n2": "192.0.2.12", "n3": "192.0.2.13"}
    text = agent_yaml(
        replace(Settings(), dcs=kind),
        name="n1",
        nodes=nodes,
        dcs_servers=ADDRESSES,
        place=tmp_path / "n1",
        bin_dir=bin_dir,
    )
    file = tmp_path / "n1.yml"
    file.write_text(text)
    checked = run_cli("config", "check", str(file))
    assert checked.code == 0, checked.message
    assert all(f"{address}:{DCS[kind].port}" in text for address in ADDRESSES)


def test_one_cluster_in_three_is_on_etcd() -> None:
    rng = random.Random(1)
    found = Counter(drawn(rng).dcs for _ in range(600))
    assert found.keys() == DCS.keys()
    assert 150 < found["etcd"] < 250
    assert {drawn(rng, dcs="etcd").dcs for _ in range(20)} == {"etcd"}
