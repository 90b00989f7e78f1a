"""The harness itself, against plain PostgreSQL: it must see what it is there to see."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from tests.cluster.checkers import acknowledged, lost_or_repeated, outage
from tests.cluster.cluster import Cluster, password_in
from tests.cluster.faults import CONT, STOP, HeldSession, frozen, locked
from tests.cluster.nodes import Events
from tests.cluster.plain import PlainCluster, PlainServer, make_directory, require
from tests.cluster.processes import alive, belonging_to, kill_all_of, send, titled, wait_for
from tests.cluster.rawpq import DefiniteError, InDoubtError, Session
from tests.cluster.writers import CREATE, ENTRY, TABLE, Pace, Writers

QUICK = Pace(query_timeout=0.5, connect_timeout=0.5)


def keys_of(server: PlainServer) -> list[int]:
    with server.connect() as conn:
        return [int(key) for (key,) in conn.execute(f"SELECT key FROM {TABLE}".encode())]


def create_table(server: PlainServer) -> None:
    with server.connect() as conn:
        conn.execute(CREATE.encode())


def busy(writers: Writers, since: float) -> Callable[[], bool]:
    return lambda: writers.acknowledged_since(since) >= 20


def test_writers_record_a_crash_and_what_followed(plain: PlainCluster) -> None:
    server = plain.servers[0]
    create_table(server)
    with Writers(server.conninfo, pace=QUICK) as writers:
        wait_for("writes", busy(writers, 0.0), timeout=10)
        fault = time.monotonic()
        server.kill()
        server.start()
        up_again = time.monotonic()
        wait_for("writes go on", busy(writers, up_again), timeout=10)
    history = writers.history
    keys = keys_of(server)
    assert lost_or_repeated(history, keys) == []
    measured = outage(history, ENTRY, fault, up_again)
    assert 0.05 < measured.gap < 30.0
    assert measured.resumed_after <= measured.gap + 1.0
    assert {a.timeline for a in acknowledged(history)} == {1}
    assert any(a.outcome == "fail" for a in history), "nobody was refused while it was down"
    lost = lost_or_repeated(history, keys[1:])
    assert lost, "a row that is gone must be seen"


def test_a_frozen_server_leaves_attempts_in_doubt(plain: PlainCluster) -> None:
    server = plain.servers[0]
    create_table(server)
    with Writers(server.conninfo, pace=QUICK) as writers:
        wait_for("writes", busy(writers, 0.0), timeout=10)
        with frozen(server.processes()):
            in_doubt = lambda: [a for a in writers.history if a.outcome == "unknown"]  # noqa: E731
            found = wait_for("attempts in doubt", in_doubt, timeout=10)
        assert all(0.4 < a.end - a.start < 5.0 for a in found), "the client's timeout held"
        wait_for("writes go on", busy(writers, time.monotonic()), timeout=10)
    assert lost_or_repeated(writers.history, keys_of(server)) == []


def test_a_commit_that_was_not_replicated_is_no_acknowledgement(bin_dir: Path) -> None:
    with PlainCluster(bin_dir, nodes=2) as found:
        primary, standby = found.servers
        create_table(primary)
        standby.kill()
        session = Session(primary.conninfo, timeout=5)
        ((backend,),) = session.execute("SELECT pg_backend_pid()")
        with primary.connect() as other:
            with pytest.raises(InDoubtError, match="no answer within"):
                session.execute(f"INSERT INTO {TABLE} VALUES (1, 'x')", timeout=0.3)
            other.execute("SELECT pg_cancel_backend(%s)", (int(backend or 0),))
            with pytest.raises(InDoubtError, match="canceling wait for synchronous"):
                session.collect(5.0)
        session.close()
        assert keys_of(primary) == [1]


def test_a_refusal_is_definite_and_the_session_lives(plain: PlainCluster) -> None:
    session = Session(plain.servers[0].conninfo, timeout=5)
    with pytest.raises(DefiniteError, match="does not exist"):
        session.execute("INSERT INTO nothing VALUES (1)")
    assert session.execute("SELECT $1", ["x"]) == [("x",)]
    session.close()
    with pytest.raises(DefiniteError):
        Session("host=127.0.0.1 port=1", timeout=2)


def test_processes_of_a_server_are_found_even_as_orphans(plain: PlainCluster) -> None:
    server = plain.servers[0]
    pid_file = server.data_dir / "postmaster.pid"
    postmaster = int(pid_file.read_text().split()[0])
    backend = psycopg.connect(server.conninfo)
    assert len(server.processes()) > 4
    send(server.processes() - {postmaster}, STOP)
    subprocess.run(["kill", "-9", str(postmaster)], check=True)
    wait_for("the postmaster is gone", lambda: not alive(postmaster), timeout=5)
    assert server.processes(), "the orphans are seen"
    assert titled(server.processes(), "checkpointer")
    send(server.processes(), CONT)
    server.kill()
    assert not server.processes()
    backend.close()


def test_a_standby_is_needed_again_after_require(bin_dir: Path) -> None:
    with PlainCluster(bin_dir, nodes=2) as found:
        primary, standby = found.servers
        require(primary, [standby])
        with primary.connect() as conn:
            row = conn.execute("SHOW synchronous_standby_names").fetchone()
        assert row == (f"ANY 1 ({standby.name})",)


def test_a_held_session_that_was_cut_is_seen(plain: PlainCluster) -> None:
    server = plain.servers[0]
    with HeldSession(server.conninfo) as session:
        assert session.intact()
        server.kill()
        assert not session.intact()


def test_the_lock_keeps_writers_out(tmp_path: Path) -> None:
    import sqlite3

    path = tmp_path / "x.sqlite"
    with sqlite3.connect(path) as conn:
        conn.execute("CREATE TABLE t (x)")
    conn.close()
    with locked(path), pytest.raises(sqlite3.OperationalError, match="locked"):
        other = sqlite3.connect(path, timeout=0.1)
        other.execute("INSERT INTO t VALUES (1)")


def spawn(script: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-uc", script], stdout=subprocess.PIPE)


def test_events_are_waited_for_and_foreign_lines_kept() -> None:
    lines = [json.dumps({"event": "started"}), "not json", '{"event": "primary", "member": "n2"}']
    process = spawn(f"for line in {lines!r}: print(line)")
    assert process.stdout
    events = Events(process.stdout)
    found = events.wait(lambda e: e.name == "primary", timeout=10)
    assert found.has(member="n2")
    assert not found.has(member="n1")
    assert events.foreign == ["not json\n"]
    process.wait(10)
    with pytest.raises(AssertionError, match="the stream ended"):
        events.wait(lambda e: e.name == "ready", timeout=10)
    with pytest.raises(AssertionError):
        events.wait(lambda e: e.name == "primary", timeout=0.1, since=events.mark())


FAKE_UP = """
import json, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", sys.argv[2]])
member = {"name": "n1", "data_dir": sys.argv[2], "port": 1, "api_url": "http://x"}
ready = {"event": "ready", "dsn": "host=h", "dsn_ro": "", "primary": "n1", "members": [member]}
print(json.dumps(ready), flush=True)
time.sleep(600)
"""


def test_a_cluster_leaves_no_process_and_no_directory(bin_dir: Path) -> None:
    with Cluster(bin_dir, nodes=1, command=(sys.executable, "-uc", FAKE_UP)) as cluster:
        base = cluster.base
        wait_for("both processes", lambda: len(belonging_to(base)) == 2, timeout=10)
        assert cluster.members["n1"].port == 1
    assert not base.exists()
    assert not belonging_to(base)


def test_an_up_that_dies_is_reported_with_its_last_words(bin_dir: Path) -> None:
    script = "import sys; sys.exit('the port is taken')"
    with (
        pytest.raises(AssertionError, match="the port is taken"),
        Cluster(bin_dir, nodes=1, command=(sys.executable, "-c", script)),
    ):
        pass


def test_kill_all_of_ends_everything_of_a_directory() -> None:
    base = make_directory("pgregent-test-")
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], cwd=base)
    try:
        kill_all_of(base)
        assert process.wait(10) == -9
    finally:
        process.kill()
        base.rmdir()


def test_password_of_a_passfile(tmp_path: Path) -> None:
    path = tmp_path / "pgpass"
    path.write_text("127.0.0.1:5435:app:app:a\\:b\n*:*:*:other:c\\\\d\n")
    assert password_in(path, "app") == "a:b"
    assert password_in(path, "other") == "c\\d"
    with pytest.raises(AssertionError, match="nobody"):
        password_in(path, "nobody")
