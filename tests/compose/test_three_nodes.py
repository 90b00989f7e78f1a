"""deploy/compose with its third node, and our own YAML."""

from tests.compose.engine import DEPLOY, NODES, Project, healthy, run, until
from tests.compose.faults import fail_over, kill
from tests.compose.load import query

THREE = (*NODES, "pg-third")
FILES = (
    DEPLOY / "docker-compose.yml",
    DEPLOY / "docker-compose.three.yml",
    DEPLOY / "docker-compose.debian.yml",
)


def test_three_nodes() -> None:
    with Project("pgregentthree", DEPLOY, *FILES) as project:
        project.up()
        until("the cluster is whole", lambda: healthy(THREE), 90.0)
        fail_over(THREE, 1000, kill)
        until("the archive has a segment", _archived)


def _archived() -> bool:
    query(5435, "SELECT pg_switch_wal()")
    found = run("docker", "exec", "pg-master", "sh", "-c", "ls /var/lib/postgresql/archive/*/")
    return "00000001" in found
