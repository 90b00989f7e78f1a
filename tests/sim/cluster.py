"""Nodes, DCS, channel, clients and checker put together."""

from collections.abc import Callable
from typing import Any

from pgregent.core.gate import Heard, route
from pgregent.core.types import PgState, Record, Register, Settings
from tests.sim.agent import Channel
from tests.sim.fake_dcs import FakeDcs
from tests.sim.fake_wal import Wal
from tests.sim.invariants import Checker
from tests.sim.node import Node
from tests.sim.world import World, transcript

STALE_AFTER = 3.0
ARCHIVES_KEPT = 6


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
        self.cluster.checker.routed(where.term)
        if self.world.random.random() < 0.3:
            self.cluster.read(where.primary[0])
        else:
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
        self.ambient: dict[str, float] = {}
        """What goes wrong by itself wherever it can, and with what probability."""
        self.archive: list[tuple[list[Wal], int]] = []
        """The newest logs in the WAL archive, each as a list and how much of it."""
        self.archiving = False
        self.k2 = 0.0
        """How likely it is that the operator wants k = 2."""
        self.settings = settings
        self.gates: dict[str, Gate] = {}
        for _ in range(nodes):
            self.add_node()
        self.checker.nodes = self.nodes

    def add_node(self) -> Node:
        """A machine without data."""
        name = f"n{len(self.nodes) + 1}"
        given = Settings(name, host=name, port=5432, **self.settings)
        self.nodes[name] = Node(self, name, given)
        return self.nodes[name]

    def strikes(self, fault: str) -> bool:
        """Whether a fault that is about strikes here and now."""
        probability = self.ambient.get(fault)
        if probability is None or self.world.random.random() >= probability:
            return False
        self.world.hit(fault)
        return True

    def archived(self, log: list[Wal]) -> None:
        """A primary archived its log as far as it is now."""
        self.archive = [*self.archive[1 - ARCHIVES_KEPT :], (log, len(log))]

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    def start(self, clients: bool = True) -> None:
        """Start every agent, and the clients."""
        for n, node in enumerate(self.nodes.values()):
            self.world.call(0.1 * n, None, node.start_agent)
        if clients:
            self.gates["gate"] = Gate(self, "gate")
            for name in self.nodes:
                self.direct_client(name)

    def direct_client(self, name: str) -> None:
        """Writes at this node, past the entry point."""
        self.world.call(self.pace * self.world.between(0.02, 0.3), None, self.direct_client, name)
        self.write(name, lambda: None)

    def write(self, name: str, acknowledged: Callable[[], None]) -> None:
        """A client's commit at this node, if it takes one."""
        server = self.nodes[name].server
        if server is None or server.state is not PgState.PRIMARY or server.closed:
            return
        if len(server.waiting) < 50:
            number = self.checker.new_write()
            delay = self.world.between(0.0002, 0.005)
            self.world.call(delay, server.proc, server.commit, number, acknowledged)

    def read(self, name: str) -> None:
        """A client's read at this node through the entry point."""
        server = self.nodes[name].server
        if server is not None and server.state is PgState.PRIMARY and not server.closed:
            delay = self.world.between(0.0002, 0.005)
            self.world.call(delay, server.proc, self.checker.read, server)

    def run(self, seconds: float, done: Callable[[], bool] | None = None) -> bool:
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
        return transcript(self.world.trace, *who)
