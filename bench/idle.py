"""What an idle cluster costs: memory and CPU of agents and guards; and how soon it is ready.

python -m bench.idle --seconds 20
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.tables import explained, markdown, say
from tests.cluster import servers
from tests.cluster.cluster import Cluster
from tests.cluster.processes import pss_bytes, read_process


@dataclass(frozen=True, slots=True)
class Cost:
    """One process: megabytes of proportional set size, percent of one core."""

    kind: str
    process: str
    pss_mb: float
    cpu_percent: float


@dataclass(frozen=True, slots=True)
class Idle:
    """Seconds from `up` to ready, of a new cluster and of a resumed one; the costs when idle."""

    created_s: float
    resumed_s: float
    costs: list[Cost]


def _pids(cluster: Cluster) -> dict[tuple[str, str], int]:
    ps = cluster.ps()
    found = {("gate", "gate"): ps["gate"], ("up", "up"): ps["up"]}
    for name, node in ps["members"].items():
        found[("agent", f"agent {name}")] = node["agent"]
        found[("guard", f"guard {name}")] = node["guard"]
    return found


def _cpu_seconds(pid: int) -> float:
    process = read_process(pid)
    if not process:
        raise RuntimeError(f"process {pid} ended while it was being measured")
    return process.cpu_seconds


def measure(cluster: Cluster, seconds: float) -> list[Cost]:
    """Watch the processes of an idle cluster for so long."""
    pids = _pids(cluster)
    before = {pid: _cpu_seconds(pid) for pid in pids.values()}
    start = time.monotonic()
    time.sleep(seconds)
    passed = time.monotonic() - start
    return [
        Cost(kind, title, pss_bytes(pid) / 1e6, (_cpu_seconds(pid) - before[pid]) / passed * 100)
        for (kind, title), pid in pids.items()
    ]


def run(bin_dir: Path, seconds: float, settle: float = 10.0) -> Idle:
    """Create a cluster, stop and resume it, let it settle, measure it."""
    with Cluster(bin_dir) as cluster, explained(cluster):
        created = cluster.ready_after
        say(f"ready after {created:.1f} s")
        cluster.wait_healthy()
        cluster.stop()
        cluster.start()
        resumed = cluster.ready_after
        say(f"resumed after {resumed:.1f} s")
        cluster.wait_healthy()
        time.sleep(settle)
        return Idle(created, resumed, measure(cluster, seconds))


_GOALS = {"agent": "90 MB, 3 %", "guard": "15 MB"}


def report(idle: Idle) -> str:
    """Return the Markdown tables."""
    rows = [
        [c.process, f"{c.pss_mb:.1f}", f"{c.cpu_percent:.2f}", _GOALS.get(c.kind, "-")]
        for c in sorted(idle.costs, key=lambda c: c.process)
    ]
    rows += [_total(idle.costs)]
    ready = [["new cluster", f"{idle.created_s:.1f}"], ["resumed", f"{idle.resumed_s:.1f}"]]
    return "\n".join(
        [
            markdown(["idle process", "PSS MB", "CPU % of a core", "goal"], rows),
            markdown(["from `up` to ready", "seconds"], ready),
        ]
    )


def _total(costs: Sequence[Cost]) -> list[str]:
    memory, cpu = sum(c.pss_mb for c in costs), sum(c.cpu_percent for c in costs)
    return ["all together", f"{memory:.1f}", f"{cpu:.2f}", "-"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--bin-dir", type=Path, default=servers.full()[1])
    options = parser.parse_args()
    sys.stdout.write(report(run(options.bin_dir, options.seconds)))


if __name__ == "__main__":
    main()
