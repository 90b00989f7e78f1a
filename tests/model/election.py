"""The election as a definition that can be run; its state and what it leaves out: cluster.py.

Every method yields the steps that can be taken now. A mistake is planted at the line it would be
made at.
"""

from collections.abc import Iterator
from enum import Enum, auto

from cluster import (
    PRIMARY,
    STANDBY,
    Node,
    Register,
    Rule,
    State,
    Vote,
    acknowledge,
    cas,
    name,
    put,
    start,
    timeline,
)

Step = tuple[str, State]


class Mistake(Enum):
    """Each breaks the protocol; the tests demand that the model notices."""

    NONE = auto()
    SEAL_NOT_FSYNCED = auto()
    VOTE_BEFORE_WALRECEIVER_GONE = auto()
    NO_BARRIER = auto()
    RULES_REPLACED_AT_APPOINTMENT = auto()
    TERM_BLIND = auto()
    ONE_SEAL_TOO_FEW = auto()
    INELIGIBLE_SKIPPED = auto()
    PROMOTION_NOT_STOPPED = auto()
    VOTES_COUNTED_BY_NAME = auto()
    OFFICE_BY_NAME = auto()
    RULE_OF_STRANGERS = auto()
    START_WITHOUT_CAS = auto()


class Election:
    """The protocol within bounds. `ineligible` are names (0, 1, 2) that are never appointed.

    Who is appointed in the last term is not followed further: that nothing is missing there is
    checked at once.
    """

    def __init__(
        self,
        mistake: Mistake = Mistake.NONE,
        *,
        terms: int = 3,
        writes: int = 1,
        recreations: int = 0,
        changes: int = 0,
        lost_replies: bool = False,
        ineligible: tuple[int, ...] = (),
    ) -> None:
        self.mistake = mistake
        self.terms = terms
        self.lost_replies = lost_replies
        self.ineligible = ineligible
        self.initial = start(writes, recreations, changes)

    def actions(self, s: State) -> Iterator[Step]:
        yield from self.begins(s)
        yield from self.appoints(s)
        if s.slot:
            yield "the CAS without a reply lands", cas(s, s.slot)
        parts = (self.sees, self.votes, self.streams, self.promotes, self.reigns, self.starts,
                 self.writes, self.fails, self.made_anew)  # fmt: skip
        for i, n in enumerate(s.nodes):
            for part in parts:
                for label, after in part(s, i, n):
                    yield f"{name(n.incarnation)} {label}", after

    def both(self, label: str, s: State, new: Register, landed: State) -> Iterator[Step]:
        """A CAS lands at once, or its reply is lost and it may land later."""
        yield label, landed
        if self.lost_replies and s.slot is None:
            yield f"{label} (no reply)", s._replace(slot=new)

    # -- an election -------------------------------------------------------------------------

    def begins(self, s: State) -> Iterator[Step]:
        """CAS round + 1, electing: by anybody, at any time, also while another election runs."""
        again = not s.register.electing or any(n.vote for n in s.nodes)
        if again and s.register.term < self.terms:
            begun = cas(s, s.register._replace(electing=True))
            nodes = tuple(n._replace(vote=None) for n in begun.nodes)
            yield "an election begins", begun._replace(nodes=nodes)

    def votes(self, s: State, i: int, n: Node) -> Iterator[Step]:
        """Seal (fsync), walreceiver gone, vote.

        Whoever was primary or ever asked for promotion stops PostgreSQL first, comes back as a
        standby without the request, and votes with what is on its disk.
        """
        if not s.register.electing or (n.vote and n.current):
            return
        lost, role, names, source = None, STANDBY, None, -1
        if self.mistake is Mistake.SEAL_NOT_FSYNCED:
            lost = n.lost or n.seen
        if self.mistake is Mistake.PROMOTION_NOT_STOPPED and n.role != PRIMARY:
            role, names = n.role, n.names
        if self.mistake is Mistake.VOTE_BEFORE_WALRECEIVER_GONE:
            source = n.source
        vote = Vote(n.incarnation, timeline(n.log), len(n.log))
        yield f"seals and votes {vote.timeline}/{vote.lsn}", put(
            s, i, seen=s.register, current=True, lost=lost, role=role, names=names, barrier=0,
            source=source, vote=vote,
        )  # fmt: skip

    def appoints(self, s: State) -> Iterator[Step]:
        """By anybody who sees enough votes: there is no candidate to die."""
        r = s.register
        votes = [n.vote for n in s.nodes if n.vote and r.electing]
        for w in votes:
            if w.incarnation % 10 in self.ineligible:
                continue
            voters = [v for v in votes if self.covers(w, v)]
            if not all(self.satisfied(rule, voters) for rule in r.rules):
                continue
            others = tuple(v.incarnation for v in votes if v is not w) or tuple(
                n.incarnation for n in s.nodes if n.incarnation % 10 != w.incarnation % 10
            )
            rules = (*r.rules, Rule(w.incarnation, 1, others))
            if self.mistake is Mistake.RULES_REPLACED_AT_APPOINTMENT:
                rules = rules[-1:]
            new = Register(r.term + 1, w.incarnation, rules, False)
            label = f"{name(w.incarnation)} is appointed, members {'+'.join(map(name, others))}"
            yield from self.both(label, s, new, cas(s, new))

    def covers(self, w: Vote, v: Vote) -> bool:
        if self.mistake is Mistake.TERM_BLIND:
            return w.lsn >= v.lsn
        if self.mistake is Mistake.INELIGIBLE_SKIPPED and v.incarnation % 10 in self.ineligible:
            return True
        return (w.timeline, w.lsn) >= (v.timeline, v.lsn)

    def satisfied(self, rule: Rule, voters: list[Vote]) -> bool:
        """The voters hold everything that may have been acknowledged under `rule`."""
        by_name = self.mistake is Mistake.VOTES_COUNTED_BY_NAME
        ids = {v.incarnation % 10 if by_name else v.incarnation for v in voters}
        writer, *members = (
            m % 10 if by_name else m for m in (rule.writer, *rule.members)
        )
        needed = len(members) - rule.k + 1
        if self.mistake is Mistake.ONE_SEAL_TOO_FEW:
            needed -= 1
        return writer in ids or sum(m in ids for m in members) >= needed

    # -- a standby ---------------------------------------------------------------------------

    def sees(self, s: State, i: int, n: Node) -> Iterator[Step]:
        """Fsync, then act on it. (Seeing an election is the seal: `votes`.)"""
        r = s.register
        told = n.role == STANDBY or (n.role == PRIMARY and n.names != r.rules[-1])
        if told and not n.current and not r.electing and r.term < self.terms:
            yield "sees the register", put(s, i, seen=r, current=True, lost=None)

    def streams(self, s: State, i: int, n: Node) -> Iterator[Step]:
        """A walreceiver goes on until it is gone; a new one follows the newest register seen."""
        if n.role != STANDBY:
            return
        if n.source >= 0:
            theirs = s.nodes[n.source].log
            if len(n.log) < len(theirs):
                after = put(s, i, log=theirs[: len(n.log) + 1])
                yield f"streams {theirs[len(n.log)]}", acknowledge(after, n.source)
        for j, p in enumerate(s.nodes):
            rightful = self.is_in_office(p, n.seen) and timeline(p.log) == n.seen.term
            follows = p.log[: len(n.log)] == n.log and n.source != j
            if p.role == PRIMARY and rightful and follows and not n.seen.electing:
                after = acknowledge(put(s, i, source=j), j)
                yield f"connects to {name(p.incarnation)}", after

    def promotes(self, s: State, i: int, n: Node) -> Iterator[Step]:
        """Asking cannot be recalled: it is done any time later, or never if PostgreSQL stops."""
        due = timeline(n.log) < n.seen.term < self.terms and not n.seen.electing
        if n.role == STANDBY and due and self.is_in_office(n, n.seen):
            asked = put(s, i, role=n.seen.term, names=n.seen.rules[-1], source=-1)
            yield "asks for promotion", asked
        if n.role > 0:
            log = (*n.log, 10 * n.role)
            done = put(s, i, role=PRIMARY, log=log, barrier=len(log), source=-1)
            yield f"is promoted to timeline {n.role}", done

    # -- a primary ---------------------------------------------------------------------------

    def is_in_office(self, n: Node, r: Register) -> bool:
        if self.mistake is Mistake.OFFICE_BY_NAME:
            return n.incarnation % 10 == r.primary % 10
        return n.incarnation == r.primary

    def reigns(self, s: State, i: int, n: Node) -> Iterator[Step]:
        """Cancel an election; change the rule: CAS, names, barrier, CAS."""
        r = s.register
        if n.role != PRIMARY:
            return
        if self.is_in_office(n, n.seen) and n.names != n.seen.rules[-1] and not n.seen.electing:
            after = put(s, i, names=n.seen.rules[-1], barrier=len(n.log))
            yield "applies its names", acknowledge(after, i)
        if not self.is_in_office(n, r):
            return
        if r.electing:
            new = r._replace(electing=False)
            yield from self.both("takes its office back", s, new, cas(s, new, i))
        through = not n.barrier or self.mistake is Mistake.NO_BARRIER
        if len(r.rules) > 1 and n.names == r.rules[-1] and through:
            new = r._replace(rules=r.rules[-1:])
            yield from self.both("drops the older rules", s, new, cas(s, new, i))
        streaming = tuple(m.incarnation for m in s.nodes if m.source == i)
        if self.mistake is Mistake.RULE_OF_STRANGERS:
            streaming = tuple(m.incarnation for j, m in enumerate(s.nodes) if j != i)
        rule = Rule(n.incarnation, 1, streaming)
        if s.changes and len(r.rules) == 1 and streaming and rule != r.rules[0]:
            new = r._replace(rules=(*r.rules, rule))
            spent = s._replace(changes=s.changes - 1)
            label = f"appends members {'+'.join(map(name, streaming))}"
            yield from self.both(label, spent, new, cas(spent, new, i))

    def starts(self, s: State, i: int, n: Node) -> Iterator[Step]:
        """The office-holder comes back: a CAS of its own first, names from what it wrote."""
        r = s.register
        if n.role != STANDBY:
            return
        reign = {"role": PRIMARY, "barrier": len(n.log), "source": -1}
        if self.is_in_office(n, r) and timeline(n.log) == r.term:
            new = r._replace(electing=False)
            landed = cas(s, new, i, names=r.rules[-1], **reign)
            yield from self.both("starts as primary after its CAS", s, new, landed)
        known = self.is_in_office(n, n.seen) and timeline(n.log) == n.seen.term
        if self.mistake is Mistake.START_WITHOUT_CAS and known and not n.seen.electing:
            yield "starts as primary", put(s, i, names=n.seen.rules[-1], **reign)

    def writes(self, s: State, i: int, n: Node) -> Iterator[Step]:
        if n.role == PRIMARY and s.writes:
            entry = n.log[-1] + 1
            after = put(s, i, log=(*n.log, entry))
            yield f"writes {entry}", after._replace(writes=s.writes - 1)

    # -- faults ------------------------------------------------------------------------------

    def fails(self, s: State, i: int, n: Node) -> Iterator[Step]:
        """SIGKILL: names and the request for promotion are gone; a standby only reconnects."""
        gone = {"role": STANDBY, "names": None, "barrier": 0, "source": -1}
        if n.lost:
            yield "crashes", put(s, i, seen=n.lost, current=False, lost=None, **gone)
        elif n.role != STANDBY:
            yield "crashes", put(s, i, **gone)

    def made_anew(self, s: State, i: int, n: Node) -> Iterator[Step]:
        """Cloned or rewound at any time, from any primary: the same name, a new incarnation."""
        for j, p in enumerate(s.nodes):
            if s.recreations and p.role == PRIMARY and i != j:
                after = put(
                    s, i, incarnation=n.incarnation + 10, log=p.log, seen=s.register,
                    current=True, lost=None, role=STANDBY, names=None, barrier=0, source=-1,
                )  # fmt: skip
                label = f"is made anew from {name(p.incarnation)}"
                yield label, after._replace(recreations=s.recreations - 1)
