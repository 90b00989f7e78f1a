"""Up to five nodes under `ANY 2`, and what must always hold of them: the state of the quorum model.

What the model leaves out beyond election_state.py, and why that loses nothing:

* An election is one step: who votes seals at the moment of the appointment. One that seals earlier
  gets no more WAL from then on, like one that is slow.
* A CAS whose reply is lost is one that its sender has not seen yet; one that lands late is made
  late. A primary that has not seen a rule goes on under the names that it has.
* To see a rule, to apply its names and to begin a barrier is one step: each may be late.
* Which node is which does not matter: `normal` sorts them, so that a state stands for all those
  that differ in names only.
* The mixture of names that PostgreSQL goes through is in rule_change.py.
"""

from typing import Any, NamedTuple


class Rule(NamedTuple):
    """Acknowledged means: flushed on `writer` and on `k` of `members`."""

    writer: int
    k: int
    members: frozenset[int]


Rules = tuple[Rule, ...]


class Node(NamedTuple):
    """Durable: log and follows."""

    log: tuple[int, ...]  # 10 * timeline + n; n = 0: the promotion
    follows: int  # the term whose primary it takes WAL from; 0: sealed
    names: Rule | None = None  # of a running primary
    barrier: int = 0  # the LSN that `names` must have let through before older rules go; 0: done
    closed: bool = False  # stopped as a primary, its shutdown checkpoint is its last record


class State(NamedTuple):
    """The register (it is not electing), the nodes, and what may still happen."""

    term: int
    primary: int
    rules: Rules
    nodes: tuple[Node, ...]
    acked: frozenset[int]
    writes: int
    changes: int
    stops: int = 0
    slot: Rule | None = None  # a handover whose reply is lost: the rule of the heir


def timeline(log: tuple[int, ...]) -> int:
    return log[-1] // 10


def start(nodes: int, k: int, members: int, writes: int, changes: int) -> State:
    """Node 0 is primary in term 1, the others stream from it, the first of them are members."""
    rule = Rule(0, min(k, members), frozenset(range(1, 1 + members)))
    standbys = (Node((10,), 1),) * (nodes - 1)
    all_nodes = (Node((10,), 0, rule), *standbys)
    return normal(State(1, 0, (rule,), all_nodes, frozenset((10,)), writes, changes))


def cas(s: State, **changes: Any) -> State:
    """The register changes: a CAS that expects it as it was can land no more."""
    return s._replace(slot=None, **changes)


def put(s: State, i: int, **changes: Any) -> State:
    nodes = list(s.nodes)
    nodes[i] = nodes[i]._replace(**changes)
    return s._replace(nodes=tuple(nodes))


def streaming(s: State, j: int) -> list[int]:
    """Who takes WAL from the running primary j: an unsealed one whose log is a prefix of its."""
    log = s.nodes[j].log
    return [
        i
        for i, n in enumerate(s.nodes)
        if n.follows == timeline(log) and n.names is None and n.log == log[: len(n.log)]
        and i != j
    ]  # fmt: skip


def acknowledge(s: State, j: int, barrier_by_one: bool = False) -> State:
    """What primary j wrote on its own timeline and its names let through by now."""
    p = s.nodes[j]
    assert p.names
    lsns = sorted(len(s.nodes[i].log) for i in streaming(s, j) if i in p.names.members)
    if p.barrier and (upto_one := lsns[-1:]) and barrier_by_one and upto_one[0] >= p.barrier:
        s = put(s, j, barrier=0)
    if len(lsns) < p.names.k:
        return s
    upto = lsns[-p.names.k] if p.names.k else len(p.log)
    if p.barrier and upto >= p.barrier:
        s = put(s, j, barrier=0)
    now = {e for e in p.log[:upto] if e // 10 == timeline(p.log)}
    return s if now <= s.acked else s._replace(acked=s.acked | now)


def broken(s: State) -> str | None:
    acking = 0
    for i, n in enumerate(s.nodes):
        appointed = i == s.primary and timeline(n.log) < s.term
        for e in s.acked.difference(n.log) if appointed or n.names else ():
            if appointed or e // 10 < timeline(n.log):
                return f"S1: {show(s, i)} is in office without {e}"
        if n.names:
            members = [m for m in streaming(s, i) if m in n.names.members]
            acking += len(members) >= n.names.k
    return "S2: two nodes can acknowledge" if acking > 1 else None


def show(s: State, *ids: int) -> str:
    """Nodes by what they have, since states do not keep their names."""
    return "+".join(sorted(_title(s, i) for i in ids)) or "nobody"


def _title(s: State, i: int) -> str:
    last = s.rules[-1]
    role = "primary" if i == s.primary else "member" if i in last.members else "node"
    return f"{role} at {timeline(s.nodes[i].log)}/{len(s.nodes[i].log)}"


def normal(s: State) -> State:
    """The one state that stands for all that differ from it in nothing but the nodes' names."""
    names = sorted((n.log, n.names) for n in s.nodes if n.names)
    rules = (*s.rules, *(rule for _, rule in names), *((s.slot,) if s.slot else ()))

    def look(i: int) -> tuple[Any, ...]:
        n = s.nodes[i]
        roles = tuple((r.writer == i) + 2 * (i in r.members) for r in rules)
        return (i != s.primary, n.log, n.follows, n.names is None, n.barrier, n.closed, roles)

    order = sorted(range(len(s.nodes)), key=look)
    if all(i == j for i, j in enumerate(order)):
        return s
    to = {old: new for new, old in enumerate(order)}

    def renamed(rule: Rule) -> Rule:
        return Rule(to[rule.writer], rule.k, frozenset(to[m] for m in rule.members))

    nodes = tuple(
        n._replace(names=renamed(n.names)) if n.names else n for n in (s.nodes[i] for i in order)
    )
    return s._replace(primary=to[s.primary], rules=tuple(renamed(r) for r in s.rules), nodes=nodes)
