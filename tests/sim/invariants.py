"""What must hold at every moment. The checker sees everything and tells nobody."""

from typing import TYPE_CHECKING

from pgregent.core.effects import Announce
from pgregent.core.publish import serving
from pgregent.core.types import Incarnation, PgState, Register
from pgregent.core.view import State
from tests.sim.fake_postgres import Server
from tests.sim.fake_wal import Wal, holds

if TYPE_CHECKING:
    from tests.sim.node import Node
    from tests.sim.world import World


STALE_SLACK = 0.25
"""Seconds beyond the lease after which a deposed primary must be gone: until the guard has killed
it, and for clocks that drift."""
STALE_ROUTE = 3.5
"""Seconds beyond the lease after which the entry point must not route to it any more."""
TOLD_WHY_AFTER = 5.0
"""Seconds after its start from which an agent has to have something better to say than that."""


class Checker:
    """Collects what was acknowledged, who wrote and who was appointed."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.nodes: dict[str, Node] = {}
        self.violations: list[str] = []
        self.acked = 0
        self.newest_acked: dict[int, Wal] = {}
        """By timeline; a log that has a record has all before it."""
        self.read_records: dict[int, Wal] = {}
        """The newest that was read at the entry point, by timeline."""
        self.late_acks = 0
        self.appointed: dict[int, Incarnation] = {}
        self.writers: dict[int, tuple[str, Incarnation]] = {}
        self.openings: list[tuple[float, int, str]] = []
        self.opened_logs: dict[int, tuple[list[Wal], int]] = {}
        self.opened_at: dict[int, float] = {}
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
        elif new.released:
            pass
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
        # The same once more says nothing else, whoever saw it before.
        if (
            new != newest
            and not created_again
            and min(new.seq - newest.seq, new.round - newest.round) < 2
        ):
            self.broken(f"S7: written again as {new}, though {newest} had been seen")
        if self.appointed.get(new.term) != new.primary:
            self.broken(f"S7: {new.primary} was given term {new.term} by a restored register")

    # --- writes (S1, S2, S4, S5) ---------------------------------------------------------------

    def wrote(self, node: "Node", record: Wal) -> None:
        """A primary put a record into WAL."""
        if self._by_hand(node, record) or self._of_another_cluster(node):
            return
        self._sealed(node, "wrote")
        who = (node.name, node.store.incarnation)
        first = self.writers.setdefault(record.timeline, who)
        if first != who:
            self.broken(f"S5: timeline {record.timeline} is written by {who}, before by {first}")
        appointed = self.appointed.get(record.timeline)
        if appointed is not None and appointed != who[1]:
            self.broken(f"S5: timeline {record.timeline} belongs to {appointed}, written by {who}")
        if appointed is None and record.timeline > 1:
            self.broken(f"S4: {who} writes timeline {record.timeline}, which nobody was given")

    def _of_another_cluster(self, node: "Node") -> bool:
        """Whether its directory is one that it was creating a cluster with while those who know one
        were down: a server that starts writes, before anybody is let in."""
        register = self.forgotten or self.register
        ours = register.system_id if register is not None else ""
        return (
            bool(ours)
            and node.disk.system_id != ours
            and node.server is not None
            and node.server.closed
        )

    def _by_hand(self, node: "Node", record: Wal) -> bool:
        """Whether somebody promoted its server, and nobody appointed it for this timeline."""
        by_hand = node.server is not None and node.server.by_hand
        return by_hand and self.appointed.get(record.timeline) != node.store.incarnation

    def acknowledged(self, node: "Node", record: Wal) -> None:
        """A client was told that its commit is safe."""
        self.acked += 1
        if self._by_hand(node, record):
            self.broken(f"S2: {node.name}, promoted by hand, acknowledged a commit")
        before = self.newest_acked.get(record.timeline)
        if before is None or before.lsn < record.lsn:
            self.newest_acked[record.timeline] = record
        for term, (log, count) in self.opened_logs.items():
            if term > record.timeline:
                self.late_acks += 1
                if not holds(log, count, record):
                    self.broken(
                        f"S2: write {record.write} acknowledged on timeline {record.timeline} by "
                        f"{node.name} after term {term} had begun without it"
                    )

    def read(self, server: Server) -> None:
        """A client read here, having come through the entry point: it saw this, and all before."""
        record = server.seen
        if record is None or server.state is not PgState.PRIMARY:
            return
        before = self.read_records.get(record.timeline)
        if before is None or before.lsn < record.lsn:
            self.read_records[record.timeline] = record
            for term, (log, count) in self.opened_logs.items():
                if term > record.timeline and not holds(log, count, record):
                    self.broken(
                        f"S3: what was read on timeline {record.timeline} at {server.node.name} is "
                        f"not in term {term}, which had begun"
                    )

    def received(self, node: "Node") -> None:
        """WAL was flushed on a standby: not on one that has voted, until its seal is lifted."""
        self._sealed(node, "took")

    def _sealed(self, node: "Node", did: str) -> None:
        state = node.agent.state if node.agent is not None else None
        if node.server is not None and node.server.by_hand:
            return  # Its agent promised nothing of what others do to its server.
        if state is not None and state.vote is not None:
            register = state.register
            if register is not None and register.electing and state.vote.round == register.round:
                self.broken(f"S4: {node.name} {did} WAL after its vote in round {register.round}")

    def routed(self, term: int) -> None:
        """The entry point leads a client to this term's primary."""
        newest = max(self.opened_at, default=0)
        if term >= newest:
            return
        lease = max(node.settings.lease for node in self.nodes.values())
        if self.world.now - self.opened_at[newest] > lease + STALE_ROUTE:
            self.broken(f"S6: routed to term {term} long after term {newest} had opened")

    def stepped(self, node: "Node", state: State) -> None:
        """After each step of a core."""
        if not state.why or (
            state.why == "starting" and state.now - state.started_at > TOLD_WHY_AFTER
        ):
            self.broken(f"L3: {node.name} gives no reason for {state.postgres.state.value}")
        if state.me != self._now.setdefault(node.name, state.me):
            self._before[node.name], self._now[node.name] = self._now[node.name], state.me
        register = state.register
        term = register.term if register is not None and serving(state) else 0
        server = node.server
        if server is None or server.state is not PgState.PRIMARY:
            # It has not heard yet that its server ended: nobody can be served by that.
            term = 0
        if term and self._open.get(node.name) != term:
            self._opens(node, term)
        self._open[node.name] = term

    def _opens(self, node: "Node", term: int) -> None:
        self.openings.append((self.world.now, term, node.name))
        if not self._is_stale(term):
            if lost := self._missing(node, self.newest_acked, term):
                self.broken(f"S1: {node.name} opens term {term} without the acknowledged {lost}")
            if lost := self._missing(node, self.read_records, term):
                self.broken(f"S3: {node.name} opens term {term} without {lost}, which was read")
        if term not in self.opened_logs:
            self.opened_logs[term] = (node.disk.log, len(node.disk.log))
            self.opened_at[term] = self.world.now
            after = node.settings.lease + STALE_SLACK
            self.world.call(after, None, self._deposed, term, dict(self._thaws))

    @staticmethod
    def _missing(node: "Node", records: dict[int, Wal], term: int) -> str:
        """Which of these a node's log lacks of the terms up to this one; empty: none."""
        log = node.disk.log
        return ", ".join(
            f"write {r.write} on timeline {t}"
            for t, r in records.items()
            if t <= term and not holds(log, len(log), r)
        )

    def thawed(self, node: "Node") -> None:
        """A frozen node goes on: what it does at once is not its fault."""
        self._thaws[node.name] = self._thaws.get(node.name, 0) + 1

    def _deposed(self, term: int, thaws: dict[str, int]) -> None:
        """A lease after the successor opened, nobody may be a primary of an earlier term."""
        for name, node in self.nodes.items():
            server = node.server
            if server is None or node.frozen or node.guard is None or server.by_hand:
                continue
            if thaws.get(name) != self._thaws.get(name):
                continue
            if server.state is PgState.PRIMARY and server.timeline < term:
                self.broken(f"S6: {name} still runs as primary of term {server.timeline}")

    def _is_stale(self, term: int) -> bool:
        return self.register is not None and self.register.term > term

    # --- copies (S8) ---------------------------------------------------------------------------

    def destroyed(self, node: "Node", how: str) -> None:
        """A node is about to throw its log away."""
        self.ways.add(how)
        others = [n.disk.log for n in self.nodes.values() if n is not node and n.disk.usable]
        log = node.disk.log
        mine = [
            r.write
            for r in self.newest_acked.values()
            if holds(log, len(log), r) and not any(holds(o, len(o), r) for o in others)
        ]
        before = self._before.get(node.name)
        rules = self.register.rules[:-1] if self.register else ()
        counted = [r for r in rules if before and before in (r.writer, *r.members)]
        if self.register and any(r.writer != self.register.primary for r in counted):
            self.broken(f"S8: the {how} of {node.name} destroys a log that {counted[0]} counts on")
        if mine:
            self.broken(f"S8: the {how} of {node.name} destroys the last copy of the writes {mine}")

    def announced(self, node: "Node", effect: Announce) -> None:
        if effect.how:
            self.ways.add(effect.how)

    # --- the end -------------------------------------------------------------------------------

    def settled(self) -> str:
        """Empty when there is a serving primary and everybody else streams from it; else why."""
        register = self.register
        if register is None or register.electing or len(register.rules) != 1:
            return "the register is not settled"
        if self.forgotten is not None:
            return "the register is lost"
        primary = self.nodes[register.primary.name]
        state = primary.agent.state if primary.agent else None
        if state is None or not serving(state) or state.register != register:
            return f"{primary.name} does not serve: {state.why if state else 'no agent'}"
        server = primary.server
        if server is None or server.closed:
            return f"{primary.name} lets no clients in"
        expected = [node for node in self.nodes.values() if node.expected]
        for node in expected:
            if node is primary:
                continue
            receiver = node.server.receiver if node.server else None
            streams = receiver is not None and receiver.upstream is server
            past_fork = receiver is not None and receiver.timeline != server.timeline
            if not streams or past_fork or not node.agent or node.agent.state.register != register:
                return f"{node.name} does not stream: {node.agent and node.agent.state.why}"
            if node.disk.end < primary.disk.end - 2000:
                return f"{node.name} is behind"
        may = sum(not n.settings.nosync for n in expected if n is not primary)
        wanted = min(primary.settings.nodes_wanted_k, may)
        if register.rule.k != wanted or len(register.rule.members) != (may if wanted else 0):
            return f"the rule is {register.rule}"
        return self._reasons(register, expected)

    @staticmethod
    def _reasons(register: Register, expected: list["Node"]) -> str:
        """L3: what each says of itself is so, now that all is well."""
        name, term = register.primary.name, register.term
        for node in expected:
            why = node.agent.state.why if node.agent else ""
            begins = f"streaming from {name} in term {term}"
            if node.name == name:
                begins = f"primary of term {term}, acknowledging under {register.rule}"
            if not why.startswith(begins):
                return f"L3: {node.name} says {why!r}, not {begins!r}"
        return ""

    def at_the_end(self) -> None:
        """S1 once more, on the primary that there is."""
        register = self.register
        assert register is not None
        node = self.nodes[register.primary.name]
        if lost := self._missing(node, self.newest_acked, register.term):
            self.broken(f"S1: in the end {node.name} lacks the acknowledged {lost}")
        if lost := self._missing(node, self.read_records, register.term):
            self.broken(f"S3: in the end {node.name} lacks {lost}, which was read")
