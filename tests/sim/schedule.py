"""Random schedules: a safety phase full of faults, then everything heals and has to be well."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pgregent.core.events import RestoreDcs, Switchover
from tests.sim.cluster import Cluster
from tests.sim.fake_postgres import FAST
from tests.sim.node import Node
from tests.sim.world import Rates

HEAL_LIMIT = 90.0
"""Seconds in which a healed cluster has to be whole again (a clone, a retry, a stuck standby)."""
OPERATOR_AFTER = 15.0
"""Seconds after which the operator is called where the members wait for that."""


@dataclass(frozen=True)
class Outcome:
    """What a schedule came to; `problem` is empty if all invariants held and it healed."""

    seed: int
    problem: str
    events: int
    terms: int
    acked: int
    transcript: str
    ways: frozenset[str] = field(default_factory=frozenset[str])


Fault = Callable[[], None]


class Schedule:
    """Everything is chosen by the seed: cluster, settings, which faults there are and how often.
    Most have a theme; the others mix everything."""

    def __init__(self, seed: int, theme: str = "") -> None:
        self.seed = seed
        self.cluster = self._cluster(seed)
        self.world = self.cluster.world
        self.random = self.world.random
        themes = self._themes()
        chosen = theme or self.random.choice((*themes, "anything", "anything"))
        self.faults = [(f, self.random.choice((1, 1, 2, 5))) for f in themes[chosen]]
        self.pause = self.random.choice((0.3, 1.0, 2.0, 3.0))
        self.longest = self.random.choice((0.5, 3.0, 8.0))
        """Seconds that a fault lasts at most."""
        self.on_primary = self.random.choice((0.3, 0.6, 0.9))
        self.pounces = self.random.choice((0.0, 0.2, 0.5))
        self.pace = self.random.choice((1.0, 0.2))
        if chosen == "false alarms":
            # What matters is what happens while the primary that is given up still works.
            self.longest, self.pace = 8.0, 0.1
        self.seen = 0
        self.undo: list[Callable[[], None]] = []
        self.chaos = False

    def _themes(self) -> Mapping[str, list[Fault]]:
        crashes: list[Fault] = [self.kill_server, self.kill_node, self.kill_two]
        alarms: list[Fault] = [self.mute, self.freeze_agent, self.kill_agent, self.hang_server]
        every: list[Fault] = [
            *crashes,
            *alarms,
            self.freeze_node,
            self.cut_replication,
            self.isolate,
            self.cut_pair,
            self.cut_dcs,
            self.dcs_away,
            self.dcs_forgets,
            self.leave,
            self.switchover,
            self.lose_data,
            self.pause_replay,
            self.change_tag,
        ]
        return {
            "crashes": crashes,
            "false alarms": alarms,
            "changes": [self.cut_replication, self.kill_server, self.leave, self.kill_node],
            "switchovers": [self.switchover, self.switchover, self.kill_server, self.kill_agent],
            "relays": [self.cut_replication, self.kill_primary, self.kill_primary],
            "freezes": [self.freeze_node, self.kill_server],
            "amnesia": [self.dcs_forgets, self.kill_node, self.leave, self.isolate],
            "anything": [f for f in every if self.random.random() < 0.4] or crashes,
        }

    @staticmethod
    def _cluster(seed: int) -> Cluster:
        chance = Cluster(f"settings {seed}", 1).world.random
        nodes = chance.choice((1, 2, 2, 3, 3, 3, 3, 3, 3, 4, 5))
        settings: dict[str, Any] = {
            "minimum_k": chance.choice((0, 0, 0, 1)) if nodes > 1 else 0,
            "standby_grace": chance.choice((1.0, 5.0, 60.0)),
            "lease": chance.choice((1.0, 2.0, 5.0)),
            "suspect_after": chance.choice((0.7, 1.0)),
            "use_pg_rewind": chance.random() < 0.7,
        }
        return Cluster(seed, nodes, **settings)

    def _rates(self) -> Rates:
        def some(*values: float) -> float:
            return self.random.choice((0.0, *values))

        return Rates(
            effect_fails=some(0.01, 0.05),
            answer_lost=some(0.02, 0.1),
            cas_unknown=some(0.05, 0.3),
            cas_fails=some(0.05, 0.2),
            message_lost=some(0.02, 0.2),
            crash_in_step=some(0.002, 0.01),
            slow=some(0.01, 0.1),
            lagging=some(0.3, 0.6),
            reordered=some(0.01, 0.1),
        )

    def run(self) -> Outcome:
        cluster = self.cluster
        cluster.pace = self.pace
        cluster.start()
        problem = ""
        if self.random.random() < 0.85:
            problem = cluster.settle()
        if not problem:
            self.chaos = True
            self.world.rates = self._rates()
            self._strike()
            cluster.dcs.watchers["chaos"] = self._pounce
            cluster.run(self.random.uniform(10.0, 30.0))
            self.heal()
            problem = cluster.settle(HEAL_LIMIT)
        if not problem:
            cluster.checker.at_the_end()
        violations = cluster.checker.violations
        if problem and not violations:
            self.world.say("CHECK", f"not well in {HEAL_LIMIT:.0f} s: {problem}")
        return Outcome(
            self.seed,
            violations[0] if violations else problem,
            self.world.events,
            len(cluster.checker.appointed),
            len(cluster.checker.acked),
            cluster.transcript(),
            frozenset(cluster.checker.ways),
        )

    def heal(self) -> None:
        """Nothing goes wrong any more, and whatever was stopped runs again."""
        self.world.say("*", "everything heals")
        self.chaos = False
        self.cluster.dcs.watchers.pop("chaos", None)
        self.world.rates = Rates()
        self.world.net.blocked.clear()
        self.cluster.dcs.away = False
        for undo in self.undo:
            undo()
        for node in self.cluster.nodes.values():
            node.thaw()
            node.set_eligible(True)
            if node.paused:
                node.pause_replay(False)
            if node.server is not None:
                node.server.hung = False
                for link in node.server.senders:
                    link.slowest = FAST
            if node.agent is not None and node.agent.state.settings != node.settings:
                node.kill_agent()
            self._come_back(node, 1.0)
        self.world.call(OPERATOR_AFTER, None, self._operator)

    def _operator(self) -> None:
        """All members are here: whoever holds the newest copy has it written again."""
        agents = [n.agent for n in self.cluster.nodes.values() if n.agent is not None]
        known = [a for a in agents if a.state.register is not None]
        newest = max(known, key=lambda a: a.state.register.seq if a.state.register else 0)
        if newest.state.register_lost and newest.state.register is not None:
            newest.node.say("the operator has the register written again")
            newest.post(RestoreDcs(newest.state.register.seq))
            self.world.call(5.0, None, self._operator)

    # --- choosing ------------------------------------------------------------------------------

    def _strike(self) -> None:
        if not self.chaos:
            return
        self.world.call(self.random.expovariate(1 / self.pause), None, self._strike)
        faults = [f for f, _ in self.faults]
        self.random.choices(faults, [w for _, w in self.faults])[0]()

    def _pounce(self) -> None:
        """Often something goes wrong just when something is going on."""
        register = self.cluster.dcs.register
        seq = register.seq if register else 0
        if self.chaos and seq != self.seen and self.random.random() < self.pounces:
            faults = [f for f, _ in self.faults]
            self.world.call(self.random.uniform(0.0, 0.4), None, self.random.choice(faults))
        self.seen = seq

    def node(self) -> Node:
        """Often the primary."""
        register = self.cluster.dcs.register
        if register is not None and self.random.random() < self.on_primary:
            return self.cluster[register.primary.name]
        return self.cluster[self.random.choice(sorted(self.cluster.nodes))]

    def _later(self, undo: Callable[[], None]) -> None:
        """Undo a fault after a while, or when everything heals."""
        self.world.call(self.world.between(0.02, self.longest), None, undo)
        self.undo.append(undo)

    def _come_back(self, node: Node, longest: float) -> None:
        self.world.call(self.random.uniform(0.05, longest), None, node.start_agent)

    # --- faults --------------------------------------------------------------------------------

    def kill_agent(self) -> None:
        node = self.node()
        node.kill_agent()
        self._come_back(node, self.longest)

    def kill_server(self) -> None:
        self.node().kill_server()

    def kill_node(self, node: Node | None = None) -> None:
        node = node or self.node()
        node.kill(silently=self.random.random() < 0.3)
        self._come_back(node, self.longest)

    def kill_primary(self) -> None:
        register = self.cluster.dcs.register
        self.kill_node(self.cluster[register.primary.name] if register else None)

    def kill_two(self) -> None:
        self.kill_node()
        self.world.call(self.random.uniform(0.0, 1.0), None, self.kill_node)

    def freeze_node(self) -> None:
        node = self.node()
        node.freeze()
        self._later(node.thaw)

    def freeze_agent(self) -> None:
        agent = self.node().agent
        if agent is None:
            return
        agent.proc.frozen += 1
        thawed: list[bool] = []

        def thaw() -> None:
            if not thawed:
                thawed.append(True)
                self.world.thaw(agent.proc)

        agent.node.say("agent freezes")
        self._later(thaw)

    def hang_server(self) -> None:
        server = self.node().server
        if server is not None:
            server.node.say("postgres takes no new connections")
            server.hung = True
            self._later(lambda: setattr(server, "hung", False))

    def _block(self, ways: set[tuple[str, str, str]]) -> None:
        ways = ways - self.world.net.blocked
        self.world.say("*", "blocked: " + ", ".join(f"{k} {a}>{b}" for k, a, b in sorted(ways)))
        self.world.net.blocked |= ways
        self._later(lambda: self.world.net.blocked.difference_update(ways))

    def isolate(self) -> None:
        """Cut one node off: from the others, from the DCS, one way or both, or in part."""
        node = self.node().name
        kinds = self.random.choice(
            (("peers", "sql", "dcs"), ("peers", "sql"), ("peers",), ("sql",))
        )
        inward, outward = self.random.choice(((1, 1), (1, 1), (1, 0), (0, 1)))
        ways: set[tuple[str, str, str]] = set()
        for kind in kinds:
            others = ["dcs"] if kind == "dcs" else [n for n in self.cluster.nodes if n != node]
            if kind == "peers" and self.random.random() < 0.5:
                others.append("gate")
            ways |= {(kind, node, o) for o in others if outward}
            ways |= {(kind, o, node) for o in others if inward}
        self._block(ways)

    def mute(self) -> None:
        """The others hear nothing of its agent, but it reaches the DCS, and WAL flows."""
        node = self.node().name
        self._block({("peers", node, o) for o in self.cluster.nodes if o != node})

    def cut_replication(self) -> None:
        """A standby gets nothing while the others do."""
        register, b = self.cluster.dcs.register, self.node().name
        a = register.primary.name if register else b
        if a != b:
            self._block({("sql", a, b), ("sql", b, a)})

    def cut_pair(self) -> None:
        a, b = self.node().name, self.node().name
        kinds = self.random.choice((("peers", "sql"), ("peers",), ("sql",)))
        if a != b:
            self._block({(k, *w) for k in kinds for w in ((a, b), (b, a))})

    def cut_dcs(self) -> None:
        node = self.node().name
        way = self.random.choice(((node, "dcs"), ("dcs", node)))
        self._block({("dcs", *way)})

    def dcs_away(self) -> None:
        self.world.say("*", "the DCS is away")
        self.cluster.dcs.away = True
        self._later(lambda: setattr(self.cluster.dcs, "away", False))

    def dcs_forgets(self) -> None:
        if self.cluster.dcs.register is not None and self.cluster.dcs.register.term:
            self.world.say("*", "the DCS is emptied")
            self.cluster.dcs.forget()

    def leave(self) -> None:
        node = self.node()
        node.leave()
        self.world.call(self.random.uniform(0.5, 12.0), None, self._return, node, 80)

    def switchover(self) -> None:
        register, agent = self.cluster.dcs.register, self.node().agent
        if register is not None and agent is not None:
            candidate = self.random.choice(("", *self.cluster.nodes))
            agent.node.say(f"is asked for a switchover to {candidate or 'anybody'}")
            agent.post(Switchover(register.term, candidate))

    def _return(self, node: Node, tries: int) -> None:
        if node.agent is None:
            node.start_agent()
        elif tries and node.agent.state.leaving.value != "no":
            self.world.call(1.0, None, self._return, node, tries - 1)

    def lose_data(self) -> None:
        """Only where the rules tolerate it: every other log that they name is there."""
        node, register = self.node(), self.cluster.dcs.register
        if register is None or not register.rules or register.rule.k == 0:
            return
        named = {m for r in register.rules for m in (r.writer, *r.members)}
        whole = {n.store.incarnation for n in self.cluster.nodes.values() if self._whole(n)}
        if named <= whole and len(register.rules) == 1:
            node.lose_data(state_too=self.random.random() < 0.3)
            self._come_back(node, 3.0)

    @staticmethod
    def _whole(node: Node) -> bool:
        return node.disk.exists and node.disk.usable and node.store.stage.value == "none"

    def pause_replay(self) -> None:
        node = self.node()
        node.pause_replay(True)
        self._later(lambda: node.pause_replay(False))

    def change_tag(self) -> None:
        node = self.node()
        node.set_eligible(node.settings.nofailover)
        node.kill_agent()
        self._come_back(node, 1.0)


def play(seed: int, theme: str = "") -> Outcome:
    """Play one schedule; of this theme, if one is named."""
    return Schedule(seed, theme).run()
