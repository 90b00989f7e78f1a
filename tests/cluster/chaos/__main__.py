"""Real faults by the hundred, on clusters in network namespaces.

python -m tests.cluster.chaos --rounds 20 [--seed S] [--nemesis NAME[,NAME]] [--nodes 3|5]
    [--dcs zookeeper|etcd]
"""

import argparse
import asyncio
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.cluster import servers
from tests.cluster.chaos import tally
from tests.cluster.chaos.clients import NONE
from tests.cluster.chaos.dcs import DCS
from tests.cluster.chaos.leftovers import remove_leftovers, what_is_missing
from tests.cluster.chaos.rounds import Round
from tests.cluster.chaos.run import NEMESES, PAIRS, Run, say
from tests.cluster.workloads import WORKLOADS
from tests.sim.tally import core_hash

SKIPPED = 77
"""The exit code where this machine cannot do it."""


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=None, help="default: a new one")
    parser.add_argument("--nemesis", default="", help="only these, by their names")
    parser.add_argument("--nodes", type=int, choices=(3, 5), help="default: either")
    parser.add_argument("--dcs", choices=DCS, help="default: either")
    parser.add_argument("--alone", action="store_true", help="never two nemeses at once")
    parser.add_argument("--workload", choices=(*WORKLOADS, NONE), help="none: inserts only")
    parser.add_argument("--limit", type=float, default=float("inf"), help="seconds")
    parser.add_argument("--bin-dir", type=Path, help="PostgreSQL's programs")
    parser.add_argument("--no-tally", action="store_true", help="do not add to docs/proof")
    parser.add_argument("--report", action="store_true", help="only write the table of the tally")
    found = parser.parse_args()
    found.only = [name for name in found.nemesis.split(",") if name]
    if unknown := set(found.only) - NEMESES.keys():
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known are {', '.join(NEMESES)}")
    return found


async def _interruptible(run: Run, bin_dir: Path) -> None:
    task = asyncio.create_task(run.play(bin_dir))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
    await task


def recorder() -> Callable[[Round], None]:
    """Return what adds a round to the tally of the core as it is now."""
    core = core_hash()

    def record(played: Round) -> None:
        if not tally.add(played, core):
            say("  not counted: the core has changed since this run began")

    return record


def main() -> int:
    found = options()
    if found.report:
        tally.report()
        return 0
    if missing := what_is_missing():
        say(f"skipped: {missing}")
        return SKIPPED
    remove_leftovers()
    seed = random.SystemRandom().randrange(1 << 32) if found.seed is None else found.seed
    say(f"seed {seed}")
    evidence = Path(tempfile.gettempdir()) / f"pgregent-chaos-{seed}-{int(time.time())}"
    run = Run(
        seed=seed,
        rounds=found.rounds,
        limit_s=found.limit,
        nodes=found.nodes,
        dcs=found.dcs,
        only=found.only,
        pairs=0.0 if found.alone else PAIRS,
        workload=found.workload,
        evidence=evidence,
        record=(lambda _: None) if found.no_tally else recorder(),
    )
    try:
        asyncio.run(_interruptible(run, found.bin_dir or servers.full()[1]))
    except asyncio.CancelledError:
        say("interrupted")
        return 130
    say(f"{len(run.played)} rounds, {run.failures} of them failed")
    return 1 if run.failures else 0


if __name__ == "__main__":
    sys.exit(main())
