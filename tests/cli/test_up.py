"""`pgregent up` with stand-ins for the agents and the entry point (standin.py)."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pgregent.cli import processes
from pgregent.cli.cluster_dir import open_cluster
from pgregent.config.lockfile import lock_holder

STANDIN = Path(__file__).with_name("standin.py")
FREE = ("--entry-port", "0", "--port-base", "0")
TIMEOUT_S = 20.0


class Up:
    """One running `up --json`; its events are read as they come."""

    def __init__(self, path: Path, *arguments: str) -> None:
        self.path = path
        self.process = subprocess.Popen(
            [sys.executable, str(STANDIN), "up", str(path), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._events.put(json.loads(line))

    def event(self, kind: str, **fields: object) -> dict[str, Any]:
        """Wait for an event of that kind with those fields."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            event = self._events.get(timeout=max(0.01, deadline - time.monotonic()))
            if event["event"] == kind and all(event.get(k) == v for k, v in fields.items()):
                return event

    def end(self, number: signal.Signals = signal.SIGINT) -> tuple[int, str]:
        """Signal `up` and wait: its exit code and standard error."""
        self.process.send_signal(number)
        try:
            code = self.process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it goes on after: {list(self._events.queue)}") from None
        assert self.process.stderr is not None
        return code, self.process.stderr.read()


@pytest.fixture
def ups(place: Path) -> Iterator[Callable[..., Up]]:
    made: list[Up] = []

    def start(*arguments: str, path: Path = place / "cluster") -> Up:
        made.append(Up(path, *arguments))
        return made[-1]

    yield start
    for one in made:
        one.process.kill()
        one.process.wait(TIMEOUT_S)
        if (one.path / "cluster.json").exists():
            for pid in living(one.path):
                os.kill(pid, signal.SIGKILL)


def living(path: Path) -> list[int]:
    cluster = open_cluster(path)
    locks = [cluster.gate_lock, *(cluster.agent_lock(n.name) for n in cluster.nodes)]
    return [pid for lock in locks if (pid := lock_holder(lock)) is not None]


def until(what: str, condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {TIMEOUT_S} s: {what}"
        time.sleep(0.02)


def all_hello(up: Up) -> None:
    """Wait until the three agents and the entry point run."""
    assert {up.event("hello")["member"] for _ in range(3)} == {"n1", "n2", "n3"}
    until("all four run", lambda: len(living(up.path)) == 4)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pgregent.cli.main", *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def test_ctrl_c_stops_everything_and_the_next_up_resumes(ups: Callable[..., Up]) -> None:
    up = ups(*FREE)
    all_hello(up)
    assert len(living(up.path)) == 4
    cluster = open_cluster(up.path)
    assert up.end(signal.SIGINT) == (0, "")
    assert living(up.path) == []
    again = ups()
    all_hello(again)
    assert open_cluster(up.path) == cluster
    assert again.end(signal.SIGTERM)[0] == 0


def test_a_second_up_is_refused(ups: Callable[..., Up]) -> None:
    up = ups(*FREE)
    all_hello(up)
    second = ups()
    assert second.process.wait(TIMEOUT_S) == 2
    assert second.process.stderr is not None
    assert f"already (process {up.process.pid})" in second.process.stderr.read()
    assert up.end()[0] == 0


def test_a_killed_up_leaves_the_cluster_to_the_next_one(ups: Callable[..., Up]) -> None:
    up = ups(*FREE)
    all_hello(up)
    before = living(up.path)
    up.process.kill()
    up.process.wait(TIMEOUT_S)
    assert living(up.path) == before
    again = ups()
    for _ in range(4):
        assert "adopted" in again.event("started")["why"]
    assert living(up.path) == before
    assert again.end()[0] == 0
    assert living(up.path) == []


def test_killed_processes_are_started_again(ups: Callable[..., Up]) -> None:
    up = ups(*FREE)
    all_hello(up)
    for pid in living(up.path):
        os.kill(pid, signal.SIGKILL)
    assert {up.event("exited")["process"] for _ in range(4)} == {
        *("agent n1", "agent n2", "agent n3"),
        "gate",
    }
    until("all four run", lambda: len(living(up.path)) == 4)
    assert up.end()[0] == 0


def test_agent_restart_replaces_one_agent(ups: Callable[..., Up]) -> None:
    up = ups(*FREE)
    all_hello(up)
    before = living(up.path)
    done = run("agent-restart", "n2", "-d", str(up.path))
    assert done.returncode == 0, done.stderr
    after = living(up.path)
    assert len(after) == 4
    assert len(set(before) & set(after)) == 3
    wrong = run("agent-restart", "n22", "-d", str(up.path))
    assert wrong.returncode == 2
    assert 'did you mean "n2"?' in wrong.stderr
    assert up.end()[0] == 0


def test_one_agent_that_refuses_is_told_and_all_that_refuse_end_up(ups: Callable[..., Up]) -> None:
    up = ups(*FREE)
    all_hello(up)
    assert up.end()[0] == 0
    cluster = open_cluster(up.path)
    for node in cluster.nodes:
        (cluster.node_dir(node.name) / "refuse").touch()
    again = ups()
    assert "belongs to another cluster" in again.event("exited", code=2)["why"]
    stopped = again.event("stopped")
    assert "agent n3: the data directory belongs to another cluster" in stopped["why"]
    assert again.process.wait(TIMEOUT_S) == 2
    assert living(up.path) == []


def test_the_other_commands_say_what_the_agents_say(ups: Callable[..., Up]) -> None:
    up = ups(*FREE)
    all_hello(up)
    cluster = open_cluster(up.path)
    directory = ("-d", str(up.path))
    agent = lock_holder(cluster.agent_lock("n3"))
    assert agent is not None
    os.kill(agent, signal.SIGSTOP)
    try:
        started = time.monotonic()
        rows = json.loads(run("list", "-f", "json", *directory).stdout)
        assert time.monotonic() - started < 5
        assert [row["Member"] for row in rows] == ["n1", "n2", "n3"]
        assert rows[0]["Host"] == f"127.0.0.1:{cluster.nodes[0].port}"
        assert rows[2]["Why"] == "its agent does not answer"
        assert "nobody could succeed now" in run("list", *directory).stdout
        assert "nobody could succeed now" in run("why", *directory).stdout
        assert "n3: its agent does not answer" in run("why", *directory).stdout
    finally:
        os.kill(agent, signal.SIGCONT)
    shown = json.loads(run("ps", *directory).stdout)
    assert shown["members"]["n3"] == {"agent": agent, "guard": None, "postmaster": None}
    assert shown["up"] == up.process.pid
    assert shown["gate"] == processes.gate_pid(cluster)
    nobody = run("ps", "-q", "primary", *directory)
    assert (nobody.returncode, nobody.stdout) == (1, "")
    assert run("dsn", *directory).stdout.strip() == cluster.dsn()
    assert up.end()[0] == 0
    silent = run("list", *directory)
    assert silent.returncode == 1
    assert "is `pgregent up` running?" in silent.stderr


def test_a_refusal_changes_nothing(place: Path) -> None:
    target = place / "new"
    for arguments in (("--nodes", "8"), ("--bin-dir", str(place)), ("--entry-port", "70000")):
        refused = run("up", str(target), *FREE, *arguments)
        assert refused.returncode == 2
        assert len(refused.stderr.strip().splitlines()) == 1, refused.stderr
        assert not target.exists()
    (place / "letters").touch()
    refused = run("up", str(place), *FREE)
    assert refused.returncode == 2
    assert "is not pgregent's" in refused.stderr
    assert [p.name for p in place.iterdir()] == ["letters"]


@contextmanager
def mounted(place: Path, options: str) -> Iterator[Path]:
    """A file system of its own, for root only."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a file system")
    path = place / "mounted"
    path.mkdir()
    argv = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
    if subprocess.run(argv, check=False).returncode != 0:
        pytest.skip("may not mount here")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk_is_refused_before_anything_is_made(place: Path) -> None:
    with mounted(place, "size=8m,mode=0755") as small:
        refused = run("up", str(small / "new"), *FREE)
        assert refused.returncode == 2
        assert "MB free on the disk" in refused.stderr
        assert list(small.iterdir()) == []


def test_a_disk_that_may_not_be_written_is_one_clear_error(place: Path) -> None:
    with mounted(place, "size=2g,ro,mode=0755") as path:
        refused = run("up", str(path / "new"), *FREE)
        assert refused.returncode == 2
        assert f"Read-only file system: {path}/new" in refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root has every permission")
def test_no_permission_is_one_clear_error(place: Path) -> None:
    place.chmod(0o555)
    refused = run("up", str(place / "new"), *FREE)
    assert refused.returncode == 2
    assert f"Permission denied: {place}/new" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1


def test_commands_and_help() -> None:
    wrong = run("lst")
    assert wrong.returncode == 2
    assert 'did you mean "list"?' in wrong.stderr
    helped = run("--help")
    assert "agent-restart" in helped.stdout
    assert "gate" not in helped.stdout.split("Commands:")[1]
