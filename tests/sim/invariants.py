"""What must hold at every moment. The checker sees everything and tells nobody."""

from typing import TYPE_CHECKING

from pgregent.core.effects import Announce
from pgregent.core.publish import serving
from pgregent.core.types import Incarnation, PgState, Register
from pgregent.core.view import State
from tests.sim.fake_postgres import Wal

if TYPE_CHECKING:
    from tests.sim.node import Node
    from tests.sim.world import World


STALE_SLACK = 1.0
"""Seconds beyond the lease after which a deposed primary must be gone."""


class Checker:
    """Collects what was acknowledged, who wrote and who was appointed."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.nodes: dict[str, Node] = {}
        self.violations: list[str] = []
        self.acked: dict[int, Wal] = {}
        self.late_acks = 0
        self.appointed: dict[int, Incarnation] = {}
        self.writers: dict[int, tuple[str, Incarnation]] = {}
        self.openings: list[tuple[float, int, str]] = []
        self.opened_logs: dict[int, tuple[int, set[int]]] = {}
        self.register: Register | None = None
        self.forgotten: Register | None = None
        """The newest register, while the DCS shows less."""
        self.ways: set[str] = set()
        self._now: dict[str, Incarnation] = {}
        self._before: dict[str, Incarnation] = {}
        """What each node was before its data directory was made anew."""
        self._open: dict[str, int] = {}
        self._thaws: dict[str, int] = {}
        self._writes = 0

    def broken(self, what: str) -> None:
        self.violations.append(what)
        self.world.say("CHECK", what)
        self.world.stop = True

    def new_write(self) -> int:
        self._writes += 1
        return self._writes

    # --- the register (S7) ---------------------------------------------------------------------

    def registered(self, old: Register | None, new: Register) -> None:
        """A CAS was stored."""
        before = (old.seq, old.round, old.term) if old else (0, 0, 0)
        forgotten, self.register = self.forgotten, new
        if forgotten is not None and new.term:
            self._written_again(forgotten, new)
        elif new.term and ((new.seq, new.round) < before[:2] or new.seq != before[0] + 1):
            self.broken(f"S7: the register went from {before} to {new}")
        if forgotten is None and new.term > before[2]:
            if new.term in self.appointed:
                self.broken(f"S7: term {new.term} was appointed twice")
            self.appointed[new.term] = new.primary
        elif forgotten is None and old and old.term and new.primary != old.primary:
            self.broken(f"S7: term {new.term} changed hands")
        rules = "; ".join(f"{r.writer.name}: {r}" for r in new.rules)
        state = "electing" if new.electing else f"primary {new.primary.label}"
        self.world.say(
            "dcs", f"seq {new.seq} round {new.round} term {new.term} {state}: {rules} ({new.why})"
        )

    def forgets(self) -> None:
        """The DCS shows less than it did."""
        if self.forgotten is None and self.register is not None and self.register.term:
            self.forgotten = self.register

    def _written_again(self, newest: Register, new: Register) -> None:
        """Newer than whatever anybody can have seen, and nobody is given an office by it."""
        self.forgotten = None
        created_again = newest.seq == new.seq == 2  # before its creator had heard of it
        if not created_again and min(new.seq - newest.seq, new.round - newest.round) < 2:
            self.broken(f"S7: written again as {new}, though {newest} had been seen")
        if self.appointed.get(new.term) != new.primary:
            self.broken(f"S7: {new.primary} was given term {new.term} by a restored register")

    # --- writes (S1, S2, S4, S5) ---------------------------------------------------------------

    def wrote(self, node: "Node", record: Wal) -> None:
        """A primary put a record into WAL."""
        who = (node.name, node.store.incarnation)
        first = self.writers.setdefault(record.timeline, who)
        if first != who:
            self.broken(f"S5: timeline {record.timeline} is written by {who}, before by {first}")
        appointed = self.appointed.get(record.timeline)
        if appointed is not None and appointed != who[1]:
            self.broken(f"S5: timeline {record.timeline} belongs to {appointed}, written by {who}")
        if appointed is None and record.timeline > 1:
            self.broken(f"S4: {who} writes timeline {record.timeline}, which nobody was given")

    def acknowledged(self, node: "Node", record: Wal) -> None:
        """A client was told that its commit is safe."""
        assert record.write is not None
        self.acked[record.write] = record
        for term, (_, log) in self.opened_logs.items():
            if term > record.timeline:
                self.late_acks += 1
                if record.write not in log:
                    self.broken(
                        f"S2: write {record.write} acknowledged on timeline {record.timeline} by "
                        f"{node.name} after term {term} had begun without it"
                    )

    def stepped(self, node: "Node", state: State) -> None:
        """After each step of a core."""
        if state.me != self._now.setdefault(node.name, state.me):
            self._before[node.name], self._now[node.name] = self._now[node.name], state.me
        register = state.register
        term = register.term if register is not None and serving(state) else 0
        if term and self._open.get(node.name) != term:
            self._opens(node, term)
        self._open[node.name] = term

    def _opens(self, node: "Node", term: int) -> None:
        self.openings.append((self.world.now, term, node.name))
        have = node.disk.writes()
        lost = {w for w, r in self.acked.items() if r.timeline <= term} - have
        if lost and not self._is_stale(term):
            self.broken(f"S1: {node.name} opens term {term} without the writes {sorted(lost)[:9]}")
        if term not in self.opened_logs:
            self.opened_logs[term] = (node.disk.end, have)
            after = node.settings.lease + STALE_SLACK
            self.world.call(after, None, self._deposed, term, dict(self._thaws))

    def thawed(self, node: "Node") -> None:
        """A frozen node goes on: what it does at once is not its fault."""
        self._thaws[node.name] = self._thaws.get(node.name, 0) + 1

    def _deposed(self, term: int, thaws: dict[str, int]) -> None:
        """A lease after the successor opened, nobody may be a primary of an earlier term."""
        for name, node in self.nodes.items():
            server = node.server
            if server is None or node.frozen or thaws.get(name) != self._thaws.get(name):
                continue
            if server.state is PgState.PRIMARY and server.timeline < term:
                self.broken(f"S6: {name} still runs as primary of term {server.timeline}")

    def _is_stale(self, term: int) -> bool:
        return self.register is not None and self.register.term > term

    # --- copies (S8) ---------------------------------------------------------------------------

    def destroyed(self, node: "Node", how: str) -> None:
        """A node is about to throw its log away."""
        self.ways.add(how)
        mine = node.disk.writes() & self.acked.keys()
        for other in self.nodes.values():
            if other is not node and other.disk.usable:
                mine -= other.disk.writes()
        before = self._before.get(node.name)
        rules = self.register.rules[:-1] if self.register else ()
        counted = [r for r in rules if before and before in (r.writer, *r.members)]
        if self.register and any(r.writer != self.register.primary for r in counted):
            self.broken(f"S8: the {how} of {node.name} destroys a log that {counted[0]} counts on")
        if mine:
            self.broken(
                f"S8: the {how} of {node.name} destroys the last copy of {sorted(mine)[:9]}"
            )

    def lost_disk(self, node: "Node") -> None:
        """A fault did it: then the schedule has to leave another copy."""

    def announced(self, node: "Node", effect: Announce) -> None:
        if effect.how:
            self.ways.add(effect.how)

    # --- the end -------------------------------------------------------------------------------

    def settled(self) -> str:
        """Empty when there is a serving primary and everybody else streams from it; else why."""
        register = self.register
        if register is None or register.electing or len(register.rules) != 1:
            return "the register is not settled"
        primary = self.nodes[register.primary.name]
        state = primary.agent.state if primary.agent else None
        if state is None or not serving(state) or state.register != register:
            return f"{primary.name} does not serve: {state.why if state else 'no agent'}"
        for node in self.nodes.values():
            if node is primary:
                continue
            receiver = node.server.receiver if node.server else None
            streams = receiver is not None and receiver.upstream is primary.server
            if not streams or not node.agent or node.agent.state.register != register:
                return f"{node.name} does not stream: {node.agent and node.agent.state.why}"
            if node.disk.end < primary.disk.end - 2000:
                return f"{node.name} is behind"
        wanted = min(primary.settings.nodes_wanted_k, len(self.nodes) - 1)
        if len(register.rule.members) != len(self.nodes) - 1 or register.rule.k < wanted:
            return f"the rule is {register.rule}"
        return ""

    def at_the_end(self) -> None:
        """S1 once more, on the primary that there is."""
        register = self.register
        assert register is not None
        lost = self.acked.keys() - self.nodes[register.primary.name].disk.writes()
        if lost:
            self.broken(f"S1: in the end {register.primary.name} lacks {sorted(lost)[:9]}")
