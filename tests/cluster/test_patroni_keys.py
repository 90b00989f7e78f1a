"""Patroni's own tools on our clusters, on ZooKeeper and on etcd: patronictl, vip-manager,
check_patroni. The configuration that they are given is a member's own file."""

import json
import shutil
import subprocess
import sys
from base64 import b64decode
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import NoNodeError
from psycopg.conninfo import conninfo_to_dict

from tests.cluster import vip_manager
from tests.cluster.command import COMMAND, Finished, clean_environment
from tests.cluster.faults import kill_node
from tests.cluster.pair import Pair
from tests.cluster.processes import wait_for
from tests.cluster.test_etcd import EtcdPair
from tests.cluster.vip_manager import VipManager
from tests.conformance import etcd_servers, zookeeper_servers
from tests.conformance.etcd_servers import EtcdServer, text

SCOPE = "my_cluster"
BASE = f"/service/{SCOPE}"
SOON_S = 30.0
# What patronictl does where no agent answers it: Patroni's own words, by Patroni's own code.
REQUEST = """
import sys
from patroni.ctl import load_config
from patroni.dcs import get_dcs
file, leader, candidate = sys.argv[1:]
config = {**load_config(file, None), "patronictl": True}
assert get_dcs(config).manual_failover(leader, candidate)
"""


@dataclass
class Patronis:
    """A cluster of two, and the tools of Patroni."""

    cluster: Pair
    zookeeper: KazooClient | None

    def value(self, name: str) -> str | None:
        """What one of Patroni's keys holds."""
        if self.zookeeper is not None:
            try:
                return self.zookeeper.get(f"{BASE}/{name}")[0].decode()
            except NoNodeError:
                return None
        server: Any = self.cluster.zookeeper
        assert isinstance(server, EtcdServer)
        found = server.ask("kv/range", {"key": text(f"{BASE}/{name}")}).get("kvs", [])
        return b64decode(found[0]["value"]).decode() if found else None

    def ctl(self, command: str, *arguments: str) -> str:
        """What patronictl prints; AssertionError unless it succeeds."""
        done = _run(_tool("patronictl"), "-c", self._file(), command, SCOPE, *arguments)
        assert done.code == 0, done.message
        return done.out

    def rows(self, command: str) -> list[dict[str, Any]]:
        """What patronictl prints as JSON."""
        return json.loads(self.ctl(command, "-f", "json"))

    def roles(self) -> dict[str, tuple[str, str]]:
        """Role and state of each member, as patronictl lists them."""
        return {row["Member"]: (row["Role"], row["State"]) for row in self.rows("list")}

    def request(self, leader: str, candidate: str) -> None:
        """Ask for another primary in the DCS."""
        done = _run(sys.executable, "-c", REQUEST, self._file(), leader, candidate)
        assert done.code == 0, done.message

    def check(self, *arguments: str) -> Finished:
        """check_patroni, told of every agent."""
        urls = (("-e", member.api_url) for member in self.cluster.members.values())
        return _run(_tool("check_patroni"), *(word for url in urls for word in url), *arguments)

    def whole(self) -> tuple[str, str]:
        """The primary and the standby, once patronictl shows them so."""
        primary = self.cluster.wait_healthy()
        (standby,) = (name for name in self.cluster.members if name != primary)
        wanted = {primary: ("Leader", "running"), standby: ("Sync Standby", "streaming")}
        wait_for("patronictl lists both", lambda: self.roles() == wanted, timeout=SOON_S, every=0.5)
        return primary, standby

    def _file(self) -> str:
        return str(next(iter(self.cluster.files.values())))


def _tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _run(*command: str) -> Finished:
    done = subprocess.run(
        command,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module", params=["zookeeper", "etcd"])
def patronis(request: pytest.FixtureRequest, bin_dir: Path) -> Iterator[Patronis]:
    if not (shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")):
        pytest.skip("haproxy is not installed: apt-get install haproxy")
    with ExitStack() as stack:
        if request.param == "zookeeper":
            zookeeper_servers.skip_if_missing()
            pair = stack.enter_context(Pair(bin_dir))
            client = stack.enter_context(zookeeper_servers.operator(pair.zookeeper.host))
            yield Patronis(pair, client)
        else:
            etcd_servers.skip_if_missing()
            yield Patronis(stack.enter_context(EtcdPair(bin_dir)), None)


def setting(pair: Pair, name: str, parameter: str) -> str:
    with psycopg.connect(pair.direct(name), connect_timeout=5) as conn:
        row = conn.execute("SELECT current_setting(%s)", (parameter,)).fetchone()
    assert row
    return str(row[0])


def test_patronictl_shows_the_cluster(patronis: Patronis) -> None:
    primary, standby = patronis.whole()
    members = patronis.cluster.members
    rows = {row["Member"]: row for row in patronis.rows("list")}
    assert {name: row["Host"] for name, row in rows.items()} == {
        name: f"{member.host}:{member.port}" for name, member in members.items()
    }
    assert rows[primary]["TL"] == rows[standby]["TL"] >= 1
    assert rows[standby]["Replay Lag"] == 0
    lines = [line for line in patronis.ctl("topology").splitlines() if "postgresql" in line]
    assert primary in lines[0], "the leader is the root"
    assert f"+ {standby}" in lines[1]
    with psycopg.connect(patronis.cluster.direct(primary), connect_timeout=5) as conn:
        system_id = conn.execute("SELECT system_identifier FROM pg_control_system()").fetchone()
    assert system_id is not None
    assert f"({system_id[0]})" in patronis.ctl("topology")
    for role, name in (("leader", primary), ("replica", standby)):
        found = conninfo_to_dict(patronis.ctl("dsn", "--role", role).strip())
        assert found == {"host": members[name].host, "port": str(members[name].port)}


def test_patronictl_edits_the_configuration(patronis: Patronis) -> None:
    patronis.whole()
    pair = patronis.cluster
    change = ("-s", "maximum_lag_on_failover=77", "-p", "work_mem=7MB")
    assert "Configuration changed" in patronis.ctl("edit-config", *change, "--force")
    assert "maximum_lag_on_failover: 77\n" in patronis.ctl("show-config")
    for name in pair.members:
        wait_for(
            f"{name} uses it",
            lambda n=name: setting(pair, n, "work_mem") == "7MB",
            timeout=SOON_S,
        )


def test_patronictl_restarts_pauses_and_makes_anew(patronis: Patronis) -> None:
    primary, standby = patronis.whole()
    mark = patronis.cluster.events.mark()
    assert f"Success: restart on member {primary}" in patronis.ctl("restart", primary, "--force")
    assert f"Success: restart on member {standby}" in patronis.ctl("restart", standby, "--force")
    told = patronis.ctl("restart", "--pending", "--force")
    assert "restart" not in told, "nothing waits for one"
    assert "management is paused" in patronis.ctl("pause", "--wait")
    assert "Maintenance mode: on" in patronis.ctl("list")
    assert "management is resumed" in patronis.ctl("resume", "--wait")
    assert "Maintenance mode" not in patronis.ctl("list")
    told = patronis.ctl("reinit", standby, "--force", "--wait")
    assert f"Success: reinitialize for member {standby}" in told
    assert f"Reinitialize is completed on: {standby}" in told
    assert patronis.whole() == (primary, standby)
    names = {event.name for event in patronis.cluster.events.since(mark)}
    assert {"restart", "reinitialize", "rejoin"} <= names
    assert not {"election", "suspect"} & names


def test_check_patroni_is_content(patronis: Patronis) -> None:
    patronis.whole()
    for arguments, word in (
        (("cluster_has_leader",), "has_leader=1"),
        (("cluster_has_replica", "--warning", "1:", "--critical", "1:"), "healthy_replica=1"),
        (("cluster_node_count", "--healthy-critical", "2:"), "members=2"),
    ):
        done = patronis.check(*arguments)
        assert done.code == 0, done.message
        assert word in done.out


@contextmanager
def vips(patronis: Patronis) -> Generator[dict[str, VipManager]]:
    """A vip-manager beside each member."""
    vip_manager.skip_if_missing()
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(
                VipManager(name, f"{BASE}/leader", lambda: patronis.value("leader"))
            )
            for name in patronis.cluster.members
        }


def wait_address(found: dict[str, VipManager], owner: str) -> None:
    """Wait until the address is there, and nowhere else."""
    wanted = {name: name == owner for name in found}
    wait_for(
        f"{owner} has the address",
        lambda: {name: vip.has_address for name, vip in found.items()} == wanted,
        timeout=SOON_S,
    )


def test_patronictl_switches_over_and_the_address_follows(patronis: Patronis) -> None:
    primary, standby = patronis.whole()
    with vips(patronis) as found:
        wait_address(found, primary)
        told = patronis.ctl("switchover", "--candidate", standby, "--force")
        assert f'Successfully switched over to "{standby}"' in told
        assert patronis.cluster.primary() == standby
        wait_address(found, standby)
    assert patronis.whole() == (standby, primary)
    wait_for(
        "the history tells",
        lambda: [row["New Leader"] for row in patronis.rows("history")][-1:] == [standby],
        timeout=SOON_S,
        every=0.5,
    )


def test_the_address_follows_when_the_primary_is_killed(patronis: Patronis) -> None:
    pair = patronis.cluster
    primary, standby = patronis.whole()
    with vips(patronis) as found:
        wait_address(found, primary)
        kill_node(pair, primary)
        wait_address(found, standby)
        assert pair.primary() == standby
        pair.start_stopped()
        assert patronis.whole() == (standby, primary)
        wait_address(found, standby)


def test_without_a_primary_there_is_no_address(patronis: Patronis) -> None:
    """Its only possible successor is stopped: who leaves takes `leader` along."""
    pair = patronis.cluster
    primary, standby = patronis.whole()
    with vips(patronis) as found:
        wait_address(found, primary)
        pair.stop_agents([standby])
        pair.stop_agents([primary])
        assert patronis.value("leader") is None
        assert patronis.value(f"members/{primary}") is None
        wait_address(found, "nobody")
        pair.start_stopped()
        wait_address(found, patronis.whole()[0])


def test_a_request_in_the_dcs(patronis: Patronis) -> None:
    pair = patronis.cluster
    primary, standby = patronis.whole()
    mark = pair.events.mark()
    patronis.request(standby, primary)
    refused = pair.events.wait(lambda e: e.name == "refused", SOON_S, mark, "refused")
    assert "leader name does not match" in refused.body["why"]
    assert patronis.value("failover") is None
    assert pair.primary() == primary
    patronis.request(primary, standby)
    wait_for("it is carried out", lambda: pair.writable(pair.members) == [standby], timeout=SOON_S)
    assert patronis.whole() == (standby, primary)
    assert patronis.value("failover") is None


def test_no_agent_starts_beside_patroni(patronis: Patronis) -> None:
    """In another scope of the same DCS, whose `leader` no pgregent wrote."""
    pair = patronis.cluster
    if patronis.zookeeper is not None:
        patronis.zookeeper.create("/service/other/leader", b"p1", ephemeral=True, makepath=True)
    else:
        etcd_servers.put(pair.zookeeper, "/service/other/leader", b"p1")  # pyright: ignore
    folder = pair.base / "other"
    folder.mkdir()
    name, own = next(iter(pair.files.items()))
    content = own.read_text().replace(f"scope: {SCOPE}", "scope: other")
    file = folder / "agent.yml"
    file.write_text(content.replace(str(pair.base / "nodes" / name), str(folder)))
    file.chmod(0o600)
    done = _run(*COMMAND, "agent", str(file))
    assert done.code == 2, done.message
    assert "/service/other: found Patroni running there (p1), expected" in done.err
    assert "Traceback" not in done.err
    assert not (folder / name).exists()
