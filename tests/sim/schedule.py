"""Random schedules: a safety phase full of faults, then a core heals and has to be well."""

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.sim import faults, operators
from tests.sim.chaos import Chaos
from tests.sim.cluster import Cluster
from tests.sim.faults import AMBIENT, COUNTED
from tests.sim.node import Node
from tests.sim.phases import phases_of
from tests.sim.snapshot import restore
from tests.sim.tape import Strike, Tape
from tests.sim.world import Rates, Story, T, transcript

HEAL_LIMIT = 150.0
"""Seconds in which a healed cluster has to be whole again (a shutdown that waits for a standby that
is cut off, a clone, a retry, a stuck standby, the grace of one that does not come back)."""
CALM_PACE = 2.0
"""By what the clients' pauses are multiplied while nothing goes wrong."""

FAULTS: tuple[str, ...] = (*faults.FAULTS, *COUNTED)
"""The names of all that can strike."""

_CRASHES = ("kill server", "kill node", "kill two nodes")
_ALARMS = ("mute agent", "freeze agent", "kill agent", "stop postmaster")
_DCS = ("DCS away", "DCS slow", "cut the DCS", "DCS emptied", "DCS set back")

THEMES: Mapping[str, tuple[str, ...]] = {
    "crashes": _CRASHES,
    "false alarms": _ALARMS,
    "changes": ("cut replication", "kill server", "leave", "kill node", "change k"),
    "switchovers": ("switchover", "switchover", "kill server", "kill agent", "DCS slow"),
    "relays": ("cut replication", "kill primary's node", "kill primary's node"),
    "freezes": ("freeze node", "kill server"),
    "amnesia": (
        *_DCS,
        "restore the register",
        "another cluster's DCS",
        "kill node",
        "leave",
        "isolate node",
    ),
    "guards": ("kill guard", "kill server", "stop postmaster", "kill agent"),
    "disks": ("slow disk", "slow disk", "kill node", "kill agent", "lose the data directory"),
    "membership": ("join", "leave for good", "kill node", "lose the data directory", "change k"),
    "tags": ("change a setting", "change a setting", "kill primary's node", "cut replication"),
    "readers": ("long reader on a standby", "cancel a commit", "pause replay", *_CRASHES),
    "by hand": ("promoted by hand", "names changed by hand", "kill primary's node", "mute agent"),
    "maintenance": ("restart", "restart", "reinitialize", "pause", "kill server", "switchover"),
    "slow DCS": ("DCS slow", "mute agent", "isolate node", "freeze agent"),
}
_SLOW = ("false alarms", "slow DCS")
"""Here a primary that is given up goes on for as long as it can."""
ONE_FAULT = "one fault"
"""The theme in which there is one, and at most one failover."""
SINGLE = (
    "kill server",
    "kill guard",
    "kill node",
    "kill agent",
    "freeze node",
    "stop postmaster",
    "isolate node",
    "mute agent",
    "cut replication",
    "DCS away",
    "DCS slow",
    "slow disk",
    "names changed by hand",
)


@dataclass(frozen=True)
class Outcome:
    """What a schedule came to; `problem` is empty if all invariants held and it healed."""

    tape: Tape
    problem: str
    events: int
    terms: int
    acked: int
    story: Story
    struck: Counter[str]
    during: Counter[str]
    ways: frozenset[str] = field(default_factory=frozenset[str])

    @property
    def transcript(self) -> str:
        """The story as text."""
        return transcript(self.story)


class Schedule:
    """Everything is on the tape: cluster, settings, which faults there are and when they strike.
    Most have a theme; the others mix everything."""

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self.draws = random.Random(f"{tape.seed} strikes")
        """Of what strikes when, while the tape is written."""
        self.theme: str = tape.choose("theme", *THEMES, ONE_FAULT, *["anything"] * 4)
        self.is_long: bool = tape.choose("long", *[False] * 15, True)
        self.cluster = self._cluster(tape, self.is_long)
        self.world = self.cluster.world
        self.chaos = Chaos(self.cluster, tape)
        self.faults = self._faults()
        self.pause = self.draws.choice((0.3, 1.0, 2.0, 3.0) if self.is_long else (0.3, 0.6, 1.5))
        self.pounces = self.draws.choice((0.0, 0.2, 0.5))
        self.pace: float = tape.choose("pace", 1.0, 0.2)
        self.cluster.k2 = tape.choose("operator's k = 2", 0.0, 0.0, 0.5)
        if self.theme in _SLOW:
            self.chaos.longest, self.pace = 8.0, 0.1
        self.seen = 0

    def _faults(self) -> list[tuple[str, int]]:
        draws = self.draws
        if self.theme == ONE_FAULT:
            names = [draws.choice(SINGLE)]
        elif self.theme == "anything":
            names = [n for n in faults.FAULTS if draws.random() < 0.3] or [*_CRASHES]
        else:
            names = [*THEMES[self.theme]]
        return [(n, draws.choice((1, 1, 2, 5))) for n in names]

    @staticmethod
    def _cluster(tape: Tape, is_long: bool) -> Cluster:
        graces = (60.0, 5.0, 1.0) if is_long else (5.0, 1.0)
        leases = (5.0, 2.0, 1.0) if is_long else (2.0, 1.0)
        nodes: int = tape.choose("nodes", 1, 2, 2, 3, 3, 3, 3, 3, 3, 4, 5)
        settings: dict[str, Any] = {
            "nodes_wanted_k": tape.choose("k", 1, 1, 1, 2) if nodes > 2 else 1,
            "minimum_k": tape.choose("minimum_k", 0, 0, 0, 1) if nodes > 1 else 0,
            "standby_grace": tape.choose("standby_grace", *graces),
            "lease": tape.choose("lease", *leases),
            "suspect_after": tape.choose("suspect_after", 1.0, 0.7),
            "use_pg_rewind": tape.choose("use_pg_rewind", True, True, False),
        }
        cluster = Cluster(tape.noise_seed, nodes, **settings)
        for name, node in cluster.nodes.items():
            steady = [1.0] * 5
            node.clock_rate = tape.choose(f"clock rate of {name}", *steady, 0.99, 0.999, 1.01)
        return cluster

    def _rates(self) -> Rates:
        def some(name: str, *values: float) -> float:
            rate: float = self.tape.choose(f"rate of {name}", 0.0, *values)
            return rate

        return Rates(
            effect_fails=some("effect_fails", 0.01, 0.05),
            answer_lost=some("answer_lost", 0.02, 0.1),
            cas_unknown=some("cas_unknown", 0.05, 0.3),
            cas_fails=some("cas_fails", 0.05, 0.2),
            message_lost=some("message_lost", 0.02, 0.2),
            crash_in_step=some("crash_in_step", 0.002, 0.01),
            slow=some("slow", 0.01, 0.1),
            lagging=some("lagging", 0.3, 0.6),
            reordered=some("reordered", 0.01, 0.1),
        )

    # --- the phases ----------------------------------------------------------------------------

    def run(self) -> Outcome:
        cluster = self.cluster
        problem = self._begin()
        if not problem:
            problem = self._one_fault() if self.theme == ONE_FAULT else self._many_faults()
        if not problem:
            cluster.checker.at_the_end()
        violations = cluster.checker.violations
        if problem and not violations:
            self.world.say("CHECK", f"not well in {HEAL_LIMIT:.0f} s: {problem}")
        return Outcome(
            self.tape.recorded(),
            violations[0] if violations else problem,
            self.world.events,
            len(cluster.checker.appointed),
            cluster.checker.acked,
            self.world.trace,
            self.world.struck,
            self.world.during,
            frozenset(cluster.checker.ways),
        )

    def _begin(self) -> str:
        """With a cluster that was up before, or from nothing; well, or as it is."""
        ways = ("up",) * (2 if self.is_long else 8)
        beginning: str = self.tape.choose("beginning", *ways, "made", "made", "at once")
        if beginning == "up":
            restore(self.cluster)
        self.cluster.pace = CALM_PACE
        self.cluster.start()
        if beginning == "at once" and self.theme != ONE_FAULT:
            return ""
        return self.cluster.settle(steadily=1.0 if self.is_long else 0.1)

    def _many_faults(self) -> str:
        cluster, chaos, tape = self.cluster, self.chaos, self.tape
        self.world.rates = self._rates()
        cluster.ambient = {
            name: rate
            for name, rates in AMBIENT.items()
            if (rate := tape.choose(f"rate of {name}", *[0.0] * 3, *rates))
        }
        lengths = (10.0, 15.0, 20.0) if self.is_long else (1.5, 3.0, 6.0)
        if len(cluster.nodes) == 1 or self.theme in _SLOW:
            lengths = (6.0, 8.0, 12.0)
        self._trouble(tape.choose("seconds", *lengths))
        if cluster.checker.violations:
            return cluster.checker.violations[0]
        whole = {n.name: n for n in chaos.nodes()}
        with_core = tape.choose("core", False, False, False, True, True)
        core = self._apart("core", self._core) if with_core else None
        self._apart("heal", lambda: chaos.heal(core or whole))
        problem = cluster.settle(HEAL_LIMIT)
        if problem and core is not None and not self._suffices(core):
            # An appointment or a change that was under way needs somebody else too.
            for node in whole.values():
                node.expected = True
            self._apart("heal", lambda: chaos.heal(whole))
            problem = cluster.settle(HEAL_LIMIT)
        return problem

    def _one_fault(self) -> str:
        """L2: at most one failover follows."""
        cluster, chaos = self.cluster, self.chaos
        before = len(cluster.checker.appointed)
        self._trouble(self.tape.choose("seconds", 3.0, 5.0, 10.0))
        self._apart("heal", lambda: chaos.heal({n.name: n for n in chaos.nodes()}))
        problem = cluster.settle(HEAL_LIMIT)
        failovers = len(cluster.checker.appointed) - before
        struck = [strike.fault for strike in self.tape.written]
        if failovers > 1 and len(struck) <= 1:
            cluster.checker.broken(f"L2: {failovers} failovers after one fault: {struck}")
        return problem

    def _apart(self, what: str, do: Callable[[], T]) -> T:
        return self.world.apart(f"{self.tape.seed} {what}", do)

    def _suffices(self, core: Mapping[str, Node]) -> bool:
        """Whether these hold whatever the register says may be only there."""
        enough = len(core) > max(n.settings.minimum_k for n in core.values())
        return enough and self.chaos.holds_all(core.values())

    def _core(self) -> Mapping[str, Node] | None:
        """A few nodes that can go on without the others; None if it takes them all."""
        nodes = self.chaos.nodes()
        self.chaos.random.shuffle(nodes)
        for count in range(1, len(nodes)):
            core = {n.name: n for n in sorted(nodes[:count], key=lambda n: n.name)}
            if self._suffices(core):
                return core
        return None

    # --- striking ------------------------------------------------------------------------------

    def _trouble(self, seconds: float) -> None:
        """Play what the tape has; or draw it, and write it down."""
        self.chaos.on = True
        self.world.phases = lambda: phases_of(self.cluster)
        self.cluster.pace = self.pace
        if self.tape.strikes is not None:
            for strike in self.tape.strikes:
                if strike.at > self.world.now:
                    self.world.at(strike.at, self._strike, strike.fault, strike.seed)
                else:
                    self._strike(strike.fault, strike.seed)
        elif self.theme == ONE_FAULT:
            self._strike(self.faults[0][0], self.draws.getrandbits(32))
        else:
            self._draw()
            self.cluster.dcs.watchers["chaos"] = self._pounce
        self.cluster.run(seconds)
        self.cluster.dcs.watchers.pop("chaos", None)
        self.cluster.pace = CALM_PACE
        self.chaos.on = False

    def _draw(self) -> None:
        if self.chaos.on:
            self.world.call(self.draws.expovariate(1 / self.pause), None, self._draw)
            weights = [weight for _, weight in self.faults]
            name, _ = self.draws.choices(self.faults, weights)[0]
            self._strike(name, self.draws.getrandbits(32))

    def _pounce(self) -> None:
        """Often something goes wrong just when something is going on."""
        draws, register = self.draws, self.cluster.dcs.register
        seq = register.seq if register else 0
        if seq != self.seen and draws.random() < self.pounces:
            name, _ = draws.choice(self.faults)
            delay = draws.uniform(0.0, draws.choice((0.02, 0.1, 0.4)))
            self.world.call(delay, None, self._strike, name, draws.getrandbits(32))
        self.seen = seq

    def _strike(self, name: str, seed: int) -> None:
        if self.chaos.on:
            self.tape.written.append(Strike(self.world.now, name, seed))
            self.world.say("!", name)
            self.world.apart(seed, lambda: self.chaos.strike(name, faults.FAULTS[name]))


def play(seed: int, theme: str = "") -> Outcome:
    """Play one schedule; of this theme, if one is named."""
    return replay(Tape(seed, {"theme": theme} if theme else None))


def replay(tape: Tape) -> Outcome:
    """Play this tape, or write it if it is blank."""
    return Schedule(tape).run()


__all__ = ["FAULTS", "THEMES", "Outcome", "Schedule", "operators", "play", "replay"]
