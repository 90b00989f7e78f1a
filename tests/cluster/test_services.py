"""What stands around the servers fails: the entry point, the DCS, `up`, everything at once."""

import os
import shutil
import subprocess
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.faults import HeldSession, kill_at_once, locked
from tests.cluster.processes import belonging_to, wait_for
from tests.cluster.trial import Trial, Trials

# The 30 s, shortened: far above every timeout of the protocol (the lease is 5 s).
DCS_OUTAGE = float(os.environ.get("TEST_DCS_OUTAGE", "12"))


def test_g_the_gate_killed(trials: Trials) -> None:
    with trials.trial() as trial:
        cluster, gate = trial.cluster, int(trials.cluster.ps()["gate"])
        assert gate not in (cluster.up_pid, 0)
        with HeldSession(cluster.direct(trial.primary)) as direct:
            fault = kill_at_once([gate])
            trial.wait_writes(fault)
            assert direct.intact()
        assert cluster.ps()["gate"] not in (gate, None)
        assert cluster.wait_healthy() == trial.primary
        assert not trial.events("primary"), "a dead gate is no reason for a failover"


def test_h_up_alone_killed_and_adopted(trials: Trials) -> None:
    with trials.trial() as trial:
        cluster = trial.cluster
        before = cluster.ps()
        with HeldSession(cluster.direct(trial.primary)) as direct:
            kill_at_once([cluster.up_pid])
            cluster.reap_up()
            cluster.start()
            assert direct.intact()
        after = cluster.ps()
        assert after["members"] == before["members"], "the same processes go on"
        assert after["up"] == cluster.up_pid != before["up"]
        assert cluster.wait_healthy() == trial.primary


def test_h_everything_killed_at_once(trials: Trials) -> None:
    with trials.trial() as trial:
        cluster, dsn = trial.cluster, trials.cluster.dsn
        servers = [cluster.postgres_processes(name) for name in cluster.members]
        pids = sorted(belonging_to(cluster.base).union({cluster.up_pid}, *servers))
        moment = kill_at_once(pids)
        cluster.reap_up()
        wait_for("all are gone", lambda: not belonging_to(cluster.base), timeout=10)
        cluster.start()
        assert cluster.dsn == dsn, "ports are remembered"
        trial.wait_writes(moment)
        cluster.wait_healthy()


def write_through(trial: Trial, fault: float, seconds: float) -> None:
    """Writers go on for the whole length of a fault of the DCS."""
    end = fault + seconds
    trial.wait_writes(end, count=20, timeout=seconds + 10)
    assert trial.outage(fault).gap < 1.0, "losing the DCS stops failover, not writes"
    assert not trial.events("primary")


def test_j_the_dcs_locked(trials: Trials) -> None:
    with trials.trial() as trial:
        with locked(trial.cluster.dir / "dcs.sqlite") as fault:
            write_through(trial, fault, DCS_OUTAGE)
        assert trial.cluster.wait_healthy() == trial.primary


def _mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, timeout=10, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount here: {done.stderr.decode().strip()}")


@contextmanager
def small_disk(cluster: Cluster, megabytes: int = 16) -> Generator[None]:
    """Put everything of a stopped cluster but its nodes on a small file system of its own."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount")
    aside = cluster.base / "aside"
    cluster.dir.rename(aside)
    cluster.dir.mkdir()
    mounted: list[Path] = []
    try:
        _mount("-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "none", str(cluster.dir))
        mounted.append(cluster.dir)
        for entry in aside.iterdir():
            if entry.name != "nodes":
                subprocess.run(["cp", "-a", entry, cluster.dir], check=True, timeout=10)
        nodes = cluster.dir / "nodes"
        nodes.mkdir()
        _mount("--bind", str(aside / "nodes"), str(nodes))
        mounted.append(nodes)
        yield
        cluster.stop()
    finally:
        _unmount(cluster, reversed(mounted))
        shutil.rmtree(cluster.dir)
        aside.rename(cluster.dir)


def _unmount(cluster: Cluster, paths: Iterable[Path]) -> None:
    kill_at_once(sorted(belonging_to(cluster.base)))
    wait_for("all are gone", lambda: not belonging_to(cluster.base), timeout=10)
    for path in paths:
        subprocess.run(["umount", "-l", path], check=True, timeout=10)


def fill(directory: Path) -> Path:
    """Fill the file system to the last byte; return the file that does it."""
    path = directory / "filler"
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue
    return path


def test_j_the_disk_of_the_dcs_full(bin_dir: Path) -> None:
    with Cluster(bin_dir) as cluster:
        cluster.wait_healthy()
        assert cluster.stop() == 0
        with small_disk(cluster):
            cluster.start()
            with Trials(cluster).trial() as trial:
                filler = fill(cluster.dir)
                write_through(trial, time.monotonic(), DCS_OUTAGE)
                filler.unlink()
                assert cluster.wait_healthy() == trial.primary
