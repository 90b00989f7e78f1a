"""Readiness against one real PostgreSQL, which is its own entry point here."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgregent.adapters.postgres.render import Owner
from pgregent.adapters.postgres.tools import initdb, service_owner
from pgregent.cli import plan, processes
from pgregent.cli.cluster_dir import ClusterDir, write_file
from pgregent.cli.create import make_cluster
from pgregent.cli.ready import make_ready
from pgregent.cli.statuses import Statuses

START_TIMEOUT_S = 60.0


def as_owner(owner: Owner | None) -> dict[str, Any]:
    return {} if owner is None else {"user": owner.uid, "group": owner.gid, "extra_groups": []}


@pytest.fixture
async def served(cluster: ClusterDir) -> ClusterDir:
    """A cluster of one node whose data directory is initialised."""
    cluster = replace(cluster, server=plan.choose_server(None), nodes=cluster.nodes[:1])
    cluster = replace(cluster, entry_port=cluster.nodes[0].port)
    cluster.path.mkdir()
    cluster = make_cluster(cluster)
    owner, password_file = service_owner(), cluster.path / "password"
    write_file(password_file, cluster.secret("superuser"))
    if owner is not None:
        os.chown(password_file, owner.uid, owner.gid)
    await initdb(
        Path(cluster.server.run_dir),
        cluster.data_dir("n1"),
        superuser="postgres",
        pwfile=password_file,
        owner=owner,
    )
    return cluster


@pytest.fixture
def postmaster(served: ClusterDir) -> Iterator["subprocess.Popen[bytes]"]:
    data_dir = served.data_dir("n1")
    argv = [f"{served.server.run_dir}/postgres", "-D", str(data_dir)]
    argv += ["-p", str(served.nodes[0].port), "-c", "unix_socket_directories="]
    argv += ["-c", "listen_addresses=127.0.0.1", "-c", "shared_buffers=16MB"]
    with (served.log_dir("n1") / "postgres.log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, **as_owner(service_owner()))
    try:
        yield process
    finally:
        process.send_signal(signal.SIGQUIT)
        process.wait(START_TIMEOUT_S)


def statuses(primary: str | None) -> Statuses:
    status = {"name": "n1", "primary": primary, "serving": primary is not None, "why": "voting"}
    return Statuses({"n1": status})


async def test_the_application_can_write_when_it_is_ready(
    served: ClusterDir, postmaster: "subprocess.Popen[bytes]"
) -> None:
    assert await make_ready(served, Statuses({"n1": None})) == "waiting for the agents to answer"
    assert await make_ready(served, statuses(None)) == "voting"
    deadline = time.monotonic() + START_TIMEOUT_S
    while (waiting_for := await make_ready(served, statuses("n1"))) is not None:
        assert time.monotonic() < deadline, waiting_for
    with psycopg.connect(served.dsn(), connect_timeout=5) as conn:
        conn.execute("CREATE TABLE kept (id int)")
        row = conn.execute(
            "SELECT rolsuper, rolreplication FROM pg_roles WHERE rolname = current_user"
        ).fetchone()
        assert row == (False, False)
    assert await make_ready(served, statuses("n1")) is None

    assert processes.postmaster_pid(served.data_dir("n1")) == postmaster.pid
    # More than these may be there for a moment: sessions that are just ending.
    below = processes.descendants(postmaster.pid)
    assert sum(processes.is_alive(pid) for pid in below) >= 3


async def test_a_postmaster_file_that_was_left_behind_names_nobody(served: ClusterDir) -> None:
    pid_file = served.data_dir("n1") / "postmaster.pid"
    for content in (f"{os.getpid()}\n", "4194304\n", "", "x\n"):
        pid_file.write_text(content)
        assert processes.postmaster_pid(served.data_dir("n1")) is None
