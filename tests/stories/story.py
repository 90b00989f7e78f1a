"""A story: a cluster in virtual time, faults by hand, and what its members have to say to it."""

import re
from collections.abc import Callable
from typing import Any

from pgregent.core.publish import serving
from pgregent.core.types import PgState, Register
from tests.sim.cluster import Cluster
from tests.sim.node import Node

ANNOUNCED = re.compile(r"\[(\w+)\] (.*)")


class Story:
    """Nodes n1, n2, …; n1 is primary of term 1 when it begins. Failing, it tells what happened."""

    def __init__(self, nodes: int = 3, *, seed: int = 1, clients: bool = True, **settings: Any):
        self.cluster = Cluster(f"story {seed}", nodes, **settings)
        self.world, self.dcs = self.cluster.world, self.cluster.dcs
        self.checker = self.cluster.checker
        self._mark = 0
        self.cluster.start(clients)
        self.well(20.0)
        # Within its startup_grace an agent does not take silence for evidence.
        self.run(4.0)
        self.chapter()

    def __getitem__(self, name: str) -> Node:
        return self.cluster[name]

    @property
    def register(self) -> Register:
        assert self.dcs.register is not None
        return self.dcs.register

    @property
    def now(self) -> float:
        return self.world.now

    def chapter(self) -> None:
        """What is expected from here on was announced from here on."""
        self._mark = len(self.world.trace)

    def run(self, seconds: float) -> None:
        self.cluster.run(seconds)
        self._nothing_broken()

    def until(self, what: str, done: Callable[[], bool], within: float) -> float:
        """Run until it is so; returns the seconds that it took."""
        began = self.now
        happened = done() or self.cluster.run(within, done)
        self._nothing_broken()
        assert happened, f"not within {within} s: {what}\n{self.transcript()}"
        return self.now - began

    def serves(self, name: str) -> bool:
        """Whether this member takes writes now."""
        agent, server = self[name].agent, self[name].server
        running = server is not None and server.state is PgState.PRIMARY
        return agent is not None and running and serving(agent.state)

    def primary_is(self, name: str, within: float) -> float:
        return self.until(f"{name} serves", lambda: self.serves(name), within)

    def acknowledges(self, name: str, within: float = 1.0) -> None:
        """A write begun now at this member is acknowledged in time."""
        told: list[bool] = []
        self.cluster.write(name, lambda: told.append(True))
        self.until(f"{name} acknowledges a write", lambda: bool(told), within)

    def never_acknowledges(self, name: str, for_seconds: float) -> None:
        told: list[bool] = []
        self.cluster.write(name, lambda: told.append(True))
        self.run(for_seconds)
        assert not told, f"{name} acknowledged a write\n{self.transcript()}"

    def rule(self) -> str:
        return "; ".join(str(rule) for rule in self.register.rules)

    def well(self, within: float = 30.0) -> None:
        """All is well in time: one primary, all stream, every acknowledged write is there."""
        problem = self.cluster.settle(within, steadily=0.5)
        self._nothing_broken()
        assert not problem, f"{problem}\n{self.transcript()}"
        self.checker.at_the_end()
        self._nothing_broken()

    def expect(self, *lines: str) -> None:
        """These were announced in this order ("n2 suspect"), whatever else was."""
        said = [
            (f"{who} {found[1]}", found[2])
            for _, who, what in self.world.trace[self._mark :]
            if (found := ANNOUNCED.match(what))
        ]
        at = 0
        for line in lines:
            while at < len(said) and said[at][0] != line:
                at += 1
            assert at < len(said), f"not announced: {line}\n{self.transcript()}"
            at += 1

    def silent(self, *events: str) -> None:
        """Nobody has announced any of these."""
        for _, who, what in self.world.trace[self._mark :]:
            found = ANNOUNCED.match(what)
            assert not found or found[1] not in events, f"{who} {what}\n{self.transcript()}"

    def block(self, kind: str, a: str, b: str) -> None:
        """Nothing gets through between these two ("peers", "sql" or "dcs"), either way."""
        self.world.net.blocked |= {(kind, a, b), (kind, b, a)}

    def isolate(self, name: str, *kinds: str) -> None:
        """Cut a member off from the other members, and for "dcs" from the DCS."""
        for kind in kinds or ("peers", "sql", "dcs"):
            for other in ["dcs"] if kind == "dcs" else [*self.cluster.nodes, *self.cluster.gates]:
                if other != name:
                    self.block(kind, name, other)

    def heal(self) -> None:
        self.world.net.blocked.clear()
        self.dcs.away = False

    def transcript(self) -> str:
        lines = self.world.trace[self._mark :]
        return "\n".join(f"{at:9.3f} {who:5} {what}" for at, who, what in lines)

    def _nothing_broken(self) -> None:
        assert not self.checker.violations, f"{self.checker.violations[0]}\n{self.transcript()}"
