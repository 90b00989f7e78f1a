"""The election, as a definition that can be run; its state and limits: election_state.py.

Every method yields the steps that can be taken now, each with what the cluster is after it.
"""

from collections.abc import Iterator

from election_nodes import Mistake, Nodes, Step
from election_state import (
    PRIMARY,
    STANDBY,
    Node,
    Register,
    Rule,
    State,
    Vote,
    cas,
    name,
    put,
    timeline,
)


class Election(Nodes):
    """Everything that anybody can do."""

    def actions(self, s: State) -> Iterator[Step]:
        yield from self.begins(s)
        yield from self.appoints(s)
        if self.handovers:
            yield from self.hands_over(s)
        if s.slot:
            yield "the CAS without a reply lands", cas(s, s.slot)
        parts = (self.sees, self.votes, self.streams, self.promotes, self.reigns, self.starts,
                 self.writes, self.fails, self.made_anew)  # fmt: skip
        for i, n in enumerate(s.nodes):
            for part in parts:
                for label, after in part(s, i, n):
                    yield f"{name(n.incarnation)} {label}", after

    # -- an election -------------------------------------------------------------------------

    def begins(self, s: State) -> Iterator[Step]:
        """CAS round + 1, electing: by anybody, at any time, also while another election runs."""
        again = not s.register.electing or any(n.vote for n in s.nodes)
        if again and s.register.term < self.terms:
            begun = cas(s, s.register._replace(electing=True))
            if self.mistake is not Mistake.VOTES_OF_A_CANCELLED_ELECTION:
                nodes = tuple(n._replace(vote=None) for n in begun.nodes)
                begun = begun._replace(nodes=nodes)
            yield "an election begins", begun

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
        writer, *members = (m % 10 if by_name else m for m in (rule.writer, *rule.members))
        needed = len(members) - rule.k + 1
        if self.mistake is Mistake.ONE_SEAL_TOO_FEW:
            needed -= 1
        return writer in ids or sum(m in ids for m in members) >= needed

    def hands_over(self, s: State) -> Iterator[Step]:
        """Switchover: the office-holder has stopped, and the candidate has all of its WAL."""
        r = s.register
        for old in s.nodes:
            stopped = old.role == STANDBY and old.incarnation == r.primary and not r.electing
            if not stopped or timeline(old.log) < r.term or r.term == self.terms:
                continue
            for w in s.nodes:
                proven = w.log == old.log or self.mistake is Mistake.HANDED_OVER_UNPROVEN
                if w is old or not proven or w.incarnation % 10 in self.ineligible:
                    continue
                others = tuple(n.incarnation for n in s.nodes if n is not w)
                rules = (*r.rules, Rule(w.incarnation, 1, others))
                new = Register(r.term + 1, w.incarnation, rules, False)
                label = f"{name(old.incarnation)} hands over to {name(w.incarnation)}"
                yield from self.both(label, s, new, cas(s, new))
