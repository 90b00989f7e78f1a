"""Elections and joint rule changes with `ANY 2` among up to five nodes; state: quorum_state.py.

Every method yields the steps that can be taken now, each with what the cluster is after it.
"""

from collections.abc import Iterator
from enum import Enum, auto
from itertools import combinations

from quorum_state import (
    Node,
    Rule,
    Rules,
    State,
    acknowledge,
    cas,
    normal,
    put,
    show,
    start,
    streaming,
    timeline,
)

Step = tuple[str, State]


class Mistake(Enum):
    """Each is planted at the line it would be made at; the model must notice."""

    NONE = auto()
    ONE_SEAL_TOO_FEW = auto()
    SEALS_AS_IF_K_WERE_THE_LAST = auto()
    ONLY_THE_LAST_RULE_SATISFIED = auto()
    RULES_TOGETHER_SATISFIED = auto()
    TERM_BLIND = auto()
    RULES_REPLACED = auto()
    RULES_REPLACED_AT_APPOINTMENT = auto()
    K_LOWERED_WITHOUT_CAS = auto()
    DROP_BEFORE_BARRIER = auto()
    DROP_AFTER_ONE_OF_K = auto()


class Quorum:
    """The protocol within bounds. `k` is wanted, less where there are fewer members; `members` of
    the nodes are in the first rule, the others stream too."""

    def __init__(
        self,
        mistake: Mistake = Mistake.NONE,
        *,
        nodes: int = 5,
        k: int = 2,
        members: int = 4,
        terms: int = 2,
        writes: int = 1,
        changes: int = 1,
    ) -> None:
        self.mistake = mistake
        self.k = k
        self.terms = terms
        self.initial = start(nodes, k, members, writes, changes)

    def actions(self, s: State) -> Iterator[Step]:
        for label, after in self._actions(s):
            yield label, normal(after)

    def _actions(self, s: State) -> Iterator[Step]:
        if s.term < self.terms:
            yield from self.elects(s)
        for i, n in enumerate(s.nodes):
            for part in (self.stands_by, self.takes_office, self.reigns):
                yield from part(s, i, n)

    # -- an election -------------------------------------------------------------------------

    def elects(self, s: State) -> Iterator[Step]:
        """Any voters that satisfy every listed rule seal; the furthest of them is appointed. The
        new rule is appended: its members are those that follow without a rewind, k at most."""
        everybody = range(len(s.nodes))
        for size in range(1, len(s.nodes) + 1):
            for voters in combinations(everybody, size):
                if not self.satisfied(s.rules, voters):
                    continue
                w = max(voters, key=lambda i: self.rank(s.nodes[i]))
                log = s.nodes[w].log
                followers = frozenset(
                    i for i in voters if i != w and timeline(s.nodes[i].log) == timeline(log)
                )
                rule = Rule(w, min(self.k, len(followers)), followers)
                rules = (*(r for r in s.rules if r != rule), rule)
                if self.mistake is Mistake.RULES_REPLACED_AT_APPOINTMENT:
                    rules = (rule,)
                sealed = tuple(
                    n._replace(follows=0, names=None, barrier=0, closed=False) if i in voters else n
                    for i, n in enumerate(s.nodes)
                )
                label = f"{show(s, *voters)} vote, {show(s, w)} is appointed"
                yield label, cas(s, term=s.term + 1, primary=w, rules=rules, nodes=sealed)

    def rank(self, n: Node) -> tuple[int, int]:
        term = 0 if self.mistake is Mistake.TERM_BLIND else timeline(n.log)
        return term, len(n.log)

    def satisfied(self, rules: Rules, voters: tuple[int, ...]) -> bool:
        if self.mistake is Mistake.ONLY_THE_LAST_RULE_SATISFIED:
            rules = rules[-1:]
        if self.mistake is Mistake.RULES_TOGETHER_SATISFIED and len({r.writer for r in rules}) == 1:
            members = frozenset[int]().union(*(r.members for r in rules))
            rules = (Rule(rules[0].writer, max(r.k for r in rules), members),)
        k = rules[-1].k if self.mistake is Mistake.SEALS_AS_IF_K_WERE_THE_LAST else 0
        return all(self.satisfies(rule, voters, k or rule.k) for rule in rules)

    def satisfies(self, rule: Rule, voters: tuple[int, ...], k: int) -> bool:
        """The voters hold everything that may have been acknowledged under `rule`."""
        needed = len(rule.members) - k + 1
        if self.mistake is Mistake.ONE_SEAL_TOO_FEW:
            needed -= 1
        return rule.writer in voters or sum(m in voters for m in rule.members) >= needed

    # -- a node ------------------------------------------------------------------------------

    def stands_by(self, s: State, i: int, n: Node) -> Iterator[Step]:
        """See the newest register, stream from the primary that is followed."""
        if n.names:
            if i != s.primary or timeline(n.log) != s.term:
                yield f"{show(s, i)} sees that it was superseded", put(s, i, names=None, barrier=0)
            return
        if i != s.primary and n.follows != s.term:
            after = put(s, i, follows=s.term, closed=False)
            yield f"{show(s, i)} sees the register", self.through(after, s.primary)
        for j, p in enumerate(s.nodes):
            if p.names and len(n.log) < len(p.log) and i in streaming(s, j):
                after = put(s, i, log=p.log[: len(n.log) + 1])
                label = f"{show(s, i)} streams {p.log[len(n.log)]}"
                yield label, self.through(after, j)

    def takes_office(self, s: State, i: int, n: Node) -> Iterator[Step]:
        """Be promoted; or come back as the primary that it was, after a CAS."""
        if i != s.primary or n.names:
            return
        rule = s.rules[-1]
        if timeline(n.log) < s.term:
            log = (*n.log, 10 * s.term)
            held = {"names": rule, "barrier": len(log), "closed": False}
            after = put(s, i, log=log, follows=0, **held)
            yield f"{show(s, i)} is promoted", self.through(after, i)
        else:
            after = put(cas(s), i, names=rule, barrier=len(n.log), closed=False)
            yield f"{show(s, i)} starts again", self.through(after, i)

    def reigns(self, s: State, i: int, n: Node) -> Iterator[Step]:
        """Change the rule: CAS, names, barrier, CAS. Anybody who is running may stop."""
        if not n.names:
            return
        yield f"{show(s, i)} stops", put(s, i, names=None, barrier=0)
        if s.writes:
            after = put(s, i, log=(*n.log, n.log[-1] + 1))._replace(writes=s.writes - 1)
            yield f"{show(s, i)} writes {n.log[-1] + 1}", self.through(after, i)
        if self.mistake is Mistake.K_LOWERED_WITHOUT_CAS and n.names.k > 1:
            lower = n.names._replace(k=1)
            yield "lowers k without a CAS", self.through(put(s, i, names=lower), i)
        if i != s.primary or timeline(n.log) != s.term:
            return
        rule = s.rules[-1]
        if n.names != rule:
            after = put(s, i, names=rule, barrier=len(n.log))
            yield f"applies ANY {rule.k} of {len(rule.members)}", self.through(after, i)
        elif len(s.rules) > 1 and (not n.barrier or self.mistake is Mistake.DROP_BEFORE_BARRIER):
            yield "drops the older rules", cas(s, rules=(rule,))
        if s.changes and n.names == rule:
            yield from self.changes(s, i, rule)

    def changes(self, s: State, i: int, rule: Rule) -> Iterator[Step]:
        """One member leaves, or one that streams joins; k follows their number."""
        follow = set(streaming(s, i)) - rule.members
        sets = [(f"{show(s, m)} leaves", rule.members - {m}) for m in sorted(rule.members)]
        sets += [(f"{show(s, m)} joins", rule.members | {m}) for m in sorted(follow)]
        for label, members in sets:
            wanted = Rule(i, min(self.k, len(members)), members)
            rules = (*(r for r in s.rules if r != wanted), wanted)
            if self.mistake is Mistake.RULES_REPLACED:
                rules = (wanted,)
            yield f"appends: {label}", cas(s, rules=rules, changes=s.changes - 1)

    def through(self, s: State, i: int) -> State:
        """Whatever primary i has changed may let commits through."""
        if not s.nodes[i].names:
            return s
        return acknowledge(s, i, self.mistake is Mistake.DROP_AFTER_ONE_OF_K)
