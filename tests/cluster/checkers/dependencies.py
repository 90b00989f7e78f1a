"""Who depends on whom among transactions on lists, and the cycles in that."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal

from tests.cluster.checkers.graph import components, shortest_path
from tests.cluster.checkers.lists import Transaction

Kind = Literal["ww", "wr", "rw"]
Edges = dict[int, dict[int, set[Kind]]]
Orders = Mapping[int, tuple[int, ...]]
_SHOWN = 3


def cycles(
    readers: Sequence[Transaction], history: Sequence[Transaction], orders: Orders
) -> list[str]:
    """Return the cycles of the gravest kind that there is.

    `readers`: whose reads count. `orders`: the versions of each key; who wrote one of them has
    committed, whatever its client knows.
    """
    edges = dependencies(readers, history, orders)
    plain = _only(edges, "ww", "wr")
    for graph, name in ((_only(edges, "ww"), "G0"), (plain, "G1c")):
        if found := components(graph):
            ways = [_cycle(graph, component) for component in found[:_SHOWN]]
            return [_text(name, way, edges, history) for way in ways]
    return _with_rw(edges, plain, history)


def _with_rw(
    edges: Edges, plain: Mapping[int, Sequence[int]], history: Sequence[Transaction]
) -> list[str]:
    full = _only(edges, "ww", "wr", "rw")
    found: list[str] = []
    for component in components(full)[:_SHOWN]:
        single = _one_rw(edges, plain, component)
        way = single or _cycle(full, component)
        found.append(_text("G-single" if single else "G2", way, edges, history))
    return found


def dependencies(
    readers: Sequence[Transaction], history: Sequence[Transaction], orders: Orders
) -> Edges:
    """Return the edges between positions in `history`: from, to, kinds."""
    writer = {a.value: n for n, txn in enumerate(history) for a in txn.appends()}
    place = {id(txn): n for n, txn in enumerate(history)}
    following: dict[tuple[int, int | None], int] = {}
    edges: Edges = {}
    for key, order in orders.items():
        known = [value for value in order if value in writer]
        for before, after in zip([None, *known], known, strict=False):
            following[key, before] = after
            if before is not None:
                _add(edges, writer[before], writer[after], "ww")
    for txn in readers:
        me = place[id(txn)]
        for read in txn.others():
            seen = [v for v in read.values if v in writer]
            last = seen[-1] if seen else None
            if last is not None:
                _add(edges, writer[last], me, "wr")
            after = following.get((read.key, last))
            if after is not None:
                _add(edges, me, writer[after], "rw")
    return edges


def _add(edges: Edges, source: int, target: int, kind: Kind) -> None:
    if source != target:
        edges.setdefault(source, {}).setdefault(target, set()).add(kind)


def _only(edges: Edges, *kinds: Kind) -> dict[int, list[int]]:
    wanted = set(kinds)
    return {
        source: [target for target, found in targets.items() if found & wanted]
        for source, targets in edges.items()
    }


def _cycle(graph: Mapping[int, Sequence[int]], component: set[int]) -> Sequence[int]:
    """Return a shortest cycle through one node of the component."""
    start = min(component)
    ways = (
        shortest_path(graph, successor, start, component)
        for successor in graph[start]
        if successor in component
    )
    return [start, *min((way for way in ways if way), key=len)]


def _one_rw(edges: Edges, plain: Mapping[int, Sequence[int]], component: set[int]) -> Sequence[int]:
    """Return a cycle with one rw; there is none without, so that any way back by `plain` is it."""
    for source in sorted(component):
        for target in edges[source]:
            way = shortest_path(plain, target, source, component)
            if way:
                return [source, *way]
    return ()


def _text(name: str, way: Sequence[int], edges: Edges, history: Sequence[Transaction]) -> str:
    steps = [f"T{way[0]}"]
    for source, target in pairwise(way):
        steps.append(f"-{'/'.join(sorted(edges[source][target]))}-> T{target}")
    shown = "; ".join(f"T{n}: {history[n]}" for n in sorted(set(way))[:4])
    return f"{name}: {' '.join(steps)} ({shown})"
