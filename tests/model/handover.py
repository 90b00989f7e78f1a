"""A primary that hands its office over, as a definition that can be run; the rest is quorum.py.

It stops its server, proves that a member of the rule has the shutdown checkpoint, the last record
of its log, and makes the appointment by CAS, without an election. The reply may be lost: then it
does not know whether it is still the primary, and only a CAS of its own tells.
"""

from collections.abc import Iterator
from enum import Enum, auto
from typing import Any

import quorum
from quorum import Quorum, Step
from quorum_state import Node, Rule, State, cas, put, show, timeline


class Mistake(Enum):
    """Each is planted at the line it would be made at; the model must notice."""

    NONE = auto()
    HANDED_OVER_UNPROVEN = auto()
    CHECKPOINT_OF_A_SERVER_STOPPED_IN_RECOVERY = auto()
    CAS_BEFORE_STOP = auto()
    STARTED_WITHOUT_CAS_AFTER_AN_UNKNOWN_ONE = auto()
    RULES_REPLACED_AT_HANDOVER = auto()
    CAS_WITHOUT_VERSION = auto()


class Handover(Quorum):
    """Everything that anybody can do; `stops`: so often a primary stops to hand over."""

    def __init__(self, wrong: Mistake = Mistake.NONE, *, stops: int = 1, **bounds: Any) -> None:
        super().__init__(quorum.Mistake.NONE, **bounds)
        self.wrong = wrong
        self.initial = self.initial._replace(stops=stops)

    def _actions(self, s: State) -> Iterator[Step]:
        yield from super()._actions(s)
        if s.slot and s.term < self.terms:
            yield "the handover without a reply lands", self.appointed(s, s.slot)
        for i, n in enumerate(s.nodes):
            yield from self.stops(s, i, n)
            if s.term < self.terms and self.may_hand_over(s, i, n):
                yield from self.hands_over(s, i, n)

    def stops(self, s: State, i: int, n: Node) -> Iterator[Step]:
        """A fast stop: sessions end, then the shutdown checkpoint. Walsenders go last: who streams
        may get all of it, or a part."""
        if n.names and s.stops:
            log = (*n.log, n.log[-1] + 1)
            after = put(s, i, names=None, barrier=0, closed=True, log=log)
            yield f"{show(s, i)} stops for good", after._replace(stops=s.stops - 1)
        for j, m in enumerate(s.nodes):
            streams = m.names is None and m.follows == timeline(n.log) and i != j
            if n.closed and streams and m.log == n.log[: len(m.log)] and m.log != n.log:
                after = put(s, j, log=n.log[: len(m.log) + 1])
                yield f"{show(s, j)} streams the rest", after

    def may_hand_over(self, s: State, i: int, n: Node) -> bool:
        """In office, it was promoted, and it has stopped with a shutdown checkpoint."""
        if i != s.primary and self.wrong is not Mistake.CAS_WITHOUT_VERSION:
            return False
        if timeline(n.log) < s.term and self.wrong is not Mistake.CAS_WITHOUT_VERSION:
            return False
        if n.names:
            return self.wrong is Mistake.CAS_BEFORE_STOP
        recovery = self.wrong is Mistake.CHECKPOINT_OF_A_SERVER_STOPPED_IN_RECOVERY
        return n.closed or (recovery and timeline(n.log) == s.term)

    def hands_over(self, s: State, i: int, n: Node) -> Iterator[Step]:
        """The old rules stay until the heir's barrier."""
        rule = s.rules[-1]
        for w in sorted(rule.members):
            if not self.proven(s.nodes[w], n):
                continue
            others = rule.members - {w}
            new = Rule(w, min(self.k, len(others)), others)
            label = f"{show(s, i)} hands over to {show(s, w)}"
            yield label, self.appointed(s, new)
            if s.slot is None:
                yield f"{label} (no reply)", s._replace(slot=new)

    def proven(self, heir: Node, n: Node) -> bool:
        """Whether the heir has replayed the last record."""
        if self.wrong is Mistake.HANDED_OVER_UNPROVEN:
            return True
        if not n.closed and not n.names:
            # The control file shows a checkpoint of some time before.
            return timeline(heir.log) == timeline(n.log)
        return heir.log == n.log

    def appointed(self, s: State, rule: Rule) -> State:
        rules = (*s.rules, rule)
        if self.wrong is Mistake.RULES_REPLACED_AT_HANDOVER:
            rules = (rule,)
        return cas(s, term=s.term + 1, primary=rule.writer, rules=rules)

    def takes_office(self, s: State, i: int, n: Node) -> Iterator[Step]:
        """Also a primary that stopped to hand over and gave up: its CAS settles the lost one."""
        for label, after in super().takes_office(s, i, n):
            if self.wrong is Mistake.STARTED_WITHOUT_CAS_AFTER_AN_UNKNOWN_ONE:
                after = after._replace(slot=s.slot)
            yield label, after
