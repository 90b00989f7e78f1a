"""A DCS that forgets, as a definition that can be run; the nodes otherwise: amnesia_nodes.py.

Every method yields the steps that can be taken now, each with what the cluster is after it.
"""

from collections.abc import Iterator
from itertools import combinations

from amnesia_nodes import Mistake, Nodes, Step
from amnesia_state import (
    ELSEWHERE,
    Node,
    Register,
    Rule,
    State,
    Vote,
    is_in_office,
    name,
    normal,
    put,
    seq_of,
)


class Amnesia(Nodes):
    """Everything that anybody can do."""

    def actions(self, s: State) -> Iterator[Step]:
        for label, after in self._actions(s):
            yield label, normal(after, self.gap)

    def _actions(self, s: State) -> Iterator[Step]:
        yield from self.forgets(s)
        if s.slot:
            landed = self.landed(s, s.slot.expected, s.slot.register, s.slot.where)
            yield "the CAS without a reply lands", landed._replace(slot=None)
        yield from self.appoints(s)
        parts = (self.sees, self.begins, self.streams, self.promotes, self.reigns, self.hands_over,
                 self.starts, self.writes, self.fails, self.restores, self.creates)  # fmt: skip
        for i, n in enumerate(s.nodes):
            for part in parts:
                for label, after in part(s, i, n):
                    yield f"{name(n.incarnation)} {label}", after

    # -- an election -------------------------------------------------------------------------

    def begins(self, s: State, i: int, n: Node) -> Iterator[Step]:
        """By anybody, at any time. What makes sense of it (suspicion) is no matter of safety."""
        r = n.seen
        if r is None or r.electing or not 0 < r.term < self.terms or n.names:
            return
        new = r._replace(seq=r.seq + 1, round=r.round + 1, electing=True, life=self.life(s, n))
        for label, after in self.cas("begins an election", s, i, new):
            if after.nodes[i].seen == new:
                yield from ((label, a) for _, a in self.turns(after, i, after.nodes[i], new))
            else:
                yield label, after

    def appoints(self, s: State) -> Iterator[Step]:
        """Whoever holds the election's register and sees enough votes of its round."""
        for i, n in enumerate(s.nodes):
            r = n.seen
            if r is None or not r.electing or s.dcs[n.where] != r:
                continue
            votes = [v for v in s.votes if self.counts(v, r)]
            for size in range(1, len(votes) + 1):
                for cast in combinations(votes, size):
                    yield from self.appointed(s, i, r, cast)

    def counts(self, v: Vote, r: Register) -> bool:
        """Of the round and the cluster. Those of another DCS have other rounds, by the time."""
        here = v.life // ELSEWHERE == r.life // ELSEWHERE
        return here and (v.round, v.cluster) == (r.round, r.cluster)

    def appointed(self, s: State, i: int, r: Register, cast: tuple[Vote, ...]) -> Iterator[Step]:
        w = max(cast, key=lambda v: (v.timeline, v.lsn))
        ids = frozenset(v.incarnation for v in cast)
        if len(ids) < len(cast) or not all(rule.satisfied(ids) for rule in r.rules):
            return
        others = tuple(sorted(
            v.incarnation for v in cast
            if v.timeline == w.timeline and v.incarnation != w.incarnation
        ))  # fmt: skip
        new = self.next_term(r, w.incarnation, Rule(w.incarnation, int(bool(others)), others))
        if any(v.life != r.life for v in cast):
            s = s._replace(flaw="S3: a vote of a lost election counts")
        label = f"appoints {name(w.incarnation)} by {'+'.join(sorted(map(name, ids)))}"
        for done, after in self.cas(label, s, i, new):
            if s.nodes[i].incarnation == w.incarnation or after.slot != s.slot:
                yield f"{name(s.nodes[i].incarnation)} {done}", after

    def next_term(self, r: Register, w: int, rule: Rule) -> Register:
        rules = (*(old for old in r.rules if old != rule), rule)
        return r._replace(seq=r.seq + 1, term=r.term + 1, primary=w, rules=rules, electing=False)

    # -- what becomes of the DCS -------------------------------------------------------------

    def forgets(self, s: State) -> Iterator[Step]:
        """Emptied, and where the bounds have it, set back to a backup; writes under way die."""
        register = s.dcs[0]
        if self.backups and not s.backup and register:
            yield "a backup of the DCS is made", s._replace(backup=register)
        if not s.losses or register is None:
            return
        lost = s._replace(slot=None, losses=s.losses - 1, life=s.life + 1)
        yield "the DCS is emptied", lost._replace(dcs=(None, s.dcs[1]))
        if s.backup and s.backup.seq < register.seq and self.backup_is_harmless(s, s.backup):
            yield "the DCS is set back to its backup", lost._replace(dcs=(s.backup, s.dcs[1]))

    def backup_is_harmless(self, s: State, backup: Register) -> bool:
        """Nobody can tell a backup from the truth who knows nothing newer."""
        if self.mistake is Mistake.BACKUP_OF_ANY_AGE:
            return True
        return all(seq_of(n.seen) > backup.seq for n in s.nodes)

    # -- who writes the register again -------------------------------------------------------

    def restores(self, s: State, i: int, n: Node) -> Iterator[Step]:
        """The primary of its own copy, once those who do not say that they hold the very same
        copy, and see the loss, cannot have appointed anybody."""
        r, shown = n.seen, s.dcs[n.where]
        if self.mistake is Mistake.WORD_OF_BEFORE and self.is_lost(s, n) and n.said != r:
            yield "says what it holds", put(s, i, said=r)
        if r is None or not self.is_lost(s, n) or not self.may_restore(s, n, r):
            return
        others = shown is not None and shown.cluster not in (0, r.cluster)
        if others and self.mistake is not Mistake.ANOTHER_CLUSTER_OVERWRITTEN:
            return
        fresh = 1 + max(seq_of(r) for r in (*s.dcs, *(m.seen for m in s.nodes)))
        rounds = [r.round, *(v.round for v in s.votes), *(m.seen.round for m in s.nodes if m.seen)]
        new = r._replace(seq=fresh, round=1 + max(rounds), electing=False, life=self.life(s, n))
        if self.mistake is Mistake.SAME_SEQ:
            new = new._replace(seq=r.seq)
        if self.mistake is Mistake.SAME_ROUND:
            new = new._replace(round=r.round)
        yield from self.cas("writes the register again", s, i, new, anew=True)

    def is_lost(self, s: State, n: Node) -> bool:
        shown = s.dcs[n.where]
        return n.seen is not None and n.seen != shown and seq_of(shown) <= n.seen.seq

    def may_restore(self, s: State, n: Node, r: Register) -> bool:
        if r.term == 0:
            return r.primary == n.incarnation
        if r.electing and self.mistake is not Mistake.ELECTION_OVERWRITTEN:
            return False
        if r.primary != n.incarnation and self.mistake is not Mistake.BY_ANYBODY:
            return False
        if n.heir >= 0:
            # Also if the heir holds the same copy: it has not sealed, and others may tell it.
            agrees = self.mistake is Mistake.HEIR_AGREES and n.heir in self.agreeing(s, n, r)
            if not agrees and self.mistake is not Mistake.HANDOVER_FORGOTTEN:
                return False
        if self.mistake is Mistake.ABSENT_NOT_COUNTED:
            return True
        named = {r.primary, *(m for rule in r.rules for m in (rule.writer, *rule.members))}
        absent = frozenset(named) - self.agreeing(s, n, r)
        if self.mistake is Mistake.LOST_DROP_FORGOTTEN:
            return not all(rule.satisfied(absent) for rule in r.rules)
        # The last rule only: that the older ones were dropped may have been stored unheard.
        return not r.rules[-1].satisfied(absent)

    def agreeing(self, s: State, n: Node, r: Register) -> frozenset[int]:
        def agrees(m: Node) -> bool:
            if self.mistake is Mistake.ANY_COPY_AGREES:
                return m.seen is not None
            if self.mistake is Mistake.WORD_OF_BEFORE:
                return m.said == r
            same = m.seen == r
            if self.mistake is Mistake.SAME_SEQ_AGREES:
                same = seq_of(m.seen) == r.seq
            return same and (self.is_lost(s, m) or self.mistake is Mistake.LOSS_SEEN_BY_ONE)

        return frozenset({n.incarnation, *(m.incarnation for m in s.nodes if agrees(m))})

    # -- a new cluster -----------------------------------------------------------------------

    def creates(self, s: State, i: int, n: Node) -> Iterator[Step]:
        """A member without data claims an empty DCS, initdb, term 1. It does not go on while it
        hears of data; but who has some may be away."""
        if n.log:
            return
        if n.seen is None and s.dcs[n.where] is None:
            claim = Register(1, 0, 0, n.incarnation, (), cluster=0, life=self.life(s, n))
            yield from self.cas("claims the DCS", s, i, claim, anew=True)
        if n.seen and n.seen.term == 0 and n.seen.primary == n.incarnation:
            rule, cluster = Rule(n.incarnation, 0), 2
            new = n.seen._replace(
                seq=n.seen.seq + 1, term=1, rules=(rule,), cluster=cluster, life=self.life(s, n)
            )
            data = {"log": (210,), "names": rule}
            yield from self.cas("creates another cluster", s, i, new, then=data)

    # -- a handover --------------------------------------------------------------------------

    def hands_over(self, s: State, i: int, n: Node) -> Iterator[Step]:
        """The primary has stopped, and a member of its rule has all of its WAL. That it tries is
        on its disk before the CAS."""
        r = n.seen
        if not self.handovers or r is None or n.names or r.electing or not is_in_office(n):
            return
        if r.term >= self.terms:
            return
        for heir in s.nodes:
            w = heir.incarnation
            if heir.log != n.log or w not in r.rules[-1].members:
                continue
            others = tuple(m for m in r.rules[-1].members if m != w)
            new = self.next_term(r, w, Rule(w, int(bool(others)), others))
            label = f"hands over to {name(w)}"
            yield from self.cas(label, put(s, i, heir=w), i, new)
            if others:
                alone = self.next_term(r, w, Rule(w, 0))
                yield from self.cas(f"{label} alone", put(s, i, heir=w), i, alone)
