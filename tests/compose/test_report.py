"""The lab report, from its first command to its last, with pgregent in Patroni's place.

Its files are unchanged but for the pip line of the Dockerfile and the two `command:` lines; its
SQL is corrected where it has commas too many, and where it fixes the number of a serial column.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.compose import figures
from tests.compose.engine import ROOT, SEED, Project, curl_status, healthy, members, run, until
from tests.compose.load import ENTRY_PORT, load, query

HERE = Path(__file__).parent / "report"
MASTER, SLAVE = 5433, 5434
PIP_LINE = "/opt/patroni-venv/bin/pip install patroni[zookeeper] psycopg2-binary"


def write_report(directory: Path) -> None:
    """The report's files in a directory, and a wheel of pgregent for its pip line."""
    wheels = directory / "wheels"
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(wheels)]
    subprocess.run([*build, str(ROOT)], check=True, timeout=300)
    dockerfile = (HERE / "Dockerfile").read_text()
    assert PIP_LINE in dockerfile
    ours = "/opt/patroni-venv/bin/pip install --find-links /wheels pgregent[zookeeper]"
    dockerfile = dockerfile.replace(PIP_LINE, ours)
    dockerfile = re.sub(r"(?m)^(FROM .*)$", r"\1\nCOPY wheels /wheels", dockerfile, count=1)
    (directory / "Dockerfile").write_text(dockerfile)
    compose = (HERE / "docker-compose.yml").read_text()
    assert compose.count("command: patroni ") == 2
    compose = compose.replace("command: patroni ", "command: pgregent agent ")
    (directory / "docker-compose.yml").write_text(compose)
    for name in ("postgres0.yml", "postgres1.yml"):
        shutil.copy(SEED / name, directory / name)
    (directory / "haproxy").mkdir()
    shutil.copy(SEED / "haproxy.cfg", directory / "haproxy" / "haproxy.cfg")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    directory = tmp_path_factory.mktemp("report")
    write_report(directory)
    with Project("pgregentreport", directory) as project:
        project.up()
        until("the cluster is whole", healthy)
        yield project


def test_the_logs_name_leader_and_standby_in_one_line(report: Project) -> None:
    lines = report("logs", "--no-color").splitlines()
    assert any("pg-slave" in x and "postgresql1: follow" in x and "postgresql0" in x for x in lines)
    assert any("pg-master" in x and "postgresql0: primary" in x for x in lines)


def test_rows_are_replicated_and_the_standby_refuses_writes(report: Project) -> None:
    query(MASTER, "CREATE TABLE users (id SERIAL PRIMARY KEY, email VARCHAR(100))")
    query(MASTER, "INSERT INTO users (email) VALUES ('test@gmail.com')")
    until("the row is on pg-slave", lambda: query(SLAVE, "SELECT email FROM users"))
    assert query(SLAVE, "SELECT * FROM users") == [(1, "test@gmail.com")]
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        query(SLAVE, "INSERT INTO users (email) VALUES ('slave@gmail.com')")


def test_the_entry_point_writes(report: Project) -> None:
    until("the entry point has found the primary", _can_write, 60.0)
    assert ("entry@gmail.com",) in query(MASTER, "SELECT email FROM users")


def _can_write() -> bool:
    try:
        query(ENTRY_PORT, "INSERT INTO users (email) VALUES ('entry@gmail.com')")
    except psycopg.OperationalError:
        return False
    return True


def test_down_and_up_keeps_everything(report: Project) -> None:
    """ZooKeeper has no volume of its own: it comes back empty beside full data directories."""
    before = query(MASTER, "SELECT * FROM users ORDER BY id")
    identifier = query(MASTER, "SELECT system_identifier FROM pg_control_system()")
    report("down")
    report.up()
    until("the cluster is whole", healthy, 90.0)
    assert query(MASTER, "SELECT * FROM users ORDER BY id") == before
    assert query(MASTER, "SELECT system_identifier FROM pg_control_system()") == identifier
    until("and so is the standby", lambda: query(SLAVE, "SELECT count(*) FROM users"))
    assert query(SLAVE, "SELECT system_identifier FROM pg_control_system()") == identifier
    assert "written again from the copies" in report("logs", "--no-color")
    assert "aside" not in run("docker", "exec", "pg-master", "ls", "/var/lib/postgresql/data")
    assert "aside" not in run("docker", "exec", "pg-slave", "ls", "/var/lib/postgresql/data")


def test_failover_when_the_master_is_stopped(report: Project) -> None:
    """Through the report's own HAProxy, whose checks bound the time."""
    master = "pg-master" if curl_status("pg-master", "/primary") == 200 else "pg-slave"
    other, config = ("pg-slave", "/postgres1.yml") if master == "pg-master" else (
        "pg-master", "/postgres0.yml")  # fmt: skip
    until("the entry point has found the primary", _can_write)
    with load(first_number=0) as running:
        running.strike()
        run("docker", "stop", master)
        running.resumes()
    figures.note("docker stop of the primary, the report's haproxy.cfg", running)
    assert curl_status(other, "/primary") == 200
    query(ENTRY_PORT, "INSERT INTO users (email) VALUES ('after@gmail.com')")
    run("docker", "start", master)
    until("it streams as a standby", healthy, 90.0)
    rows = members(other, config)
    assert sorted(str(row["State"]) for row in rows.values()) == ["running", "streaming"]
