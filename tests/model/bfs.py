"""A breadth-first checker: every state within the bounds, and the shortest way to a broken one."""

import gc
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Result:
    """What a search found. `path` leads to the broken state, one label a step; empty if none is."""

    states: int
    depth: int
    complete: bool
    broken: str | None
    path: tuple[str, ...]

    def __str__(self) -> str:
        head = f"{self.states} states, depth {self.depth}, complete: {self.complete}"
        steps = "".join(f"\n  {n}. {label}" for n, label in enumerate(self.path, 1))
        return f"{head}\n{self.broken}{steps}" if self.broken else head


def search(
    initial: Iterable[S],
    actions: Callable[[S], Iterable[tuple[str, S]]],
    broken: Callable[[S], str | None],
    max_states: int = 2_000_000,
) -> Result:
    """Visit every state that `actions` reaches, stop at the first that `broken` names.

    Complete: no state was left out. A search that would pass `max_states` stops and is not.
    """
    with _no_garbage_collector():
        return _search(initial, actions, broken, max_states)


def _search(
    initial: Iterable[S],
    actions: Callable[[S], Iterable[tuple[str, S]]],
    broken: Callable[[S], str | None],
    max_states: int,
) -> Result:
    came_from: dict[S, S | None] = dict.fromkeys(initial)
    frontier = list(came_from)
    for state in frontier:
        if why := broken(state):
            return Result(len(came_from), 0, False, why, ("initially",))
    depth = 0
    while frontier:
        depth += 1
        following: list[S] = []
        for state in frontier:
            for _, after in actions(state):
                if after in came_from:
                    continue
                came_from[after] = state
                if why := broken(after):
                    path = _path(came_from, actions, after)
                    return Result(len(came_from), depth, False, why, path)
                following.append(after)
        if len(came_from) > max_states:
            return Result(len(came_from), depth, False, None, ())
        frontier = following
    return Result(len(came_from), depth - 1, True, None, ())


@contextmanager
def _no_garbage_collector() -> Generator[None, None, None]:
    """States hold no cycles, and walking over a million of them again and again takes long."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _path(
    came_from: dict[S, S | None], actions: Callable[[S], Iterable[tuple[str, S]]], last: S
) -> tuple[str, ...]:
    """Labels are not stored (memory); the steps are made again."""
    labels: list[str] = []
    while (before := came_from[last]) is not None:
        labels.append(next(label for label, after in actions(before) if after == last))
        last = before
    return tuple(reversed(labels))
