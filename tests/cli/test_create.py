"""What a new directory holds, who may read it, and what is kept when it is resumed."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from pgregent.adapters.postgres.tools import service_owner
from pgregent.cli import plan
from pgregent.cli.cluster_dir import ClusterDir
from pgregent.cli.create import ELSEWHERE, complete_cluster, make_cluster
from pgregent.config.load import load_config
from pgregent.core.errors import Refused


@pytest.fixture
def made(cluster: ClusterDir) -> ClusterDir:
    cluster = replace(cluster, server=plan.choose_server(None))
    cluster.path.mkdir()
    return make_cluster(cluster)


def test_each_agent_file_is_valid_and_private(made: ClusterDir) -> None:
    for node in made.nodes:
        file = made.agent_file(node.name)
        config = load_config(file)
        assert config.name == node.name
        assert config.postgresql.address.port == node.port
        assert config.restapi.address.port == node.rest_port
        assert set(config.pgregent.peers) == {n.name for n in made.nodes} - {node.name}
        assert file.stat().st_mode & 0o777 == 0o600


def test_secrets_are_private_and_different(made: ClusterDir) -> None:
    assert (made.path / "secrets").stat().st_mode & 0o777 == 0o700
    passwords = {made.secret(name) for name in ("superuser", "replication", "restapi", "app")}
    assert len(passwords) == 4
    assert all(len(password) >= 32 for password in passwords)
    lines = made.secret_file("app.pgpass").read_text().splitlines()
    assert lines[0] == f"127.0.0.1:{made.entry_port}:*:app:{made.secret('app')}"
    for file in (made.path / "secrets").iterdir():
        assert file.stat().st_mode & 0o777 == 0o600


def test_completing_again_changes_nothing_and_keeps_edits(made: ClusterDir) -> None:
    file = made.agent_file("n1")
    file.write_text(file.read_text().replace("max_connections: 200", "max_connections: 50"))
    before = {p: p.read_bytes() for p in made.path.rglob("*") if p.is_file()}
    assert complete_cluster(made) == made
    assert {p: p.read_bytes() for p in made.path.rglob("*") if p.is_file()} == before


def test_what_is_missing_is_made_again(made: ClusterDir) -> None:
    shutil.rmtree(made.node_dir("n2"))
    made.secret_file("app.pgpass").unlink()
    complete_cluster(made)
    assert load_config(made.agent_file("n2")).name == "n2"
    assert made.secret_file("app.pgpass").exists()


def test_a_password_that_the_databases_know_is_not_made_up(made: ClusterDir) -> None:
    (made.data_dir("n1") / "PG_VERSION").write_text("15\n")
    made.secret_file("superuser").unlink()
    with pytest.raises(Refused, match="superuser is missing"):
        complete_cluster(made)


def test_agents_are_changed_with_the_password_only(made: ClusterDir) -> None:
    for node in made.nodes:
        user = load_config(made.agent_file(node.name)).restapi.authentication
        assert user is not None
        assert (user.username, user.password.get_secret_value()) == (
            "admin",
            made.secret("restapi"),
        )


def test_a_directory_of_before_the_password_is_resumed_as_it_is(made: ClusterDir) -> None:
    made.secret_file("restapi").unlink()
    (made.data_dir("n1") / "PG_VERSION").write_text("15\n")
    file = made.agent_file("n1")
    content = yaml.safe_load(file.read_text())
    del content["restapi"]["authentication"]
    file.write_text(before := yaml.safe_dump(content))
    complete_cluster(made)
    assert file.read_text() == before
    assert load_config(file).restapi.authentication is None


def test_a_moved_directory_is_refused(made: ClusterDir, place: Path) -> None:
    moved = made.path.rename(place / "moved")
    with pytest.raises(Refused, match=r"data_dir is .*was the directory moved"):
        complete_cluster(replace(made, path=moved))


def test_another_place_of_the_programs_is_written_to_agent_yml(made: ClusterDir) -> None:
    old, file = made.server.run_dir, made.agent_file("n1")
    link = made.path / "programs: x"
    link.symlink_to(old)
    server = replace(made.server, bin_dir=str(link))
    complete_cluster(replace(made, server=server))
    assert load_config(file).postgresql.bin_dir == link


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts PostgreSQL as another user")
def test_nodes_live_elsewhere_where_postgres_cannot_enter(cluster: ClusterDir) -> None:
    cluster = replace(cluster, server=plan.choose_server(None))
    cluster.path.parent.chmod(0o700)
    cluster.path.mkdir()
    made = make_cluster(cluster)
    try:
        assert made.nodes_dir.parent.parent == ELSEWHERE
        assert (made.path / "nodes").is_symlink()
        owner = service_owner()
        assert owner is not None
        assert made.data_dir("n1").stat().st_uid == owner.uid
        assert load_config(made.agent_file("n1")).postgresql.data_dir == made.data_dir("n1")
        assert complete_cluster(made) == made
    finally:
        shutil.rmtree(made.nodes_dir.parent)
    with pytest.raises(Refused, match="which is gone"):
        complete_cluster(made)
