"""deploy/compose on debian:bookworm-slim: the seed's YAML unchanged."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.compose import figures
from tests.compose.engine import (
    DEPLOY,
    NODES,
    SEED,
    Project,
    healthy,
    members,
    run,
    until,
)
from tests.compose.faults import Undo, disconnect, fail_over, kill, pause, stop
from tests.compose.load import load, query

FILES = {"pg-master": "/postgres0.yml", "pg-slave": "/postgres1.yml"}
# The names of the images that the override builds; none of these is pulled.
COMPOSE = (DEPLOY / "docker-compose.yml", DEPLOY / "docker-compose.debian.yml")
THIRD = "haproxy-watch"


def mounts_of_the_seed(directory: Path) -> Path:
    """An override that mounts the seed's files in place of ours."""
    lines = ["services:"]
    for service in (*NODES, "haproxy-watch"):
        lines += [f"  {service}:", "    volumes:"]
        for name in ("postgres0.yml", "postgres1.yml"):
            if service == "haproxy-watch" or FILES[service] == f"/{name}":
                lines.append(f"      - {SEED / name}:/{name}:ro")
    override = directory / "seed.yml"
    override.write_text("\n".join(lines) + "\n")
    return override


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    override = mounts_of_the_seed(tmp_path_factory.mktemp("override"))
    with Project("pgregenttwo", DEPLOY, *COMPOSE, override) as project:
        project.up()
        until("the cluster is whole", healthy)
        yield project


def test_commands_from_a_third_container(two: Project) -> None:
    rows = members(THIRD, "/postgres0.yml")
    assert {name: row["Role"] for name, row in rows.items()} == {
        "postgresql0": "Leader",
        "postgresql1": "Quorum Standby",
    }
    asked = ("docker", "exec", THIRD, "pgregent")
    history = run(*asked, "history", "-c", "/postgres1.yml", "-f", "tsv")
    assert "postgresql0 created the cluster" in history
    dsn = run(*asked, "dsn", "-c", "/postgres1.yml")
    assert dsn == "host=pg-master,pg-slave port=5432,5432 target_session_attrs=read-write\n"


def test_stats_and_read_only_port_answer(two: Project) -> None:
    for port in (6000, 7000):
        page = run("curl", "-fsS", "-m", "5", f"http://127.0.0.1:{port}/")
        assert "postgresql1" in page
    until("a standby", lambda: query(5436, "SELECT pg_is_in_recovery()") == [(True,)])


def test_switchover_from_a_third_container(two: Project) -> None:
    with load(first_number=100) as running:
        running.strike()
        asked = ("docker", "exec", THIRD, "pgregent", "switchover", "-c", "/postgres0.yml")
        said = run(*asked, "--candidate", "postgresql1", "--force")
        assert "Successfully switched over to 'postgresql1'" in said
        running.resumes()
    figures.note("pgregent switchover, two nodes", running)
    until("the cluster is whole", healthy)


def test_a_refused_switchover_says_why(two: Project) -> None:
    asked = "pgregent switchover -c /postgres0.yml --candidate nobody --force"
    said = run("docker", "exec", THIRD, "sh", "-c", f"{asked} 2>&1; echo $?")
    assert "nobody does not have all commits" in said
    assert said.endswith("2\n")


@pytest.mark.parametrize(("number", "fault"), [(2, stop), (3, kill), (4, pause), (5, disconnect)])
def test_the_primary_fails(two: Project, number: int, fault: Callable[[str], Undo]) -> None:
    fail_over(NODES, number * 100, fault)


def test_who_had_diverged_was_rewound(two: Project) -> None:
    """Not cloned: with the seed's socket in the data directory, pg_rewind would have failed."""
    lines = two("logs", "--no-color", "pg-master", "pg-slave").splitlines()
    assert any("rejoin" in line and "rewind from" in line for line in lines)
    assert not any("rewind: pg_rewind failed" in line for line in lines)
    assert not any("cannot be used: clone" in line for line in lines)
