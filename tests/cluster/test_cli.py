"""The command line: resuming, who is refused, and that secrets stay secret."""

import os
import shutil
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
import pytest
import yaml
from aiohttp import encode_basic_auth
from psycopg.conninfo import conninfo_to_dict

from tests.cluster.cluster import Cluster
from tests.cluster.command import COMMAND, Finished, clean_environment, run_cli
from tests.cluster.faults import kill_at_once, kill_postgres
from tests.cluster.plain import as_postgres, make_directory
from tests.cluster.processes import (
    belonging_to,
    command_line,
    environment,
    kill_all_of,
    send,
    wait_for,
)


@pytest.fixture(scope="module")
def cluster(bin_dir: Path) -> Iterator[Cluster]:
    """Three nodes that run."""
    with Cluster(bin_dir) as found:
        found.wait_healthy()
        yield found


@pytest.fixture(scope="module")
def stopped(bin_dir: Path) -> Iterator[Cluster]:
    """One node that was stopped; tests change a copy() of its directory, never itself."""
    with Cluster(bin_dir, nodes=1) as found:
        assert found.stop() == 0
        yield found


@pytest.fixture
def base() -> Iterator[Path]:
    """A directory that an unprivileged user can reach."""
    path = make_directory("pgregent-test-")
    yield path
    kill_all_of(path)
    shutil.rmtree(path)


def snapshot(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return mode, time of change and content of everything below, by path."""
    found: dict[str, tuple[int, int, bytes]] = {}
    for path in sorted([root, *root.rglob("*")]) if root.exists() else []:
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        found[str(path)] = (status.st_mode, status.st_mtime_ns, content)
    return found


def up(directory: Path, bin_dir: Path, *arguments: str) -> Finished:
    """Run an `up` that must end by itself."""
    return run_cli(
        *("up", str(directory), "--nodes", "1", "--entry-port", "0", "--port-base", "0"),
        *("--bin-dir", str(bin_dir), "--json", *arguments),
        timeout=40,
    )


def assert_refused(done: Finished, *words: str) -> None:
    """Exit code 2 and one error, which names the thing, with no traceback."""
    assert done.code == 2, f"exit code {done.code}: {done.message}"
    assert "Traceback" not in done.message
    for word in words:
        assert word.lower() in done.message.lower(), f"{word!r} not in: {done.message}"


# A running cluster


def test_ready_says_what_a_user_needs(cluster: Cluster) -> None:
    (ready,) = cluster.events.named("ready")
    assert ready.body["primary"] == cluster.primary()
    assert len(cluster.members) == 3
    version = [key for key in ready.body if key in ("v", "version", "format")]
    assert version, f"a format version is missing: {ready.body}"
    assert not cluster.foreign_lines()
    with psycopg.connect(cluster.dsn_ro, connect_timeout=10) as conn:
        assert conn.execute("SELECT pg_is_in_recovery()").fetchone() == (True,)
        assert conn.execute("SELECT rolsuper FROM pg_roles WHERE rolname = user").fetchone() == (
            False,
        )


def test_a_second_up_is_refused(cluster: Cluster) -> None:
    primary = cluster.primary()
    done = run_cli("up", str(cluster.dir), "--json")
    assert_refused(done, str(cluster.dir), str(cluster.up_pid))
    assert cluster.wait_healthy() == primary


def test_ps_names_processes_that_exist(cluster: Cluster) -> None:
    ps = cluster.ps()
    assert ps["up"] == cluster.up_pid
    for name, member in cluster.members.items():
        node = cluster.node(name)
        assert node.postmaster
        assert node.postmaster == cluster.postmaster(name)
        assert str(member.data_dir) in " ".join(command_line(node.postmaster))
        assert node.agent
        assert command_line(node.agent)
    assert command_line(int(ps["gate"])), "the gate is a process"


def test_ps_quiet_prints_the_primarys_processes(cluster: Cluster) -> None:
    done = cluster.cli("ps", "-q", "primary")
    assert done.code == 0
    pids = {int(word) for word in done.out.split()}
    primary = cluster.primary()
    assert cluster.postmaster(primary) in pids
    still_there = {pid for pid in pids if command_line(pid)}
    assert still_there <= cluster.postgres_processes(primary)


def test_dsn_with_and_without_the_password(cluster: Cluster) -> None:
    without = cluster.cli("dsn").out.strip()
    shown = cluster.cli("dsn", "--show-password").out.strip()
    assert conninfo_to_dict(without)["passfile"]
    assert "password" not in conninfo_to_dict(without)
    password = str(conninfo_to_dict(shown)["password"])
    assert len(password) >= 16
    assert password not in without
    with psycopg.connect(shown, connect_timeout=10) as conn:
        assert conn.execute("SELECT NOT pg_is_in_recovery()").fetchone() == (True,)
    wrong = cluster.with_password(password="wrong")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(wrong, connect_timeout=10)


def passwords(cluster: Cluster) -> dict[str, str]:
    """Return every secret of the cluster by the file that holds it."""
    found: dict[str, str] = {}
    for path in sorted((cluster.dir / "secrets").iterdir()):
        for line in path.read_text().splitlines():
            found[path.name] = line.rsplit(":", 1)[-1].strip()
    assert len(set(found.values())) >= 3, f"superuser, replication and application: {list(found)}"
    assert all(len(value) >= 16 for value in found.values())
    return found


def test_no_process_shows_a_password(cluster: Cluster) -> None:
    secrets = passwords(cluster).values()
    pids = belonging_to(cluster.base) | {cluster.up_pid}
    for name in cluster.members:
        pids |= cluster.all_processes_of(name)
    assert len(pids) > 20
    shown = [
        pid for pid in pids for s in secrets if s in " ".join(command_line(pid)) + environment(pid)
    ]
    assert not shown


def test_passwords_are_only_in_files_of_0600(cluster: Cluster) -> None:
    secrets = [value.encode() for value in passwords(cluster).values()]
    open_files: list[str] = []
    in_logs: list[str] = []
    for path in (p for p in cluster.dir.rglob("*") if p.is_file() and not p.is_symlink()):
        try:
            content, status = path.read_bytes(), path.stat()
        except FileNotFoundError:
            continue
        if not any(secret in content for secret in secrets):
            continue
        name = str(path.relative_to(cluster.dir))
        if stat.S_IMODE(status.st_mode) & 0o177:
            open_files.append(name)
        if "log" in name.split("/") or path.suffix in (".log", ".sqlite", ".jsonl"):
            in_logs.append(name)
        if path.name.startswith("dcs.sqlite"):
            in_logs.append(name)
    assert not open_files
    assert not in_logs
    stderr = (cluster.base / "up.stderr").read_bytes()
    assert not any(secret in stderr for secret in secrets)


async def test_who_reaches_127_0_0_1_changes_nothing_without_the_password(
    cluster: Cluster,
) -> None:
    url = f"{cluster.members[cluster.primary()].api_url}/reload"
    password = passwords(cluster)["restapi"]
    limit = aiohttp.ClientTimeout(total=10)
    codes: list[int] = []
    async with aiohttp.ClientSession(timeout=limit) as session:
        for guess in ("", "a guess", password):
            headers = {"Authorization": encode_basic_auth("admin", guess)} if guess else {}
            async with session.post(url, headers=headers) as answer:
                codes.append(answer.status)
    assert codes == [401, 401, 202]


def test_ctrl_c_and_up_again_keep_data_and_primary(cluster: Cluster) -> None:
    primary, dsn = cluster.primary(), cluster.dsn
    with psycopg.connect(dsn, autocommit=True, connect_timeout=10) as conn:
        conn.execute("CREATE TABLE kept AS SELECT 42 AS x")
    pids = belonging_to(cluster.base)
    assert cluster.stop() == 0
    cluster.wait_gone(pids)
    assert not belonging_to(cluster.base), "everything stopped"
    elections = cluster.ever("primary")
    cluster.start()
    assert cluster.dsn == dsn
    assert cluster.wait_healthy() == primary
    with psycopg.connect(dsn, connect_timeout=10) as conn:
        assert conn.execute("SELECT x FROM kept").fetchone() == (42,)
    later = cluster.ever("primary")[len(elections) :]
    assert all(event.body["member"] == primary for event in later), "no switchover at Ctrl-C"


def test_list_why_and_history_answer(cluster: Cluster) -> None:
    rows = cluster.listed()
    assert {row["Member"] for row in rows} == set(cluster.members)
    assert {"Cluster", "Member", "Host", "Role", "State", "TL"} <= rows[0].keys()
    for form in ("pretty", "yaml", "tsv"):
        done = cluster.cli("list", "-f", form)
        assert done.code == 0
        assert all(name in done.out for name in cluster.members)
    assert yaml.safe_load(cluster.cli("list", "-f", "yaml").out)
    for command in ("why", "history"):
        done = cluster.cli(command)
        assert done.code == 0, done.message
        assert done.out.strip()


# As patronictl does it


def stored(cluster: Cluster) -> Any:
    """What `show-config` says."""
    done = cluster.cli("show-config")
    assert done.code == 0, done.message
    return yaml.safe_load(done.out)


def wait_shown(cluster: Cluster, parameter: str, value: str) -> None:
    """Until every member's PostgreSQL works with it."""

    def shown() -> bool:
        found: set[str] = set()
        for name in cluster.members:
            with psycopg.connect(cluster.direct(name), connect_timeout=10) as conn:
                row = conn.execute("SELECT current_setting(%s)", (parameter,)).fetchone()
                found.add(str(row and row[0]))
        return found == {value}

    wait_for(f"{parameter} = {value}", shown, timeout=30)


def test_edit_config_by_options(cluster: Cluster) -> None:
    before, name = stored(cluster), cluster.listed()[0]["Cluster"]
    done = cluster.cli("edit-config", name, "--pg", "work_mem=9MB", "-s", "ttl=21", "--force")
    assert done.code == 0, done.message
    assert {"+ttl: 21", "Configuration changed"} <= set(done.out.splitlines())
    wait_shown(cluster, "work_mem", "9MB")
    after = stored(cluster)
    assert (after.pop("ttl"), after["postgresql"]["parameters"].pop("work_mem")) == (21, "9MB")
    file = cluster.base / "before.yml"
    file.write_text(yaml.safe_dump(before))
    done = cluster.cli("edit-config", "--replace", str(file), "--force", "-q")
    assert done.out == "Configuration changed\n", done.message
    assert stored(cluster) == before


def test_edit_config_refuses_what_postgresql_would_not_start_with(cluster: Cluster) -> None:
    before = stored(cluster)
    done = cluster.cli("edit-config", "--pg", "work_mem=lots", "--force")
    assert_refused(done, 'invalid value for parameter "work_mem"')
    assert stored(cluster) == before


def test_reload_says_what_became_of_it(cluster: Cluster) -> None:
    name, other = cluster.standbys()
    file = cluster.dir / "nodes" / name / "agent.yml"
    kept = file.read_text()
    try:
        file.write_text(f"{kept}tags: {{zone: b}}\nnamespace: /elsewhere\n")
        done = cluster.cli("reload", name, "--force")
        assert done.code == 0, done.message
        said = [f"{name}: its file was read again"]
        said.append("  namespace was changed: restart the agent to use it")
        assert done.out.splitlines() == said
        (row,) = [row for row in cluster.listed() if row["Member"] == name]
        assert row["Tags"] == {"zone": "b"}
        file.write_text("scope: [")
        done = cluster.cli("reload", "-r", "replica", "--force")
        assert (done.code, f"failed: {name}: {file}:1: not valid YAML" in done.err) == (1, True)
        assert done.out == f"{other}: its file was read again\n"
    finally:
        file.write_text(kept)
    done = cluster.cli("reload", row["Cluster"], "--force")
    assert (done.code, done.out.count("its file was read again")) == (0, 3)


def test_failover_and_switchover_tell_their_steps(cluster: Cluster) -> None:
    primary, (candidate, other) = cluster.primary(), cluster.standbys()
    assert_refused(cluster.cli("failover", "--force", "--candidate", "n9"), "n9")
    done = cluster.cli("failover", "--force", "--candidate", candidate, timeout=90)
    assert done.code == 0, done.message
    assert f"Successfully failed over to {candidate!r} after " in done.out
    seconds = [float(line.split()[0]) for line in done.out.splitlines()[:-1]]
    steps = [line.split()[2] for line in done.out.splitlines()[:-1]]
    assert seconds == sorted(seconds)
    assert steps[0] == "requested"
    assert set(steps[1:-2]) <= {"begun:", "closed:"}
    assert steps[-2:] == ["appointed:", "serves:"]
    assert cluster.wait_healthy() == candidate
    file = cluster.dir / "nodes" / other / "agent.yml"
    arguments = ("--leader", candidate, "--candidate", primary, "--force")
    done = run_cli("switchover", "-c", str(file), *arguments, timeout=90)
    assert f"Successfully switched over to {primary!r} after " in done.out, done.message
    assert cluster.wait_healthy() == primary


def started(cluster: Cluster) -> dict[str, str]:
    """When each member's PostgreSQL was started."""
    found: dict[str, str] = {}
    for name in cluster.members:
        with psycopg.connect(cluster.direct(name), connect_timeout=5) as conn:
            row = conn.execute("SELECT pg_postmaster_start_time()::text").fetchone()
        assert row
        found[name] = row[0]
    return found


def test_restart_keeps_the_primary_and_tells_its_steps(cluster: Cluster) -> None:
    primary, standbys = cluster.primary(), cluster.standbys()
    before, mark = started(cluster), cluster.events.mark()
    assert "There is none to restart" in cluster.cli("restart", "--pending", "--force").out
    done = cluster.cli("restart", "-r", "replica", "--force", timeout=60)
    assert done.code == 0, done.message
    after = started(cluster)
    assert {n for n in after if after[n] != before[n]} == set(standbys)
    done = cluster.cli("restart", primary, "--force", timeout=60)
    assert done.code == 0, done.message
    lines = done.out.splitlines()
    assert lines[0] == f"{primary}: requested"
    assert lines[-1].startswith(f"{primary}: restarted after ")
    assert started(cluster)[primary] != before[primary]
    assert cluster.wait_healthy() == primary
    assert not [e for e in cluster.events.since(mark) if e.name in ("election", "suspect")]


def test_restart_is_of_those_where_parameters_wait_for_it(cluster: Cluster) -> None:
    before = started(cluster)
    name = cluster.standbys()[0]
    change = ("-p", "max_locks_per_transaction=96", "--force", "-q")
    assert cluster.cli("edit-config", *change).code == 0

    def waits() -> bool:
        return all(row.get("Pending restart") == "*" for row in cluster.listed())

    wait_for("all wait for a restart", waits, timeout=30, every=0.5)
    done = cluster.cli("restart", name, "--pending", "--pg-version", "99.0", "--force")
    assert f"{name}: restarted after " in done.out, done.message
    done = cluster.cli("restart", "--pending", "--force", timeout=60)
    assert done.code == 0, done.message
    assert done.out.count(": restarted after ") == 2
    after = started(cluster)
    assert all(after[n] != before[n] for n in after)
    undo = cluster.cli("edit-config", "-p", "max_locks_per_transaction=null", "--force", "-q")
    assert undo.code == 0, undo.message
    assert cluster.cli("restart", "--force", timeout=60).code == 0


def test_reinit_makes_a_standby_anew(cluster: Cluster) -> None:
    primary, (name, _) = cluster.primary(), cluster.standbys()
    data = cluster.dir / "nodes" / name / "data"
    before = data.stat().st_ino
    assert_refused(cluster.cli("reinit", primary, "--force"), f"{primary} is the primary")
    assert_refused(cluster.cli("reinit", "--force"), "MEMBER: missing")
    done = cluster.cli("reinit", name, "--force", "--wait", timeout=60)
    assert done.code == 0, done.message
    assert f"{name}: made anew, and streams, after " in done.out
    assert data.stat().st_ino != before
    assert cluster.wait_healthy() == primary


def test_pause_and_resume(cluster: Cluster) -> None:
    """A primary that crashes meanwhile is started in its place; one that is shut down stays down,
    and nobody succeeds it until the end of the pause."""
    primary, mark = cluster.primary(), cluster.events.mark()
    assert "is paused" in cluster.cli("pause", "--wait").out
    assert_refused(cluster.cli("pause"), "already paused")
    assert "Maintenance mode: on" in cluster.cli("list").out
    kill_postgres(cluster, primary)
    cluster.events.wait(lambda e: e.name == "primary", 20, mark, "it is started again")
    assert cluster.wait_healthy() == primary
    # PostgreSQL's fast shutdown, as by pg_ctl.
    send([cluster.postmaster(primary)], signal.SIGINT)
    said = "the cluster is paused: its PostgreSQL stays as it is"
    wait_for("it is left alone", lambda: said in cluster.cli("list").out, timeout=20, every=0.5)
    done = cluster.cli("restart", primary, "--force", timeout=60)
    assert done.code == 0, done.message
    assert cluster.wait_healthy() == primary
    assert not [e for e in cluster.events.since(mark) if e.name in ("election", "suspect")]
    send([cluster.postmaster(primary)], signal.SIGINT)
    wait_for("it is left alone", lambda: said in cluster.cli("list").out, timeout=20, every=0.5)
    done = cluster.cli("resume", "--wait")
    assert "is resumed" in done.out, done.message
    assert_refused(cluster.cli("resume"), "not paused")
    cluster.wait_healthy()


# Bad input: exit code 2, the thing is named, nothing changed


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--nodes", "8"], "8"),
        (["--nodes", "0"], "0"),
        (["--nodes", "x"], "x"),
        (["--entry-port", "99999"], "99999"),
        (["--entry-prot", "5435"], "--entry-port"),
        (["--bin-dir", "/nonexistent/bin"], "/nonexistent/bin"),
    ],
)
def test_bad_options(base: Path, bin_dir: Path, arguments: list[str], word: str) -> None:
    assert_refused(up(base / "c", bin_dir, *arguments), word)
    assert not (base / "c").exists()


def test_misspelt_command() -> None:
    assert_refused(run_cli("lst"), "lst", "list")


@pytest.mark.parametrize("command", ["list", "ps", "dsn", "why", "history", "show-config"])
def test_commands_without_a_cluster(base: Path, command: str) -> None:
    assert_refused(run_cli(command, "-d", str(base / "none")), str(base / "none"))
    assert not (base / "none").exists()


def test_directory_that_is_not_ours(base: Path, bin_dir: Path) -> None:
    (base / "thesis.txt").write_text("mine")
    before = snapshot(base)
    assert_refused(up(base, bin_dir), str(base))
    assert snapshot(base) == before


def test_a_port_that_is_taken_names_its_process(base: Path, bin_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = up(base / "c", bin_dir, "--entry-port", str(port))
    assert_refused(done, str(port), str(os.getpid()))
    assert not (base / "c").exists()


def test_postgresql_too_old(base: Path) -> None:
    tools = base / "bin"
    tools.mkdir()
    for tool in ("postgres", "initdb", "pg_basebackup", "pg_rewind", "pg_controldata", "pg_ctl"):
        (tools / tool).write_text(f"#!/bin/sh\necho '{tool} (PostgreSQL) 11.5'\n")
        (tools / tool).chmod(0o755)
    assert_refused(up(base / "c", tools), "11.5")
    assert not (base / "c").exists()


def test_a_missing_tool_is_named(base: Path, bin_dir: Path) -> None:
    tools = base / "bin"
    tools.mkdir()
    for tool in bin_dir.iterdir():
        if tool.name != "pg_rewind":
            (tools / tool.name).symlink_to(tool.resolve())
    assert_refused(up(base / "c", tools), "pg_rewind")
    assert not (base / "c").exists()


def test_no_permission(base: Path, bin_dir: Path) -> None:
    closed = base / "closed"
    closed.mkdir(mode=0o555)
    # Root may write everywhere unless it gives that capability away.
    plain_user = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
    done = subprocess.run(
        [
            *(plain_user if os.geteuid() == 0 else []),
            *(*COMMAND, "up", str(closed / "c"), "--nodes", "1", "--bin-dir", str(bin_dir)),
            *("--entry-port", "0", "--port-base", "0", "--json"),
        ],
        env=clean_environment(),
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert_refused(Finished(done.returncode, "", done.stderr.decode()), str(closed), "permission")
    assert not (closed / "c").exists()


def test_disk_full(base: Path, bin_dir: Path) -> None:
    small = base / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k,mode=755", "none", str(small)]
    if subprocess.run(mount, capture_output=True, timeout=10, check=False).returncode:
        pytest.skip("cannot mount here")
    try:
        (small / "filler").write_bytes(b"x" * 60_000)
        before = snapshot(small)
        assert_refused(up(small / "c", bin_dir), "space")
        assert snapshot(small).keys() == before.keys()
    finally:
        kill_at_once(sorted(belonging_to(base)))
        subprocess.run(["umount", "-l", small], check=True, timeout=10)


# Bad input to a cluster that exists


@pytest.fixture
def broken(stopped: Cluster) -> Iterator[Cluster]:
    """The stopped cluster; what a test does to its directory is undone."""
    kept = stopped.base / "kept"
    subprocess.run(["cp", "-a", stopped.dir, kept], check=True, timeout=30)
    yield stopped
    kill_all_of(stopped.dir)
    shutil.rmtree(stopped.dir)
    kept.rename(stopped.dir)


def edit_agent(cluster: Cluster, old: str, new: str) -> Path:
    (path,) = cluster.dir.glob("nodes/*/agent.yml")
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return path


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("\npostgresql:", "\npostgresq:", ("postgresq", "postgresql")),
        ("data_dir:", "datadir:", ("datadir", "data_dir")),
        ("max_connections: 200", "max_connections: [1]", ("max_connections",)),
        ("hold_timeout:", "hold_timeuot:", ("hold_timeuot", "hold_timeout")),
        ("scope:", "scope: [1]\nx:", ("scope",)),
        ("restapi:", "restapi: {\nx:", ("agent.yml",)),
    ],
)
def test_bad_configuration(broken: Cluster, old: str, new: str, words: tuple[str, ...]) -> None:
    path = edit_agent(broken, old, new)
    before = snapshot(broken.dir / "nodes")
    assert_refused(run_cli("agent", str(path)), *words)
    assert snapshot(broken.dir / "nodes") == before


def test_configuration_that_is_not_there(base: Path) -> None:
    assert_refused(run_cli("agent", str(base / "agent.yml")), str(base / "agent.yml"))


def test_directory_of_another_version(broken: Cluster) -> None:
    path = broken.dir / "cluster.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 999'))
    before = snapshot(broken.dir)
    assert_refused(run_cli("up", str(broken.dir), "--json"), str(path), "999")
    assert snapshot(broken.dir) == before


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1}'])
def test_damaged_cluster_file(broken: Cluster, content: str) -> None:
    path = broken.dir / "cluster.json"
    path.write_text(content)
    assert_refused(run_cli("up", str(broken.dir), "--json"), str(path))
    assert path.read_text() == content


def test_corrupt_register(broken: Cluster) -> None:
    for path in broken.dir.glob("dcs.sqlite*"):
        path.unlink()
    path = broken.dir / "dcs.sqlite"
    path.write_bytes(b"this is no database " * 1000)
    assert_refused(run_cli("up", str(broken.dir), "--json", timeout=60), "dcs.sqlite")
    assert path.read_bytes() == b"this is no database " * 1000


def initdb(bin_dir: Path, target: Path) -> None:
    identity = as_postgres()
    target.mkdir(mode=0o700)
    if identity.user is not None and identity.group is not None:
        os.chown(target, identity.user, identity.group)
    subprocess.run(
        [bin_dir / "initdb", "-D", target, "-U", "postgres", "--no-sync", "-A", "reject"],
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
        cwd="/",
        user=identity.user,
        group=identity.group,
        extra_groups=identity.extra_groups,
        stdout=subprocess.DEVNULL,
        timeout=60,
        check=True,
    )


def test_data_directory_of_another_cluster(broken: Cluster, bin_dir: Path) -> None:
    (data_dir,) = broken.dir.glob("nodes/*/data")
    shutil.rmtree(data_dir)
    initdb(bin_dir, data_dir)
    before = {k: v[2] for k, v in snapshot(data_dir).items()}
    done = run_cli("up", str(broken.dir), "--json", timeout=60)
    assert_refused(done, "system")
    assert {k: v[2] for k, v in snapshot(data_dir).items()} == before


def test_data_directory_that_holds_something_else(broken: Cluster) -> None:
    (data_dir,) = broken.dir.glob("nodes/*/data")
    shutil.rmtree(data_dir)
    data_dir.mkdir(mode=0o700)
    (data_dir / "thesis.txt").write_text("mine")
    assert_refused(run_cli("up", str(broken.dir), "--json", timeout=60), str(data_dir))
    assert (data_dir / "thesis.txt").read_text() == "mine"
    assert [p.name for p in data_dir.iterdir()] == ["thesis.txt"]


def test_help_names_every_command() -> None:
    done = run_cli("--help")
    assert done.code == 0
    for command in ("up", "list", "ps", "dsn", "history", "why", "agent", "agent-restart"):
        assert command in done.out
    for command in ("topology", "failover", "switchover", "show-config", "edit-config", "reload"):
        assert command in done.out
