"""The whole benchmark as Markdown on standard output, for docs/benchmarks.md.

python -m bench --rounds 10 > docs/benchmarks.md
"""

import argparse
import sys
from pathlib import Path

from bench import failover, idle, seed, soak, throughput
from bench.tables import machine
from tests.cluster import servers

PARTS = ("failover", "seed", "throughput", "idle", "soak")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="of every fault")
    parser.add_argument("--parts", default=",".join(PARTS), help="which of %(default)s")
    parser.add_argument("--soak-minutes", type=float, default=10)
    parser.add_argument("--bin-dir", type=Path, default=servers.full()[1])
    options = parser.parse_args()
    wanted = options.parts.split(",")
    unknown = set(wanted) - set(PARTS)
    if unknown:
        parser.error(f"unknown parts {', '.join(sorted(unknown))}: known are {', '.join(PARTS)}")
    command = " ".join(["python -m bench", *sys.argv[1:]])
    emit(f"# Benchmarks\n\nMade by `{command}` on: {machine(options.bin_dir)}.\n")
    bin_dir, rounds = options.bin_dir, options.rounds
    if "failover" in wanted:
        faults = {fault.name for fault in failover.FAULTS}
        emit("## How long writes are out\n")
        emit(failover.report(failover.run(bin_dir, rounds, faults)))
    if "seed" in wanted:
        emit("## Two nodes on ZooKeeper\n")
        emit(seed.report(seed.run(bin_dir, rounds, {fault.name for fault in seed.FAULTS})))
    if "throughput" in wanted:
        emit("## Throughput\n")
        emit(throughput.report(throughput.run(bin_dir, 10, 10, 256, 3)))
    if "idle" in wanted:
        emit("## At rest\n")
        emit(idle.report(idle.run(bin_dir, 20.0)))
    if "soak" in wanted:
        emit("## Under load\n")
        clients = 32
        emit(soak.report(soak.run(bin_dir, options.soak_minutes, clients)))


def emit(text: str) -> None:
    """Print at once: what was measured stays, should a later part fail."""
    print(text, flush=True)


if __name__ == "__main__":
    main()
