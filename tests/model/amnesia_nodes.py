"""What each node does while the DCS knows as much as it does, as steps that can be taken now."""

from collections.abc import Iterator
from enum import Enum, auto
from typing import Any

from amnesia_state import (
    ELSEWHERE,
    Node,
    Register,
    Rule,
    Slot,
    State,
    Vote,
    acknowledge,
    followers,
    is_in_office,
    name,
    put,
    put_dcs,
    seq_of,
    start,
    timeline,
)

Step = tuple[str, State]


class Mistake(Enum):
    """Each is planted at the line it would be made at; the model must notice."""

    NONE = auto()
    BY_ANYBODY = auto()
    ABSENT_NOT_COUNTED = auto()
    ELECTION_OVERWRITTEN = auto()
    HANDOVER_FORGOTTEN = auto()
    HEIR_AGREES = auto()
    LOST_DROP_FORGOTTEN = auto()
    ANY_COPY_AGREES = auto()
    SAME_SEQ_AGREES = auto()
    LOSS_SEEN_BY_ONE = auto()
    WORD_OF_BEFORE = auto()
    SAME_ROUND = auto()
    SAME_SEQ = auto()
    ANOTHER_CLUSTER_OVERWRITTEN = auto()
    BACKUP_OF_ANY_AGE = auto()  # of the operator: no rule of the protocol prevents it


class Nodes:
    """The protocol within bounds. `alone`: the first rule is k = 0; `blank`: so many members more
    have no data; `elsewhere`: node a may be pointed at another, empty DCS; `backups`: the DCS may
    be set back to one."""

    def __init__(
        self,
        mistake: Mistake = Mistake.NONE,
        *,
        nodes: int = 3,
        blank: int = 0,
        terms: int = 2,
        losses: int = 1,
        writes: int = 0,
        changes: int = 0,
        alone: bool = False,
        lost_replies: bool = False,
        handovers: bool = False,
        elsewhere: bool = False,
        backups: bool = False,
        gap: int = 1,
    ) -> None:
        self.mistake = mistake
        self.terms = terms
        self.lost_replies = lost_replies
        self.handovers = handovers
        self.elsewhere = elsewhere
        self.backups = backups
        self.gap = gap
        initial = start(nodes, blank, alone)
        self.initial = initial._replace(losses=losses, writes=writes, changes=changes)

    # -- compare and swap --------------------------------------------------------------------

    def cas(
        self,
        label: str,
        s: State,
        i: int,
        new: Register,
        *,
        anew: bool = False,
        then: dict[str, Any] | None = None,
    ) -> Iterator[Step]:
        """From the register that node i has seen; `anew`: from whatever the DCS shows. It lands,
        or its reply is lost: then it lands later or never, and i does not know."""
        n = s.nodes[i]
        expected = s.dcs[n.where]
        if self.mistake is Mistake.SAME_SEQ:
            anew = anew or seq_of(expected) == seq_of(n.seen)
        if not anew and expected != n.seen:
            return
        landed = self.landed(s, expected, new, n.where)
        yield label, self.moved(put(landed, i, seen=new, heir=-1, **(then or {})), i)
        if self.lost_replies and s.slot is None:
            yield f"{label} (no reply)", s._replace(slot=Slot(expected, new, n.where))

    @staticmethod
    def life(s: State, n: Node) -> int:
        return s.life + n.where * ELSEWHERE

    def landed(self, s: State, expected: Register | None, new: Register, where: int) -> State:
        shown = s.dcs[where]
        assert shown == expected
        s = put_dcs(s, where, new)
        if s.slot and s.slot.where == where:
            s = s._replace(slot=None)
        if shown and shown.term and shown.cluster != new.cluster:
            s = s._replace(flaw="S7: another cluster's register is overwritten")
        return s._replace(votes=frozenset(v for v in s.votes if v.round >= new.round))

    @staticmethod
    def moved(s: State, i: int) -> State:
        """Whatever node i changed may let commits through."""
        for j, p in enumerate(s.nodes):
            if p.names and (j == i or s.nodes[i].seen):
                s = acknowledge(s, j)
        return s

    # -- what it sees ------------------------------------------------------------------------

    def sees(self, s: State, i: int, n: Node) -> Iterator[Step]:
        """A newer register, in the DCS or at a peer: fsync, then act on it."""
        if self.elsewhere and i == 0 and n.where == 0:
            yield "is pointed at another DCS", put(s, i, where=1)
        known = {r for r in (s.dcs[n.where], *(m.seen for m in s.nodes)) if r}
        for r in known:
            if r.seq <= seq_of(n.seen) or (n.seen and n.seen.cluster not in (0, r.cluster)):
                continue
            if r.electing and r.primary == n.incarnation and n.names:
                yield "sees an election against it", put(s, i, seen=r, heir=-1)
            yield from self.turns(s, i, n, r)
        if n.seen and n.seen.electing and n.names:
            yield from self.turns(s, i, n, n.seen)

    def turns(self, s: State, i: int, n: Node, r: Register) -> Iterator[Step]:
        """Seal and vote; or follow; or hold the office."""
        names = n.names if r.primary == n.incarnation and r.term == timeline(n.log) else None
        if r.electing:
            after = put(s, i, seen=r, heir=-1, names=None, barrier=0)
            at = timeline(n.log), len(n.log)
            vote = Vote(n.incarnation, r.round, *at, r.cluster, r.life)
            if n.log:
                after = after._replace(votes=after.votes | {vote})
            yield "seals and votes", after
        elif names:
            yield "sees the register", put(s, i, seen=r, heir=-1)
        else:
            after = put(s, i, seen=r, heir=-1, names=None, barrier=0)
            yield "sees the register", self.moved(after, i)

    # -- logs --------------------------------------------------------------------------------

    def streams(self, s: State, i: int, n: Node) -> Iterator[Step]:
        for j, p in enumerate(s.nodes):
            r = n.seen
            clones = r and not n.log and r.primary == p.incarnation and is_in_office(p)
            if p.names and n.log != p.log and (clones or n in followers(s, j)):
                yield f"streams from {name(p.incarnation)}", self.moved(put(s, i, log=p.log), i)

    def promotes(self, s: State, i: int, n: Node) -> Iterator[Step]:
        r = n.seen
        if r is None or r.electing or r.primary != n.incarnation or not n.log or n.names:
            return
        if timeline(n.log) < r.term:
            log = (*n.log, 100 * r.cluster + 10 * r.term)
            after = put(s, i, log=log, names=r.rules[-1], barrier=len(log))
            yield f"is promoted to timeline {r.term}", self.moved(after, i)

    def writes(self, s: State, i: int, n: Node) -> Iterator[Step]:
        if n.names and s.writes:
            after = put(s, i, log=(*n.log, n.log[-1] + 1))._replace(writes=s.writes - 1)
            yield f"writes {n.log[-1] + 1}", self.moved(after, i)

    # -- a primary ---------------------------------------------------------------------------

    def reigns(self, s: State, i: int, n: Node) -> Iterator[Step]:
        """Cancel an election; change the rule: CAS, names, barrier, CAS."""
        r = n.seen
        if not n.names or r is None or not is_in_office(n):
            return
        following = r._replace(seq=r.seq + 1, electing=False, life=self.life(s, n))
        if r.electing:
            yield from self.cas("takes its office back", s, i, following)
            return
        if n.names != r.rules[-1]:
            after = put(s, i, names=r.rules[-1], barrier=len(n.log))
            yield "applies its names", self.moved(after, i)
        elif len(r.rules) > 1 and not n.barrier:
            new = following._replace(rules=r.rules[-1:])
            yield from self.cas("drops the older rules", s, i, new)
        if s.changes and len(r.rules) == 1:
            streaming = tuple(sorted(m.incarnation for m in followers(s, i)))
            sets = (streaming, *((m,) for m in streaming if len(streaming) > 1))
            for rule in (Rule(n.incarnation, 0), *(Rule(n.incarnation, 1, m) for m in sets if m)):
                new = following._replace(rules=(*r.rules, rule))
                spent = s._replace(changes=s.changes - 1)
                label = f"appends {rule.k} of {'+'.join(map(name, rule.members))}"
                if rule != r.rules[0]:
                    yield from self.cas(label, spent, i, new)

    def starts(self, s: State, i: int, n: Node) -> Iterator[Step]:
        """The office-holder comes back: a CAS of its own first."""
        r = n.seen
        if r is None or n.names or r.electing or not is_in_office(n):
            return
        new = r._replace(seq=r.seq + 1, life=self.life(s, n))
        reign = {"names": r.rules[-1], "barrier": len(n.log)}
        yield from self.cas("starts as primary after its CAS", s, i, new, then=reign)

    def fails(self, s: State, i: int, n: Node) -> Iterator[Step]:
        """SIGKILL, or it stops: what streamed from it stops too."""
        if n.names:
            yield "stops", put(s, i, names=None, barrier=0)
