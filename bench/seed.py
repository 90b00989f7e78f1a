"""The seed's two nodes on ZooKeeper: how long writes are out through HAProxy and through the gate.

python -m bench.seed --rounds 6
"""

import argparse
import json
import signal
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from bench.failover import AFTER, Fault, Result, freeze, measure, nothing
from bench.failover import report as table
from bench.floor import Floor
from bench.tables import Figures, explained, markdown, say
from tests.cluster import servers
from tests.cluster.checkers import median
from tests.cluster.faults import TERM, kill_node, some
from tests.cluster.pair import GATE, Pair
from tests.cluster.processes import send
from tests.cluster.trial import Trial, Trials

ZOOKEEPER_OUTAGE_S = 60.0
_NOISE_S = 10.0


def _killed(trial: Trial[Pair]) -> float:
    fault = kill_node(trial.cluster, trial.primary)
    trial.wait_writes(fault, AFTER)
    trial.cluster.start_stopped()
    return fault


def _frozen(trial: Trial[Pair]) -> float:
    return freeze(trial, trial.primary)


def _asked_to_leave(trial: Trial[Pair]) -> float:
    pair = trial.cluster
    agent = some(pair.node(trial.primary).agent, "agent")
    fault = time.monotonic()
    send([agent], TERM)
    pair.wait_gone({agent})
    trial.wait_writes(time.monotonic(), AFTER)
    pair.start_stopped()
    return fault


def _switchover(trial: Trial[Pair]) -> float:
    fault = time.monotonic()
    done = trial.cluster.cli("switchover", "--force")
    if done.code:
        raise AssertionError(done.message)
    trial.wait_writes(time.monotonic(), AFTER)
    return fault


def _zookeeper_away(trial: Trial[Pair]) -> float:
    zookeeper = trial.cluster.zookeeper
    fault = time.monotonic()
    zookeeper.kill(signal.SIGTERM)
    time.sleep(max(0.0, fault + ZOOKEEPER_OUTAGE_S - time.monotonic()))
    zookeeper.start()
    zookeeper.wait_ready()
    trial.wait_writes(time.monotonic(), AFTER)
    return fault


def _nothing(trial: Trial[Pair]) -> float:
    moment = nothing(trial)
    time.sleep(_NOISE_S)
    return moment


FAULTS = (
    Fault("none", "no fault: the noise of this machine", _nothing),
    Fault("killed", "the primary's node killed", _killed, 2, 500),
    Fault("frozen", "the primary's node frozen for 20 s", _frozen, 0, 3000),
    Fault("term", "the primary's agent asked to leave", _asked_to_leave, 2, 500),
    Fault("switchover", "`pgregent switchover`", _switchover, 2, 500),
    Fault("zookeeper", f"ZooKeeper stopped for {ZOOKEEPER_OUTAGE_S:.0f} s", _zookeeper_away),
)


def run(bin_dir: Path, rounds: int, wanted: set[str]) -> Result:
    """Measure every wanted fault `rounds` times, a floor of two servers beside each round."""
    found = Result([], [])
    with ExitStack() as stack:
        pair = stack.enter_context(Pair(bin_dir, gate=True))
        stack.enter_context(explained(pair))
        trials = Trials(pair, strict=False)
        floor = stack.enter_context(Floor(bin_dir, nodes=2))
        for number in range(1, rounds + 1):
            found.floor.append(floor.round())
            say(f"{number}/{rounds} floor: {found.floor[-1].total:.0f} ms")
            for fault in (f for f in FAULTS if f.name in wanted | {"none"}):
                found.rounds.append(measure(trials, fault))
                last = found.rounds[-1]
                beside = ", ".join(f"{name} {ms:.0f} ms" for name, ms in last.beside_ms.items())
                say(f"{number}/{rounds} {fault.title}: {last.outage_ms:.0f} ms, {beside}")
    return found


def report(result: Result) -> str:
    """Return two Markdown tables: the goals, through HAProxy; and HAProxy beside the gate."""
    rows: list[list[str]] = []
    for fault in FAULTS:
        rounds = [r for r in result.rounds if r.fault == fault.title]
        if not rounds:
            continue
        haproxy, gate = [r.outage_ms for r in rounds], [r.beside_ms[GATE] for r in rounds]
        slower = median([r.outage_ms - r.beside_ms[GATE] for r in rounds])
        cells = (*Figures(haproxy).cells(), *Figures(gate).cells()[1:], f"{slower:+.0f}")
        rows.append([fault.title, *cells])
    return f"{table(result, FAULTS)}\n{markdown(_HEADER, rows)}"


_HEADER = (
    *("the same rounds", "rounds", "HAProxy: median ms", "95th ms", "worst ms"),
    *("gate: median ms", "95th ms", "worst ms", "HAProxy - gate, median ms"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--faults", default=",".join(fault.name for fault in FAULTS))
    parser.add_argument("--bin-dir", type=Path, default=servers.full()[1])
    parser.add_argument("--json", type=Path, help="write every single round here")
    options = parser.parse_args()
    wanted = set(options.faults.split(","))
    known = [fault.name for fault in FAULTS]
    if unknown := wanted - set(known):
        parser.error(f"unknown faults {', '.join(sorted(unknown))}: known are {', '.join(known)}")
    result = run(options.bin_dir, options.rounds, wanted)
    if options.json:
        options.json.write_text(json.dumps(asdict(result), indent=2) + "\n")
    sys.stdout.write(report(result))


if __name__ == "__main__":
    main()
