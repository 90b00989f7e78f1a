"""Nodes, DCS, channel, clients and checker put together."""

from collections.abc import Callable
from typing import Any

from pgregent.core.gate import Heard, route
from pgregent.core.types import PgState, Record, Register, Settings
from tests.sim.agent import Channel
from tests.sim.fake_dcs import FakeDcs
from tests.sim.invariants import Checker
from tests.sim.node import Node
from tests.sim.world import World

STALE_AFTER = 3.0


class Gate:
    """An entry point with one client: routes by what it heard, writes where that leads."""

    def __init__(self, cluster: "Cluster", name: str) -> None:
        self.cluster, self.name, self.world = cluster, name, cluster.world
        self.records: dict[str, Heard] = {}
        self.newest: Register | None = None
        self.term = 0
        self.acked = 0
        self.acked_at = 0.0
        self._client()

    def heard(self, record: Record) -> None:
        """As cli/gate.py: a record that is older than the one held changes nothing."""
        name, register = record.incarnation.name, record.register
        before = self.records.get(name)
        if before is None or record.beat >= before.record.beat:
            self.records[name] = Heard(record, self.world.now)
        if register is not None and (self.newest is None or register.seq > self.newest.seq):
            self.newest = register

    def _client(self) -> None:
        self.world.call(self.cluster.pace * self.world.between(0.01, 0.2), None, self._client)
        where = route(self.records.values(), self.world.now, STALE_AFTER, self.newest)
        if where.primary is None:
            return
        if where.term < self.term:
            self.cluster.checker.broken(f"S6: routed to term {where.term} after {self.term}")
        self.term = where.term
        self.cluster.write(where.primary[0], self._acknowledged)

    def _acknowledged(self) -> None:
        self.acked += 1
        self.acked_at = self.world.now


class Cluster:
    """A simulated cluster. Names are n1, n2, …"""

    def __init__(self, seed: int | str, nodes: int = 3, **settings: Any) -> None:
        self.world = World(seed)
        self.checker = Checker(self.world)
        self.dcs = FakeDcs(self.world, self.checker)
        self.channel = Channel(self)
        self.nodes: dict[str, Node] = {}
        self.pace = 1.0
        """By what the clients' pauses are multiplied."""
        self.gates: dict[str, Gate] = {}
        for n in range(1, nodes + 1):
            name = f"n{n}"
            given = Settings(name, host=name, port=5432, **settings)
            self.nodes[name] = Node(self, name, given)
        self.checker.nodes = self.nodes

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    def start(self, clients: bool = True) -> None:
        """Start every agent, and the clients."""
        for n, node in enumerate(self.nodes.values()):
            self.world.call(0.1 * n, None, node.start_agent)
        if clients:
            self.gates["gate"] = Gate(self, "gate")
            for name in self.nodes:
                self._direct_client(name)

    def _direct_client(self, name: str) -> None:
        self.world.call(self.pace * self.world.between(0.02, 0.3), None, self._direct_client, name)
        self.write(name, lambda: None)

    def write(self, name: str, acknowledged: Callable[[], None]) -> None:
        """A client's commit at this node, if it takes one."""
        server = self.nodes[name].server
        if server is not None and server.state is PgState.PRIMARY and len(server.waiting) < 50:
            number = self.checker.new_write()
            delay = self.world.between(0.0002, 0.005)
            self.world.call(delay, server.proc, server.commit, number, acknowledged)

    def run(self, seconds: float, done: Callable[[], bool] = lambda: False) -> bool:
        return self.world.run(self.world.now + seconds, done)

    def settle(self, seconds: float = 60.0, steadily: float = 1.0) -> str:
        """Run until all is well for a while; empty, or what is not well in time."""
        until = self.world.now + seconds
        why = "nothing was tried"
        while self.world.now < until and not self.world.stop:
            self.run(0.25)
            why = self.checker.settled()
            if not why:
                term = self.checker.register.term if self.checker.register else 0
                self.run(steadily)
                why = self.checker.settled()
                if not why and self.checker.register and self.checker.register.term == term:
                    return ""
        return self.checker.violations[0] if self.checker.violations else why

    @property
    def primary(self) -> Node:
        """Whom the register names."""
        register = self.dcs.register
        assert register is not None
        return self.nodes[register.primary.name]

    def transcript(self, *who: str) -> str:
        """The trace as text; of these only, if any are named."""
        lines = (t for t in self.world.trace if not who or t[1] in who)
        return "\n".join(f"{at:9.3f} {name:5} {what}" for at, name, what in lines)
