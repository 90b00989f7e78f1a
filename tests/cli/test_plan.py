"""What `up` refuses before it changes anything."""

import os
import socket
from pathlib import Path

import pytest

from pgregent.cli import plan, ports
from pgregent.cli.cluster_dir import ClusterDir, Server
from pgregent.cli.plan import Wishes
from pgregent.core.errors import Refused

SERVER = Server("system", "/opt/pg/bin", "15.20", "/opt/pg/bin")


@pytest.mark.parametrize("nodes", [-1, 0, 8])
def test_the_number_of_nodes_is_bounded(nodes: int) -> None:
    with pytest.raises(Refused, match=f"--nodes {nodes}: expected 1 to 7"):
        plan.check_nodes(Wishes(nodes=nodes))


def test_default_ports(tmp_path: Path) -> None:
    cluster = plan.plan_cluster(tmp_path, Wishes(), SERVER)
    assert (cluster.entry_port, cluster.entry_ro_port) == (5435, 5436)
    assert [(n.name, n.port, n.rest_port) for n in cluster.nodes] == [
        ("n1", 5441, 8008),
        ("n2", 5442, 8009),
        ("n3", 5443, 8010),
    ]


def test_free_ports_are_all_different(tmp_path: Path) -> None:
    cluster = plan.plan_cluster(tmp_path, Wishes(nodes=7, entry_port=0, port_base=0), SERVER)
    used = [cluster.entry_port, cluster.entry_ro_port]
    used += [port for node in cluster.nodes for port in (node.port, node.rest_port)]
    assert len(set(used)) == 16
    assert all(port not in (5435, 5441, 8008) for port in used)


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        (Wishes(entry_port=5441), "--port-base 5441: port 5441 would be used twice"),
        (Wishes(entry_port=5440), "used twice"),
        (Wishes(port_base=65535), "--port-base 65535: expected 0"),
        (Wishes(port_base=-1), "expected 0"),
    ],
)
def test_impossible_ports_are_refused(tmp_path: Path, wishes: Wishes, words: str) -> None:
    with pytest.raises(Refused, match=words):
        plan.plan_cluster(tmp_path, wishes, SERVER)


def test_a_taken_port_names_its_process(cluster: ClusterDir) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", cluster.nodes[1].port))
        taken.listen()
        with pytest.raises(Refused, match=rf"n2's PostgreSQL is taken by process {os.getpid()} "):
            plan.check_ports(cluster)
    plan.check_ports(cluster)


def test_foreign_directories_are_refused(tmp_path: Path) -> None:
    assert plan.find_cluster(tmp_path) is None
    assert plan.find_cluster(tmp_path / "absent") is None
    (tmp_path / "up.lock").touch()
    assert plan.find_cluster(tmp_path) is None
    (tmp_path / "letters").touch()
    with pytest.raises(Refused, match=r"not empty and has no cluster.json.*'letters'"):
        plan.find_cluster(tmp_path)
    with pytest.raises(Refused, match="not a directory"):
        plan.find_cluster(tmp_path / "letters")


def test_options_that_contradict_the_directory_are_refused(cluster: ClusterDir) -> None:
    plan.check_resume(cluster, Wishes())
    plan.check_resume(cluster, Wishes(nodes=3, entry_port=0, port_base=0, scope="demo"))
    plan.check_resume(cluster, Wishes(bin_dir=Path("/opt/pg/bin"), entry_port=cluster.entry_port))
    with pytest.raises(Refused) as refused:
        plan.check_resume(cluster, Wishes(nodes=2, bin_dir=Path("/opt/other/bin"), scope="x"))
    for words in ("--nodes 2 (it has 3)", "--bin-dir /opt/other/bin", "--scope x (it has demo)"):
        assert words in str(refused.value)


def test_a_missing_or_old_postgresql_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="lacks postgres"):
        plan.choose_server(tmp_path)
    for name in ("postgres", "initdb", "pg_basebackup", "pg_rewind", "pg_controldata"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 9.6.24'\n")
        (tmp_path / name).chmod(0o755)
    with pytest.raises(Refused, match=r"holds PostgreSQL 9.6"):
        plan.choose_server(tmp_path)


def test_owner_of_a_free_port_is_nobody() -> None:
    assert ports.owner_of(ports.pick_free(1, set())[0]) is None
