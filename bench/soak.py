"""No failover that nobody asked for: pgbench at saturation on all cores, and who is primary.

python -m bench.soak --minutes 10
"""

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

from bench.tables import explained, markdown, say
from bench.throughput import Pgbench
from tests.cluster import servers
from tests.cluster.cluster import Cluster

# Events that must not occur: each means that something was suspected, replaced or left out.
UNWANTED = ("election", "primary", "rule", "rejoin", "set_aside", "exited", "postgres_exited")
_SLICE_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Soak:
    """Minutes under load, mean transactions per second, and the unwanted events by name."""

    minutes: float
    tps: float
    events: dict[str, int]
    same_primary: bool


def run(bin_dir: Path, minutes: float, clients: int) -> Soak:
    """Saturate the machine through the gate for so long."""
    with Cluster(bin_dir) as cluster, explained(cluster):
        primary = cluster.wait_healthy()
        bench = Pgbench(cluster)
        gate = int(str(conninfo_to_dict(cluster.dsn)["port"]))
        bench.initialise(gate, scale=10)
        mark = cluster.events.mark()
        rates: list[float] = []
        slices = max(1, round(minutes * 60 / _SLICE_SECONDS))
        seconds = round(minutes * 60 / slices)
        for number in range(slices):
            kind = "-N" if number % 2 == 0 else "-S"
            rates.append(bench.tps(gate, kind, clients, seconds))
            failovers = len(cluster.events.named("primary", mark))
            say(f"{number + 1}/{slices} {kind}: {rates[-1]:.0f} tps, {failovers} failovers")
        events = {name: len(cluster.events.named(name, mark)) for name in UNWANTED}
        return Soak(minutes, sum(rates) / len(rates), events, cluster.wait_healthy() == primary)


def report(soak: Soak) -> str:
    """Return the Markdown table."""
    events = ", ".join(f"{count} {name}" for name, count in soak.events.items() if count) or "none"
    row = [
        f"{soak.minutes:g} minutes of pgbench through the gate on {os.cpu_count()} cores",
        f"{soak.tps:.0f}",
        str(soak.events["primary"]),
        events,
        "yes" if soak.same_primary else "no",
    ]
    header = ["soak", "mean tps", "failovers", "unwanted events", "same primary"]
    return markdown(header, [row])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=16 * (os.cpu_count() or 1))
    parser.add_argument("--bin-dir", type=Path, default=servers.full()[1])
    options = parser.parse_args()
    soak = run(options.bin_dir, options.minutes, options.clients)
    sys.stdout.write(report(soak))
    if soak.events["primary"] or not soak.same_primary:
        sys.exit("a failover that nobody asked for")


if __name__ == "__main__":
    main()
