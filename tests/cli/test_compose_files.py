"""What deploy/compose holds is what pgregent itself would write, and accepts."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from pgregent.cli.main import main

COMPOSE = Path(__file__).parents[2] / "deploy" / "compose"
NODES = ("postgres0.yml", "postgres1.yml", "postgres2.yml")


def pgregent(*words: str) -> str:
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize(("folder", "nodes"), [("haproxy", 2), ("haproxy-three", 3)])
def test_haproxy_cfg_is_up_to_date(folder: str, nodes: int) -> None:
    files = [str(COMPOSE / name) for name in NODES[:nodes]]
    ports = ("--stats-port", "7000", "--stats-port", "6000")
    written = (COMPOSE / folder / "haproxy.cfg").read_text()
    assert written == pgregent("haproxy", "config", *files, *ports)


@pytest.mark.parametrize("name", NODES)
def test_the_files_are_fine(name: str) -> None:
    said = pgregent("config", "check", str(COMPOSE / name))
    assert "ZooKeeper zoo:2181" in said
    assert "warning" not in said


def test_pgadmin_knows_both_nodes_and_the_entry_point() -> None:
    servers = json.loads((COMPOSE / "servers.json").read_text())["Servers"].values()
    assert [s["Host"] for s in servers] == ["haproxy", "pg-master", "pg-slave"]
