"""What each node does by itself, as steps that can be taken now: follow, promote, reign, fail."""

from collections.abc import Iterator
from enum import Enum, auto

from election_state import (
    PRIMARY,
    STANDBY,
    Node,
    Register,
    Rule,
    State,
    acknowledge,
    cas,
    name,
    put,
    start,
    timeline,
)

Step = tuple[str, State]


class Mistake(Enum):
    """Each is planted at the line it would be made at; the model must notice."""

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
    HANDED_OVER_UNPROVEN = auto()
    SEAL_LIFTED_ON_A_TIMEOUT = auto()
    VOTES_OF_A_CANCELLED_ELECTION = auto()
    CHANGE_WITHOUT_VERSION = auto()
    START_WITHOUT_CAS = auto()  # none for S1 to S5: the tests say so


class Nodes:
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
        handovers: bool = False,
        ineligible: tuple[int, ...] = (),
    ) -> None:
        self.mistake = mistake
        self.terms = terms
        self.lost_replies = lost_replies
        self.handovers = handovers
        self.ineligible = ineligible
        self.initial = start(writes, recreations, changes)

    def both(self, label: str, s: State, new: Register, landed: State) -> Iterator[Step]:
        """A CAS lands at once, or its reply is lost and it may land later."""
        yield label, landed
        if self.lost_replies and s.slot is None:
            yield f"{label} (no reply)", s._replace(slot=new)

    # -- a standby ---------------------------------------------------------------------------

    def sees(self, s: State, i: int, n: Node) -> Iterator[Step]:
        """Fsync, then act on it. (Seeing an election is the seal: `votes`.)"""
        r = s.register
        told = n.role == STANDBY or (n.role == PRIMARY and n.names != r.rules[-1])
        if told and not n.current and not r.electing and r.term < self.terms:
            yield "sees the register", put(s, i, seen=r, current=True, lost=None)
        if self.mistake is Mistake.SEAL_LIFTED_ON_A_TIMEOUT and n.vote and n.seen.electing:
            yield "lifts its seal", put(s, i, seen=n.seen._replace(electing=False))

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
            if self.mistake is Mistake.CHANGE_WITHOUT_VERSION and self.is_in_office(n, n.seen):
                yield "writes what it has seen", cas(s, n.seen, i)
            return
        if r.electing:
            new = r._replace(electing=False)
            landed = cas(s, new, i)
            if self.mistake is Mistake.VOTES_OF_A_CANCELLED_ELECTION:
                kept = zip(landed.nodes, s.nodes, strict=True)
                landed = landed._replace(nodes=tuple(m._replace(vote=o.vote) for m, o in kept))
            yield from self.both("takes its office back", s, new, landed)
        through = not n.barrier or self.mistake is Mistake.NO_BARRIER
        if len(r.rules) > 1 and n.names == r.rules[-1] and through:
            new = r._replace(rules=r.rules[-1:])
            yield from self.both("drops the older rules", s, new, cas(s, new, i))
        streaming = tuple(m.incarnation for m in s.nodes if m.source == i)
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
