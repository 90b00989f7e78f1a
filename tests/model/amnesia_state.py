"""Nodes whose DCS may forget, and what must always hold of them: the state of the amnesia model.

What the model leaves out, and why that loses nothing:

* `seq` and `round` are only compared; `normal` keeps their order, and the gaps up to a limit. So
  elections, cancellations, restarts and crashes are not bounded in number.
* A node that is away takes no step, for as long as it likes. A peer that does not tell its copy is
  a peer that was not heard.
* A node that sees an election seals and votes at once: the election model has it bit by bit.
* A write counts as acknowledged as soon as enough members have flushed it. A barrier is one: it
  goes through when whatever was there when the names were applied is acknowledged under them.
* A CAS without a reply waits in `slot`. It dies with the DCS's life, as sessions do.
* Whether a peer "sees the loss" is looked up when it is counted: looking changes nothing.
"""

from functools import cache
from typing import Any, NamedTuple

ELSEWHERE = 100


class Rule(NamedTuple):
    """Acknowledged means: flushed on `writer` and on `k` of `members` (incarnations)."""

    writer: int
    k: int
    members: tuple[int, ...] = ()

    def satisfied(self, holders: frozenset[int]) -> bool:
        have = sum(m in holders for m in self.members)
        return self.writer in holders or have >= len(self.members) - self.k + 1


class Register(NamedTuple):
    """`cluster`: the system identifier; 0 and term 0: somebody claims to be creating one. `life`
    is not in the real one: the DCS's life that it was written in (ELSEWHERE: in another DCS)."""

    seq: int
    round: int
    term: int
    primary: int
    rules: tuple[Rule, ...]
    electing: bool = False
    cluster: int = 1
    life: int = 0


class Vote(NamedTuple):
    """Remembered by others, possibly longer than it is meant."""

    incarnation: int
    round: int
    timeline: int
    lsn: int
    cluster: int
    life: int


class Slot(NamedTuple):
    """A CAS whose reply is lost; `where`: which DCS."""

    expected: Register | None
    register: Register
    where: int = 0


class Node(NamedTuple):
    """Durable: all but `serving`, `names` and `barrier`."""

    incarnation: int  # name + 10 * how often it was made anew
    log: tuple[int, ...]  # 100 * cluster + 10 * timeline + n; n = 0: the promotion and its barrier
    seen: Register | None  # its copy: the newest register seen; an electing one is the seal
    heir: int = -1  # to whom it tried to hand over from `seen`; -1: to nobody
    names: Rule | None = None  # of a running primary
    barrier: int = 0  # the LSN that `names` must have let through before older rules go; 0: done
    where: int = 0  # the DCS that it is pointed at
    said: Register | None = None  # what it held when it last told of a loss (a mistake)


class State(NamedTuple):
    """`dcs`: the DCS, and an empty one that a member may be pointed at by mistake. `losses`,
    `writes` and `changes` (of the rule) are what may still happen."""

    dcs: tuple[Register | None, Register | None]
    slot: Slot | None
    nodes: tuple[Node, ...]
    acked: frozenset[int]
    votes: frozenset[Vote]
    losses: int = 0
    writes: int = 0
    changes: int = 0
    backup: Register | None = None
    life: int = 0
    flaw: str = ""


def name(incarnation: int) -> str:
    return "abcd"[incarnation % 10] + "'" * (incarnation // 10)


def timeline(log: tuple[int, ...]) -> int:
    return log[-1] % 100 // 10 if log else 0


def seq_of(register: Register | None) -> int:
    return register.seq if register else 0


def start(nodes: int, blank: int, alone: bool) -> State:
    """Node a is primary in term 1, the others stream from it (`alone`: not yet in the rule)."""
    others = tuple(range(1, nodes))
    rule = Rule(0, 0) if alone else Rule(0, 1, others)
    register = Register(1, 0, 1, 0, (rule,))
    a = Node(0, (110,), register, names=rule)
    members = [a._replace(incarnation=i, names=None) for i in others]
    blanks = [Node(nodes + i, (), None) for i in range(blank)]
    all_nodes = (a, *members, *blanks)
    acked, votes = frozenset((110,)), frozenset[Vote]()
    return State((register, None), None, all_nodes, acked, votes)


def put(s: State, i: int, **changes: Any) -> State:
    nodes = list(s.nodes)
    nodes[i] = nodes[i]._replace(**changes)
    return s._replace(nodes=tuple(nodes))


def put_dcs(s: State, where: int, register: Register | None) -> State:
    main, other = s.dcs
    return s._replace(dcs=(main, register) if where else (register, other))


def is_in_office(n: Node) -> bool:
    """By its own copy, and it was promoted."""
    r = n.seen
    return r is not None and r.primary == n.incarnation and timeline(n.log) == r.term > 0


def followers(s: State, j: int) -> list[Node]:
    """Who streams from the running primary j: by its copy, and with a log that is a prefix."""
    p = s.nodes[j]
    return [
        n
        for i, n in enumerate(s.nodes)
        if i != j and n.seen and n.log and not n.names and not n.seen.electing
        and n.seen.primary == p.incarnation and n.seen.term == timeline(p.log)
        and n.log == p.log[: len(n.log)]
    ]  # fmt: skip


def acknowledge(s: State, j: int) -> State:
    """What primary j wrote on its own timeline and its names let through by now."""
    p = s.nodes[j]
    assert p.names
    lsns = [len(n.log) for n in followers(s, j) if n.incarnation in p.names.members]
    if len(lsns) < p.names.k:
        return s
    upto = sorted(lsns)[-p.names.k] if p.names.k else len(p.log)
    if p.barrier and upto >= p.barrier:
        s = put(s, j, barrier=0)
    now = {e for e in p.log[:upto] if e % 100 // 10 == timeline(p.log)}
    return s if now <= s.acked else s._replace(acked=s.acked | now)


def broken(s: State) -> str | None:
    """The invariants, within each cluster that anybody made."""
    if s.flaw:
        return s.flaw
    acking = list[int]()
    for j, n in enumerate(s.nodes):
        r = s.dcs[0]
        appointed = r and not r.electing and r.primary == n.incarnation and r.seq >= seq_of(n.seen)
        cluster = n.log[-1] // 100 if n.log else 0
        for e in s.acked.difference(n.log) if appointed or n.names else ():
            later = appointed or e % 100 // 10 < timeline(n.log)
            if later and e // 100 == (r.cluster if appointed and r else cluster):
                return f"S1: {name(n.incarnation)} is in office without {e}"
        if n.names:
            members = [m for m in followers(s, j) if m.incarnation in n.names.members]
            acking += [cluster] * (len(members) >= n.names.k)
    return "S2: two nodes can acknowledge" if len(acking) > len(set(acking)) else None


def normal(s: State, gap: int) -> State:
    """The same state with small numbers; votes that no election can count any more are dropped."""
    seen = [n.seen for n in s.nodes if n.seen]
    registers = [r for r in (*s.dcs, s.backup, *(s.slot[:2] if s.slot else ()), *seen) if r]
    seqs = _small(tuple(r.seq for r in registers), gap)
    rounds = _small((*(r.round for r in registers), *(v.round for v in s.votes)), gap)
    if seqs is None and rounds is None:
        return s
    seqs, rounds = seqs or {}, rounds or {}

    def small(r: Register | None) -> Register | None:
        if r is None or (seqs.get(r.seq, r.seq), rounds.get(r.round, r.round)) == r[:2]:
            return r
        return r._replace(seq=seqs.get(r.seq, r.seq), round=rounds.get(r.round, r.round))

    slot = s.slot
    if slot:
        new = small(slot.register)
        assert new
        slot = slot._replace(expected=small(slot.expected), register=new)
    return s._replace(
        dcs=(small(s.dcs[0]), small(s.dcs[1])),
        slot=slot,
        nodes=tuple(n._replace(seen=small(n.seen), said=small(n.said)) for n in s.nodes),
        votes=frozenset(v._replace(round=rounds.get(v.round, v.round)) for v in s.votes),
        backup=small(s.backup),
    )


@cache
def _small(values: tuple[int, ...], gap: int) -> dict[int, int] | None:
    """From each value to its small one; None: they are small already."""
    to, before, at, same = dict[int, int](), 0, 0, True
    for value in sorted(set(values)):
        at += min(value - before, gap)
        to[value], before = at, value
        same = same and at == value
    return None if same else to
