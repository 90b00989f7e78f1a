"""What many schedules came to, added up."""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.sim.phases import PHASES
from tests.sim.schedule import FAULTS, Outcome

CORE = Path(__file__).parents[2] / "src/pgregent/core"
NOT_PLAYED = frozenset({"adoption.py", "release.py"})
"""Decided once by a command while no agent runs: `step` does not know them."""
ENOUGH = 500
"""Schedules after which everything that can strike has to have struck."""


@dataclass
class Tally:
    """Sums; `bad` has the problem of each seed that showed one."""

    schedules: int = 0
    events: int = 0
    acked: int = 0
    terms: int = 0
    cpu_s: float = 0.0
    fewest_events: int = 0
    bad: dict[int, str] = field(default_factory=dict[int, str])
    struck: Counter[str] = field(default_factory=Counter[str])
    during: Counter[str] = field(default_factory=Counter[str])

    def count(self, seed: int, outcome: Outcome) -> None:
        """Add one schedule."""
        ended = 0 if outcome.problem else outcome.events
        self.add(
            Tally(
                1,
                outcome.events,
                outcome.acked,
                outcome.terms,
                0.0,
                ended,
                {seed: outcome.problem} if outcome.problem else {},
                outcome.struck,
                outcome.during,
            )
        )

    def add(self, other: "Tally") -> None:
        """Add what others counted."""
        fewest = [n for n in (self.fewest_events, other.fewest_events) if n]
        self.schedules += other.schedules
        self.events += other.events
        self.acked += other.acked
        self.terms += other.terms
        self.cpu_s += other.cpu_s
        self.fewest_events = min(fewest, default=0)
        self.bad.update(other.bad)
        self.struck.update(other.struck)
        self.during.update(other.during)

    def missing(self) -> list[str]:
        """What never struck, or was never struck in, though enough was played."""
        if self.schedules < ENOUGH:
            return []
        phases = [f"while there was: {phase}" for phase in PHASES if not self.during[phase]]
        return [name for name in FAULTS if not self.struck[name]] + phases

    def as_json(self) -> dict[str, Any]:
        """For a file that people read."""
        return {
            "schedules": self.schedules,
            "events": self.events,
            "acknowledged": self.acked,
            "terms": self.terms,
            "cpu_s": round(self.cpu_s),
            "fewest_events": self.fewest_events,
            "bad": {str(seed): problem for seed, problem in sorted(self.bad.items())},
            "struck": {name: self.struck[name] for name in sorted({*FAULTS, *self.struck})},
            "during": {name: self.during[name] for name in PHASES},
        }

    @staticmethod
    def from_json(found: dict[str, Any]) -> "Tally":
        return Tally(
            found["schedules"],
            found["events"],
            found["acknowledged"],
            found["terms"],
            found["cpu_s"],
            found["fewest_events"],
            {int(seed): problem for seed, problem in found["bad"].items()},
            Counter(found["struck"]),
            Counter(found["during"]),
        )


def core_hash(core: Path = CORE) -> str:
    """Of every file of the core that a schedule plays, by name and content."""
    found = hashlib.sha256()
    for path in sorted(p for p in core.rglob("*.py") if p.name not in NOT_PLAYED):
        found.update(f"{path.relative_to(core).as_posix()}\0".encode())
        found.update(path.read_bytes() + b"\0")
    return found.hexdigest()[:16]
