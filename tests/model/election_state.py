"""Three nodes, their register and what must always hold of them: the state of the election model.

What the model leaves out, and why that loses nothing:

* `seq` and `round` are only ever compared. Of `seq` the model keeps whether what a node has seen is
  the newest register (`current`), of `round` whether a vote is for the running election (a new
  one empties the votes). So elections, cancellations and restarts are not bounded in number.
* A crash leaves a node able to start again at any time, and one that stays down does nothing: so
  crashes are not bounded either. What they lose is said in `Election.fails`.
* A commit counts as acknowledged as soon as enough members have flushed it. Acknowledging the same
  commit later, also after a seal, demands less: late acknowledgements are covered.
* A node that has seen an election while its walreceiver is still there behaves like one that has
  not seen it: seal and vote are one step, at the moment the walreceiver is gone.
* A CAS without a reply waits in `slot` and may land until another one has landed. Its sender
  forgets it and goes on from what it sees, that is: it takes it as failed.
* PostgreSQL counts standbys by name, not by incarnation: `acknowledge` lets it.
"""

from typing import Any, NamedTuple


class Rule(NamedTuple):
    """Acknowledged means: flushed on `writer` and on `k` of `members` (incarnations)."""

    writer: int
    k: int
    members: tuple[int, ...]


class Register(NamedTuple):
    """The last rule is the one being applied, the older ones may still cover something."""

    term: int
    primary: int
    rules: tuple[Rule, ...]
    electing: bool


class Vote(NamedTuple):
    """A member key: the promise of this incarnation to take no WAL of earlier rounds."""

    incarnation: int
    timeline: int
    lsn: int


STANDBY, PRIMARY = 0, -1  # any other role is a term: promotion to it was asked for, not yet done
SEALED = Register(0, -1, (), True)


class Node(NamedTuple):
    """Durable: incarnation, log, seen (but for `lost`). The vote is in the DCS."""

    incarnation: int  # name + 10 * how often it was made anew
    log: tuple[int, ...]  # 10 * timeline + n; n = 0: the promotion and its barrier
    seen: Register  # the newest register seen; an electing one is the seal
    current: bool  # no newer register exists
    lost: Register | None  # what a crash goes back to when `seen` was not fsynced (a mistake)
    role: int
    names: Rule | None  # synchronous_standby_names of a primary, or of one to be
    barrier: int  # the LSN that `names` must have let through before older rules go; 0: it has
    source: int  # the node that its walreceiver streams from; -1: no walreceiver
    vote: Vote | None


class State(NamedTuple):
    """`writes`, `recreations` and `changes` (of the rule) are what may still happen."""

    register: Register
    slot: Register | None
    nodes: tuple[Node, ...]
    acked: frozenset[int]
    writes: int
    recreations: int
    changes: int


def name(incarnation: int) -> str:
    return "abc"[incarnation % 10] + "'" * (incarnation // 10)


def timeline(log: tuple[int, ...]) -> int:
    return log[-1] // 10


def start(writes: int, recreations: int, changes: int) -> State:
    """Node a is primary in term 1; b and c stream from it."""
    rule = Rule(0, 1, (1, 2))
    register = Register(1, 0, (rule,), False)
    a = Node(0, (10,), register, True, None, PRIMARY, rule, 0, -1, None)
    b, c = (a._replace(incarnation=i, role=STANDBY, names=None, source=0) for i in (1, 2))
    return State(register, None, (a, b, c), frozenset((10,)), writes, recreations, changes)


def put(s: State, i: int, **changes: Any) -> State:
    """Change one node. A primary that stops cuts off whoever streamed from it."""
    node = s.nodes[i]._replace(**changes)
    nodes = list(s.nodes)
    nodes[i] = node
    if s.nodes[i].role == PRIMARY and node.role != PRIMARY:
        nodes = [n._replace(source=-1) if n.source == i else n for n in nodes]
    return s._replace(nodes=tuple(nodes))


def cas(s: State, new: Register, author: int = -1, **changes: Any) -> State:
    """`new` lands: only its author has seen it, and no CAS under way can land any more."""
    nodes = [_outdated(n, new.electing) for n in s.nodes]
    if author >= 0:
        nodes[author] = nodes[author]._replace(seen=new, current=True, lost=None, **changes)
    return s._replace(register=new, slot=None, nodes=tuple(nodes))


def _outdated(n: Node, electing: bool) -> Node:
    """Of an old register keep what can still be acted on; of votes nothing once nobody elects."""
    vote = n.vote if electing else None
    if n.current:
        old = SEALED if n.seen.electing else n.seen._replace(rules=n.seen.rules[-1:])
        return n._replace(current=False, seen=old, vote=vote)
    return n if n.vote == vote else n._replace(vote=vote)


def acknowledge(s: State, j: int) -> State:
    """What primary j wrote on its own timeline and its names let through by now."""
    p = s.nodes[j]
    flushed = _flushed(s, j)
    assert p.names
    if len(flushed) < p.names.k:
        return s
    upto = flushed[p.names.k - 1]
    if p.barrier and upto >= p.barrier:
        s = put(s, j, barrier=0)
    now = {e for e in p.log[:upto] if e // 10 == timeline(p.log)}
    return s if now <= s.acked else s._replace(acked=s.acked | now)


def _flushed(s: State, j: int) -> list[int]:
    """LSNs of the standbys that are streaming from j and stand in its names, highest first."""
    names = s.nodes[j].names
    assert names
    members = {m % 10 for m in names.members}
    return sorted(
        (len(n.log) for i, n in enumerate(s.nodes) if n.source == j and i in members), reverse=True
    )


def broken(s: State) -> str | None:
    """The invariants. Missing means: an acknowledged commit of an earlier term is not there."""
    acking, timelines = 0, list[int]()
    for i, n in enumerate(s.nodes):
        if n.incarnation == s.register.primary and timeline(n.log) < s.register.term:
            for e in s.acked.difference(n.log):
                if e // 10 < s.register.term:
                    return f"S4: {name(n.incarnation)} was appointed without {e}"
        if n.role != PRIMARY:
            continue
        for e in s.acked.difference(n.log):
            if e // 10 < timeline(n.log):
                return f"S1: {name(n.incarnation)} serves without {e}"
        assert n.names
        if n.names.writer != n.incarnation or timeline(n.log) in timelines:
            return f"S5: timeline {timeline(n.log)} has two writers"
        timelines.append(timeline(n.log))
        acking += len(_flushed(s, i)) >= n.names.k
    return "S2: two nodes can acknowledge" if acking > 1 else None
