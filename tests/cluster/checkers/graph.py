"""Cycles in a graph of transactions."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

Graph = Mapping[int, Iterable[int]]


def components(graph: Graph) -> list[set[int]]:
    """Return the strongly connected components of two nodes or more (Tarjan, without recursion)."""
    order: dict[int, int] = {}
    low: dict[int, int] = {}
    path: list[int] = []
    on_path: set[int] = set()
    found: list[set[int]] = []
    for root in graph:
        calls = [] if root in order else [(root, iter(graph[root]))]
        while calls:
            node, successors = calls[-1]
            if node not in order:
                order[node] = low[node] = len(order)
                path.append(node)
                on_path.add(node)
            for successor in successors:
                if successor not in order:
                    calls.append((successor, iter(graph.get(successor, ()))))
                    break
                if successor in on_path:
                    low[node] = min(low[node], order[successor])
            else:
                calls.pop()
                if calls:
                    caller = calls[-1][0]
                    low[caller] = min(low[caller], low[node])
                if low[node] == order[node]:
                    found.append(_cut(path, on_path, node))
    return [component for component in found if len(component) > 1]


def _cut(path: list[int], on_path: set[int], node: int) -> set[int]:
    component: set[int] = set()
    while node not in component:
        component.add(path.pop())
    on_path -= component
    return component


def shortest_path(graph: Graph, start: int, goal: int, within: set[int]) -> Sequence[int]:
    """Return the nodes from `start` to `goal`, both included, or () if there is no way."""
    before = {start: start}
    todo = deque([start])
    while todo:
        node = todo.popleft()
        if node == goal:
            return _back(before, start, goal)
        for successor in graph.get(node, ()):
            if successor in within and successor not in before:
                before[successor] = node
                todo.append(successor)
    return ()


def _back(before: Mapping[int, int], start: int, goal: int) -> Sequence[int]:
    path = [goal]
    while path[-1] != start:
        path.append(before[path[-1]])
    return path[::-1]
