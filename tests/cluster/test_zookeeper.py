"""The seed's two nodes on ZooKeeper: it is away, it forgets, a node fails, an operator asks."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.cluster.command import clean_environment, run_cli
from tests.cluster.faults import CONT, STOP, TERM, HeldSession, kill_node, some
from tests.cluster.pair import Pair
from tests.cluster.processes import send, wait_for
from tests.cluster.trial import Keeper, Trial, Trials
from tests.conformance.zookeeper_servers import operator, skip_if_missing

ZOOKEEPER_OUTAGE = float(os.environ.get("TEST_ZOOKEEPER_OUTAGE", "60"))
# Far above the goals of the benchmark: a busy machine must not fail a correct run.
SLACK = 10.0
NOISE = 3.0
REGISTER = "/service/my_cluster/pgregent/register"
SYSTEM_ID = "SELECT system_identifier::text FROM pg_control_system()"


@pytest.fixture(scope="module")
def keeper(bin_dir: Path) -> Iterator[Keeper[Pair]]:
    skip_if_missing()
    if not (shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")):
        pytest.skip("haproxy is not installed: apt-get install haproxy")
    found = Keeper(lambda: Pair(bin_dir))
    yield found
    found.close()


@pytest.fixture
def trials(keeper: Keeper[Pair]) -> Trials[Pair]:
    return keeper.trials()


@contextmanager
def same_cluster(trial: Trial[Pair]) -> Generator[None]:
    """Nothing is initialised anew, cloned or set aside meanwhile."""
    pair = trial.cluster

    def system_ids() -> dict[str, str]:
        found: dict[str, str] = {}
        for name in pair.members:
            with psycopg.connect(pair.direct(name), connect_timeout=5) as conn:
                found[name] = str(conn.execute(SYSTEM_ID).fetchone())
        return found

    before = system_ids()
    yield
    pair.wait_healthy()
    assert system_ids() == before
    assert not trial.events("set_aside")
    assert "clone" not in [e.body.get("how") for e in pair.events.since(trial.mark)]


def empty_zookeeper(pair: Pair) -> None:
    """As `docker-compose down` and `up` do it: there is no volume."""
    pair.zookeeper.kill()
    pair.zookeeper.wipe()
    pair.zookeeper.start()
    pair.zookeeper.wait_ready()


def wait_event(trial: Trial[Pair], name: str, timeout: float = 30.0) -> None:
    trial.cluster.events.wait(lambda e: e.name == name, timeout, trial.mark, name)


def fail_over(trial: Trial[Pair]) -> None:
    """The primary's whole node is killed, and comes back after its successor serves."""
    pair = trial.cluster
    primary = pair.wait_healthy()
    fault = kill_node(pair, primary)
    trial.wait_writes(fault)
    assert trial.outage(fault).gap < SLACK
    pair.start_stopped()
    assert pair.wait_healthy() != primary


def explained(pair: Pair) -> str:
    return pair.cli("why").out


class Pgbench:
    """pgbench through the entry point, 20 transactions a second each for four clients."""

    def __init__(self, pair: Pair, seconds: float) -> None:
        self._env = clean_environment(PGPASSWORD="postgres")
        parts = conninfo_to_dict(pair.dsn)
        login = ("-h", str(parts["host"]), "-p", str(parts["port"]), "-U", "postgres", "postgres")
        program = str(pair.bin_dir / "pgbench")
        subprocess.run(
            [program, "-i", "-q", *login],
            env=self._env,
            check=True,
            capture_output=True,
            timeout=60,
        )
        self._process = subprocess.Popen(
            [program, "-n", "-c", "4", "-R", "80", "-T", f"{seconds:.0f}", *login],
            env=self._env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def __enter__(self) -> "Pgbench":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def finish(self) -> str:
        """Return what it printed; AssertionError where a client was aborted."""
        output, _ = self._process.communicate(timeout=60)
        assert self._process.returncode == 0, output
        return output


def test_zookeeper_stopped_while_clients_write(trials: Trials[Pair]) -> None:
    with trials.trial() as trial:
        pair = trial.cluster
        with Pgbench(pair, ZOOKEEPER_OUTAGE + 5) as pgbench, HeldSession(pair.dsn) as session:
            pair.zookeeper.kill(signal.SIGTERM)
            stopped = time.monotonic()
            for name in pair.members:
                # Its file names no other member, and nobody tells it of any: it asks one agent.
                listed = pair.cli_of(name, "list", "-f", "json")
                assert listed.code == 0, listed.message
                rows = {row["Member"]: row["State"] for row in json.loads(listed.out)}
                assert rows == {trial.primary: "running", trial.standbys[0]: "streaming"}
            wait_for("it is noticed", lambda: "nobody could succeed" in explained(pair), timeout=30)
            refused = pair.cli("switchover", "--force")
            assert (refused.code, "the DCS does not answer" in refused.err) == (2, True)
            # The fault is this long: not a wait for anything.
            time.sleep(max(0.0, stopped + ZOOKEEPER_OUTAGE - time.monotonic()))
            pair.zookeeper.start()
            pair.zookeeper.wait_ready()
            wait_for("the DCS answers", lambda: "DCS: answers" in explained(pair), timeout=30)
            trial.wait_writes(time.monotonic())
            assert session.intact()
            assert "failed transactions: 0 " in pgbench.finish()
        assert not trial.not_acknowledged()
        assert trial.outage(stopped).gap < NOISE
        assert pair.wait_healthy() == trial.primary
        for unwanted in ("election", "primary", "fenced", "rule", "dcs_restored"):
            assert not trial.events(unwanted)


def test_the_primary_killed_while_zookeeper_is_away(trials: Trials[Pair]) -> None:
    with trials.trial() as trial:
        pair = trial.cluster
        pair.zookeeper.kill()
        fault = kill_node(pair, trial.primary)
        # Longer than what is needed with ZooKeeper.
        time.sleep(3.0)
        assert not pair.writable(trial.standbys)
        pair.zookeeper.start()
        trial.wait_writes(fault)
        assert pair.primary() == trial.standbys[0]
        pair.start_stopped()
        assert pair.wait_healthy() == trial.standbys[0]


def test_zookeeper_comes_back_empty_under_a_running_cluster(trials: Trials[Pair]) -> None:
    with trials.trial() as trial:
        pair = trial.cluster
        with same_cluster(trial):
            emptied = time.monotonic()
            empty_zookeeper(pair)
            wait_event(trial, "dcs_restored")
            trial.wait_writes(time.monotonic())
            assert not trial.not_acknowledged(), "who holds the office goes on"
            assert trial.outage(emptied).gap < NOISE
            assert pair.wait_healthy() == trial.primary
            assert not trial.events("primary")
            fail_over(trial)


def test_zookeeper_is_empty_after_everything_was_stopped(trials: Trials[Pair]) -> None:
    with trials.trial() as trial:
        pair = trial.cluster
        with same_cluster(trial):
            pair.stop_agents(pair.members)
            assert not any(pair.all_processes_of(name) for name in pair.members)
            empty_zookeeper(pair)
            again = time.monotonic()
            pair.start_stopped()
            wait_event(trial, "dcs_restored")
            trial.wait_writes(again)
            fail_over(trial)


def test_zookeeper_emptied_while_the_needed_standby_is_down(trials: Trials[Pair]) -> None:
    with trials.trial() as trial:
        pair, (standby,) = trial.cluster, trial.standbys
        with same_cluster(trial):
            pair.zookeeper.kill()
            kill_node(pair, standby)
            empty_zookeeper(pair)
            waits = f"waiting for {standby}, who could have appointed another primary"
            wait_for("it says what it waits for", lambda: waits in explained(pair), timeout=30)
            assert waits in pair.cli_of(trial.primary, "list").out

            shown = pair.cli_of(trial.primary, "dcs", "restore")
            assert shown.code == 2, shown.message
            assert f"primary {trial.primary}" in shown.out
            assert waits in shown.out
            assert f"what can be lost: commits that only {standby}" in shown.out
            assert "nothing was changed" in shown.err
            with operator(pair.zookeeper.host) as client:
                assert client.exists(REGISTER) is None  # pyright: ignore[reportUnknownMemberType]
            assert not trial.events("dcs_restored")

            accepted = time.monotonic()
            done = pair.cli_of(trial.primary, "dcs", "restore", "--accept-loss")
            assert done.code == 0, done.message
            trial.wait_writes(accepted)
            assert trial.events("dcs_restored")
            pair.start_agent(standby)
            assert pair.wait_healthy() == trial.primary


def killed(trial: Trial[Pair]) -> float:
    return kill_node(trial.cluster, trial.primary)


def frozen_node(trial: Trial[Pair]) -> float:
    moment = time.monotonic()
    send(trial.cluster.all_processes_of(trial.primary), STOP)
    return moment


def asked_to_leave(trial: Trial[Pair]) -> float:
    moment = time.monotonic()
    send([some(trial.cluster.node(trial.primary).agent, "agent")], TERM)
    return moment


@pytest.mark.parametrize("strike", [killed, frozen_node, asked_to_leave])
def test_the_primary_fails(trials: Trials[Pair], strike: Callable[[Trial[Pair]], float]) -> None:
    with trials.trial() as trial:
        pair, (standby,) = trial.cluster, trial.standbys
        fault = strike(trial)
        try:
            trial.wait_writes(fault)
        finally:
            send(pair.all_processes_of(trial.primary), CONT)
        assert 0 < trial.outage(fault).gap < SLACK
        if strike is asked_to_leave:
            pair.wait_gone(pair.all_processes_of(trial.primary))
        pair.start_stopped()
        assert pair.wait_healthy() == standby
        assert trial.rejoined(trial.primary)[-1:] in (["follow"], ["rewind"])
        if strike is asked_to_leave:
            assert trial.rejoined(trial.primary) == ["follow"], "it handed over"


@pytest.mark.parametrize("named", [True, False], ids=["candidate", "nobody named"])
def test_switchover(trials: Trials[Pair], named: bool) -> None:
    with trials.trial() as trial:
        pair, (standby,) = trial.cluster, trial.standbys
        asked = time.monotonic()
        candidate = ("--candidate", standby) if named else ()
        done = pair.cli("switchover", "--force", *candidate)
        assert done.code == 0, done.message
        assert f"Successfully switched over to {standby!r}" in done.out
        trial.wait_writes(asked)
        assert trial.outage(asked).gap < SLACK
        assert pair.wait_healthy() == standby
        assert trial.rejoined(trial.primary) == ["follow"], "nobody has to be rewound"
        assert not trial.events("set_aside")


def test_a_switchover_with_another_password_is_refused(
    trials: Trials[Pair], tmp_path: Path
) -> None:
    with trials.trial() as trial:
        pair = trial.cluster
        other = tmp_path / "other.yml"
        text = pair.files[trial.primary].read_text()
        other.write_text(text.replace("password: rep-pass", "password: another"))
        done = run_cli("switchover", "-c", str(other), "--force")
        assert done.code == 2, done.message
        assert "is this the file of another cluster, or another password?" in done.err
        assert "another" not in done.err.replace("another cluster, or another password", "")
        assert pair.wait_healthy() == trial.primary
        assert not trial.events("switchover")
