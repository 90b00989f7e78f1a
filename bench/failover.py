"""How long writes are out through the gate, per fault; the floor is measured in between.

python -m bench.failover --rounds 10 --faults a,b,c,d,e,f,f2 --json failover.json
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic

from bench.floor import Floor, Handover
from bench.tables import Figures, explained, markdown, say
from tests.cluster import servers
from tests.cluster.checkers import LOST, median
from tests.cluster.cluster import Cluster
from tests.cluster.faults import (
    TERM,
    HeldSession,
    frozen,
    kill_at_once,
    kill_node,
    kill_postgres,
    some,
    wait_new_agent,
)
from tests.cluster.processes import send
from tests.cluster.trial import C, Trial, Trials

SUSPECT_AFTER_MS = 1000.0
_FREEZE = 20.0
AFTER = 100


@dataclass(frozen=True, slots=True)
class Fault(Generic[C]):
    """`inject` returns the moment of the fault once it is over and writes go on.

    The goal is `floors` times the floor's median plus `plus_ms` milliseconds; where both are 0, no
    outage but the noise: the worst silence of the same run without any fault, and 50 ms.
    """

    name: str
    title: str
    inject: Callable[[Trial[C]], float]
    floors: int = 0
    plus_ms: float = 0.0
    nodes: int = 3

    def goal_ms(self, floor_ms: float, noise_ms: float) -> float:
        """Return the goal, given the floor's median and the noise's worst."""
        if self.floors or self.plus_ms:
            return self.floors * floor_ms + self.plus_ms
        return noise_ms + 50.0


@dataclass(frozen=True, slots=True)
class Round:
    """One fault: milliseconds without an acknowledgement, rows acknowledged, violations.

    `beside_ms`: the outage at each further entry point, by its name.
    """

    fault: str
    outage_ms: float
    resumed_ms: float
    acknowledged: int
    lost: int
    cut: int
    beside_ms: dict[str, float] = field(default_factory=dict[str, float])


def _a(trial: Trial) -> float:
    fault = kill_postgres(trial.cluster, trial.primary)
    trial.wait_writes(fault, AFTER)
    return fault


def _b(trial: Trial) -> float:
    fault = kill_node(trial.cluster, trial.primary)
    trial.wait_writes(fault, AFTER)
    return fault


def _c(trial: Trial) -> float:
    agent = some(trial.cluster.node(trial.primary).agent, "agent")
    with HeldSession(trial.cluster.dsn) as session:
        fault = kill_at_once([agent])
        wait_new_agent(trial.cluster, trial.primary, agent)
        trial.wait_writes(time.monotonic(), AFTER)
        if not session.intact():
            raise AssertionError("a session was cut")
    return fault


def freeze(trial: Trial[C], member: str) -> float:
    with frozen(trial.cluster.all_processes_of(member)) as fault:
        trial.wait_writes(fault, AFTER)
        time.sleep(max(0.0, fault + _FREEZE - time.monotonic()))
    return fault


def _d(trial: Trial) -> float:
    return freeze(trial, trial.primary)


def _asked_to_leave(trial: Trial, member: str) -> float:
    agent = some(trial.cluster.node(member).agent, "agent")
    fault = time.monotonic()
    send([agent], TERM)
    trial.cluster.wait_gone({agent})
    trial.wait_writes(time.monotonic(), AFTER)
    return fault


def _e(trial: Trial) -> float:
    return _asked_to_leave(trial, trial.primary)


def _f_killed(trial: Trial) -> float:
    fault = kill_node(trial.cluster, trial.standbys[0])
    trial.wait_writes(fault, 4 * AFTER)
    return fault


def _f_frozen(trial: Trial) -> float:
    return freeze(trial, trial.standbys[0])


def _f_asked(trial: Trial) -> float:
    return _asked_to_leave(trial, trial.standbys[0])


def nothing(trial: Trial[C]) -> float:
    moment = time.monotonic()
    trial.wait_writes(moment, 4 * AFTER)
    return moment


NOISE = "none"
FAULTS = (
    Fault(NOISE, "no fault: the noise of this machine", nothing),
    Fault("a", "a: PostgreSQL of the primary killed", _a, 2, 150),
    Fault("b", "b: the primary's whole node killed", _b, 2, 300),
    Fault("c", "c: the primary's agent killed", _c),
    Fault("d", "d: the primary's whole node frozen for 20 s", _d, 2, SUSPECT_AFTER_MS + 300),
    Fault("e", "e: the primary's agent asked to leave", _e, 2, 150),
    Fault("f", "f: a standby's node killed", _f_killed),
    Fault("f", "f: a standby's node frozen for 20 s", _f_frozen),
    Fault("f2", "two nodes: the standby's node killed", _f_killed, 0, 500, 2),
    Fault("f2", "two nodes: the standby frozen for 20 s", _f_frozen, 0, SUSPECT_AFTER_MS + 1000, 2),
    Fault("f2", "two nodes: the standby's agent asked to leave", _f_asked, nodes=2),
)


def measure(trials: Trials[C], fault: Fault[C]) -> Round:
    """Inject the fault once; the cluster is whole and its rows are checked afterwards."""
    with trials.trial() as trial:
        moment = fault.inject(trial)
        found = trial.outage(moment)
        entries = trial.cluster.other_entries()
        beside = {name: trial.outage(moment, name).gap * 1000 for name in entries}
        trial.cluster.wait_healthy(timeout=120)
    for violation in trial.violations:
        say(violation)
    lost = {text.partition(": ")[2] for text in trial.violations if LOST in text}
    acked = sum(attempt.outcome == "ok" for attempt in trial.history)
    cut = len(trial.not_acknowledged())
    times = (found.gap * 1000, found.resumed_after * 1000)
    return Round(fault.title, *times, acked, len(lost), cut, beside)


@dataclass(frozen=True, slots=True)
class Result:
    """All rounds of a run, and the floor's, measured in between."""

    rounds: list[Round]
    floor: list[Handover]


def run(bin_dir: Path, rounds: int, wanted: set[str]) -> Result:
    """Measure every wanted fault `rounds` times, a floor beside each round."""
    found = Result([], [])
    faults = [fault for fault in FAULTS if fault.name in wanted | {NOISE}]
    for nodes in sorted({fault.nodes for fault in faults}, reverse=True):
        with ExitStack() as stack:
            cluster = stack.enter_context(Cluster(bin_dir, nodes))
            stack.enter_context(explained(cluster))
            trials = Trials(cluster, strict=False)
            floor = stack.enter_context(Floor(bin_dir))
            for number in range(1, rounds + 1):
                found.floor.append(floor.round())
                say(f"{number}/{rounds} floor: {found.floor[-1].total:.0f} ms")
                for fault in (f for f in faults if f.nodes == nodes):
                    found.rounds.append(measure(trials, fault))
                    say(f"{number}/{rounds} {fault.title}: {found.rounds[-1].outage_ms:.0f} ms")
    return found


HEADER = (
    *("writes out", "rounds", "median ms", "95th ms", "worst ms"),
    *("goal ms", "met", "rows acknowledged", "lost", "attempts cut"),
)


def report(result: Result, faults: Sequence[Fault[Any]] = FAULTS) -> str:
    """Return the Markdown table; `met` counts the rounds that reached the goal."""
    totals = [handover.total for handover in result.floor]
    acked = sum(handover.acknowledged for handover in result.floor)
    lost = sum(handover.lost for handover in result.floor)
    title = "the floor: plain PostgreSQL, handed over by a script"
    noise = max((r.outage_ms for r in result.rounds if r.fault == faults[0].title), default=0.0)
    rows = [[title, *Figures(totals).cells(), "-", "-", str(acked), str(lost), "-"]]
    for fault in faults:
        rounds = [r for r in result.rounds if r.fault == fault.title]
        if not rounds:
            continue
        outages, goal = [r.outage_ms for r in rounds], fault.goal_ms(median(totals), noise)
        met = sum(outage <= goal for outage in outages)
        sums = [sum(r.acknowledged for r in rounds), sum(r.lost for r in rounds)]
        counts = [str(value) for value in (*sums, sum(r.cut for r in rounds))]
        rows.append(
            [fault.title, *Figures(outages).cells(), f"{goal:.0f}", f"{met}/{len(rounds)}", *counts]
        )
    return markdown(HEADER, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--faults", default="a,b,c,d,e,f,f2")
    parser.add_argument("--bin-dir", type=Path, default=servers.full()[1])
    parser.add_argument("--json", type=Path, help="write every single round here")
    options = parser.parse_args()
    wanted = set(options.faults.split(","))
    known = dict.fromkeys(fault.name for fault in FAULTS)
    if unknown := wanted - known.keys():
        parser.error(f"unknown faults {', '.join(sorted(unknown))}: known are {', '.join(known)}")
    result = run(options.bin_dir, options.rounds, wanted)
    if options.json:
        options.json.write_text(json.dumps(asdict(result), indent=2) + "\n")
    sys.stdout.write(report(result))


if __name__ == "__main__":
    main()
