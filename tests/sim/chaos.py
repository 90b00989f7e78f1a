"""What goes wrong: the hand that chooses where and for how long, and takes it all back."""

from collections.abc import Callable, Iterable, Mapping
from random import Random

from pgregent.core.durability import satisfies_all
from pgregent.core.events import RestoreDcs
from pgregent.core.types import Register, Stage
from tests.sim.cluster import Cluster
from tests.sim.fake_link import FAST
from tests.sim.node import Node
from tests.sim.tape import Tape
from tests.sim.world import Rates

OPERATOR_AFTER = 15.0
"""Seconds after which the operator is called where the members wait for that."""


class Chaos:
    """The swarm's choices for one schedule, and what has to be undone."""

    def __init__(self, cluster: Cluster, tape: Tape) -> None:
        self.cluster, self.world = cluster, cluster.world
        self.longest: float = tape.choose("longest", 0.5, 3.0, 8.0)
        """Seconds that a fault lasts at most."""
        self.on_primary: float = tape.choose("on primary", 0.6, 0.3, 0.9)
        self.undo: list[Callable[[], None]] = []
        self.on = False

    # --- choosing ------------------------------------------------------------------------------

    @property
    def random(self) -> Random:
        """During a strike the strike's own: so it is never kept."""
        return self.world.random

    @property
    def register(self) -> Register | None:
        return self.cluster.dcs.register

    def node(self) -> Node:
        """Often the primary."""
        register = self.register
        if register is not None and self.random.random() < self.on_primary:
            return self.cluster[register.primary.name]
        return self.random.choice(self.nodes())

    def nodes(self) -> list[Node]:
        """Those that have not left for good."""
        return [n for n in self.cluster.nodes.values() if n.expected]

    def standby(self) -> Node:
        """Any but the primary, if there is another."""
        name = self.register.primary.name if self.register is not None else ""
        others = [n for n in self.nodes() if n.name != name]
        return self.random.choice(others or self.nodes())

    def later(self, undo: Callable[[], object]) -> None:
        """Undo a fault after a while, or when everything heals."""
        done: list[bool] = []

        def once() -> None:
            if not done:
                done.append(True)
                undo()

        self.world.call(self.world.between(0.02, self.longest), None, once)
        self.undo.append(once)

    def come_back(self, node: Node, longest: float) -> None:
        """Its agent is started again, as a supervisor does."""
        self.world.call(self.random.uniform(0.05, longest), None, node.start_agent)

    def block(self, ways: set[tuple[str, str, str]], *, for_good: bool = False) -> None:
        """Let nothing through on these ways for a while."""
        ways = ways - self.world.net.blocked
        self.world.say("*", "blocked: " + ", ".join(f"{k} {a}>{b}" for k, a, b in sorted(ways)))
        self.world.net.blocked |= ways
        if not for_good:
            self.later(lambda: self.world.net.blocked.difference_update(ways))

    def strike(self, name: str, fault: "Callable[[Chaos], bool]") -> None:
        """Do it, and count it if it struck anything."""
        if fault(self):
            self.world.hit(name)

    @staticmethod
    def whole(node: Node) -> bool:
        """Whether its log is there, and counts."""
        disk = node.disk
        return disk.exists and disk.usable and not disk.foreign and node.store.stage is Stage.NONE

    def holds_all(self, nodes: Iterable[Node]) -> bool:
        """Whether these hold whatever the register says may be only there."""
        register, dcs = self.register, self.cluster.dcs
        if register is None or not register.term or self.cluster.checker.forgotten is not None:
            return False
        holders = frozenset(n.store.incarnation for n in nodes if self.whole(n))
        return not dcs.in_flight and bool(holders) and satisfies_all(register, holders)

    # --- healing -------------------------------------------------------------------------------

    def heal(self, core: Mapping[str, Node]) -> None:
        """Nothing goes wrong any more with these; the others never come back."""
        self.world.say("*", f"{', '.join(core)} heal")
        self.on = False
        cluster = self.cluster
        self.world.rates = Rates()
        cluster.ambient, cluster.dcs.away = {}, False
        cluster.dcs.slow.clear()
        cluster.dcs.misled.clear()
        for undo in self.undo:
            undo()
        self.world.net.blocked.clear()
        for node in cluster.nodes.values():
            if node.name in core:
                self._heal_node(node)
            elif node.expected:
                self.lose_for_good(node)
        for node in core.values():
            if node.server is not None:
                for link in node.server.senders:
                    link.slowest = FAST
        self.world.call(OPERATOR_AFTER, None, self._operator)

    def _heal_node(self, node: Node) -> None:
        node.thaw()
        node.slow_disk = False
        node.remove_tags()
        if node.paused:
            node.pause_replay(False)
        if node.server is not None:
            node.server.hung = False
            node.server.end_readers()
        if node.agent is not None and node.agent.state.settings != node.settings:
            node.kill_agent()
        self.come_back(node, 1.0)

    def lose_for_good(self, node: Node) -> None:
        """It is dead, silent, frozen or out of reach from now on."""
        node.expected = False
        how = self.random.choice(("dies", "dies silently", "freezes", "is cut off"))
        node.say(f"{how} for good")
        self.world.hit(f"a node {how} for good")
        match how:
            case "freezes":
                node.freeze()
            case "is cut off":
                others = [n for n in self.cluster.nodes if n != node.name]
                ends = [("peers", o) for o in (*others, "gate")] + [("sql", o) for o in others]
                ends.append(("dcs", "dcs"))
                ways = {(k, node.name, o) for k, o in ends} | {(k, o, node.name) for k, o in ends}
                self.block(ways, for_good=True)
            case _:
                node.kill(silently=how == "dies silently")

    def _operator(self) -> None:
        """All members are here: whoever holds the newest copy has it written again, and what was
        promoted by hand, unnoticed by its agent, is cloned (nothing less is promised of that)."""
        for node in self.nodes():
            others = [n for n in self.nodes() if n is not node]
            unnoticed = node.disk.foreign and node.store.stage is Stage.NONE
            if unnoticed and self.holds_all(others) and node is not self.cluster.primary:
                node.lose_data(state_too=False)
        agents = [n.agent for n in self.cluster.nodes.values() if n.agent is not None]
        known = [a for a in agents if a.state.register is not None]
        newest = max(known, key=lambda a: a.state.register.seq if a.state.register else 0)
        if newest.state.register_lost and newest.state.register is not None:
            newest.node.say("the operator has the register written again")
            newest.post(RestoreDcs(newest.state.register.seq))
            self.world.call(5.0, None, self._operator)
