"""pgregent.hold_timeout is how long both entry points hold a connection."""

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pgregent.cli import plan
from pgregent.cli.cluster_dir import ClusterDir, open_cluster
from pgregent.cli.create import complete_cluster, make_cluster
from pgregent.cli.haproxy import command
from pgregent.core.errors import Refused

FILE = """\
scope: demo
name: {name}
local: {{path: /tmp/dcs.sqlite}}
restapi: {{listen: "{name}:8008"}}
postgresql:
  listen: {name}:5432
  data_dir: /data/{name}
  authentication:
    superuser: {{username: postgres, password: one}}
    replication: {{username: replicator, password: two}}
pgregent: {{hold_timeout: {hold}}}
"""


def write(place: Path, name: str, hold: float) -> str:
    path = place / f"{name}.yml"
    path.write_text(FILE.format(name=name, hold=hold))
    return str(path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, ["config", *arguments])


def test_haproxy_holds_for_as_long_as_the_files_say(place: Path) -> None:
    files = [write(place, "a", 2.4), write(place, "b", 2.4)]
    assert "A client is held for 2.4 s" in run(*files).stdout
    assert "retries 30\n" in run(*files).stdout
    assert "retries 100\n" in run(*files, "--hold", "8").stdout


def test_files_that_differ_are_refused_unless_the_option_decides(place: Path) -> None:
    files = [write(place, "a", 2), write(place, "b", 3)]
    refused = run(*files).exception
    assert isinstance(refused, Refused)
    assert "b.yml: pgregent.hold_timeout: found 3, expected 2 as in" in str(refused)
    assert run(*files, "--hold", "8").exit_code == 0


@pytest.fixture
def made(cluster: ClusterDir) -> ClusterDir:
    cluster = replace(cluster, server=plan.choose_server(None))
    cluster.path.mkdir()
    return make_cluster(cluster)


def edit(made: ClusterDir, name: str, hold: float) -> None:
    file = made.agent_file(name)
    before = file.read_text()
    file.write_text(before.replace("hold_timeout: 15.0", f"hold_timeout: {hold}"))
    assert file.read_text() != before


def test_the_gate_holds_for_as_long_as_every_agent_yml_says(made: ClusterDir) -> None:
    for node in made.nodes:
        edit(made, node.name, 2.5)
    complete_cluster(made)
    # What the gate's process reads.
    assert open_cluster(made.path).hold_timeout == 2.5


def test_agent_ymls_that_differ_are_refused(made: ClusterDir) -> None:
    edit(made, "n2", 2.5)
    with pytest.raises(Refused, match=r"n2.*hold_timeout is 2.5, but 15 in .*n1"):
        complete_cluster(made)
